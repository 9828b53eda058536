//! Writes a recording on a thread of its own, so that vCPU threads do not wait for the file.
//!
//! Talks to the recording format and the queue. It must not know what is recorded and why.

use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};

use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use super::queue::{Queue, WantedStill};
use crate::output::{Cut, DISK_PATIENCE, OutputFile, PATIENCE};
use crate::vmi::recording::{Frame, write_frame, write_start};

/// As the report names it.
const WHAT: &str = "the recording";
/// Stops under way to the file at most. A stop takes about half a kilobyte.
const CAPACITY: usize = 8192;

/// A recording that is being written.
#[derive(Debug)]
pub struct Recording {
    queue: Arc<Queue<Frame>>,
    thread: Mutex<Option<JoinHandle<Writer>>>,
    limit: u64,
    /// How long it may take nothing at the end.
    patience: std::time::Duration,
}

#[derive(Debug)]
struct Writer {
    file: Counting,
    limit: u64,
    left_out: u64,
    error: Option<io::Error>,
}

impl Writer {
    fn write(&mut self, frame: &Frame) {
        let last = matches!(frame, Frame::End(_));
        if self.left_out > 0 || (!last && self.file.bytes >= self.limit) {
            // What would come after a stop that is missing could not be replayed.
            self.left_out += u64::from(!last);
        } else if self.error.is_none() {
            self.error = write_frame(&mut self.file, frame).err();
        }
        if last && self.error.is_none() {
            self.error = self.file.flush().err();
        }
    }
}

impl Writer {
    /// Writes what is held back, for the case that the program is killed.
    fn write_out(&mut self) {
        if self.error.is_none() {
            self.error = self.file.flush().err();
        }
    }
}

/// Counts what is written.
#[derive(Debug)]
struct Counting {
    out: BufWriter<OutputFile>,
    bytes: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Recording {
    /// Starts the recording in `file`, which is to have about `limit` bytes at most.
    ///
    /// # Errors
    /// If the file cannot be written, or the thread not started.
    pub fn create(file: OutputFile, limit: u64, header: Vec<u8>, sandbox: Sandbox) -> io::Result<Self> {
        let progress = file.progress();
        let regular = file.regular().is_some();
        let mut file = Counting {
            out: BufWriter::with_capacity(1 << 20, file),
            bytes: 0,
        };
        write_start(&mut file)?;
        write_frame(&mut file, &Frame::Header(header))?;
        if regular {
            // A file system that is full already says so here and not after the run.
            file.flush()?;
        }
        let writer = Writer {
            file,
            limit,
            left_out: 0,
            error: None,
        };
        let consume = |writer: &mut Writer, frame| writer.write(&frame);
        let (queue, thread) = Queue::start(
            "recording",
            CAPACITY,
            sandbox,
            progress,
            writer,
            consume,
            Writer::write_out,
        )?;
        Ok(Self {
            queue,
            thread: Mutex::new(Some(thread)),
            limit,
            patience: if regular { DISK_PATIENCE } else { PATIENCE },
        })
    }

    /// Has who waits for the writer ask whether the machine is to stand still.
    pub(crate) fn ask(&self, wanted_still: WantedStill) {
        self.queue.ask(wanted_still);
    }

    /// Appends a frame; waits while the writer is behind.
    pub fn push(&self, frame: Frame) {
        self.queue.push(frame);
    }

    /// How often a processor had to wait for the writer.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.queue.waits()
    }

    /// Writes what is left and closes the file. If it ends early it is readable up to that place, and why is the answer.
    pub fn finish(&self) -> Option<Cut> {
        let failure = |error: &io::Error| Some(Cut::by(error, WHAT));
        let stuck = || io::Error::new(io::ErrorKind::TimedOut, "its reader takes nothing");
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let writer = match self.queue.join(thread, self.patience) {
            Some(Ok(writer)) => writer,
            Some(Err(_)) => return failure(&io::Error::other("its writer panicked")),
            None => return failure(&stuck()),
        };
        match writer.error {
            Some(error) => failure(&error),
            None if self.queue.lost() > 0 => failure(&stuck()),
            None if writer.left_out > 0 => Some(Cut::at_limit(WHAT, self.limit)),
            None => None,
        }
    }
}
