//! Makes text that a guest or a file chose safe to show. This is the only place that decides which characters can act
//! on a terminal or hide something from a reader.
//!
//! Talks to nothing. It must not know what is shown. It escapes control characters (C0, DEL, C1), characters that
//! change the direction of text, line and paragraph separators, and characters without width. All other characters, in
//! any script, stay as they are. [`json`] does the same for JSON, which people look at too.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether a character is not to reach a terminal or a report as it is.
#[must_use]
pub const fn is_hostile(character: char) -> bool {
    matches!(character,
        // C0, DEL, C1.
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        // Soft hyphen, grapheme joiner, Arabic letter mark, Hangul fillers, Khmer inherent vowels, Mongolian selectors.
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        // Zero-width characters and marks of direction; separators, embeddings and overrides; operators and isolates.
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        // Shorthand and musical controls, tags and more variation selectors.
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Writes on, with what is hostile escaped as in Rust's strings: `\n`, `\x1b`, `\u{202e}`.
#[derive(Debug)]
pub(crate) struct Escaped<'a, W>(pub &'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, character)) = rest.char_indices().find(|&(_, character)| is_hostile(character)) {
            let (before, after) = rest.split_at(at);
            self.0.write_str(before)?;
            match character {
                '\n' => self.0.write_str("\\n")?,
                '\r' => self.0.write_str("\\r")?,
                '\t' => self.0.write_str("\\t")?,
                '\0'..='\x7f' => write!(self.0, "\\x{:02x}", u32::from(character))?,
                other => write!(self.0, "\\u{{{:x}}}", u32::from(other))?,
            }
            rest = after.get(character.len_utf8()..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

/// A text that has to stay on its line: a name, a field, a message.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    // Writing to a string cannot fail.
    let _ = Escaped(&mut safe).write_str(text);
    Cow::Owned(safe)
}

/// A text of several lines that this program made, with names in it that it did not: line feeds stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    if !text.contains(|character| character != '\n' && is_hostile(character)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for (number, text) in text.split('\n').enumerate() {
        if number > 0 {
            safe.push('\n');
        }
        let _ = Escaped(&mut safe).write_str(text);
    }
    Cow::Owned(safe)
}

/// Writes a hostile character as JSON spells it. Readers get the same string.
///
/// # Errors
/// What `out` returns.
pub fn json(out: &mut (impl std::io::Write + ?Sized), character: char) -> std::io::Result<()> {
    let mut units = [0; 2];
    for unit in character.encode_utf16(&mut units) {
        write!(out, "\\u{unit:04x}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_acts_on_a_terminal_is_spelt_out() {
        let hostile = "a\x1b[2J\u{9b}31m\x7f\r\n\t\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}\u{e0041}z";
        let spelt = r"a\x1b[2J\u{9b}31m\x7f\r\n\t\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}\u{e0041}z";
        assert_eq!(line(hostile), spelt);
        assert_eq!(lines("one\ntwo\x1b\n"), "one\ntwo\\x1b\n");
    }

    #[test]
    fn names_in_other_scripts_stay_legible() {
        for name in ["драйвер.sys", "驱动.sys", "سائق.sys", "é\u{301}.sys", "µs – “x” 𝔘 🙂"] {
            assert!(matches!(line(name), Cow::Borrowed(text) if text == name));
        }
    }

    proptest! {
        /// The reference: what Unicode's own categories call a control, in the standard library's words.
        #[test]
        fn no_control_is_left_and_nothing_harmless_is_changed(text in any::<String>()) {
            let safe = line(&text).into_owned();
            prop_assert!(!safe.chars().any(|c| c.is_control() || is_hostile(c)));
            let harmless = |text: &str| -> String { text.chars().filter(|&c| !is_hostile(c)).collect() };
            let kept = harmless(&text);
            let mut left = safe.chars();
            prop_assert!(kept.chars().all(|wanted| left.any(|c| c == wanted)), "{safe:?} lost something of {text:?}");
        }
    }
}
