//! Reads a registry file line by line.
//!
//! Talks to the registry that it fills. A line that is not understood is left out and reported; the other lines are not
//! affected.

use super::cursor::{Cursor, is_blank};
use super::{
    LONGEST_KEY, LONGEST_NAME, MOST_DATA, REG_BINARY, REG_DWORD, REG_EXPAND_SZ, REG_MULTI_SZ, REG_QWORD, REG_SZ,
    Registry, SHOWN, Value, Warning,
};

pub(super) struct Reader {
    pub(super) lines: Vec<Vec<u16>>,
    pub(super) next: usize,
    /// Version 4: strings given byte by byte are in a code page, not in UTF-16.
    pub(super) ansi: bool,
    /// The key that values are for; `None` if there is none, or one that is left out.
    pub(super) key: Option<usize>,
    pub(super) registry: Registry,
}

impl Reader {
    pub(super) fn read(&mut self) {
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
