//! The last lines that a guest wrote to a stream of bytes, for a report.

use std::collections::VecDeque;

/// Most lines that are kept, and characters of one.
const LINES: usize = 25;
const COLUMNS: usize = 160;

/// Takes a stream in pieces.
#[derive(Debug, Default)]
pub(super) struct LastLines {
    lines: VecDeque<String>,
    /// The line that is not ended yet.
    current: String,
    escape: Escape,
}

/// How far an escape sequence of a terminal has come (ECMA-48).
#[derive(Debug, Default, Clone, Copy)]
enum Escape {
    #[default]
    None,
    /// ESC.
    Begun,
    /// ESC [ and parameters.
    Control,
}

impl LastLines {
    /// The next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push_byte(byte);
        }
    }

    fn push_byte(&mut self, byte: u8) {
        match (self.escape, byte) {
            (_, 0x1b) => self.escape = Escape::Begun,
            (Escape::Begun, b'[') => self.escape = Escape::Control,
            (Escape::Control, 0x20..=0x3f) => {}
            // The sequence's last byte. One that moves the cursor begins a new line, as far as a report goes.
            (Escape::Control, b'H' | b'f' | b'J') => {
                self.escape = Escape::None;
                self.end_line();
            }
            (Escape::Begun | Escape::Control, _) => self.escape = Escape::None,
            (Escape::None, b'\n') => self.end_line(),
            (Escape::None, b' '..=0x7e) if self.current.len() < COLUMNS => self.current.push(char::from(byte)),
            (Escape::None, _) => {}
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.current);
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }

    /// The lines that have text, the last one perhaps not ended.
    pub(super) fn lines(&self) -> Vec<String> {
        let current = Some(self.current.trim_end()).filter(|line| !line.is_empty());
        let lines = self.lines.iter().cloned().chain(current.map(str::to_owned));
        let count = lines.clone().count();
        lines.skip(count.saturating_sub(LINES)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut last = LastLines::default();
        last.push(bytes);
        last.lines()
    }

    #[test]
    fn the_last_lines_are_kept_without_what_only_a_terminal_understands() {
        assert_eq!(
            lines(b"one\r\n\r\n\x1b[01;31mtwo\x1b[0m \r\nthr"),
            ["one", "two", "thr"]
        );
        assert_eq!(
            lines(b"\x1b[2J\x1b[01;01HBdsDxe\x1b[02;01Hloading"),
            ["BdsDxe", "loading"]
        );
        let many: Vec<u8> = (0..100).flat_map(|line| format!("{line}\n").into_bytes()).collect();
        let kept = lines(&many);
        assert_eq!((kept.len(), &*kept[0], &*kept[24]), (25, "75", "99"));
    }

    proptest! {
        #[test]
        fn any_stream_is_bounded_and_plain(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40)) {
            let mut last = LastLines::default();
            for piece in &pieces {
                last.push(piece);
            }
            let lines = last.lines();
            prop_assert!(lines.len() <= LINES);
            prop_assert!(lines.iter().all(|line| line.len() <= COLUMNS && line.bytes().all(|byte| (b' '..=0x7e).contains(&byte))));
            prop_assert_eq!(lines, self::lines(&pieces.concat()));
        }
    }
}
