//! Writes a recording off the processors' threads.
//!
//! Talks to the recording format and the queue. It must not know what is recorded and why.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use super::queue::Queue;
use crate::target::recording::{Frame, write_frame, write_start};

/// Stops under way to the file at most. A stop takes about half a kilobyte.
const CAPACITY: usize = 8192;

/// A recording that is being written.
#[derive(Debug)]
pub struct Recording {
    queue: Arc<Queue<Frame>>,
    thread: Mutex<Option<JoinHandle<Writer>>>,
}

#[derive(Debug)]
struct Writer {
    file: BufWriter<File>,
    error: Option<std::io::Error>,
}

impl Writer {
    fn write(&mut self, frame: &Frame) {
        if self.error.is_none() {
            self.error = write_frame(&mut self.file, frame).err();
        }
    }
}

impl Recording {
    /// Creates the file and starts the writer.
    ///
    /// # Errors
    /// If the file cannot be created or written, or the thread not started.
    pub fn create(path: &Path, header: Vec<u8>, sandbox: Sandbox) -> std::io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        write_start(&mut file)?;
        write_frame(&mut file, &Frame::Header(header))?;
        // A file system that is full already says so here and not after the run.
        file.flush()?;
        let writer = Writer { file, error: None };
        let (queue, thread) = Queue::start("recording", CAPACITY, sandbox, writer, |writer: &mut Writer, frame| {
            writer.write(&frame);
        })?;
        Ok(Self {
            queue,
            thread: Mutex::new(Some(thread)),
        })
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

    /// Writes what is left and closes the file.
    ///
    /// # Errors
    /// The first error of any write: the recording ends there, readable up to that place.
    pub fn finish(&self) -> std::io::Result<()> {
        self.queue.close();
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let mut writer = thread
            .join()
            .map_err(|_| std::io::Error::other("the writer of the recording panicked"))?;
        match writer.error.take() {
            Some(error) => Err(error),
            None => writer.file.flush(),
        }
    }
}
