//! The registry file of a guest that is entered directly, as regedit writes it (versions 4 and 5): read here, so that what
//! is not understood can be told before the guest starts, and handed over in the plain form that `docs/loader-block.md`
//! describes.
//!
//! Deletions are carried out here: at its start the guest's registry has nothing but this file. Pure; it must not know
//! where the bytes come from. Sources: Microsoft "Registry value types"; "How to add, modify, or delete registry subkeys
//! and values by using a .reg file".

use std::fmt::Write as _;

/// What the guest's registry takes: characters of a key's path and of a value's name, bytes of a value.
const LONGEST_KEY: usize = 191;
const LONGEST_NAME: usize = 63;
const MOST_DATA: usize = 512;
/// Characters of a line that a warning shows.
const SHOWN: usize = 60;

const REG_SZ: u32 = 1;
const REG_EXPAND_SZ: u32 = 2;
const REG_BINARY: u32 = 3;
const REG_DWORD: u32 = 4;
const REG_MULTI_SZ: u32 = 7;
const REG_QWORD: u32 = 11;

/// A line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Warning {
    /// Its number, from 1 on.
    pub(super) line: usize,
    /// What is wrong with it.
    pub(super) reason: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// A registry file that has been read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Registry {
    /// Keys, as they were first spelled, with their values.
    keys: Vec<(String, Vec<Value>)>,
    /// What was not understood, by line.
    pub(super) warnings: Vec<Warning>,
}

#[derive(Debug, PartialEq, Eq)]
struct Value {
    name: String,
    kind: u32,
    data: Vec<u8>,
}

impl Registry {
    /// Reads a file.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let (text, odd) = decode(bytes);
        let mut reader = Reader {
            lines: text
                .split(|&unit| unit == u16::from(b'\n'))
                .map(<[u16]>::to_vec)
                .collect(),
            next: 0,
            ansi: false,
            key: None,
            registry: Self::default(),
        };
        reader.read();
        let mut registry = reader.registry;
        if let Some(reason) = odd {
            registry.warnings.push(Warning {
                line: text.split(|&unit| unit == u16::from(b'\n')).count(),
                reason,
            });
        }
        registry
    }

    /// In the form that the guest reads: bytes, a value a line.
    pub(super) fn plain(&self) -> Vec<u8> {
        let mut text = "Windows Registry Editor Version 5.00\n".to_owned();
        for (key, values) in &self.keys {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n[HKEY_LOCAL_MACHINE\\{key}]\n");
            for value in values {
                let name = value.name.replace('\\', "\\\\").replace('"', "\\\"");
                let name = if name.is_empty() {
                    "@".to_owned()
                } else {
                    format!("\"{name}\"")
                };
                let bytes: Vec<String> = value.data.iter().map(|byte| format!("{byte:02x}")).collect();
                let _ = writeln!(text, "{name}=hex({:x}):{}", value.kind, bytes.join(","));
            }
        }
        // Names are in the first 256 characters.
        text.chars().map(|character| character as u8).collect()
    }

    fn key(&mut self, path: &str) -> usize {
        let known = self.keys.iter().position(|(key, _)| key.eq_ignore_ascii_case(path));
        known.unwrap_or_else(|| {
            self.keys.push((path.to_owned(), Vec::new()));
            self.keys.len() - 1
        })
    }

    /// Removes a key with all that is below it.
    fn delete(&mut self, path: &str) {
        self.keys.retain(|(key, _)| {
            let below = key
                .get(..path.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(path));
            !below || !matches!(key.as_bytes().get(path.len()), None | Some(b'\\'))
        });
    }

    fn set(&mut self, key: usize, value: Value) {
        let Some((_, values)) = self.keys.get_mut(key) else {
            return;
        };
        match values
            .iter_mut()
            .find(|known| known.name.eq_ignore_ascii_case(&value.name))
        {
            Some(known) => *known = value,
            None => values.push(value),
        }
    }
}

/// The text in UTF-16, line ends as `\n`; and what is odd about its end.
fn decode(bytes: &[u8]) -> (Vec<u16>, Option<String>) {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let odd = (bytes.len() % 2 != 0).then(|| "the file, in UTF-16, ends in the middle of a character".to_owned());
        (
            bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect(),
            odd,
        )
    };
    let (units, odd): (Vec<u16>, _) = match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [first, 0, _, 0, ..] if *first != 0 => wide(bytes, u16::from_le_bytes),
        [0, second, 0, _, ..] if *second != 0 => wide(bytes, u16::from_be_bytes),
        _ => {
            let rest = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
            match std::str::from_utf8(rest) {
                Ok(text) => (text.encode_utf16().collect(), None),
                // Of some Windows code page: the first 256 characters are alike in most of the West.
                Err(_) => (rest.iter().map(|&byte| u16::from(byte)).collect(), None),
            }
        }
    };
    let (cr, lf) = (u16::from(b'\r'), u16::from(b'\n'));
    let mut text = Vec::with_capacity(units.len());
    for (place, &unit) in units.iter().enumerate() {
        if unit != cr {
            text.push(unit);
        } else if units.get(place + 1) != Some(&lf) {
            text.push(lf);
        }
    }
    (text, odd)
}

struct Reader {
    lines: Vec<Vec<u16>>,
    next: usize,
    /// Version 4: strings given byte by byte are in a code page, not in UTF-16.
    ansi: bool,
    /// The key that values are for; `None` if there is none, or one that is left out.
    key: Option<usize>,
    registry: Registry,
}

impl Reader {
    fn read(&mut self) {
        let mut headed = false;
        while let Some(line) = self.lines.get(self.next).cloned() {
            let number = self.next + 1;
            self.next += 1;
            let text = trim(&line);
            if text.is_empty() || text.first() == Some(&u16::from(b';')) {
                continue;
            }
            let result = match is_header(text) {
                Some(version) => {
                    self.ansi = version == 4;
                    headed = true;
                    Ok(())
                }
                None if !headed => {
                    headed = true;
                    self.warn(
                        number,
                        "the file does not begin with \"Windows Registry Editor Version 5.00\"".to_owned(),
                    );
                    self.line(text)
                }
                None => self.line(text),
            };
            if let Err(reason) = result {
                // Lines that were taken for the rest of this one are read for themselves.
                self.next = number;
                self.leave_out(number, text, &reason);
            }
        }
    }

    fn leave_out(&mut self, line: usize, text: &[u16], reason: &str) {
        let shown: String = String::from_utf16_lossy(text)
            .chars()
            .take(SHOWN)
            .flat_map(char::escape_debug)
            .collect();
        self.warn(line, format!("not understood and left out: {reason}: {shown}"));
    }

    fn warn(&mut self, line: usize, reason: String) {
        self.registry.warnings.push(Warning { line, reason });
    }

    fn line(&mut self, text: &[u16]) -> Result<(), String> {
        if text.first() == Some(&u16::from(b'[')) {
            self.key = None;
            return self.key_line(text);
        }
        let mut cursor = Cursor {
            text: text.to_vec(),
            at: 0,
        };
        let name = if cursor.takes("@") {
            String::new()
        } else {
            let name = cursor
                .quoted()
                .ok_or("neither a key in brackets nor a value's name in quotes")?;
            narrow(&name, "a value's name", LONGEST_NAME)?
        };
        cursor.blanks();
        if !cursor.takes("=") {
            return Err("there is no = after the value's name".into());
        }
        cursor.blanks();
        let key = self.key.ok_or("it is in no key that this guest has")?;
        if cursor.takes("-") {
            cursor.end()?;
            if let Some((_, values)) = self.registry.keys.get_mut(key) {
                values.retain(|value| !value.name.eq_ignore_ascii_case(&name));
            }
            return Ok(());
        }
        let first = self.next;
        let (kind, data) = self.data(&mut cursor)?;
        if data.len() > MOST_DATA {
            // Its further lines are understood: nothing is to be said of each.
            let reason = format!("{} bytes: the guest takes {MOST_DATA} at most", data.len());
            self.leave_out(first, text, &reason);
            return Ok(());
        }
        self.registry.set(key, Value { name, kind, data });
        Ok(())
    }

    fn key_line(&mut self, text: &[u16]) -> Result<(), String> {
        let end = text
            .iter()
            .rposition(|&unit| unit == u16::from(b']'))
            .ok_or("there is no ] after the key")?;
        let mut rest = Cursor {
            text: text.to_vec(),
            at: end + 1,
        };
        rest.end()?;
        let inside = text.get(1..end).unwrap_or_default();
        let (deleted, path) = match inside.first() {
            Some(&unit) if unit == u16::from(b'-') => (true, &inside[1..]),
            _ => (false, inside),
        };
        let path = narrow(path, "a key's path", LONGEST_KEY + "HKEY_LOCAL_MACHINE\\".len())?;
        let (hive, path) = path.split_once('\\').unwrap_or((path.as_str(), ""));
        if !["HKEY_LOCAL_MACHINE", "HKLM"]
            .iter()
            .any(|own| own.eq_ignore_ascii_case(hive))
        {
            return Err(format!(
                "the guest has HKEY_LOCAL_MACHINE alone, not {hive}; the values below it are left out"
            ));
        }
        let path = path.trim_end_matches('\\');
        if path.is_empty() {
            return Err("a key below HKEY_LOCAL_MACHINE is needed".into());
        }
        if path.len() > LONGEST_KEY {
            return Err(format!("a key's path has at most {LONGEST_KEY} characters"));
        }
        if deleted {
            self.registry.delete(path);
        } else {
            self.key = Some(self.registry.key(path));
        }
        Ok(())
    }

    /// The data of a value, on this line and those that go on with it.
    fn data(&mut self, cursor: &mut Cursor) -> Result<(u32, Vec<u8>), String> {
        if cursor.peek() == Some(u16::from(b'"')) {
            let text = self.string(cursor)?;
            cursor.end()?;
            let units = text.into_iter().chain([0]);
            return Ok((REG_SZ, units.flat_map(u16::to_le_bytes).collect()));
        }
        for (prefix, kind, digits) in [("dword:", REG_DWORD, 8), ("qword:", REG_QWORD, 16)] {
            if cursor.takes(prefix) {
                cursor.blanks();
                let number = cursor.number(digits).ok_or("a hexadecimal number is needed")?;
                cursor.end()?;
                return Ok((kind, number.to_le_bytes().into_iter().take(digits / 2).collect()));
            }
        }
        if !cursor.takes("hex") {
            return Err("its data is none of \"text\", dword:, hex:, hex(n): and -".into());
        }
        let kind = if cursor.takes("(") {
            let kind = cursor.number(8).ok_or("a type is needed in the parentheses")?;
            if !cursor.takes(")") {
                return Err("there is no ) after the type".into());
            }
            kind as u32
        } else {
            REG_BINARY
        };
        if !cursor.takes(":") {
            return Err("there is no : before the bytes".into());
        }
        let bytes = self.bytes(cursor)?;
        let is_text = matches!(kind, REG_SZ | REG_EXPAND_SZ | REG_MULTI_SZ);
        let data = if self.ansi && is_text {
            bytes.iter().flat_map(|&byte| u16::from(byte).to_le_bytes()).collect()
        } else {
            bytes
        };
        Ok((kind, data))
    }

    /// A string in quotes; line ends in it belong to it.
    fn string(&mut self, cursor: &mut Cursor) -> Result<Vec<u16>, String> {
        loop {
            let start = cursor.at;
            if let Some(text) = cursor.quoted() {
                return Ok(text);
            }
            let more = self.lines.get(self.next).filter(|_| cursor.text.len() <= 4 * MOST_DATA);
            let more = more.ok_or("there is no \" after the text")?;
            self.next += 1;
            cursor.at = start;
            cursor.text.extend("\r\n".encode_utf16());
            cursor.text.extend(more);
        }
    }

    /// Bytes with commas between them; a backslash at the end of a line goes on with the next one.
    fn bytes(&mut self, cursor: &mut Cursor) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        loop {
            cursor.blanks();
            if cursor.takes("\\") {
                cursor.end()?;
                let more = self
                    .lines
                    .get(self.next)
                    .ok_or("the file ends where the next line is to go on")?;
                (cursor.text, cursor.at) = (trim(more).to_vec(), 0);
                self.next += 1;
                continue;
            }
            if cursor.end().is_ok() {
                return Ok(bytes);
            }
            let byte = cursor
                .number(2)
                .ok_or("bytes are two hexadecimal digits each, with commas between them")?;
            bytes.push(byte as u8);
            cursor.blanks();
            if !cursor.takes(",") && cursor.peek() != Some(u16::from(b'\\')) {
                cursor.end()?;
                return Ok(bytes);
            }
        }
    }
}

/// The version of a header line.
fn is_header(text: &[u16]) -> Option<u32> {
    match String::from_utf16_lossy(text).as_str() {
        "REGEDIT4" => Some(4),
        text if text.starts_with("Windows Registry Editor Version 5") => Some(5),
        _ => None,
    }
}

fn is_blank(unit: u16) -> bool {
    unit == u16::from(b' ') || unit == u16::from(b'\t')
}

fn trim(line: &[u16]) -> &[u16] {
    let start = line.iter().position(|unit| !is_blank(*unit)).unwrap_or(line.len());
    let end = line
        .iter()
        .rposition(|unit| !is_blank(*unit))
        .map_or(start, |last| last + 1);
    &line[start..end]
}

/// Text that the guest can name: the first 256 characters, no control characters.
fn narrow(units: &[u16], what: &str, longest: usize) -> Result<String, String> {
    if units.len() > longest {
        return Err(format!("{what} has at most {longest} characters"));
    }
    let narrow = |&unit: &u16| u8::try_from(unit).ok().map(char::from).filter(|c| !c.is_control());
    let text: Option<String> = units.iter().map(narrow).collect();
    text.ok_or_else(|| format!("{what} has a character that the guest does not know"))
}

/// A place in a line.
struct Cursor {
    text: Vec<u16>,
    at: usize,
}

impl Cursor {
    fn peek(&self) -> Option<u16> {
        self.text.get(self.at).copied()
    }

    /// Steps over this text, whatever its case, if it comes next.
    fn takes(&mut self, what: &str) -> bool {
        let next = self.text.get(self.at..self.at + what.len()).unwrap_or_default();
        let same = |(unit, byte): (&u16, u8)| u8::try_from(*unit).is_ok_and(|own| own.eq_ignore_ascii_case(&byte));
        let found = next.len() == what.len() && next.iter().zip(what.bytes()).all(same);
        self.at += if found { what.len() } else { 0 };
        found
    }

    fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(|unit| is_blank(*unit)) {
            self.at += 1;
        }
    }

    /// Nothing but blanks or a comment may follow.
    fn end(&mut self) -> Result<(), String> {
        self.blanks();
        match self.peek() {
            None => Ok(()),
            Some(unit) if unit == u16::from(b';') => {
                self.at = self.text.len();
                Ok(())
            }
            Some(_) => Err("there is more on the line than belongs to it".into()),
        }
    }

    /// Text in quotes, in which a backslash takes the next character as it is. `None` if it has no end.
    fn quoted(&mut self) -> Option<Vec<u16>> {
        let mut units = self.text.get(self.at..)?.iter().copied();
        if units.next() != Some(u16::from(b'"')) {
            return None;
        }
        let (mut text, mut length) = (Vec::new(), 1);
        loop {
            let mut unit = units.next()?;
            length += 1;
            if unit == u16::from(b'"') {
                self.at += length;
                return Some(text);
            }
            if unit == u16::from(b'\\') {
                unit = units.next()?;
                length += 1;
            }
            text.push(unit);
        }
    }

    /// A hexadecimal number of at most so many digits.
    fn number(&mut self, digits: usize) -> Option<u64> {
        let digit = |unit: &u16| char::from(u8::try_from(*unit).ok()?).to_digit(16);
        let found: Vec<u32> = self.text.get(self.at..)?.iter().map_while(digit).collect();
        if found.is_empty() || found.len() > digits {
            return None;
        }
        self.at += found.len();
        Some(found.iter().fold(0, |number, digit| number << 4 | u64::from(*digit)))
    }
}

#[cfg(test)]
mod tests {
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
            let again = Registry::read(&registry.plain());
            prop_assert_eq!(again.warnings, vec![]);
            prop_assert_eq!(again.keys, registry.keys);
        }
    }
}
