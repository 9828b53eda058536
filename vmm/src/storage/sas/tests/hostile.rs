//! Registers, memory and messages in any order: nothing panics, and what one access can lead to is bounded.
#![allow(clippy::print_stdout, reason = "what a long test has done is shown on demand")]

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use vm_memory::{Bytes, GuestAddress};

use super::harness::*;
use crate::storage::sas::SasConfig;
use crate::storage::worker::{Progress, StorageController};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u32),
    Read(u64, usize),
    Odd(u64, Vec<u8>),
    Memory(u64, u64),
    /// A request frame: function, some fields, and how it gets there.
    Message(u8, Vec<(usize, u32)>, bool),
    Handshake(u8, Vec<u32>),
    BusMaster(bool),
    Initialise,
    Process,
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        0..16u32,
        (0..0x40u32).prop_map(|page| page << 12),
        any::<u32>(),
        (0x40..0x44u32, 0..0x30u32).prop_map(|(function, words)| function << 24 | words << 16),
        prop::sample::select(&[0xff, 4, 0xb, 2, 7, 0xd, 0x84][..]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let place =
        || prop_oneof![8 => prop::sample::select(&[0u64, 4, 8, 0x30, 0x34, 0x40, 0x44, 0x48][..]), 1 => 0..0x4000u64];
    let fields = prop::collection::vec((0..128usize, value()), 0..12);
    let function = prop_oneof![4 => 0..9u8, 1 => any::<u8>()];
    prop_oneof![
        6 => (place(), value()).prop_map(|(place, value)| Step::Write(place & !3, value)),
        3 => (place(), 1..9usize).prop_map(|(place, length)| Step::Read(place, length)),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(place, data)| Step::Odd(place, data)),
        2 => (0..0x4_0000u64, any::<u64>()).prop_map(|(place, value)| Step::Memory(place, value)),
        8 => (function, fields, any::<bool>()).prop_map(|(function, fields, urgent)| Step::Message(function, fields, urgent)),
        2 => (0..9u8, prop::collection::vec(value(), 1..20)).prop_map(|(function, words)| Step::Handshake(function, words)),
        1 => any::<bool>().prop_map(Step::BusMaster),
        2 => Just(Step::Initialise),
        4 => Just(Step::Process),
    ]
}

fn carry_out(driver: &mut Driver, step: Step) {
    match step {
        Step::Write(place, value) => {
            driver.registers.write(place, &value.to_le_bytes());
        }
        Step::Read(place, length) => {
            driver.registers.read(place, &mut [0; 8][..length]);
        }
        Step::Odd(place, data) => {
            driver.registers.write(place, &data);
        }
        Step::Memory(place, value) => driver.memory.write_obj(value, GuestAddress(place)).unwrap(),
        Step::Message(function, fields, urgent) => {
            let mut frame = scsi(0, &cdb10(0x28, 0, 1), Way::In, 512);
            frame[3] = function;
            for (at, value) in fields {
                let end = (at + 4).min(frame.len());
                frame[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            let address = driver.place(&frame);
            let queue = if urgent { 0x48 } else { 0x40 };
            driver.registers.write(queue, &address.to_le_bytes());
        }
        Step::Handshake(function, mut words) => {
            words[0] = words[0] & 0x00ff_ffff | u32::from(function) << 24;
            driver
                .registers
                .write(0, &(0x42 << 24 | (words.len() as u32) << 16).to_le_bytes());
            for word in words {
                driver.registers.write(0, &word.to_le_bytes());
            }
        }
        Step::BusMaster(enabled) => driver.controller.set_bus_master(enabled),
        Step::Initialise => {
            driver.controller.set_bus_master(true);
            driver.diagnostic_reset();
            driver.settle();
            driver.initialise();
        }
        Step::Process => {}
    }
    let calls = (0..1000)
        .take_while(|_| driver.controller.process() == Progress::Pending)
        .count();
    assert!(calls < 1000, "the controller does not come to rest");
}

/// And it can always be had again.
fn recover(driver: &mut Driver) {
    driver.controller.set_bus_master(true);
    driver.diagnostic_reset();
    driver.settle();
    driver.initialise();
    driver.post(&scsi(0, &[0; 6], Way::None, 0));
    assert!(driver.reap().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_driver_does_harm(steps in prop::collection::vec(step(), 1..80)) {
        let mut driver = Driver::cold(SasConfig::default(), 2);
        driver.fill(0x3f_0000, &[0x77; 64]);
        for step in steps {
            carry_out(&mut driver, step);
        }
        recover(&mut driver);
    }
}

/// A host that sends SCSI I/O by the doorbell, where no credit limits it, and takes no reply.
#[test]
fn replies_that_nobody_takes_do_not_grow_for_ever() {
    let mut driver = Driver::new();
    let request = scsi(0, &[0; 6], Way::None, 0);
    for _ in 0..3000 {
        let dwords = request.len() as u32 / 4;
        driver.registers.write(0, &(0x42 << 24 | dwords << 16).to_le_bytes());
        for word in request.chunks_exact(4) {
            driver.registers.write(0, word);
        }
        driver.settle();
    }
    // 1024 were posted, 256 waited for room, and one request waited to be executed.
    assert_eq!(std::iter::from_fn(|| driver.reap()).count(), 1024 + 256 + 1);
    driver.ok(&read(0, 0, 1));
}

/// Sequences of [`ten_million_sequences_do_no_harm`], and how many of them one controller has.
const SEQUENCES: u64 = 10_000_000;
const OF_ONE_CONTROLLER: u64 = 2_000;

#[test]
#[ignore = "runs for many minutes"]
fn ten_million_sequences_do_no_harm() {
    let mut runner = TestRunner::deterministic();
    let sequences = prop::collection::vec(step(), 1..8);
    let (mut steps, mut driver) = (0_u64, Driver::cold(SasConfig::default(), 2));
    for done in 0..SEQUENCES {
        if done % OF_ONE_CONTROLLER == 0 {
            recover(&mut driver);
            driver = Driver::cold(SasConfig::default(), 2);
        }
        let sequence = sequences.new_tree(&mut runner).unwrap().current();
        steps += sequence.len() as u64;
        for step in sequence {
            carry_out(&mut driver, step);
        }
        if (done + 1) % (SEQUENCES / 100) == 0 {
            println!("{} sequences, {steps} steps", done + 1);
        }
    }
    recover(&mut driver);
}
