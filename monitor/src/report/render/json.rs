//! The report as JSON, for programs. The schema is the serialised form of [`Report`]; its version is
//! [`SCHEMA`](crate::report::SCHEMA). Addresses are numbers; JSON readers need 64-bit integers.

use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::Renderer;
use crate::escape;
use crate::report::Report;

/// Pretty-printed JSON with a final newline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Json;

impl Renderer for Json {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        pretty(report, out)
    }
}

/// Writes anything as pretty-printed JSON with a final newline. Its readers get every string as it is; a terminal that
/// it is printed on gets none of what acts on terminals.
///
/// # Errors
/// What `out` returns.
pub(crate) fn pretty(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    let format = Careful(PrettyFormatter::new());
    value.serialize(&mut Serializer::with_formatter(&mut *out, format))?;
    out.write_all(b"\n")
}

/// As [`pretty`], in memory.
///
/// # Errors
/// If the value cannot be written as JSON.
pub fn text(value: &impl Serialize) -> io::Result<String> {
    let mut out = Vec::new();
    pretty(value, &mut out)?;
    String::from_utf8(out).map_err(io::Error::other)
}

/// Why JSON is not what it should be: the field, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This.
    #[error("{0}")]
    Wrong(String),
    /// Nothing but its end, which is not there.
    #[error("it ends in the middle, so it was cut off: {0}")]
    CutOff(String),
}

impl From<serde_json::Error> for ReadError {
    fn from(error: serde_json::Error) -> Self {
        let text = error.to_string();
        if error.is_eof() {
            Self::CutOff(text)
        } else {
            Self::Wrong(text)
        }
    }
}

/// What is written as an object. A derived reader by itself also takes a list of the fields' values, in an order that no
/// document tells.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Reads an object from JSON.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, ReadError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = read_from(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Reads an object from what holds JSON.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn read_from<'de, T, D>(deserializer: D) -> Result<T, ReadError>
where
    T: Deserialize<'de>,
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let read = serde_path_to_error::deserialize(deserializer);
    read.map(|Object(value)| value).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        if error.is_eof() {
            return error.into();
        }
        let text = error.to_string();
        let field = if error.is_data() { path.as_str() } else { "" };
        // That names its field itself.
        let field = if text.starts_with("unknown field ") {
            field.rsplit_once('.').map_or("", |(parent, _)| parent)
        } else {
            field
        };
        match field {
            "" | "." => ReadError::Wrong(text),
            field => ReadError::Wrong(format!("`{field}`: {text}")),
        }
    })
}

/// Spells out what serde_json leaves as it is, since JSON allows it: DEL, C1, what changes the direction of text.
struct Careful<'a>(PrettyFormatter<'a>);

impl Formatter for Careful<'_> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(escape::is_hostile) {
            let (before, after) = rest.split_at(at);
            self.0.write_string_fragment(out, before)?;
            let mut after = after.chars();
            if let Some(character) = after.next() {
                escape::json(out, character)?;
            }
            rest = after.as_str();
        }
        self.0.write_string_fragment(out, rest)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_as_before_and_has_nothing_for_a_terminal() {
        let hostile = "a\u{9b}2J\u{202e}\u{7f}\u{e0041}\n\"驱\u{2028}";
        let value = serde_json::json!({ "name": hostile, "list": [1, { "x": [] }], "none": {} });
        let text = text(&value).unwrap();
        assert!(!text.contains(|c| c != '\n' && escape::is_hostile(c)), "{text:?}");
        assert!(text.contains(r"\u009b2J\u202e\u007f\udb40\udc41\n"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        let plain = serde_json::json!({ "list": [1, { "x": [] }], "none": {} });
        assert_eq!(
            super::text(&plain).unwrap(),
            serde_json::to_string_pretty(&plain).unwrap() + "\n"
        );
    }
}
