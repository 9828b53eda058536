//! Shows a run's progress on standard error: a changing line once the run has taken a second, if standard error is a
//! terminal; and, on any standard error, the milestones of a slow guest, one a line.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use super::diagnostics::tell;
use crate::escape;
use crate::output::PATIENCE;
use crate::session::Session;
use crate::threads;

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
    /// Starts to show the session's progress, if standard error is a terminal, and its milestones, if the
    /// first one is given.
    #[must_use]
    pub fn start(session: &Arc<Session>, limit: Duration, milestones: Option<&'static str>, sandbox: Sandbox) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let terminal = std::io::stderr().is_terminal();
        if !terminal && milestones.is_none() {
            return Self { done, thread: None };
        }
        let (session, ended) = (Arc::clone(session), Arc::clone(&done));
        let show = move || show(&session, limit, terminal, milestones, &ended);
        // Without the thread there is no progress line, and nothing else is lost.
        let thread = sandbox.spawn(&threads::PROGRESS, "progress", show).ok();
        Self { done, thread }
    }
}

impl Progress {
    /// Shows no more. Says whether that went well, if there is something to say: a terminal that takes nothing is not
    /// waited for.
    #[must_use]
    pub fn end(mut self) -> Option<bool> {
        self.done.store(true, Ordering::Release);
        let thread = self.thread.take()?;
        thread.thread().unpark();
        thread.join_within(PATIENCE).map(|ended| ended.is_ok())
    }
}

impl Drop for Progress {
    /// Where a run ends before it has begun.
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

fn show(session: &Session, limit: Duration, terminal: bool, milestones: Option<&str>, done: &AtomicBool) {
    let began = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    let mut told = 0;
    if let Some(first) = milestones {
        tell!("{:>7.1} s  {first}", 0.0);
    }
    while !done.load(Ordering::Acquire) {
        std::thread::park_timeout(PERIOD);
        if milestones.is_some() {
            told += tell(session, told, began, bar.as_ref());
        }
        if !terminal || began.elapsed() < QUIET_FOR || done.load(Ordering::Acquire) {
            continue;
        }
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        bar.set_message(format!(
            "{}, limit {} s",
            escape::line(&session.progress()),
            limit.as_secs()
        ));
        bar.tick();
    }
    if milestones.is_some() {
        tell(session, told, began, bar.as_ref());
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

/// Tells what was reached since; returns how much that was.
fn tell(session: &Session, told: usize, began: Instant, bar: Option<&ProgressBar>) -> usize {
    let new = session.milestones(told);
    for milestone in &new {
        let line = format!("{:>7.1} s  {milestone}", began.elapsed().as_secs_f64());
        match bar {
            Some(bar) => bar.println(line),
            None => tell!("{line}"),
        }
    }
    new.len()
}
