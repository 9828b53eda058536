//! The recording format: every stop of a processor with all that a decision was built on, so that a run can be replayed
//! without its guest.
//!
//! Talks to the target's plain types only. It must not know what the session makes of a stop. Layout, version 1, all
//! numbers little endian: magic, version (u32), then frames of length (u32), CRC-32 of the payload (u32), payload. The
//! first byte of a payload says what it is: the header (JSON), a [`Stop`], the number (u64) of a fault that the emulated
//! hardware had, or the end of the run (JSON). A file cut short, or with flipped bits, yields its whole frames up to the damage and then an error.

use std::io::{self, Read, Write};

use super::cpu::{Registers, SpecialRegisters, StopReason};
use super::memory::ReadError;

/// First bytes of every recording.
pub const MAGIC: [u8; 8] = *b"STLKREC\n";
/// Version of the format that this code writes and the only one that it reads.
pub const VERSION: u32 = 1;
/// Longest payload in bytes. A stop with more reads than fit is not recorded whole.
pub const MAX_PAYLOAD: usize = 64 << 20;

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
    #[error("the recording has format version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// The file ends within a frame.
    #[error("the recording ends in the middle of a frame (frame {0})")]
    Truncated(u64),
    /// A frame is damaged.
    #[error("frame {frame} of the recording is damaged: {what}")]
    Damaged {
        /// Number of the frame, from 0.
        frame: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One guest read and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRead {
    /// Guest virtual address.
    pub address: u64,
    /// Number of bytes asked for.
    pub length: u32,
    /// The bytes, or why there are none.
    pub result: Result<Vec<u8>, ReadError>,
}

/// One stop of a processor: everything that the session could learn from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Number of the virtual processor.
    pub vcpu: u32,
    /// Why it stopped; `None`: the machine was stopped and this is a last look at the processor.
    pub reason: Option<StopReason>,
    /// General registers.
    pub registers: Registers,
    /// Special registers.
    pub special: SpecialRegisters,
    /// Guest reads in the order in which they were made.
    pub reads: Vec<RecordedRead>,
    /// Results of setting hooks, in order: `None` for success.
    pub arms: Vec<Option<String>>,
}

/// One frame of a recording.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// The header, as JSON: how the run was started.
    Header(Vec<u8>),
    /// A stop.
    Stop(Box<Stop>),
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

/// Writes one frame. A payload beyond [`MAX_PAYLOAD`] is refused.
///
/// # Errors
/// What `out` returns.
pub fn write_frame(out: &mut dyn Write, frame: &Frame) -> io::Result<()> {
    let mut payload = Vec::with_capacity(512);
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
    if payload.len() > MAX_PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a stop made more guest reads than a recording holds",
        ));
    }
    out.write_all(&(payload.len() as u32).to_le_bytes())?;
    out.write_all(&crc32(&payload).to_le_bytes())?;
    out.write_all(&payload)
}

/// Reads the frames of a recording.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    frame: u64,
    failed: bool,
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
            VERSION => Ok(Self {
                input,
                frame: 0,
                failed: false,
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
        self.frame += 1;
        frame
    }

    fn read_frame(&mut self) -> Result<Option<Frame>, RecordingError> {
        let frame = self.frame;
        let mut length = [0; 4];
        let mut checksum = [0; 4];
        match read_up_to(&mut self.input, &mut length)? {
            0 => return Ok(None),
            4 if read_whole(&mut self.input, &mut checksum)? => {}
            _ => return Err(RecordingError::Truncated(frame)),
        }
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 || length > MAX_PAYLOAD {
            return Err(RecordingError::Damaged {
                frame,
                what: "its length is impossible",
            });
        }
        // Read in steps: a damaged length must not allocate what the file does not hold.
        let mut payload = Vec::new();
        (&mut self.input).take(length as u64).read_to_end(&mut payload)?;
        if payload.len() < length {
            return Err(RecordingError::Truncated(frame));
        }
        if crc32(&payload) != u32::from_le_bytes(checksum) {
            return Err(RecordingError::Damaged {
                frame,
                what: "its checksum is wrong",
            });
        }
        decode(&payload).map(Some).ok_or(RecordingError::Damaged {
            frame,
            what: "its contents make no sense",
        })
    }
}

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

fn encode_stop(out: &mut Vec<u8>, stop: &Stop) {
    out.extend_from_slice(&stop.vcpu.to_le_bytes());
    let (tag, value) = match stop.reason {
        None => (0, 0),
        Some(StopReason::LstarWrite(v)) => (1, v),
        Some(StopReason::Hook(id)) => (2, u64::from(id)),
        Some(StopReason::CaughtReturn(cookie)) => (3, cookie),
        Some(StopReason::Reset) => (4, 0),
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
            out.push(0);
            out.extend_from_slice(bytes);
        }
        Err(error) => {
            let (tag, address) = match *error {
                ReadError::NotMapped(a) => (1, a),
                ReadError::NoMemory(a) => (2, a),
                ReadError::Invalid(a) => (3, a),
                ReadError::NotRecorded(a) => (4, a),
            };
            out.push(tag);
            put(out, address);
        }
    }
}

/// A cursor over a payload; every step checks what is left.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

fn decode(payload: &[u8]) -> Option<Frame> {
    let (&kind, rest) = payload.split_first()?;
    match kind {
        KIND_HEADER => Some(Frame::Header(rest.to_vec())),
        KIND_STOP => decode_stop(rest).map(|s| Frame::Stop(Box::new(s))),
        KIND_FAULT => Some(Frame::Fault(u64::from_le_bytes(rest.try_into().ok()?))),
        KIND_END => Some(Frame::End(rest.to_vec())),
        _ => None,
    }
}

fn decode_stop(payload: &[u8]) -> Option<Stop> {
    let mut c = Cursor(payload);
    let vcpu = c.u32()?;
    let tag = c.u8()?;
    let value = c.u64()?;
    let reason = match tag {
        0 => None,
        1 => Some(StopReason::LstarWrite(value)),
        2 => Some(StopReason::Hook(u32::try_from(value).ok()?)),
        3 => Some(StopReason::CaughtReturn(value)),
        4 => Some(StopReason::Reset),
        _ => return None,
    };
    let mut registers = Registers::default();
    for slot in &mut registers.gpr {
        *slot = c.u64()?;
    }
    registers.rip = c.u64()?;
    registers.rflags = c.u64()?;
    let special = SpecialRegisters {
        cr0: c.u64()?,
        cr3: c.u64()?,
        cr4: c.u64()?,
        cr8: c.u64()?,
        efer: c.u64()?,
        gs_base: c.u64()?,
        idt_base: c.u64()?,
        idt_limit: c.u16()?,
        cpl: c.u8()?,
    };
    let mut reads = Vec::new();
    for _ in 0..c.u32()? {
        reads.push(decode_read(&mut c)?);
    }
    let mut arms = Vec::new();
    for _ in 0..c.u32()? {
        let failed = c.u8()? != 0;
        let length = c.u32()? as usize;
        let text = String::from_utf8(c.bytes(length)?.to_vec()).ok()?;
        arms.push(failed.then_some(text));
    }
    c.0.is_empty().then_some(Stop {
        vcpu,
        reason,
        registers,
        special,
        reads,
        arms,
    })
}

fn decode_read(c: &mut Cursor<'_>) -> Option<RecordedRead> {
    let address = c.u64()?;
    let length = c.u32()?;
    let result = match c.u8()? {
        0 => Ok(c.bytes(length as usize)?.to_vec()),
        1 => Err(ReadError::NotMapped(c.u64()?)),
        2 => Err(ReadError::NoMemory(c.u64()?)),
        3 => Err(ReadError::Invalid(c.u64()?)),
        4 => Err(ReadError::NotRecorded(c.u64()?)),
        _ => return None,
    };
    Some(RecordedRead {
        address,
        length,
        result,
    })
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stop() -> Stop {
        let mut registers = Registers::default();
        for (i, r) in registers.gpr.iter_mut().enumerate() {
            *r = 0x1000 + i as u64;
        }
        Stop {
            vcpu: 3,
            reason: Some(StopReason::Hook(7)),
            registers,
            special: SpecialRegisters {
                cr8: 2,
                gs_base: 0xffff_f800_0000_1000,
                idt_limit: 0xfff,
                ..Default::default()
            },
            reads: vec![
                RecordedRead {
                    address: 0x10,
                    length: 3,
                    result: Ok(vec![1, 2, 3]),
                },
                RecordedRead {
                    address: 0x20,
                    length: 8,
                    result: Err(ReadError::NotMapped(0x20)),
                },
            ],
            arms: vec![None, Some("too many".to_owned())],
        }
    }

    fn file() -> Vec<u8> {
        let mut out = Vec::new();
        write_start(&mut out).unwrap();
        write_frame(&mut out, &Frame::Header(b"{}".to_vec())).unwrap();
        write_frame(&mut out, &Frame::Stop(Box::new(stop()))).unwrap();
        write_frame(&mut out, &Frame::Fault(7)).unwrap();
        write_frame(&mut out, &Frame::End(b"{}".to_vec())).unwrap();
        out
    }

    fn read_all(bytes: &[u8]) -> (Vec<Frame>, Option<RecordingError>) {
        let mut frames = Vec::new();
        let mut reader = match Reader::new(bytes) {
            Ok(reader) => reader,
            Err(e) => return (frames, Some(e)),
        };
        loop {
            match reader.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(e) => return (frames, Some(e)),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (frames, error) = read_all(&file());
        assert!(error.is_none());
        assert_eq!(frames[1], Frame::Stop(Box::new(stop())));
        assert_eq!(frames[2], Frame::Fault(7));
        assert_eq!(frames.len(), 4);
    }

    #[test]
    fn crc_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn a_cut_file_yields_a_prefix_and_an_error_unless_cut_between_frames(cut in 0usize..600) {
            let whole = file();
            let cut = cut.min(whole.len());
            let (all, _) = read_all(&whole);
            let (frames, error) = read_all(&whole[..cut]);
            prop_assert!(all.starts_with(&frames));
            prop_assert!(error.is_some() || frames.len() < all.len() || cut == whole.len());
        }

        #[test]
        fn a_flipped_bit_is_never_taken_for_data(byte in 0usize..600, bit in 0u8..8) {
            let mut bytes = file();
            let byte = byte % bytes.len();
            bytes[byte] ^= 1 << bit;
            let (all, _) = read_all(&file());
            let (frames, error) = read_all(&bytes);
            prop_assert!(error.is_some());
            prop_assert!(all.starts_with(&frames));
        }

        #[test]
        fn arbitrary_payloads_do_not_panic(payload in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&payload);
        }
    }
}
