//! Tests with recordings that are well-formed but lie, as a hostile guest, or somebody who changed the file, would make
//! them.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::report::{json, text};
use crate::vmi::recording::{Frame, Reader, RecordedStop, write_frame, write_start};

/// One change of one frame.
#[derive(Debug, Clone)]
enum Edit {
    Register(usize, u64),
    Special(usize, u64),
    /// Eight bytes of what a read gave, and of every later read of the same place.
    Word(Index, Index, u64),
    Fail(Index),
    Length(Index, u32),
    Drop,
    Twice,
    Swap(Index),
    Reason(CpuStop),
}

fn edit() -> impl Strategy<Value = Edit> {
    let word = || {
        prop_oneof![
            any::<u64>(),
            (0..0x40u64).prop_map(|low| low << 12),
            Just(u64::MAX),
            Just(KERNEL)
        ]
    };
    let reason = prop_oneof![
        word().prop_map(CpuStop::LstarWrite),
        any::<u8>().prop_map(|breakpoint| CpuStop::Breakpoint(breakpoint.into())),
        any::<u8>().prop_map(|cookie| CpuStop::CaughtReturn(cookie.into())),
        Just(CpuStop::Reset),
    ];
    prop_oneof![
        1 => (0..18usize, word()).prop_map(|(register, value)| Edit::Register(register, value)),
        1 => (0..7usize, word()).prop_map(|(register, value)| Edit::Special(register, value)),
        4 => (any::<Index>(), any::<Index>(), word()).prop_map(|(read, at, value)| Edit::Word(read, at, value)),
        1 => any::<Index>().prop_map(Edit::Fail),
        1 => (any::<Index>(), any::<u32>()).prop_map(|(read, length)| Edit::Length(read, length)),
        1 => Just(Edit::Drop),
        1 => Just(Edit::Twice),
        1 => any::<Index>().prop_map(Edit::Swap),
        1 => reason.prop_map(Edit::Reason),
    ]
}

fn frames() -> Vec<Frame> {
    let (bytes, _) = recorded();
    let mut reader = Reader::new(&bytes[..]).unwrap();
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

fn change(frames: &mut Vec<Frame>, place: Index, edit: &Edit) {
    // The header stays.
    let at = 1 + place.index(frames.len() - 1);
    match edit {
        Edit::Drop if frames.len() > 2 => drop(frames.remove(at)),
        Edit::Twice => frames.insert(at, frames[at].clone()),
        Edit::Swap(other) => {
            let other = 1 + other.index(frames.len() - 1);
            frames.swap(at, other);
        }
        Edit::Word(read, offset, value) => word(&mut frames[at..], *read, *offset, *value),
        _ => {
            if let Frame::Stop(stop) = &mut frames[at] {
                change_stop(stop, edit);
            }
        }
    }
}

fn change_stop(stop: &mut RecordedStop, edit: &Edit) {
    let special = &mut stop.special;
    match *edit {
        Edit::Register(16, value) => stop.registers.rip = value,
        Edit::Register(17, value) => stop.registers.rflags = value,
        Edit::Register(number, value) => stop.registers.gpr[number] = value,
        Edit::Special(number, value) => {
            let fields = [
                &mut special.cr0,
                &mut special.cr3,
                &mut special.cr4,
                &mut special.cr8,
                &mut special.efer,
                &mut special.gs_base,
                &mut special.idt_base,
            ];
            *fields.into_iter().nth(number).unwrap() = value;
        }
        Edit::Fail(read) if !stop.reads.is_empty() => {
            let read = read.get_mut(&mut stop.reads);
            read.result = Err(ReadError::NotMapped(read.address));
        }
        Edit::Length(read, length) if !stop.reads.is_empty() => {
            let read = read.get_mut(&mut stop.reads);
            if read.result.is_err() {
                read.length = length % (1 << 20);
            }
        }
        Edit::Reason(reason) => stop.reason = stop.reason.map(|_| reason),
        _ => {}
    }
}

fn word(frames: &mut [Frame], read: Index, offset: Index, value: u64) {
    let mut address = None;
    for frame in frames {
        let Frame::Stop(stop) = frame else { continue };
        if address.is_none() && !stop.reads.is_empty() {
            address = Some(read.get(&stop.reads).address);
        }
        for read in stop.reads.iter_mut().filter(|read| Some(read.address) == address) {
            let Ok(bytes) = &mut read.result else { continue };
            if bytes.len() >= 8 {
                let at = offset.index(bytes.len() - 7);
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

/// The recording that is a seed of the fuzz target `edited_recording`, and a good file of `tests/hostile_files.rs`. After a
/// change of the format: `cargo test -p storlock --lib write_the_seed -- --ignored`.
const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/session.rec");

#[test]
#[ignore = "writes a file of the source tree"]
fn write_the_seed() {
    std::fs::write(SEED, recorded().0).unwrap();
}

#[test]
fn the_seed_is_a_recording_of_this_version() {
    let report = replay::recording(&std::fs::read(SEED).unwrap()[..]).unwrap();
    assert_eq!((report.outcome, report.findings.len()), (Outcome::Defect, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_edited_recording_gives_a_report_of_bounded_size(
        edits in prop::collection::vec((any::<Index>(), edit()), 1..24),
    ) {
        thread_local! { static FRAMES: Vec<Frame> = frames(); }
        let mut frames = FRAMES.with(Clone::clone);
        for (place, edit) in &edits {
            change(&mut frames, *place, edit);
        }
        let mut bytes = Vec::new();
        write_start(&mut bytes).unwrap();
        for frame in &frames {
            write_frame(&mut bytes, frame).unwrap();
        }
        let report = replay::recording(&bytes[..]).unwrap();
        let shown = text::render(&report);
        prop_assert!(shown.len() < 1 << 20);
        prop_assert!(!shown.contains(|c| c != '\n' && crate::escape::is_hostile(c)));
        prop_assert!(json::text(&report).unwrap().len() < 8 << 20);
    }
}
