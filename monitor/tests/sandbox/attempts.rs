//! Tries system calls on threads of every kind, and sees which of them the sandbox refuses.

use std::cell::Cell;
use std::ptr;

use storlock::threads;
use storlock_vmm::sandbox::Sandbox;

/// A call, and the kinds of thread that may do it all the same, by name.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 5],
    pub(crate) allowed: &'static [&'static str],
}

/// Stands for the number of this process.
pub(crate) const OWN: u64 = 0x4f57_4e00_0000_0000;

thread_local! {
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Notes the refusal and has the call fail, so that the next one can be tried.
extern "C" fn note(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    REFUSED.set(true);
    // SAFETY: the kernel passes a ucontext_t to a handler with SA_SIGINFO.
    #[allow(unsafe_code)]
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = -i64::from(libc::EPERM);
}

/// Instead of the handler that ends the process. To be called by a thread without limits.
fn note_refusals() {
    // SAFETY: all zeroes is a valid sigaction; the handler has the signature that SA_SIGINFO asks for.
    #[allow(unsafe_code)]
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = note as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()), 0);
    }
}

/// Makes the call; whether it was refused.
fn is_refused(attempt: &Attempt) -> bool {
    REFUSED.set(false);
    let own = u64::from(std::process::id());
    let [first, second, third, fourth, fifth] = attempt.arguments.map(|value| if value == OWN { own } else { value });
    // SAFETY: no argument is an address of ours. A process that this starts ends at once, without running anything.
    #[allow(unsafe_code)]
    unsafe {
        let result = libc::syscall(attempt.number, first, second, third, fourth, fifth, 0_u64);
        if result == 0 && [libc::SYS_fork, libc::SYS_vfork, libc::SYS_clone].contains(&attempt.number) {
            libc::_exit(0);
        }
    }
    REFUSED.get()
}

/// What went otherwise than it is to, on threads of every kind. To be called in a process of its own.
pub(crate) fn breaches(attempts: &'static [&'static [Attempt]]) -> Vec<String> {
    let sandbox = Sandbox::enforced(&threads::all()).unwrap();
    note_refusals();
    let mut breaches = Vec::new();
    for profile in threads::all() {
        let all = move || {
            let all = attempts.iter().copied().flatten();
            let wrong = all.filter(|attempt| is_refused(attempt) == attempt.allowed.contains(&profile.name));
            wrong.map(|attempt| attempt.name).collect::<Vec<_>>()
        };
        let wrong = sandbox.spawn(profile, "attempts", all).unwrap().join().unwrap();
        breaches.extend(wrong.iter().map(|name| format!("{}: {name}", profile.name)));
    }
    breaches
}
