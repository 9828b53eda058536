//! A position in a line of a registry file, and the tokens that can come next.
//!
//! Talks to nothing.

pub(super) fn is_blank(unit: u16) -> bool {
    unit == u16::from(b' ') || unit == u16::from(b'\t')
}

/// A place in a line.
pub(super) struct Cursor {
    pub(super) text: Vec<u16>,
    pub(super) at: usize,
}

impl Cursor {
    pub(super) fn peek(&self) -> Option<u16> {
        self.text.get(self.at).copied()
    }

    /// Steps over this text, whatever its case, if it comes next.
    pub(super) fn takes(&mut self, what: &str) -> bool {
        let next = self.text.get(self.at..self.at + what.len()).unwrap_or_default();
        let same = |(unit, byte): (&u16, u8)| u8::try_from(*unit).is_ok_and(|own| own.eq_ignore_ascii_case(&byte));
        let found = next.len() == what.len() && next.iter().zip(what.bytes()).all(same);
        self.at += if found { what.len() } else { 0 };
        found
    }

    pub(super) fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(|unit| is_blank(*unit)) {
            self.at += 1;
        }
    }

    /// Nothing but blanks or a comment may follow.
    pub(super) fn end(&mut self) -> Result<(), String> {
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
    pub(super) fn quoted(&mut self) -> Option<Vec<u16>> {
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
    pub(super) fn number(&mut self, digits: usize) -> Option<u64> {
        let digit = |unit: &u16| char::from(u8::try_from(*unit).ok()?).to_digit(16);
        let found: Vec<u32> = self.text.get(self.at..)?.iter().map_while(digit).collect();
        if found.is_empty() || found.len() > digits {
            return None;
        }
        self.at += found.len();
        Some(found.iter().fold(0, |number, digit| number << 4 | u64::from(*digit)))
    }
}
