//! Tests of the registers as gdb has them.

use super::*;

/// Every register another value.
fn distinct() -> AllRegisters {
    let mut all = AllRegisters::default();
    for register in Register::all(true) {
        let value: Vec<u8> = (0..register.size()).map(|byte| (register.0 + 3 * byte) as u8).collect();
        register.set(&mut all, &value);
    }
    all
}

#[test]
fn what_is_set_is_read_back_and_no_register_lies_on_another() {
    let all = distinct();
    for register in Register::all(true) {
        let mut changed = all;
        register.set(&mut changed, &vec![0; register.size()]);
        for other in Register::all(true) {
            let same = other.get(&changed) == other.get(&all);
            assert_eq!(same, other != register, "{} and {}", register.name(), other.name());
        }
    }
}

#[test]
fn the_whole_set_survives_its_packet_and_no_other_length_is_taken() {
    for avx in [false, true] {
        let mut set = RegisterSet(distinct());
        if !avx {
            set.0.floating.ymm_high = None;
        }
        let mut bytes = Vec::new();
        set.gdb_serialize(|byte| bytes.push(byte.unwrap()));
        let added = if avx { 16 * 16 } else { 0 };
        assert_eq!(
            bytes.len(),
            17 * 8 + 7 * 4 + 9 * 8 + 8 * 10 + 8 * 4 + 16 * 16 + 4 + added
        );
        let mut back = RegisterSet::default();
        back.gdb_deserialize(&bytes).unwrap();
        assert_eq!(back, set);
        assert_eq!(bytes.len(), size_of_all(avx));
        assert!(back.gdb_deserialize(&bytes[1..]).is_err());
        bytes.push(0);
        assert!(back.gdb_deserialize(&bytes).is_err());
    }
}

#[test]
fn general_registers_are_in_gdbs_order() {
    let mut all = AllRegisters::default();
    (all.general.gpr[3], all.general.gpr[4]) = (0xb, 0x5);
    assert_eq!((Register(1).name().as_str(), Register(1).get(&all)[0]), ("rbx", 0xb));
    assert_eq!((Register(7).name().as_str(), Register(7).get(&all)[0]), ("rsp", 0x5));
}

#[test]
fn the_description_has_every_register_in_order_and_no_line_breaks() {
    for avx in [false, true] {
        let target = description("target.xml", avx).unwrap();
        let files: Vec<&str> = quoted(&target, "href=");
        let xml: String = files.iter().map(|file| description(file, avx).unwrap()).collect();
        assert!(!xml.contains('\n') && !target.contains('\n'));
        let names = quoted(&xml, "<reg name=");
        assert_eq!(names, Register::all(avx).map(Register::name).collect::<Vec<_>>());
        assert_eq!((names[24], names[31]), ("fs_base", "cr8"));
        // WinDbg's client is told of one file.
        assert_eq!(files.len(), if avx { 3 } else { 1 });
    }
    assert_eq!(description(AVX_FILE, false), None);
}

/// What stands in quotes after each `key`.
fn quoted<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let parts = text.split(key).skip(1);
    parts.map(|rest| rest.split('"').nth(1).unwrap()).collect()
}
