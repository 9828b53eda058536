//! Ends a run early, with a report, on SIGINT, SIGTERM and SIGHUP.
//!
//! A thread catches the signals, from before the guest is prepared until the process ends. It does nothing else, so the
//! last signal ends the process at once, whatever is stuck.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use storlock_vmm::sandbox::{JoinHandle, Sandbox};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::diagnostics;
use super::diagnostics::tell;
use crate::threads;
use crate::vmi::RunControl;

/// How the process ends by a signal that waits for nothing.
const EXIT_CODE: i32 = 130;
/// How long what was said may take then.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long the thread may take to end with the run.
const END: Duration = Duration::from_millis(100);

/// What a signal does.
enum Stage {
    /// Nothing runs yet.
    Preparing,
    /// The guest runs; with `shutdown` the first signal only has it shut down.
    Running {
        control: Arc<dyn RunControl>,
        shutdown: bool,
    },
    /// The report is being written.
    Reporting,
}

struct Shared {
    happened: AtomicBool,
    count: AtomicU32,
    stage: Mutex<Stage>,
}

impl Shared {
    /// On the thread that waits for signals.
    fn signalled(&self) {
        let before = self.count.fetch_add(1, Ordering::AcqRel);
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stage {
            Stage::Preparing => {
                tell!("interrupted before the guest was started: nothing was run, there is no report");
                end_at_once();
            }
            Stage::Running { control, shutdown } => {
                self.happened.store(true, Ordering::Release);
                match before + u32::from(!shutdown) {
                    0 => {
                        control.request_shutdown();
                        tell!("interrupted: the guest is asked to shut down; once more stops it");
                    }
                    1 => {
                        control.request_stop();
                        tell!("interrupted: writing the report of what was seen; once more ends at once");
                    }
                    _ => end_at_once(),
                }
            }
            Stage::Reporting if before == 0 => {
                self.happened.store(true, Ordering::Release);
                tell!("interrupted while the report is written; once more ends at once");
            }
            Stage::Reporting => end_at_once(),
        }
    }
}

fn end_at_once() -> ! {
    diagnostics::drain(LAST_WORDS);
    std::process::exit(EXIT_CODE);
}

/// The signals that end a run.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None if the program that started this one has it ignored, as nohup does.
    hangup: Option<Signal>,
}

impl Signals {
    /// Catches them, within a run-time.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if hangup_is_ignored() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether SIGHUP is ignored, by the mask that the kernel shows (proc(5), `SigIgn`).
fn hangup_is_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = u64::try_from(SignalKind::hangup().as_raw_value() - 1).unwrap_or(0);
    mask.is_some_and(|mask| mask >> bit & 1 == 1)
}

/// Signals are caught for as long as this lives. The last one ends the process at once.
pub struct Interrupt {
    shared: Arc<Shared>,
    done: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Interrupt {
    /// Catches the signals. Until [`Interrupt::stops`] one ends the process.
    ///
    /// # Errors
    /// If they cannot be caught.
    pub(crate) fn catch(sandbox: Sandbox) -> io::Result<Self> {
        // The run-time takes it for granted that it gets them.
        let descriptors: Vec<_> = (0..4).map(|_| UnixStream::pair()).collect::<Result<_, _>>()?;
        drop(descriptors);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _guard = runtime.enter();
            Signals::catch()?
        };
        let (done, mut ended) = oneshot::channel();
        let shared = Arc::new(Shared {
            happened: AtomicBool::new(false),
            count: AtomicU32::new(0),
            stage: Mutex::new(Stage::Preparing),
        });
        let told = Arc::clone(&shared);
        let watch = async move {
            loop {
                tokio::select! {
                    () = signals.next() => told.signalled(),
                    _ = &mut ended => return,
                }
            }
        };
        let thread = sandbox
            .spawn(&threads::SIGNALS, "signals", move || runtime.block_on(watch))
            .map_err(io::Error::other)?;
        Ok(Self {
            shared,
            done: Some(done),
            thread: Some(thread),
        })
    }

    /// From here on a signal stops the run by `control`; with `shutdown` the first one only has the guest shut down.
    pub fn stops(&self, control: Arc<dyn RunControl>, shutdown: bool) {
        self.enter(Stage::Running { control, shutdown });
    }

    /// The run is over: from here on a signal keeps the report from being printed.
    pub(crate) fn reporting(&self) {
        self.enter(Stage::Reporting);
    }

    fn enter(&self, stage: Stage) {
        *self.shared.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn happened(&self) -> bool {
        self.shared.happened.load(Ordering::Acquire)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // The thread may have ended by itself.
            let _ = done.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic there was already printed.
            let _ = thread.join_within(END);
        }
    }
}
