//! Hands text and bytes to a reader on a thread of its own, so that no writer waits for the reader.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use super::progress::Stall;
use super::{Cut, Progress};

use crate::threads;

/// Bytes that are written at once, so that a slow reader can be distinguished from one that does not read.
const PIECE: usize = 64 << 10;
/// How often a thread that waits for room or for the end looks for progress.
const LOOK: Duration = Duration::from_millis(20);

/// What to do with bytes for which there is no room, because the reader is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// They are left out, and counted.
    LeaveOut,
    /// The producer waits as long as the reader takes something now and then; after that they are left out.
    Wait(Duration),
}

/// What happened to the bytes that were brought.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// Why writing has ended early.
    pub error: Option<io::Error>,
    /// Bytes that were not written although the limit allowed them.
    pub(crate) left_out: u64,
    /// Bytes beyond the limit.
    pub(crate) beyond_limit: u64,
    /// The producer had waited before bytes were left out.
    pub waited: bool,
}

impl Ending {
    /// A description of it, if something is missing; `what` is such as `the serial log`, `limit` is the outlet's.
    #[must_use]
    pub(crate) fn cut(&self, what: &str, limit: u64) -> Option<Cut> {
        match &self.error {
            Some(error) => Some(Cut::by(error, what)),
            None if self.left_out > 0 => {
                let count = self.left_out;
                let text = format!("{what} lacks {count} bytes: what takes it was too slow for them");
                Some(if self.waited {
                    Cut::Failure(text)
                } else {
                    Cut::Note(text)
                })
            }
            None if self.beyond_limit > 0 => Some(Cut::at_limit(what, limit)),
            None => None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// Bytes that the thread has taken out and not written yet.
    writing: usize,
    closed: bool,
    accepted: u64,
    /// How far the writer was when a wait for it ended in vain: nobody waits again until it makes progress.
    stuck_at: Option<u64>,
    /// Number of bytes that were left out last and have no mark in the output yet.
    gap: u64,
    ending: Ending,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    progress: Progress,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Option<Duration>) -> MutexGuard<'a, State> {
        match limit {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                let woken = self.changed.wait_timeout(state, limit);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    fn write_pieces(&self, out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            out.write_all(piece)?;
            out.flush()?;
            self.progress.step();
            self.lock().writing -= piece.len();
        }
        Ok(())
    }

    /// The thread's life.
    fn write_all(&self, out: &mut dyn Write) {
        let mut state = self.lock();
        loop {
            while state.buffer.is_empty() {
                if state.closed {
                    return;
                }
                state = self.wait(state, None);
            }
            let taken = std::mem::take(&mut state.buffer);
            state.writing = taken.len();
            drop(state);
            let result = self.write_pieces(out, &taken);
            state = self.lock();
            let left = std::mem::take(&mut state.writing);
            if let Err(error) = result {
                state.ending.left_out += (left + state.buffer.len()) as u64;
                state.buffer = Vec::new();
                state.ending.error = Some(error);
            }
            self.changed.notify_all();
            if state.ending.error.is_some() {
                return;
            }
        }
    }
}

/// The end at which bytes are brought.
#[derive(Debug)]
pub(crate) struct Outlet {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    room: usize,
    limit: u64,
    when_full: WhenFull,
}

impl Outlet {
    /// Starts the thread, which owns `out`. At most `room` bytes are on their way, and at most `limit` are written.
    ///
    /// # Errors
    /// If the thread cannot be started or limited.
    pub(crate) fn start(
        name: &str,
        mut out: impl Write + Send + 'static,
        progress: Progress,
        (room, limit): (usize, u64),
        when_full: WhenFull,
        sandbox: Sandbox,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            progress,
            ..Shared::default()
        });
        let writer = Arc::clone(&shared);
        let body = move || writer.write_all(&mut out);
        let thread = sandbox.spawn(&threads::WRITER, name, body).map_err(io::Error::other)?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
            room,
            limit,
            when_full,
        })
    }

    /// Brings bytes.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut state = self.shared.lock();
        if state.accepted >= self.limit {
            state.ending.beyond_limit += bytes.len() as u64;
            return;
        }
        if let WhenFull::Wait(patience) = self.when_full {
            let mut stall = Stall::watch(&self.shared.progress);
            while self.is_full(&state, bytes.len()) && state.ending.error.is_none() {
                let steps = self.shared.progress.steps();
                if state.stuck_at == Some(steps) || stall.lasts() >= patience {
                    state.stuck_at = Some(steps);
                    break;
                }
                state = self.shared.wait(state, Some(LOOK));
            }
        }
        if self.is_full(&state, bytes.len()) || state.closed || state.ending.error.is_some() {
            state.ending.left_out += bytes.len() as u64;
            state.gap += bytes.len() as u64;
            return;
        }
        if state.gap > 0 {
            let gap = std::mem::take(&mut state.gap);
            state
                .buffer
                .extend_from_slice(format!("\n[{gap} bytes were left out here]\n").as_bytes());
        }
        state.accepted += bytes.len() as u64;
        state.buffer.extend_from_slice(bytes);
        if state.accepted >= self.limit {
            let text = format!("\n[this ends at its limit of {} bytes]\n", self.limit);
            state.buffer.extend_from_slice(text.as_bytes());
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Whether the bytes have to wait for room. An empty queue takes any number of bytes.
    fn is_full(&self, state: &State, more: usize) -> bool {
        let under_way = state.buffer.len() + state.writing;
        under_way > 0 && under_way.saturating_add(more) > self.room
    }

    /// Waits until all is written, or writing has failed, as long as `go_on` says so of the time for which the reader has
    /// taken nothing. Says whether nothing is under way any more.
    pub(crate) fn drain(&self, mut go_on: impl FnMut(Duration) -> bool) -> bool {
        let mut stall = Stall::watch(&self.shared.progress);
        let mut state = self.shared.lock();
        while state.ending.error.is_none() && (!state.buffer.is_empty() || state.writing > 0) {
            if !go_on(stall.lasts()) {
                return false;
            }
            state = self.shared.wait(state, Some(LOOK));
        }
        true
    }

    /// As [`Outlet::drain`], and ends: what is brought later is left out, and what is still under way then is not waited
    /// for.
    pub(crate) fn finish(&self, go_on: impl FnMut(Duration) -> bool) -> Ending {
        let drained = self.drain(go_on);
        let mut state = self.shared.lock();
        state.closed = true;
        if !drained {
            state.ending.left_out += (state.buffer.len() + state.writing) as u64;
            state.buffer = Vec::new();
            let text = "its reader takes nothing";
            let error = io::Error::new(io::ErrorKind::TimedOut, text);
            state.ending.error.get_or_insert(error);
        }
        state.ending.waited = self.when_full != WhenFull::LeaveOut;
        let ending = std::mem::take(&mut state.ending);
        drop(state);
        self.shared.progress.give_up();
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let joined = thread.filter(|_| drained).and_then(|thread| thread.join_within(LOOK));
        match (joined, ending.error) {
            (Some(Err(_)), None) => Ending {
                error: Some(io::Error::other("its writer panicked")),
                ..ending
            },
            (_, error) => Ending { error, ..ending },
        }
    }
}
