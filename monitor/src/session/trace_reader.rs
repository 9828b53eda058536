//! Reads an event trace piece by piece, so that a long one takes no more memory than a short one.
//!
//! Talks to the trace format. It must not know what an event means.

use std::io::{self, Read};

use storlock_check::event::Event;
use storlock_check::trace::{Decoded, Decoder, EndMark, HEADER, Item, MAX_PAYLOAD, TraceError};

/// Bytes that are read at once. Many times the longest record.
const PIECE: usize = 256 * MAX_PAYLOAD;

/// Why a trace cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum TraceReadError {
    /// The file is no trace.
    #[error(transparent)]
    NoTrace(#[from] TraceError),
    /// It is damaged.
    #[error("the trace is damaged at record {record} (at byte {offset:#x}): {what}")]
    Damaged {
        /// Number of the record, from 0.
        record: u64,
        /// Where it begins, bytes from the start of the file.
        offset: u64,
        /// What is wrong.
        what: TraceError,
    },
    /// There are bytes after its end mark.
    #[error("the trace has an end mark, and more behind it (at byte {0:#x})")]
    Continued(u64),
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A trace that is being read.
#[derive(Debug)]
pub(crate) struct TraceReader<R> {
    input: R,
    decoder: Decoder,
    /// What was read, and how much of it is used up.
    piece: Vec<u8>,
    used: usize,
    /// The number of the next record.
    offset: u64,
    record: u64,
    end: Option<EndMark>,
}

impl<R: Read> TraceReader<R> {
    /// Checks the header.
    pub(crate) fn new(mut input: R) -> Result<Self, TraceReadError> {
        let mut header = Vec::with_capacity(HEADER);
        (&mut input).take(HEADER as u64).read_to_end(&mut header)?;
        Ok(Self {
            input,
            decoder: Decoder::new(&header)?,
            piece: Vec::new(),
            used: 0,
            offset: HEADER as u64,
            record: 0,
            end: None,
        })
    }

    /// The next event; `None` at the end mark, or where the file ends without one.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, TraceReadError> {
        while self.end.is_none() {
            let rest = self.piece.get(self.used..).unwrap_or_default();
            let decoded = self.decoder.decode(rest).map_err(|what| TraceReadError::Damaged {
                record: self.record,
                offset: self.offset,
                what,
            })?;
            match decoded {
                Decoded::Item(Item::Event(event), length) => {
                    self.advance(length);
                    return Ok(Some(event));
                }
                Decoded::Item(Item::End(mark), length) => {
                    self.advance(length);
                    self.end = Some(mark);
                    if self.used < self.piece.len() || self.fill()? {
                        return Err(TraceReadError::Continued(self.offset));
                    }
                }
                Decoded::Skip(length) => self.advance(length),
                Decoded::NeedMore if self.fill()? => {}
                Decoded::NeedMore => break,
            }
        }
        Ok(None)
    }

    /// When the last event was, in nanoseconds since the start of the trace, if it says that.
    pub(crate) fn time(&self) -> Option<u64> {
        self.decoder.time()
    }

    /// The end mark, once it has been reached. Without one the trace was cut off in the middle.
    pub(crate) fn end(&self) -> Option<EndMark> {
        self.end
    }

    fn advance(&mut self, length: usize) {
        self.used += length;
        self.offset += length as u64;
        self.record += 1;
    }

    /// Reads on; false if there is no more.
    fn fill(&mut self) -> io::Result<bool> {
        self.piece.drain(..self.used);
        self.used = 0;
        Ok((&mut self.input).take(PIECE as u64).read_to_end(&mut self.piece)? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storlock_check::event::{EventKind, Order};
    use storlock_check::trace::Encoder;

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(7);
            self.0.read(&mut buffer[..length])
        }
    }

    fn bytes(events: u64, end: bool) -> Vec<u8> {
        let (mut bytes, mut encoder) = (Encoder::header().to_vec(), Encoder::new());
        for sequence in 1..=events {
            let kind = EventKind::FaultInjected { fault: sequence };
            let order = Order::Total;
            encoder.event(&Event { sequence, order, kind }, &mut bytes);
        }
        if end {
            encoder.end(EndMark::Complete, &mut bytes);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> (u64, Option<EndMark>, Option<String>) {
        let mut reader = TraceReader::new(Slow(bytes)).unwrap();
        let mut events = 0;
        loop {
            match reader.next() {
                Ok(Some(event)) => {
                    events += 1;
                    assert_eq!(event.sequence, events);
                }
                Ok(None) => return (events, reader.end(), None),
                Err(error) => return (events, reader.end(), Some(error.to_string())),
            }
        }
    }

    #[test]
    fn a_trace_longer_than_what_is_read_at_once_is_read_whole() {
        let long = bytes(100_000, true);
        assert!(long.len() > 2 * PIECE);
        assert_eq!(read(&long), (100_000, Some(EndMark::Complete), None));
        assert_eq!(read(&bytes(1000, false)), (1000, None, None));
    }

    #[test]
    fn damage_is_told_with_its_place() {
        let mut damaged = bytes(10, true);
        let place = bytes(6, false).len();
        damaged[place + 1] = 0x7f;
        let (events, _, error) = read(&damaged);
        assert_eq!(events, 6);
        let error = error.unwrap();
        assert!(
            error.contains("record 6") && error.contains(&format!("byte {place:#x}")),
            "{error}"
        );
        let mut continued = bytes(3, true);
        continued.push(0);
        assert!(read(&continued).2.unwrap().contains("behind it"));
    }
}
