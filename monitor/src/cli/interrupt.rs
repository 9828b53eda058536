//! Ends a run early, with a report, on SIGINT and SIGTERM.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use storlock_vmm::sandbox::{JoinHandle, Sandbox, ThreadKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::target::RunControl;

/// True at the next signal, false once the run has ended.
async fn next_signal(signals: &mut (Signal, Signal), ended: &mut oneshot::Receiver<()>) -> bool {
    tokio::select! {
        _ = signals.0.recv() => true,
        _ = signals.1.recv() => true,
        _ = ended => false,
    }
}

/// Signals are caught for as long as this lives. The last one ends the process at once.
pub struct Interrupt {
    happened: Arc<AtomicBool>,
    done: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Interrupt {
    /// Stops the run by `control` when a signal comes; with `shutdown` the first one only has the guest shut down.
    ///
    /// # Errors
    /// If the signals cannot be caught.
    pub fn catch(control: Arc<dyn RunControl>, shutdown: bool, sandbox: Sandbox) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _guard = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let (done, mut ended) = oneshot::channel();
        let happened = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&happened);
        let watch = async move {
            if !next_signal(&mut signals, &mut ended).await {
                return;
            }
            noted.store(true, Ordering::Release);
            if shutdown {
                eprintln!("interrupted: the guest is asked to shut down; once more stops it");
                control.request_shutdown();
                if !next_signal(&mut signals, &mut ended).await {
                    return;
                }
            }
            eprintln!("interrupted: writing the report of what was seen; once more ends at once");
            control.request_stop();
            if next_signal(&mut signals, &mut ended).await {
                std::process::exit(130);
            }
        };
        let thread = sandbox
            .spawn(ThreadKind::Signals, "signals", move || runtime.block_on(watch))
            .map_err(io::Error::other)?;
        Ok(Self {
            happened,
            done: Some(done),
            thread: Some(thread),
        })
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn happened(&self) -> bool {
        self.happened.load(Ordering::Acquire)
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
            let _ = thread.join();
        }
    }
}
