//! Unit attentions, resets, starting and stopping, log pages.

use super::harness::*;
use crate::storage::backend::MemoryBackend;
use crate::storage::scsi::{Data, Sense, UnitConfig};

#[test]
fn power_on_is_told_once_to_each_initiator() {
    let mut bench = Bench::cold(UnitConfig::default(), Box::new(MemoryBackend::new(DISK)));
    for initiator in [ME, OTHER] {
        // Those that heed no attention leave it there.
        assert_eq!(bench.read_as(initiator, &[0x12, 0, 0, 0, 36, 0], 36).0.status, 0);
        let done = bench
            .read_as(initiator, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], 16)
            .0;
        assert_eq!(done.status, 0);
        let done = bench.request(initiator, 0, &cdb10(0x28, 0, 0, 1), Data::None);
        fails(&done, 6, 0x2901);
        assert_eq!(bench.reason_of(initiator, &[0; 6]), None);
    }
}

#[test]
fn request_sense_takes_an_attention_as_data() {
    let mut bench = Bench::new();
    bench.target.reset();
    bench.target.lose_nexus(ME);
    bench.target.lose_nexus(ME);
    for code in [0x29, 0x29, 0] {
        let data = bench.data(&[0x03, 0, 0, 0, 252, 0]);
        assert_eq!((data.len(), data[0], data[12]), (18, 0x70, code));
    }
    let data = bench.data(&[0x03, 1, 0, 0, 252, 0]);
    assert_eq!(data, [0x72, 0, 0, 0, 0, 0, 0, 0], "descriptor format");
    bench.target.reset();
    let mut codes = Vec::new();
    while let Some(reason) = bench.reason_of(OTHER, &[0; 6]) {
        codes.push(reason.code);
    }
    assert_eq!(codes, [0x2903], "a reset clears what waited");
}

#[test]
fn a_reset_takes_modes_back_and_starts_the_unit() {
    let mut bench = Bench::new();
    let page = [0, 0, 0, 0, 0x0a, 0x0a, 0x04, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    bench.write_ok(&[0x15, 0x10, 0, 0, 16, 0], &page);
    bench.write_ok(&[0x1b, 0, 0, 0, 0, 0], &[]);
    bench.target.reset();
    assert_eq!(bench.reason_of(ME, &[0; 6]).unwrap().code, 0x2903);
    assert_eq!(bench.reason_of(ME, &[0; 6]), None);
    assert!(!bench.target.unit().state().modes.descriptor_sense);
}

#[test]
fn a_stopped_unit_has_no_medium() {
    let mut bench = Bench::new();
    bench.write_ok(&[0x1b, 0, 0, 0, 0, 0], &[]);
    for cdb in [
        vec![0; 6],
        cdb10(0x28, 0, 0, 1).to_vec(),
        cdb10(0x2a, 0, 0, 1).to_vec(),
        cdb16(0x93, 1, 0, 1),
        vec![0x1d, 4, 0, 0, 0, 0],
    ] {
        fails(&bench.write(&cdb, &[0; BLOCK]), 2, 0x0402);
    }
    assert_eq!(bench.data(&[0x03, 0, 0, 0, 252, 0])[2], 2);
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 36, 0]).len(), 36);
    bench.write_ok(&[0x1b, 1, 0, 0, 1, 0], &[]);
    assert_eq!(bench.reason_of(ME, &[0; 6]), None);
    // There is nothing to eject and no power condition.
    for byte in [0x02, 0x10] {
        fails(&bench.write(&[0x1b, 0, 0, 0, byte, 0], &[]), 5, 0x2400);
    }
    assert_eq!(bench.reason_of(ME, &[0; 6]), None, "still started");
}

#[test]
fn sense_data_that_a_controller_makes_have_the_format_that_was_chosen() {
    let mut bench = Bench::new();
    let sense = Sense::new(0xb, 0x4700).at_block(7);
    let done = bench.target.unit().check_condition(sense);
    fails(&done, 0xb, 0x4700);
    assert_eq!(done.sense[0], 0xf0);
    let page = [0, 0, 0, 0, 0x0a, 0x0a, 0x04, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    bench.write_ok(&[0x15, 0x10, 0, 0, 16, 0], &page);
    assert_eq!(bench.target.unit().check_condition(sense).sense[0], 0x72);
}

#[test]
fn log_pages_count() {
    let mut bench = Bench::new();
    bench.write_ok(&cdb10(0x2a, 0, 0, 2), &[1; 1024]);
    bench.data(&cdb10(0x28, 0, 0, 1));
    let log = |page, pointer| [0x4d, 0, 0x40 | page, 0, 0, 0, pointer, 0, 255, 0];
    assert_eq!(bench.data(&log(0, 0)), [0, 0, 0, 4, 0, 2, 3, 0x2f]);
    for (page, bytes) in [(2, 1024_u64), (3, 512)] {
        let data = bench.data(&log(page, 0));
        assert_eq!((data.len(), data[0], data[3]), (28, page, 24));
        assert_eq!(data[4..8], [0, 5, 3, 8]);
        assert_eq!(data[8..16], bytes.to_be_bytes());
        assert_eq!(data[16..28], [0, 6, 3, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bench.data(&log(page, 6))[4..], data[16..]);
        let done = bench.read(&log(page, 7), 64).0;
        assert_eq!(reason(&done).unwrap().field, Some((true, 5, None)));
    }
    assert_eq!(bench.data(&log(0x2f, 0)), [0x2f, 0, 0, 8, 0, 0, 3, 4, 0, 0, 0xff, 0]);
    for (cdb, byte) in [
        (log(1, 0), 2),
        (log(0, 1), 5),
        ([0x4d, 0, 0x40, 1, 0, 0, 0, 0, 255, 0], 3),
    ] {
        assert_eq!(reason(&bench.read(&cdb, 64).0).unwrap().field.unwrap().1, byte);
    }
}
