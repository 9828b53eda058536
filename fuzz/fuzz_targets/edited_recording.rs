//! Replays a recorded run in which registers, guest reads and the order of stops were changed, as a hostile guest could
//! do: the session from the discovery of the kernel to the report.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock::escape;
use storlock::report::{json, text};
use storlock::session::replay;
use storlock::vmi::recording::{Frame, Reader, RecordedStop, write_frame, write_start};
use storlock::vmi::{CpuStop, ReadError, SpecialRegisters};

/// Changes of one recording; frames that one may have.
const CHANGES: usize = 24;
const FRAMES: usize = 4000;

#[derive(Debug, Arbitrary)]
enum Change {
    Register(u8, u64),
    Special(u8, u64),
    Processor(u8),
    Privilege(u8),
    Byte(u16, u16, u8),
    Word(u16, u16, u64),
    /// The same change of every later read of that address.
    Always(u16, u16, u64),
    Fail(u16),
    Length(u16, u32),
    Drop,
    Twice,
    Swap(u16),
    Fault(u64),
    Reason(u8, u64),
    Answer(Option<String>),
    End(Vec<u8>),
}

static FRAMES_READ: LazyLock<Vec<Frame>> = LazyLock::new(|| {
    let file = include_bytes!("../../monitor/tests/data/session.rec");
    let mut reader = Reader::new(&file[..]).expect("it is a recording");
    std::iter::from_fn(|| reader.next().expect("it is whole")).collect()
});

fuzz_target!(|changes: Vec<(u16, Change)>| {
    let mut frames = FRAMES_READ.clone();
    for (place, change) in changes.iter().take(CHANGES) {
        apply(&mut frames, usize::from(*place), change);
    }
    let mut whole = Vec::new();
    write_start(&mut whole).expect("memory does not fail");
    for frame in &frames {
        if write_frame(&mut whole, frame).is_err() {
            return;
        }
    }
    let Ok(report) = replay::recording(&whole[..]) else {
        return;
    };
    let shown = text::render(&report);
    assert!(shown.len() < 4 << 20, "a report of {} bytes", shown.len());
    assert!(!shown.contains(|c| c != '\n' && escape::is_hostile(c)), "{shown}");
    let json = json::text(&report).expect("a report can be written");
    assert!(json.len() < 16 << 20, "a report of {} bytes", json.len());
});

fn apply(frames: &mut Vec<Frame>, place: usize, change: &Change) {
    let at = place % frames.len();
    match change {
        Change::Drop if frames.len() > 2 => drop(frames.remove(at)),
        Change::Twice if frames.len() < FRAMES => frames.insert(at, frames[at].clone()),
        Change::Swap(other) => {
            let other = usize::from(*other) % frames.len();
            frames.swap(at, other);
        }
        Change::Fault(fault) if frames.len() < FRAMES => frames.insert(at, Frame::Fault(*fault)),
        Change::End(json) if frames.len() < FRAMES => frames.insert(at, Frame::End(json.clone())),
        Change::Always(read, offset, value) => always(&mut frames[at..], *read, *offset, *value),
        _ => {
            if let Frame::Stop(stop) = &mut frames[at] {
                apply_to_stop(stop, change);
            }
        }
    }
}

fn apply_to_stop(stop: &mut RecordedStop, change: &Change) {
    let count = stop.reads.len().max(1);
    match change {
        Change::Register(16, value) => stop.registers.rip = *value,
        Change::Register(17, value) => stop.registers.rflags = *value,
        Change::Register(number, value) => stop.registers.gpr[usize::from(number % 16)] = *value,
        Change::Special(number, value) => apply_to_special(&mut stop.special, *number, *value),
        Change::Processor(number) => stop.vcpu = (*number).into(),
        Change::Privilege(level) => stop.special.cpl = *level % 5,
        Change::Byte(read, at, value) => {
            if let Some(Ok(bytes)) = stop
                .reads
                .get_mut(usize::from(*read) % count)
                .map(|read| &mut read.result)
            {
                let length = bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(usize::from(*at) % length) {
                    *byte = *value;
                }
            }
        }
        Change::Word(read, at, value) => {
            if let Some(Ok(bytes)) = stop
                .reads
                .get_mut(usize::from(*read) % count)
                .map(|read| &mut read.result)
            {
                set(bytes, *at, *value);
            }
        }
        Change::Fail(read) => {
            if let Some(read) = stop.reads.get_mut(usize::from(*read) % count) {
                read.result = Err(ReadError::NotMapped(read.address));
            }
        }
        Change::Length(read, length) => {
            if let Some(read) = stop.reads.get_mut(usize::from(*read) % count) {
                read.length = *length % (5 << 20);
            }
        }
        Change::Reason(kind, value) => {
            stop.reason = match kind % 5 {
                0 => None,
                1 => Some(CpuStop::LstarWrite(*value)),
                2 => Some(CpuStop::Breakpoint(*value as u32)),
                3 => Some(CpuStop::CaughtReturn(*value)),
                _ => Some(CpuStop::Reset),
            }
        }
        Change::Answer(answer) => stop.arms.push(answer.clone()),
        _ => {}
    }
}

fn apply_to_special(special: &mut SpecialRegisters, number: u8, value: u64) {
    match number % 8 {
        0 => special.cr0 = value,
        1 => special.cr3 = value,
        2 => special.cr4 = value,
        3 => special.cr8 = value % 20,
        4 => special.efer = value,
        5 => special.gs_base = value,
        6 => special.idt_limit = value as u16,
        _ => special.idt_base = value,
    }
}

fn set(bytes: &mut [u8], at: u16, value: u64) {
    if bytes.len() >= 8 {
        let at = usize::from(at) % (bytes.len() - 7);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

fn always(frames: &mut [Frame], read: u16, at: u16, value: u64) {
    let mut address = None;
    for frame in frames {
        let Frame::Stop(stop) = frame else { continue };
        if address.is_none() && !stop.reads.is_empty() {
            address = Some(stop.reads[usize::from(read) % stop.reads.len()].address);
        }
        for read in stop.reads.iter_mut().filter(|read| Some(read.address) == address) {
            if let Ok(bytes) = &mut read.result {
                set(bytes, at, value);
            }
        }
    }
}
