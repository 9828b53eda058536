//! Tests with what regedit writes, and with what it does not write.

use proptest::prelude::*;

use super::*;

const EXPORTED: &str = "Windows Registry Editor Version 5.00\r\n\r\n\
    ; a comment\r\n\
    [HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\m\\Parameters]\r\n\
    @=\"the default\"\r\n\
    \"IoTimeoutValue\"=dword:0000001f\r\n\
    \"Path\"=\"C:\\\\a \\\"b\\\"\"\r\n\
    \"List\"=hex(7):61,00,00,00,62,\\\r\n  00,00,00,00,00\r\n\
    \"Expand\"=hex(2):25,00,00,00\r\n\
    \"Wide\"=hex(b):01,02,03,04,05,06,07,08\r\n\
    \"Raw\"=hex:0a,0B,\r\n\
    \"Empty\"=hex:\r\n\
    \"Two lines\"=\"a\r\nb\"\r\n";

fn values(registry: &Registry) -> Vec<(&str, u32, &[u8])> {
    let all = registry.keys.iter().flat_map(|(_, values)| values);
    all.map(|value| (value.name.as_str(), value.kind, value.data.as_slice()))
        .collect()
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn encodings(text: &str) -> Vec<Vec<u8>> {
    let swapped = wide(text)
        .chunks(2)
        .flat_map(|pair| [pair[1], pair[0]])
        .collect::<Vec<u8>>();
    vec![
        text.as_bytes().to_vec(),
        [&[0xef, 0xbb, 0xbf], text.as_bytes()].concat(),
        [&[0xff, 0xfe][..], &wide(text)].concat(),
        [&[0xfe, 0xff][..], &swapped].concat(),
        wide(text),
        text.replace("\r\n", "\n").into_bytes(),
    ]
}

#[test]
fn what_regedit_writes_is_read_in_every_encoding_that_it_has() {
    let expected = [
        ("", 1, wide("the default\0")),
        ("IoTimeoutValue", 4, vec![0x1f, 0, 0, 0]),
        ("Path", 1, wide("C:\\a \"b\"\0")),
        ("List", 7, wide("a\0b\0\0")),
        ("Expand", 2, wide("%\0")),
        ("Wide", 11, vec![1, 2, 3, 4, 5, 6, 7, 8]),
        ("Raw", 3, vec![10, 11]),
        ("Empty", 3, vec![]),
        ("Two lines", 1, wide("a\r\nb\0")),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, kind, data)| (*name, *kind, data.as_slice()))
        .collect();
    for bytes in encodings(EXPORTED) {
        let registry = Registry::read(&bytes);
        assert_eq!(registry.warnings, []);
        assert_eq!(values(&registry), expected);
        // Its own plain form says the same.
        let again = Registry::read(&registry.plain());
        assert_eq!((again.warnings.len(), &again.keys), (0, &registry.keys));
    }
}

#[test]
fn each_line_that_is_not_understood_is_told_by_its_number_and_no_other_is_lost() {
    let text = "Windows Registry Editor Version 5.00\n\
        [HKEY_CURRENT_USER\\a]\n\
        \"Lost\"=dword:1\n\
        [HKLM\\b]\n\
        \"One\"=dword:1\n\
        \"Bad\"=dword:123456789\n\
        nonsense\n\
        \"Open\"=\"no end\n\
        \"Two\"=dword:2\n\
        \"Bytes\"=hex:1g\n\
        \"Kind\"=hex(zz):00\n\
        [HKLM\\c\n\
        [HKLM\\d] trailing\n\
        \"Gone\"=dword:9\n\
        [HKLM\\e] ; fine\n\
        \"Three\" = dword:3 ; fine\n";
    let registry = Registry::read(text.as_bytes());
    let lines: Vec<_> = registry.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [2, 3, 6, 7, 8, 10, 11, 12, 13, 14], "{:#?}", registry.warnings);
    let names: Vec<_> = values(&registry).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["One", "Two", "Three"]);
}

#[test]
fn later_lines_replace_and_delete_what_earlier_ones_said() {
    let text = "REGEDIT4\n[HKLM\\a]\n\"V\"=dword:1\n\"W\"=dword:1\n[hklm\\A\\b]\n\"V\"=dword:1\n[HKLM\\ab]\n\"V\"=dword:1\n\
        [HKLM\\A]\n\"v\"=dword:2\n\"w\"=-\n[-HKLM\\a\\B]\n";
    let registry = Registry::read(text.as_bytes());
    assert_eq!(registry.warnings, []);
    let keys: Vec<_> = registry.keys.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "ab"]);
    assert_eq!(values(&registry)[0], ("v", 4, &[2, 0, 0, 0][..]));
    assert_eq!(values(&registry).len(), 2);
}

#[test]
fn version_4_has_the_bytes_of_strings_in_a_code_page() {
    let registry = Registry::read(b"REGEDIT4\n[HKLM\\a]\n\"V\"=hex(7):61,00,00\n\"W\"=\"\xe4\"\n");
    assert_eq!(
        values(&registry),
        [("V", 7, &wide("a\0\0")[..]), ("W", 1, &wide("\u{e4}\0")[..])]
    );
}

#[test]
fn the_plain_form_has_a_byte_for_each_character() {
    // In a code page, the bytes of two characters that UTF-8 would take for one; the lone byte after them is no UTF-8.
    let registry = Registry::read(b"REGEDIT4\n[HKLM\\\xc2\xa0]\n\"\xe4\"=dword:1\n");
    assert_eq!(registry.warnings, []);
    assert_eq!(
        registry.plain(),
        b"Windows Registry Editor Version 5.00\n\n[HKEY_LOCAL_MACHINE\\\xc2\xa0]\n\"\xe4\"=hex(4):01,00,00,00\n"
    );
}

#[test]
fn what_the_guest_has_no_room_or_name_for_is_told() {
    let long = "k".repeat(300);
    let data = vec!["00"; 513].join(",");
    let text = format!(
        "REGEDIT4\n[HKLM\\{long}]\n[HKLM\\a]\n\"{long}\"=dword:1\n\"V\"=hex:{data}\n\"\u{3c9}\"=dword:1\n[HKLM]\n"
    );
    let registry = Registry::read(text.as_bytes());
    let lines: Vec<_> = registry.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [2, 4, 5, 6, 7], "{:?}", registry.warnings);
}

#[test]
fn a_value_that_is_too_long_is_told_once_however_many_lines_it_has() {
    let data = vec!["00,\\\n"; 600].concat();
    let text = format!("REGEDIT4\n[HKLM\\a]\n\"V\"=hex:{data}00\n\"W\"=dword:1\nodd\n");
    let registry = Registry::read(text.as_bytes());
    let lines: Vec<_> = registry.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [3, 605], "{:?}", registry.warnings);
    assert_eq!(values(&registry), [("W", 4, &[1, 0, 0, 0][..])]);
}

#[test]
fn a_file_without_header_or_cut_in_a_character_is_read_and_told() {
    assert_eq!(Registry::read(b"[HKLM\\a]\n\"V\"=dword:1\n").warnings.len(), 1);
    let mut cut = [&[0xff, 0xfe][..], &wide(EXPORTED)].concat();
    cut.push(7);
    assert_eq!(Registry::read(&cut).warnings.len(), 1);
    assert_eq!(Registry::read(b"").warnings, []);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_its_plain_form_is_always_understood(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        encoding in 0usize..6, cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encodings(EXPORTED).remove(encoding);
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let registry = Registry::read(&bytes);
        // The guest takes each byte for a character. Read as a file, the same bytes may be UTF-8 by chance.
        let units = registry.plain().into_iter().flat_map(|byte| u16::from(byte).to_le_bytes());
        let again = Registry::read(&[0xff, 0xfe].into_iter().chain(units).collect::<Vec<u8>>());
        prop_assert_eq!(again.warnings, vec![]);
        prop_assert_eq!(again.keys, registry.keys);
    }
}
