//! Shows that a run is alive: on a terminal only, and only once it has taken a second.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use storlock_vmm::sandbox::{JoinHandle, Sandbox, ThreadKind};

use crate::session::Session;

/// How long a run stays silent.
const QUIET_FOR: Duration = Duration::from_secs(1);
/// How often the line is renewed.
const PERIOD: Duration = Duration::from_millis(200);

/// A line on the terminal for as long as this lives.
pub struct Progress {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to show the session's progress, if standard error is a terminal.
    #[must_use]
    pub fn start(session: &Arc<Session>, limit: Duration, sandbox: Sandbox) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        if !std::io::stderr().is_terminal() {
            return Self { done, thread: None };
        }
        let (session, ended) = (Arc::clone(session), Arc::clone(&done));
        let show = move || show(&session, limit, &ended);
        // Without the thread there is no progress line, and nothing else is lost.
        let thread = sandbox.spawn(ThreadKind::Progress, "progress", show).ok();
        Self { done, thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A progress line that failed is not worth a message.
            let _ = thread.join();
        }
    }
}

fn show(session: &Session, limit: Duration, done: &AtomicBool) {
    let began = Instant::now();
    let mut bar = None;
    while !done.load(Ordering::Acquire) {
        std::thread::park_timeout(PERIOD);
        if began.elapsed() < QUIET_FOR || done.load(Ordering::Acquire) {
            continue;
        }
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        bar.set_message(format!("{}, limit {} s", session.progress(), limit.as_secs()));
        bar.tick();
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}
