//! Allocation lengths, parameter list lengths and transfer lengths, at their edges, of every command that has one.

use super::harness::*;

/// Where a block has its length, and how many bytes that field has.
#[derive(Clone, Copy, Debug)]
struct Field {
    at: usize,
    size: usize,
}

impl Field {
    fn put(self, cdb: &mut [u8], value: u64) {
        let bytes = value.to_be_bytes();
        cdb[self.at..self.at + self.size].copy_from_slice(&bytes[8 - self.size..]);
    }
}

/// Every command that sends parameter data, with all its forms, where its allocation length is, and the least that it may be.
fn senders() -> Vec<(Vec<u8>, Field, usize)> {
    let at = |at, size| Field { at, size };
    let mut all = vec![
        (vec![0x03, 0, 0, 0, 0, 0], at(4, 1), 0),
        (vec![0x03, 1, 0, 0, 0, 0], at(4, 1), 0),
        (vec![0x12, 0, 0, 0, 0, 0], at(3, 2), 0),
        (vec![0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], at(10, 4), 0),
        (vec![0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], at(6, 4), 16),
        (vec![0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], at(6, 4), 0),
        (vec![0xa3, 0x0c, 0x81, 0x28, 0, 0, 0, 0, 0, 0, 0, 0], at(6, 4), 0),
        (vec![0xa3, 0x0c, 0x03, 0x9e, 0, 0x10, 0, 0, 0, 0, 0, 0], at(6, 4), 0),
    ];
    for page in [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2] {
        all.push((vec![0x12, 1, page, 0, 0, 0], at(3, 2), 0));
    }
    for page in [0x01, 0x08, 0x0a, 0x1c, 0x3f] {
        for flags in [0, 0x08] {
            all.push((vec![0x1a, flags, page, 0, 0, 0], at(4, 1), 0));
            all.push((vec![0x5a, flags, page, 0, 0, 0, 0, 0, 0, 0], at(7, 2), 0));
        }
        all.push((vec![0x5a, 0x10, page, 0, 0, 0, 0, 0, 0, 0], at(7, 2), 0));
    }
    for page in [0x00, 0x02, 0x03, 0x2f] {
        all.push((vec![0x4d, 0, 0x40 | page, 0, 0, 0, 0, 0, 0, 0], at(7, 2), 0));
    }
    for action in 0..4 {
        all.push((vec![0x5e, action, 0, 0, 0, 0, 0, 0, 0, 0], at(7, 2), 0));
    }
    all
}

#[test]
fn parameter_data_are_cut_at_every_allocation_length() {
    for (mut cdb, field, least) in senders() {
        let mut bench = Bench::new();
        // A registration and a reservation, so that there are some to be told of.
        for (action, list) in [
            (6, [[0; 8], [1; 8], [0; 8]].concat()),
            (1, [[1; 8], [0; 8], [0; 8]].concat()),
        ] {
            bench.write_ok(&[0x5f, action, 0x05 * (action & 1), 0, 0, 0, 0, 0, 24, 0], &list);
        }
        field.put(&mut cdb, (1 << (8 * field.size.min(2))) - 1);
        let whole = bench.data(&cdb);
        assert!(!whole.is_empty(), "{cdb:x?}");
        for length in 0..whole.len() + 2 {
            field.put(&mut cdb, length as u64);
            if length < least {
                let done = bench.read(&cdb, length).0;
                assert_eq!(
                    reason(&done).unwrap().field,
                    Some((true, field.at as u16, None)),
                    "{cdb:x?}"
                );
            } else {
                assert_eq!(bench.data(&cdb), whole[..length.min(whole.len())], "{cdb:x?}");
            }
        }
        if field.size == 4 {
            field.put(&mut cdb, u32::MAX.into());
            assert_eq!(bench.data(&cdb), whole, "{cdb:x?}");
        }
    }
}

#[test]
fn memory_that_is_smaller_than_the_allocation_length_is_not_exceeded() {
    for (mut cdb, field, _) in senders() {
        let mut bench = Bench::new();
        field.put(&mut cdb, 255);
        let whole = bench.data(&cdb);
        for room in [0, 1, whole.len() - 1] {
            let (done, data) = bench.read(&cdb, room);
            assert_eq!((done.status, done.transferred), (0, room as u64), "{cdb:x?}");
            assert_eq!(done.wanted, whole.len() as u64, "{cdb:x?}: an overrun");
            assert_eq!(data, whole[..room], "{cdb:x?}");
        }
    }
}

#[test]
fn more_blocks_than_the_limit_are_refused_by_every_form() {
    let long = |opcode, flags, at| {
        (
            vec![opcode, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Field { at, size: 4 },
        )
    };
    let mut bench = Bench::new();
    for (mut cdb, field) in [
        long(0xa8, 0, 6),
        long(0xaa, 0, 6),
        long(0xaf, 0, 6),
        long(0xaf, 0x02, 6),
        long(0xaf, 0x06, 6),
        long(0x88, 0, 10),
        long(0x8a, 0, 10),
        long(0x8f, 0, 10),
        long(0x8f, 0x02, 10),
        long(0x8f, 0x06, 10),
        long(0x93, 0, 10),
        long(0x93, 0x01, 10),
        long(0x93, 0x08, 10),
    ] {
        for blocks in [0x1_0000, 0x8000_0000, u32::MAX] {
            field.put(&mut cdb, blocks.into());
            for done in [bench.write(&cdb, &[0; BLOCK]), bench.read(&cdb, BLOCK).0] {
                fails(&done, 5, 0x2400);
                assert_eq!(
                    reason(&done).unwrap().field,
                    Some((true, field.at as u16, None)),
                    "{cdb:x?}"
                );
                assert_eq!(done.transferred, 0);
            }
        }
        // One less than that is over the end of this disk, which is told as that.
        field.put(&mut cdb, 0xffff);
        fails(&bench.write(&cdb, &[0; BLOCK]), 5, 0x2100);
    }
}

/// PERSISTENT RESERVE OUT by every service action: what is wrong with each, in the order of SPC-4.
#[test]
fn every_reservation_action_checks_its_list_and_its_fields() {
    let cdb = |action: u8, kind: u8, length: u32| {
        let [a, b, c, d] = length.to_be_bytes();
        [0x5f, action, kind, 0, 0, a, b, c, d, 0]
    };
    let list = |key: u8, new_key: u8| {
        let mut list = [0; 24];
        (list[7], list[15]) = (key, new_key);
        list
    };
    let registered = || {
        let mut bench = Bench::new();
        bench.write_ok(&cdb(6, 0, 24), &list(0, 1));
        bench
    };
    for action in 0..=6 {
        for length in [0, 1, 23, 25, 28, 0x1_0018, u32::MAX] {
            fails(&registered().write(&cdb(action, 1, length), &[0; 32]), 5, 0x1a00);
        }
        let conflicts = |bench: &mut Bench, key| bench.write(&cdb(action, 1, 24), &list(key, 0)).status == 0x18;
        // A key that is not the initiator's, and one of an initiator that has none. REGISTER AND IGNORE EXISTING KEY asks for none,
        // and REGISTER takes 0 from whom it does not know.
        assert_eq!(conflicts(&mut registered(), 2), action != 6, "{action}");
        assert_eq!(conflicts(&mut Bench::new(), 1), action != 6, "{action}");
        // Scope and type of those that have them; the others do not look at them.
        for (kind, bit) in [
            (0x11, 7),
            (0xf1, 7),
            (0x00, 3),
            (0x02, 3),
            (0x04, 3),
            (0x09, 3),
            (0x0f, 3),
        ] {
            let done = registered().write(&cdb(action, kind, 24), &list(1, 1));
            if matches!(action, 1 | 2 | 4 | 5) {
                let field = reason(&done).map(|reason| reason.field);
                assert_eq!(field, Some(Some((true, 2, Some(bit)))), "action {action}, {kind:x}");
            } else {
                assert_eq!(done.status, 0, "action {action}, {kind:x}");
            }
        }
    }
    // REGISTER AND MOVE and what is reserved.
    for action in 7..=0x1f {
        let done = registered().write(&cdb(action, 1, 24), &list(1, 1));
        assert_eq!(reason(&done).unwrap().field, Some((true, 1, Some(4))), "{action}");
    }
    for action in 4..=0x1f {
        let done = registered().read(&[0x5e, action, 0, 0, 0, 0, 0, 0, 64, 0], 64).0;
        assert_eq!(reason(&done).unwrap().field, Some((true, 1, Some(4))), "{action}");
    }
}
