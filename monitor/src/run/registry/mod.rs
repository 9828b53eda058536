//! The registry file of a guest that is entered directly, as regedit writes it (versions 4 and 5). It is read here,
//! before the guest starts, so that the user learns then which lines are not understood. The guest gets it in the plain
//! form that `docs/loader-block.md` describes.
//!
//! Deletions are carried out here, because the guest's registry holds nothing else when it starts. Pure; it must not
//! know where the bytes come from. Sources: Microsoft "Registry value types"; "How to add, modify, or delete registry
//! subkeys and values by using a .reg file".

mod cursor;
mod reader;

use std::fmt::Write as _;

use self::reader::Reader;

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

#[cfg(test)]
mod tests;
