//! Persistent reservations between two initiators.

use super::harness::*;
use crate::storage::scsi::{Completion, Initiator};

const CONFLICT: u8 = 0x18;

fn out(bench: &mut Bench, who: Initiator, action: u8, kind: u8, key: u64, new_key: u64) -> Completion {
    let mut list = [key.to_be_bytes(), new_key.to_be_bytes()].concat();
    list.resize(24, 0);
    bench.write_as(who, &[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list)
}

/// Both are registered: ME with key 1, OTHER with key 2.
fn registered() -> Bench {
    let mut bench = Bench::new();
    assert_eq!(out(&mut bench, ME, 0, 0, 0, 1).status, 0);
    assert_eq!(out(&mut bench, OTHER, 0, 0, 0, 2).status, 0);
    bench
}

fn keys(bench: &mut Bench) -> (u32, Vec<u64>) {
    let data = bench.data(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0]);
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    assert_eq!(data[4..8], (data.len() as u32 - 8).to_be_bytes());
    let generation = u32::from_be_bytes(data[..4].try_into().unwrap());
    (generation, data[8..].chunks_exact(8).map(number).collect())
}

/// Key and type of the reservation.
fn reservation(bench: &mut Bench) -> Option<(u8, u8)> {
    let data = bench.data(&[0x5e, 1, 0, 0, 0, 0, 0, 0, 255, 0]);
    (data.len() > 8).then(|| (data[15], data[21]))
}

fn may(bench: &mut Bench, who: Initiator, opcode: u8) -> bool {
    let cdb = cdb10(opcode, 0, 0, 1);
    let done = if opcode == 0x2a {
        bench.write_as(who, &cdb, &[0; BLOCK])
    } else {
        bench.read_as(who, &cdb, BLOCK).0
    };
    assert!([0, CONFLICT].contains(&done.status));
    done.status == 0
}

#[test]
fn keys_are_registered_changed_and_taken_back() {
    let mut bench = registered();
    assert_eq!(keys(&mut bench), (2, vec![1, 2]));
    assert_eq!(out(&mut bench, ME, 0, 0, 9, 3).status, CONFLICT, "not its key");
    assert_eq!(out(&mut bench, ME, 0, 0, 1, 3).status, 0);
    assert_eq!(out(&mut bench, OTHER, 6, 0, 77, 4).status, 0, "whatever key it has");
    assert_eq!(keys(&mut bench), (4, vec![3, 4]));
    assert_eq!(out(&mut bench, ME, 0, 0, 3, 0).status, 0);
    assert_eq!(keys(&mut bench), (5, vec![4]));
    assert_eq!(
        out(&mut bench, ME, 1, 1, 3, 0).status,
        CONFLICT,
        "not registered any more"
    );
}

/// TYPE, and what an initiator may that is registered and one that is not: read, write.
const TYPES: [(u8, [bool; 2], [bool; 2]); 6] = [
    (1, [true, false], [true, false]),
    (3, [false, false], [false, false]),
    (5, [true, true], [true, false]),
    (6, [true, true], [false, false]),
    (7, [true, true], [true, false]),
    (8, [true, true], [false, false]),
];

#[test]
fn a_reservation_keeps_others_out_by_its_type() {
    for (kind, by_registered, by_others) in TYPES {
        let mut bench = registered();
        assert_eq!(out(&mut bench, ME, 1, kind, 1, 0).status, 0);
        assert_eq!(reservation(&mut bench), Some((u8::from(kind < 7), kind)));
        assert!(may(&mut bench, ME, 0x28) && may(&mut bench, ME, 0x2a));
        assert_eq!(
            [0x28, 0x2a].map(|opcode| may(&mut bench, OTHER, opcode)),
            by_registered,
            "{kind}"
        );
        out(&mut bench, OTHER, 0, 0, 2, 0);
        assert_eq!(
            [0x28, 0x2a].map(|opcode| may(&mut bench, OTHER, opcode)),
            by_others,
            "{kind}"
        );
        // What is always allowed, and what counts as reading and as writing.
        assert_eq!(bench.reason_of(OTHER, &[0; 6]), None);
        assert_eq!(bench.read_as(OTHER, &[0x12, 0, 0, 0, 36, 0], 36).0.status, 0);
        let sense = bench.read_as(OTHER, &[0x1a, 0, 0x3f, 0, 36, 0], 36).0.status;
        assert_eq!(sense == 0, by_others[0]);
        let unmap = bench.write_as(OTHER, &cdb10(0x42, 0, 0, 0), &[]).status;
        assert_eq!(unmap, CONFLICT);
        // Another reservation is not to be had; the same one is.
        out(&mut bench, OTHER, 6, 0, 0, 2);
        let again = out(&mut bench, OTHER, 1, kind, 2, 0).status;
        assert_eq!(again == 0, kind >= 7, "{kind}");
        assert_eq!(out(&mut bench, ME, 1, kind, 1, 0).status, 0);
        assert!(out(&mut bench, ME, 1, kind % 8 + 1, 1, 0).status != 0);
    }
}

#[test]
fn a_release_has_to_name_the_type() {
    let mut bench = registered();
    out(&mut bench, ME, 1, 5, 1, 0);
    assert_eq!(out(&mut bench, OTHER, 2, 5, 2, 0).status, 0, "nothing of its own");
    fails(&out(&mut bench, ME, 2, 1, 1, 0), 5, 0x2604);
    assert_eq!(reservation(&mut bench), Some((1, 5)));
    assert_eq!(out(&mut bench, ME, 2, 5, 1, 0).status, 0);
    assert_eq!(reservation(&mut bench), None);
    assert_eq!(bench.reason_of(OTHER, &[0; 6]).unwrap().code, 0x2a04);
    assert_eq!(bench.reason_of(ME, &[0; 6]), None);
}

#[test]
fn a_reservation_goes_with_its_holder() {
    let mut bench = registered();
    out(&mut bench, ME, 1, 1, 1, 0);
    out(&mut bench, ME, 0, 0, 1, 0);
    assert_eq!(reservation(&mut bench), None);
    // One of all registrants goes with the last of them.
    let mut bench = registered();
    out(&mut bench, ME, 1, 7, 1, 0);
    out(&mut bench, ME, 0, 0, 1, 0);
    assert_eq!(reservation(&mut bench), Some((0, 7)));
    out(&mut bench, OTHER, 0, 0, 2, 0);
    assert_eq!(reservation(&mut bench), None);
}

#[test]
fn preempting_takes_registrations_and_the_reservation() {
    let mut bench = registered();
    out(&mut bench, OTHER, 1, 3, 2, 0);
    assert_eq!(out(&mut bench, ME, 4, 1, 1, 9).status, CONFLICT, "nobody has that key");
    fails(&out(&mut bench, ME, 4, 1, 1, 0), 5, 0x2600);
    assert_eq!(out(&mut bench, ME, 5, 1, 1, 2).status, 0);
    assert_eq!((reservation(&mut bench), keys(&mut bench).1), (Some((1, 1)), vec![1]));
    assert_eq!(bench.reason_of(OTHER, &[0; 6]).unwrap().code, 0x2a05);
    // Somebody without the reservation.
    let mut bench = registered();
    out(&mut bench, ME, 1, 3, 1, 0);
    assert_eq!(out(&mut bench, ME, 4, 3, 1, 2).status, 0);
    assert_eq!((reservation(&mut bench), keys(&mut bench).1), (Some((1, 3)), vec![1]));
    // All registrants.
    let mut bench = registered();
    out(&mut bench, ME, 1, 8, 1, 0);
    assert_eq!(out(&mut bench, OTHER, 4, 8, 2, 0).status, 0);
    assert_eq!(bench.reason_of(ME, &[0; 6]).unwrap().code, 0x2a05);
    assert_eq!((reservation(&mut bench), keys(&mut bench).1), (Some((0, 8)), vec![2]));
    assert!(!may(&mut bench, ME, 0x28) && may(&mut bench, OTHER, 0x28));
}

#[test]
fn clearing_takes_all() {
    let mut bench = registered();
    out(&mut bench, OTHER, 1, 3, 2, 0);
    assert_eq!(out(&mut bench, ME, 3, 0, 2, 0).status, CONFLICT);
    assert_eq!(out(&mut bench, ME, 3, 0, 1, 0).status, 0);
    assert_eq!((reservation(&mut bench), keys(&mut bench).1), (None, vec![]));
    assert_eq!(bench.reason_of(OTHER, &[0; 6]).unwrap().code, 0x2a03);
}

#[test]
fn what_there_is_not_is_refused() {
    let mut bench = registered();
    let list = [0; 24];
    fails(&bench.write(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 23, 0], &list), 5, 0x1a00);
    for (flag, bit) in [(0x08, 3), (0x04, 2), (0x01, 0)] {
        let mut list = [0; 24];
        (list[15], list[20]) = (1, flag);
        let done = bench.write(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &list);
        assert_eq!(reason(&done).unwrap().field, Some((false, 20, Some(bit))));
    }
    let done = out(&mut bench, ME, 1, 0x11, 1, 0);
    assert_eq!(
        reason(&done).unwrap().field,
        Some((true, 2, Some(7))),
        "an element's scope"
    );
    for kind in [0, 2, 4, 9, 15] {
        let done = out(&mut bench, ME, 1, kind, 1, 0);
        assert_eq!(reason(&done).unwrap().field, Some((true, 2, Some(3))));
    }
}

#[test]
fn the_number_of_registrations_is_bounded() {
    let mut bench = Bench::new();
    for who in 0..64 {
        bench.reason_of(Initiator(who), &[0; 6]);
        assert_eq!(out(&mut bench, Initiator(who), 0, 0, 0, 1).status, 0);
    }
    fails(&out(&mut bench, ME, 0, 0, 0, 1), 5, 0x5504);
    assert_eq!(out(&mut bench, Initiator(3), 0, 0, 1, 2).status, 0);
}

#[test]
fn capabilities_and_full_status_are_told() {
    let mut bench = registered();
    out(&mut bench, OTHER, 1, 5, 2, 0);
    let data = bench.data(&[0x5e, 2, 0, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(data, [0, 8, 0, 0x80, 0xea, 1, 0, 0]);
    let data = bench.data(&[0x5e, 3, 0, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(data.len(), 8 + 2 * 48);
    let (mine, theirs) = (&data[8..56], &data[56..]);
    assert_eq!((mine[7], mine[12], mine[13], mine[23], mine[24]), (1, 0, 0, 24, 6));
    assert_eq!(mine[28..36], ME.0.to_be_bytes());
    assert_eq!((theirs[7], theirs[12], theirs[13]), (2, 1, 5));
}
