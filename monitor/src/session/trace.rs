//! Writes the event trace on a thread of its own, so that vCPU threads do not wait for the file.
//!
//! Talks to the trace format and the queue. It must not know what an event means. When the disk is full, a mark ends
//! the trace, over its own last records if there is no room for it; from then on events are only counted.

use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use storlock_check::event::Event;
use storlock_check::trace::{Encoder, EndMark, HEADER, MAX_PAYLOAD};
use storlock_vmm::sandbox::{JoinHandle, Sandbox};

use super::queue::{Queue, WantedStill};
use crate::output::{Cut, DISK_PATIENCE, OutputFile, PATIENCE};
use crate::report::TraceInfo;

/// The most events on their way to the file; the writer looks every few milliseconds. Few enough that the ring stays in the
/// processors' caches, since every hit writes to it.
const CAPACITY: usize = 1 << 12;
/// Encoded bytes that are written at once.
const BLOCK: usize = 1 << 18;

/// What goes to the writer.
#[derive(Debug)]
enum Item {
    /// An event, and when it was: nanoseconds since the start of the trace.
    Event(Event, u64),
    End(EndMark),
}

/// A trace that is being written.
#[derive(Debug)]
pub struct Trace {
    queue: Arc<Queue<Item>>,
    thread: Mutex<Option<JoinHandle<Writer>>>,
    file: String,
    began: Instant,
    /// How long its reader may take nothing at the end of the run.
    patience: Duration,
}

impl Trace {
    /// Starts the trace in `file`, which has that path and is to have `limit` bytes at most.
    ///
    /// # Errors
    /// If the file cannot be written, or the thread not started.
    pub fn create(file: OutputFile, path: &Path, limit: u64, sandbox: Sandbox) -> io::Result<Self> {
        let progress = file.progress();
        let patience = if file.regular().is_some() {
            DISK_PATIENCE
        } else {
            PATIENCE
        };
        let writer = Writer::create(file, limit)?;
        let consume = |writer: &mut Writer, item: Item| match item {
            Item::Event(event, time) => writer.add(&event, time),
            Item::End(mark) => writer.end(mark),
        };
        let (queue, thread) = Queue::start("trace", CAPACITY, sandbox, progress, writer, consume, Writer::write_out)?;
        let file = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Self {
            queue,
            thread: Mutex::new(Some(thread)),
            file,
            began: Instant::now(),
            patience,
        })
    }

    /// Sets the question whether the machine is to stand still, which a thread that waits for the writer asks.
    pub(crate) fn ask(&self, wanted_still: WantedStill) {
        self.queue.ask(wanted_still);
    }

    /// Appends an event; waits while the writer is behind.
    pub fn push(&self, event: Event) {
        let time = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.queue.push(Item::Event(event, time));
    }

    /// How often a processor had to wait for the writer.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.queue.waits()
    }

    /// Writes what is left and how the run ended, and closes the file. Gives a description of it, and why it
    /// ends early if it does.
    pub fn finish(&self, mark: EndMark) -> (TraceInfo, Option<Cut>) {
        let mut info = TraceInfo {
            file: self.file.clone(),
            ..TraceInfo::default()
        };
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return (info, None);
        };
        self.queue.push(Item::End(mark));
        match self.queue.join(thread, self.patience) {
            Some(Ok(writer)) => {
                info.events = writer.events;
                info.lost = writer.lost + self.queue.lost();
                let what = format!("the event trace {}", info.file);
                let cut = match &writer.error {
                    _ if writer.at_limit => Some(Cut::at_limit(&what, writer.limit)),
                    error => error.as_ref().map(|error| Cut::by(error, &what)),
                };
                info.error = writer.error.map(|error| error.to_string());
                return (info, cut);
            }
            Some(Err(_)) => info.error = Some("its writer panicked".to_owned()),
            None => info.error = Some("its reader takes nothing".to_owned()),
        }
        let error = io::Error::other(info.error.clone().unwrap_or_default());
        let cut = Cut::by(&error, &format!("the event trace {}", info.file));
        (info, Some(cut))
    }
}

/// The writer thread's state.
#[derive(Debug)]
struct Writer {
    file: OutputFile,
    limit: u64,
    at_limit: bool,
    encoder: Encoder,
    /// Records that are not in the file yet, and where each of them ends.
    block: Vec<u8>,
    ends: Vec<usize>,
    /// Bytes of the file that are whole records, and where the last of these begins.
    written: u64,
    last_record: u64,
    events: u64,
    lost: u64,
    error: Option<io::Error>,
}

impl Writer {
    fn create(mut file: OutputFile, limit: u64) -> io::Result<Self> {
        file.write_all(&Encoder::header())?;
        let written = HEADER as u64;
        Ok(Self {
            file,
            limit,
            at_limit: false,
            encoder: Encoder::new(),
            block: Vec::with_capacity(BLOCK + 2 * MAX_PAYLOAD),
            ends: Vec::new(),
            written,
            last_record: written,
            events: 0,
            lost: 0,
            error: None,
        })
    }

    fn add(&mut self, event: &Event, time: u64) {
        if self.error.is_some() {
            self.lost += 1;
            return;
        }
        self.encoder.time(time, &mut self.block);
        self.encoder.event(event, &mut self.block);
        self.ends.push(self.block.len());
        if self.block.len() >= BLOCK {
            self.flush();
        }
        if self.written >= self.limit {
            self.encoder.end(EndMark::DiskFull, &mut self.block);
            self.flush();
            if self.error.is_none() {
                self.at_limit = true;
                let text = format!("it has reached its limit of {} bytes", self.limit);
                self.error = Some(io::Error::other(text));
            }
        }
    }

    /// Writes what is held back, for the case that the program is killed.
    fn write_out(&mut self) {
        if self.error.is_none() && !self.block.is_empty() {
            self.flush();
        }
    }

    /// Writes the block. If that fails the trace ends here: with a mark after the last whole record that leaves room.
    fn flush(&mut self) {
        let Err(error) = self.file.write_all(&self.block) else {
            self.events += self.ends.len() as u64;
            let last = self
                .ends
                .len()
                .checked_sub(2)
                .and_then(|i| self.ends.get(i))
                .copied()
                .unwrap_or(0);
            if !self.ends.is_empty() {
                self.last_record = self.written + last as u64;
            }
            self.written += self.block.len() as u64;
            self.block.clear();
            self.ends.clear();
            return;
        };
        let mut mark = Vec::new();
        self.encoder.end(EndMark::DiskFull, &mut mark);
        // If this fails as well the trace has no mark: its reader sees that it was cut off.
        let _ = self.mark_over(&mark);
        self.lost += self.ends.len() as u64;
        self.block.clear();
        self.ends.clear();
        self.error = Some(error);
    }

    /// Puts the mark where bytes are already allocated, and cuts the file behind it.
    fn mark_over(&mut self, mark: &[u8]) -> io::Result<()> {
        self.file.regular().ok_or(io::ErrorKind::NotSeekable)?;
        let there = self.file.seek(SeekFrom::End(0))?;
        let room = |end: &u64| end + mark.len() as u64 <= there;
        let mut block = self.ends.iter().map(|end| self.written + *end as u64).filter(room);
        let whole = block.clone().count();
        let place = block.next_back().or(Some(self.written).filter(room));
        let place = place.unwrap_or_else(|| {
            // The last record of the earlier block goes: every record is as long as the mark.
            self.events = self.events.saturating_sub(1);
            self.lost += 1;
            self.last_record
        });
        self.ends.drain(..whole);
        self.events += whole as u64;
        self.file.seek(SeekFrom::Start(place))?;
        self.file.write_all(mark)?;
        self.file.end_at(place + mark.len() as u64)
    }

    fn end(&mut self, mark: EndMark) {
        if self.error.is_none() {
            self.flush();
        }
        if self.error.is_none() {
            self.encoder.end(mark, &mut self.block);
            self.flush();
        }
    }
}
