//! The recording format: every stop of a processor with everything that a decision was built on, so that a run can be
//! replayed without its guest. The reader checks lengths, and every value that the host and not the guest has chosen.
//!
//! Talks to the plain types of this module only. It must not know what the session makes of a stop. Layout of version
//! 2, all numbers little endian: magic, version (u32), then frames of length (u32), CRC-32 of the payload (u32),
//! payload. The first byte of a payload says what it is: the header (JSON), a [`RecordedStop`], the number (u64) of a
//! fault that the emulated hardware had, or the end of the run (JSON). From a file that is truncated or has flipped
//! bits, the reader gives the whole frames up to the damage and then an error.

mod decode;

use std::fmt;
use std::io::{self, Read, Write};

use super::cpu::{CpuStop, Registers, SpecialRegisters};
use super::memory::ReadError;

/// First bytes of every recording.
pub(crate) const MAGIC: [u8; 8] = *b"STLKREC\n";
/// Version of the format that this code writes. In version 1, which it reads too, no guest read tells a physical address.
pub(crate) const VERSION: u32 = 2;
const FIRST_VERSION: u32 = 1;
/// Bounds of what a frame can hold. Nothing beyond them is written, and nothing read.
pub mod limits {
    /// Longest payload, bytes.
    pub(crate) const PAYLOAD: usize = 64 << 20;
    /// Values in the JSON of a header or an end, objects and lists included: what it can become in memory.
    pub(crate) const JSON_VALUES: usize = 1 << 21;
    /// Guest reads of one stop.
    pub(crate) const READS: usize = 1 << 18;
    /// Bytes of one guest read.
    pub const READ: usize = 4 << 20;
    /// Answers to the setting of breakpoints in one stop, and bytes of one.
    pub(crate) const ARMS: usize = 64;
    /// Longest answer, bytes.
    pub(crate) const ARM: usize = 4096;
    /// Virtual processors of a machine.
    pub(crate) const PROCESSORS: u32 = 64;
    /// Highest IRQL (CR8), and lowest privilege (CPL).
    pub const IRQL: u64 = 15;
    /// Lowest privilege (CPL).
    pub(crate) const CPL: u8 = 3;
}

/// Result of a guest read: its bytes, with their physical address before them.
const LOCATED: u8 = 5;
const KIND_HEADER: u8 = 1;
const KIND_STOP: u8 = 2;
const KIND_END: u8 = 3;
const KIND_FAULT: u8 = 4;

/// Why a recording cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file is no recording.
    #[error("this is no recording: it does not start with the recording's magic bytes")]
    NoRecording,
    /// It was written by another version of the format.
    #[error("the recording has format version {0}; this program reads versions {FIRST_VERSION} to {VERSION}")]
    Version(u32),
    /// The file ends within a frame.
    #[error("the recording ends in the middle of a frame (frame {0})")]
    Truncated(u64),
    /// A frame is damaged, or says what no run can have written.
    #[error("{place} of the recording is damaged: {what}")]
    Damaged {
        /// Which frame.
        place: Place,
        /// What is wrong with it.
        what: String,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the frame, from 0.
    pub frame: u64,
    /// Offset in the file, bytes.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} (at byte {:#x})", self.frame, self.offset)
    }
}

impl Place {
    /// An error about the frame here.
    pub(crate) fn damaged(self, what: impl Into<String>) -> RecordingError {
        RecordingError::Damaged {
            place: self,
            what: what.into(),
        }
    }
}

/// One guest read and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRead {
    /// Guest virtual address.
    pub address: u64,
    /// Number of bytes asked for.
    pub length: u32,
    /// Guest physical address of the first byte, if that was asked for and the read succeeded.
    pub physical: Option<u64>,
    /// The bytes, or why there are none.
    pub result: Result<Vec<u8>, ReadError>,
}

/// One stop of a processor: everything that the session could learn from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedStop {
    /// Number of the virtual processor.
    pub vcpu: u32,
    /// Why it stopped; `None`: the machine was stopped and this is a last look at the processor.
    pub reason: Option<CpuStop>,
    /// General registers.
    pub registers: Registers,
    /// Special registers.
    pub special: SpecialRegisters,
    /// Guest reads in the order in which they were made.
    pub reads: Vec<RecordedRead>,
    /// Results of setting breakpoints, in order: `None` for success.
    pub arms: Vec<Option<String>>,
}

/// One frame of a recording.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// The header, as JSON: how the run was started.
    Header(Vec<u8>),
    /// A stop.
    Stop(Box<RecordedStop>),
    /// The emulated hardware had the fault with this number.
    Fault(u64),
    /// How the run ended, as JSON.
    End(Vec<u8>),
}

/// Writes the magic and the version.
///
/// # Errors
/// What `out` returns.
pub fn write_start(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())
}

/// Writes one frame. One beyond the [`limits`] is refused.
///
/// # Errors
/// What `out` returns.
pub fn write_frame(out: &mut dyn Write, frame: &Frame) -> io::Result<()> {
    let mut payload = Vec::with_capacity(512);
    if let Frame::Stop(stop) = frame {
        bounded(stop).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
    }
    match frame {
        Frame::Header(json) => {
            payload.push(KIND_HEADER);
            payload.extend_from_slice(json);
        }
        Frame::Stop(stop) => {
            payload.push(KIND_STOP);
            encode_stop(&mut payload, stop);
        }
        Frame::Fault(fault) => {
            payload.push(KIND_FAULT);
            payload.extend_from_slice(&fault.to_le_bytes());
        }
        Frame::End(json) => {
            payload.push(KIND_END);
            payload.extend_from_slice(json);
        }
    }
    if payload.len() > limits::PAYLOAD {
        let what = "a frame is longer than any that a recording holds";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    out.write_all(&(payload.len() as u32).to_le_bytes())?;
    out.write_all(&crc32(&payload).to_le_bytes())?;
    out.write_all(&payload)
}

/// What of a stop is more than a recording holds.
fn bounded(stop: &RecordedStop) -> Result<(), &'static str> {
    if stop.reads.len() > limits::READS || stop.reads.iter().any(|read| read.length as usize > limits::READ) {
        return Err("a stop made more guest reads than a recording holds");
    }
    let long = |arm: &Option<String>| arm.as_ref().is_some_and(|text| text.len() > limits::ARM);
    if stop.arms.len() > limits::ARMS || stop.arms.iter().any(long) {
        return Err("a stop set breakpoints more often than a recording holds");
    }
    Ok(())
}

/// Reads the frames of a recording.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Of the next frame.
    place: Place,
    failed: bool,
    payload: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Checks magic and version.
    ///
    /// # Errors
    /// [`RecordingError::NoRecording`], [`RecordingError::Version`], or what the input returns.
    pub fn new(mut input: R) -> Result<Self, RecordingError> {
        let mut magic = [0; 8];
        read_whole(&mut input, &mut magic)?
            .then_some(())
            .ok_or(RecordingError::NoRecording)?;
        if magic != MAGIC {
            return Err(RecordingError::NoRecording);
        }
        let mut version = [0; 4];
        read_whole(&mut input, &mut version)?
            .then_some(())
            .ok_or(RecordingError::NoRecording)?;
        match u32::from_le_bytes(version) {
            FIRST_VERSION..=VERSION => Ok(Self {
                input,
                place: Place {
                    frame: 0,
                    offset: (magic.len() + version.len()) as u64,
                },
                failed: false,
                payload: Vec::new(),
            }),
            other => Err(RecordingError::Version(other)),
        }
    }

    /// The next frame; `None` at the end of the file, and after an error.
    ///
    /// # Errors
    /// [`RecordingError`] at the first frame that is not whole.
    #[allow(
        clippy::should_implement_trait,
        reason = "the item is a Result of Option, as `?` wants it"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, RecordingError> {
        if self.failed {
            return Ok(None);
        }
        let frame = self.read_frame();
        self.failed = frame.is_err();
        self.place.frame += 1;
        self.place.offset += (FRAME_HEAD + self.payload.len()) as u64;
        frame
    }

    /// Where the next frame is.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    fn read_frame(&mut self) -> Result<Option<Frame>, RecordingError> {
        let place = self.place;
        self.payload.clear();
        let mut length = [0; 4];
        let mut checksum = [0; 4];
        match read_up_to(&mut self.input, &mut length)? {
            0 => return Ok(None),
            4 if read_whole(&mut self.input, &mut checksum)? => {}
            _ => return Err(RecordingError::Truncated(place.frame)),
        }
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 || length > limits::PAYLOAD {
            return Err(place.damaged(format!("its length of {length} bytes is impossible")));
        }
        // Read in steps: a damaged length must not allocate what the file does not hold.
        (&mut self.input).take(length as u64).read_to_end(&mut self.payload)?;
        if self.payload.len() < length {
            return Err(RecordingError::Truncated(place.frame));
        }
        if crc32(&self.payload) != u32::from_le_bytes(checksum) {
            return Err(place.damaged("its checksum is wrong"));
        }
        let frame = decode::frame(&self.payload);
        frame.map(Some).map_err(|wrong| place.damaged(wrong.to_string()))
    }
}

/// Length and checksum.
const FRAME_HEAD: usize = 8;

fn read_up_to(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = buf.get_mut(got..).filter(|r| !r.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

fn read_whole(input: &mut impl Read, buf: &mut [u8]) -> io::Result<bool> {
    Ok(read_up_to(input, buf)? == buf.len())
}

fn put(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn encode_stop(out: &mut Vec<u8>, stop: &RecordedStop) {
    out.extend_from_slice(&stop.vcpu.to_le_bytes());
    let (tag, value) = match stop.reason {
        None => (0, 0),
        Some(CpuStop::LstarWrite(v)) => (1, v),
        Some(CpuStop::Breakpoint(id)) => (2, u64::from(id)),
        Some(CpuStop::CaughtReturn(cookie)) => (3, cookie),
        Some(CpuStop::Reset) => (4, 0),
    };
    out.push(tag);
    put(out, value);
    for value in stop.registers.gpr {
        put(out, value);
    }
    put(out, stop.registers.rip);
    put(out, stop.registers.rflags);
    let s = &stop.special;
    for value in [s.cr0, s.cr3, s.cr4, s.cr8, s.efer, s.gs_base, s.idt_base] {
        put(out, value);
    }
    out.extend_from_slice(&s.idt_limit.to_le_bytes());
    out.push(s.cpl);
    out.extend_from_slice(&(stop.reads.len() as u32).to_le_bytes());
    for read in &stop.reads {
        encode_read(out, read);
    }
    out.extend_from_slice(&(stop.arms.len() as u32).to_le_bytes());
    for arm in &stop.arms {
        let text = arm.as_deref().unwrap_or("");
        out.push(u8::from(arm.is_some()));
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

fn encode_read(out: &mut Vec<u8>, read: &RecordedRead) {
    put(out, read.address);
    out.extend_from_slice(&read.length.to_le_bytes());
    match &read.result {
        Ok(bytes) => {
            out.push(if read.physical.is_some() { LOCATED } else { 0 });
            if let Some(physical) = read.physical {
                put(out, physical);
            }
            out.extend_from_slice(bytes);
        }
        Err(error) => {
            let (tag, address) = match *error {
                ReadError::NotMapped(a) => (1, a),
                ReadError::NoMemory(a) => (2, a),
                ReadError::Invalid(a) => (3, a),
                ReadError::NotRecorded(a) => (4, a),
                ReadError::NotKept(a) => (6, a),
            };
            out.push(tag);
            put(out, address);
        }
    }
}

/// CRC-32 as in IEEE 802.3 (reflected, polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut value = i as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    (value >> 1) ^ 0xedb8_8320
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u32, &b| {
        (crc >> 8) ^ TABLE[((crc ^ u32::from(b)) & 0xff) as usize]
    })
}

#[cfg(test)]
mod tests;
