//! Limits what the process can do to the host once the guest runs: each thread gets a system call filter, and only
//! files of a few directories can be opened.
//!
//! A run opens everything else beforehand. Talks to the kernel's seccomp and Landlock. It must not know which threads
//! there are: whoever starts one declares by a [`ThreadProfile`] what it may do.

mod calls;
mod error;
mod files;
mod filter;
mod profile;
mod violation;

use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, Builder, Thread};
use std::time::{Duration, Instant};

pub use calls::EVENTS;
pub use error::SandboxError;
pub use files::FileLimit;
pub use profile::{Argument, Call, ThreadProfile};

/// Whether threads are limited. Cheap to copy; the default limits nothing.
///
/// A system call that the filter does not allow is not made: a message on standard error names it, and the process ends
/// with [`VIOLATION_EXIT_CODE`] at once, because nothing that it would still do can be trusted. Where the thread has
/// signals blocked the kernel kills the process instead, by SIGSYS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sandbox {
    enforced: bool,
}

/// Keeps the C library's allocator from opening files, which a limited thread may not. It opens one below /proc before it
/// shrinks the heap of a thread: heaps are not shrunk. Since glibc 2.39 it opens one below /sys, to count processors,
/// before it makes a ninth heap, unless the limit on heaps is set: it is set to the number that the count would give.
fn tame_allocator() {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let heaps = libc::c_int::try_from(processors.saturating_mul(8)).unwrap_or(libc::c_int::MAX);
    // SAFETY: mallopt only sets a parameter of the allocator, under its own lock.
    #[allow(unsafe_code)]
    let taken = unsafe {
        (
            libc::mallopt(libc::M_TRIM_THRESHOLD, -1),
            libc::mallopt(libc::M_ARENA_MAX, heaps),
        )
    };
    if taken.0 == 0 || taken.1 == 0 {
        tracing::warn!("the C library's allocator goes on opening files; a limited thread may be refused that");
    }
}

/// See [`ThreadProfile::names_files`].
fn limit_files_of(profile: &ThreadProfile) -> Result<(), SandboxError> {
    if !profile.names_files {
        files::limit(&[])?;
    }
    Ok(())
}

/// How the process ends after a violation.
pub const VIOLATION_EXIT_CODE: i32 = 5;

impl Sandbox {
    /// No limits.
    #[must_use]
    pub const fn none() -> Self {
        Self { enforced: false }
    }

    /// Limits the threads that are started by it or enter it. Tries the filters of `profiles` first, each on a thread of its own.
    ///
    /// The language's own message of a panic opens files where a backtrace is asked for: whoever limits threads sets a hook
    /// for panics that opens none.
    ///
    /// # Errors
    /// [`SandboxError::Limit`] if this kernel does not take the filters.
    pub fn enforced(profiles: &[&'static ThreadProfile]) -> Result<Self, SandboxError> {
        violation::catch()?;
        tame_allocator();
        let sandbox = Self { enforced: true };
        for profile in profiles {
            // Its end is of no interest: that it began says all.
            let _ = sandbox.spawn(profile, "sandbox-probe", || ())?.join();
        }
        Ok(sandbox)
    }

    /// What this kernel would limit of `profiles`, tried on threads of their own.
    ///
    /// # Errors
    /// [`SandboxError::Limit`] as in [`Sandbox::enforced`] and [`Sandbox::limit_files`].
    pub fn probe(profiles: &[&'static ThreadProfile]) -> Result<FileLimit, SandboxError> {
        static PROBE: ThreadProfile = ThreadProfile::new("probe");
        let sandbox = Self::enforced(profiles)?;
        let probe = Sandbox::none().spawn(&PROBE, "sandbox-probe", move || sandbox.limit_files(&[]))?;
        probe.join().unwrap_or_else(|_| {
            Err(SandboxError::Limit {
                action: "limit the files",
                reason: "the probe panicked".into(),
            })
        })
    }

    /// Whether there are limits.
    #[must_use]
    pub fn is_enforced(self) -> bool {
        self.enforced
    }

    /// Limits the calling thread for the rest of its life, and the threads that it starts. One that still opens, names or
    /// removes files ([`ThreadProfile::names_files`]) has to have its files limited before, for example by
    /// [`Sandbox::limit_files`]; the others can reach none from here on.
    ///
    /// # Errors
    /// [`SandboxError::Limit`] if the kernel refuses.
    pub fn enter(self, profile: &'static ThreadProfile) -> Result<(), SandboxError> {
        if !self.enforced {
            return Ok(());
        }
        limit_files_of(profile)?;
        let program = filter::program(profile)?;
        violation::note_profile(profile);
        seccompiler::apply_filter(&program).map_err(|error| SandboxError::Limit {
            action: "install a system call filter",
            reason: error.to_string(),
        })
    }

    /// Keeps the calling thread, and those that it starts, from every file that is not open yet, except for creating and
    /// overwriting files below `directories`; as far as the kernel knows how, also from TCP, from abstract Unix sockets
    /// of other processes, and from signalling them.
    ///
    /// # Errors
    /// [`SandboxError::Limit`] if a directory cannot be opened or the kernel refuses. That the kernel has no Landlock is no
    /// error but an answer.
    pub fn limit_files(self, directories: &[&Path]) -> Result<FileLimit, SandboxError> {
        self.limit_files_with_names(directories, &[])
    }

    /// As [`Sandbox::limit_files`], and files in the directories `renamed` can get other names there, and be removed.
    ///
    /// # Errors
    /// As [`Sandbox::limit_files`].
    pub fn limit_files_with_names(self, directories: &[&Path], renamed: &[&Path]) -> Result<FileLimit, SandboxError> {
        if !self.enforced {
            return Ok(FileLimit::Off);
        }
        let written = directories.iter().map(|&directory| (directory, files::writing()));
        let renamed = renamed.iter().map(|&directory| (directory, files::renaming()));
        files::limit(&written.chain(renamed).collect::<Vec<_>>())
    }

    /// As [`Sandbox::limit_files`], with removing files below `directory` as the one exception.
    ///
    /// # Errors
    /// As [`Sandbox::limit_files`].
    pub fn limit_files_to_removal(self, directory: &Path) -> Result<FileLimit, SandboxError> {
        if self.enforced {
            files::limit(&[(directory, files::removing())])
        } else {
            Ok(FileLimit::Off)
        }
    }

    /// Starts a thread that is within its limits before `body` begins.
    ///
    /// # Errors
    /// [`SandboxError::Thread`] if it cannot be started, [`SandboxError::Limit`] if it cannot be limited; `body` is not called then.
    pub fn spawn<T: Send + 'static>(
        self,
        profile: &'static ThreadProfile,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, SandboxError> {
        let failed = |source| SandboxError::Thread {
            name: name.to_owned(),
            source,
        };
        let (sender, receiver) = mpsc::channel();
        let limited = move || {
            let entered = self.enter(profile);
            let go_on = entered.is_ok();
            // The receiver waits below.
            let _ = sender.send(entered);
            go_on.then(body)
        };
        let handle = Builder::new().name(name.to_owned()).spawn(limited).map_err(failed)?;
        match receiver.recv() {
            Ok(entered) => entered.map(|()| JoinHandle(handle)),
            Err(_) => Err(failed(std::io::Error::other("it ended before it began"))),
        }
    }
}

/// How often a thread that is waited for with a limit is looked at.
const JOIN_POLL: Duration = Duration::from_millis(2);

/// A thread started by [`Sandbox::spawn`].
#[derive(Debug)]
pub struct JoinHandle<T>(thread::JoinHandle<Option<T>>);

impl<T> JoinHandle<T> {
    /// Waits for the end of the thread.
    ///
    /// # Errors
    /// What it panicked with.
    pub fn join(self) -> thread::Result<T> {
        // `None` only where `spawn` has failed, and then there is no handle.
        self.0
            .join()?
            .ok_or_else(|| Box::new("it was never let go on") as Box<dyn std::any::Any + Send>)
    }

    /// Waits for the end of the thread for at most `limit`. `None`: it goes on, and nobody will hear of its end.
    #[must_use]
    pub fn join_within(self, limit: Duration) -> Option<thread::Result<T>> {
        let began = Instant::now();
        while !self.0.is_finished() {
            if began.elapsed() >= limit {
                return None;
            }
            thread::sleep(JOIN_POLL);
        }
        Some(self.join())
    }

    /// Whether the thread has come to its end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// The thread.
    #[must_use]
    pub fn thread(&self) -> &Thread {
        self.0.thread()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_whose_calls_name_no_files_could_open_none_either() {
        static NAMING: ThreadProfile = ThreadProfile {
            names_files: true,
            ..ThreadProfile::new("naming")
        };
        static OTHER: ThreadProfile = ThreadProfile::new("other");
        if matches!(Sandbox::probe(&[]).unwrap(), FileLimit::Missing) {
            println!("NOTE: not tried: {}", FileLimit::Missing);
            return;
        }
        for profile in [&NAMING, &OTHER] {
            // Without the system call filter, which would end the process.
            let opened = move || {
                limit_files_of(profile).unwrap();
                std::fs::File::open("/etc/passwd").is_ok()
            };
            let opened = thread::spawn(opened).join().unwrap();
            assert_eq!(opened, profile.names_files, "{profile:?}");
        }
    }

    #[test]
    fn the_signal_that_threads_may_send_is_the_one_that_interrupts_a_vcpu() {
        assert_eq!(libc::c_int::try_from(calls::KICK), Ok(vmm_sys_util::signal::SIGRTMIN()));
    }
}
