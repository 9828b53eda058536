//! Taking a vCPU's thread out of KVM_RUN by a signal.
//!
//! Talks to the operating system. It must not know why a vCPU has to leave the guest.

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::Once;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::run::Error;

thread_local! {
    /// Where this vCPU thread's `kvm_run.immediate_exit` is; null on other threads.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

/// Makes KVM_RUN of this thread return at once, also if the signal comes just before it.
extern "C" fn on_interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is into the kvm_run mapping of the vCPU that this very thread owns; it is set when the
        // thread starts and cleared before the mapping goes.
        #[allow(unsafe_code)]
        unsafe {
            flag.write_volatile(1);
        }
    }
}

/// Takes a vCPU thread out of KVM_RUN. `thread` must be alive.
pub(crate) fn interrupt(thread: libc::pthread_t) {
    // SAFETY: threads are entered in the coordinator's table when they start and removed, under its lock, before they
    // end; callers hold that lock.
    #[allow(unsafe_code)]
    let result = unsafe { libc::pthread_kill(thread, SIGRTMIN()) };
    if result != 0 {
        tracing::error!(result, "cannot interrupt a vCPU thread");
    }
}

/// Installs the handler of the signal that interrupts KVM_RUN, once for the process.
pub(crate) fn install_signal_handler() -> Result<(), Error> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        result = register_signal_handler(SIGRTMIN(), on_interrupt);
    });
    result.map_err(|error| Error::Signal(error.into()))
}

/// Makes signals to this thread interrupt `vcpu` until the returned guard is dropped; `vcpu` has to live as long.
pub(super) fn listen(vcpu: &mut VcpuFd) -> Listening {
    IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
    Listening
}

/// See [`listen`].
pub(super) struct Listening;

impl Drop for Listening {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(null_mut());
    }
}

/// This thread, for [`interrupt`].
pub(super) fn this_thread() -> libc::pthread_t {
    // SAFETY: pthread_self has no preconditions.
    #[allow(unsafe_code)]
    unsafe {
        libc::pthread_self()
    }
}
