//! A word of a command line, which may have any bytes but zero: how JSON and a shell write it.
//!
//! Talks to nothing. It must not know what a word means.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::escape;

/// A word. JSON has a text; of what is not UTF-8 the bytes in hexadecimal: `{"hex": "2f746d70ff"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(pub OsString);

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// Words as a shell (bash, zsh, ksh) reads them, on one line and with nothing in them that acts on a terminal.
#[must_use]
pub(crate) fn shell_words(words: &[Word]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quoted(&word.0)).collect();
    quoted.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Some(text) if !text.contains(escape::is_hostile) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => by_numbers(word),
    }
}

/// In quotes that take bytes by their octal numbers.
fn by_numbers(word: &OsStr) -> String {
    let mut text = "$'".to_owned();
    for chunk in word.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if escape::is_hostile(character) {
                push_bytes(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.extend(matches!(character, '\'' | '\\').then_some('\\'));
                text.push(character);
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text + "'"
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "\\{byte:03o}");
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bytes {
    hex: String,
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = self.0.to_str() {
            return serializer.serialize_str(text);
        }
        let mut hex = String::new();
        for byte in self.0.as_bytes() {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Bytes { hex }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Word;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Word, E> {
                Ok(text.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Word, A::Error> {
                let bytes = Bytes::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                unhex(&bytes.hex).ok_or_else(|| A::Error::custom("`hex` is no bytes in hexadecimal"))
            }
        }

        deserializer.deserialize_any(Form)
    }
}

fn unhex(text: &str) -> Option<Word> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let bytes = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    Some(Word(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words() -> impl Strategy<Value = Vec<Word>> {
        let odd = prop_oneof![
            "[-a-z '\"$`\\\\!*~#&;()\n\t\u{9b}\u{202e}é]{0,8}".prop_map(Word::from),
            {
                let bytes = prop::collection::vec(1..=u8::MAX, 0..8);
                bytes.prop_map(|bytes| Word(OsString::from_vec(bytes)))
            }
        ];
        prop::collection::vec(odd, 0..6)
    }

    /// What a shell makes of a line.
    fn by_a_shell(line: &str) -> Vec<Word> {
        let script = format!("for word in {line}; do printf '%s\\0' \"$word\"; done");
        let output = std::process::Command::new("bash")
            .args(["--norc", "-c", &script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}");
        let mut words: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
        words.pop();
        let words = words.into_iter().map(|word| Word(OsString::from_vec(word.to_vec())));
        words.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_and_json_read_the_words_that_were_written(words in words()) {
            let line = shell_words(&words);
            prop_assert!(!line.contains(escape::is_hostile), "{}", line);
            prop_assert_eq!(&by_a_shell(&line), &words, "{}", line);
            let json = serde_json::to_string(&words).unwrap();
            prop_assert_eq!(serde_json::from_str::<Vec<Word>>(&json).unwrap(), words, "{}", json);
        }
    }

    #[test]
    fn plain_words_stay_as_they_are() {
        let words = ["storlock", "run", "--append", "ops=4 threads=2", "it's"].map(Word::from);
        assert_eq!(
            shell_words(&words),
            r"storlock run --append 'ops=4 threads=2' 'it'\''s'"
        );
    }
}
