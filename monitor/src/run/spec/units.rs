//! Values that are written as text: sizes, durations, names of exports, paths.
//!
//! Talks to nothing. The command line and a run's description use the same text.

use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::report::{RuleSetting, Word};
use crate::session::ExportRequest;

/// A size in bytes, written as a number with an optional suffix `K`, `M`, `G` (powers of 1024; `iB` may follow).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, suffix) = split(text)?;
        let shift = match suffix.trim_end_matches("iB").trim_end_matches('B') {
            "" => 0,
            "K" | "k" => 10,
            "M" | "m" => 20,
            "G" | "g" => 30,
            other => return Err(format!("unknown suffix `{other}`: use K, M or G")),
        };
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is too large"))
    }
}

impl fmt::Display for Size {
    /// With the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffixes = [(30, "G"), (20, "M"), (10, "K")];
        let whole = suffixes
            .into_iter()
            .find(|(shift, _)| self.0 != 0 && self.0 % (1 << shift) == 0);
        let (shift, suffix) = whole.unwrap_or((0, ""));
        write!(f, "{}{suffix}", self.0 >> shift)
    }
}

/// A duration, written as a number with a suffix `ms`, `s`, `m` or `h`; seconds without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Duration);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, suffix) = split(text)?;
        let milliseconds = match suffix {
            "ms" => 1,
            "" | "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            other => return Err(format!("unknown suffix `{other}`: use ms, s, m or h")),
        };
        let total = number
            .checked_mul(milliseconds)
            .ok_or_else(|| format!("`{text}` is too long"))?;
        if total == 0 {
            return Err("a limit of zero ends the run before it starts".to_owned());
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for Limit {
    /// With the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        let suffixes = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
        let whole = suffixes.into_iter().find(|(unit, _)| milliseconds % unit == 0);
        let (unit, suffix) = whole.unwrap_or((1, "ms"));
        write!(f, "{}{suffix}", milliseconds / unit)
    }
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number = number
        .parse()
        .map_err(|_| format!("`{text}` does not start with a whole number"))?;
    Ok((number, suffix))
}

/// Exported data of a guest module, written as `MODULE!NAME:BYTES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export(pub ExportRequest);

impl FromStr for Export {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not of the form MODULE!NAME:BYTES, such as nt!KiBugCheckData:40");
        let (module, rest) = text.split_once('!').ok_or_else(form)?;
        let (name, length) = rest.rsplit_once(':').ok_or_else(form)?;
        let length = length.parse().map_err(|_| form())?;
        if module.is_empty() || name.is_empty() || length == 0 {
            return Err(form());
        }
        if length > ExportRequest::LIMIT {
            return Err(format!(
                "at most {} bytes of an export can be dumped",
                ExportRequest::LIMIT
            ));
        }
        Ok(Self(ExportRequest {
            module: module.to_owned(),
            name: name.to_owned(),
            length,
        }))
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.0.length)
    }
}

/// The setting of one rule, written as `NAME=off` or `NAME=MODULE,...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleChoice(pub RuleSetting);

impl FromStr for RuleChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl fmt::Display for RuleChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Writes a type as its text, and reads it from that, or from a whole number that stands for its digits.
macro_rules! as_text {
    ($type:ty, $what:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::run::spec::units::from_text(deserializer, $what)
            }
        }
    };
}
pub(super) use as_text;

as_text!(Size, "a size, such as \"256M\"");
as_text!(Limit, "a duration, such as \"10m\"");
as_text!(RuleChoice, "a rule, such as \"LockOrder=off\"");
as_text!(Export, "exported data, such as \"nt!KiBugCheckData:40\"");

/// See [`as_text`].
pub(super) fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(
    deserializer: D,
    what: &'static str,
) -> Result<T, D::Error> {
    struct Text<T>(&'static str, std::marker::PhantomData<T>);

    impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            if text.contains('\0') {
                return Err(E::custom("a text cannot have a character of value zero"));
            }
            text.parse()
                .map_err(|reason| E::custom(format!("{reason}; expected {}", self.0)))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }

    deserializer.deserialize_any(Text(what, std::marker::PhantomData))
}

/// A path. One that is not UTF-8 is written as `{"hex": "2f746d70ff"}`, its bytes in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

impl Deref for FilePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl From<PathBuf> for FilePath {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl From<&str> for FilePath {
    fn from(path: &str) -> Self {
        Self(path.into())
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Word(self.0.clone().into()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Word(path) = Word::deserialize(deserializer)?;
        if path.is_empty() || path.as_bytes().contains(&0) {
            return Err(D::Error::custom(
                "a path cannot be empty, nor have a character of value zero",
            ));
        }
        Ok(Self(path.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_take_binary_suffixes() {
        assert_eq!("256M".parse(), Ok(Size(256 << 20)));
        assert_eq!("1GiB".parse(), Ok(Size(1 << 30)));
        assert_eq!("4096".parse(), Ok(Size(4096)));
        assert!("M".parse::<Size>().is_err());
        assert!("1T".parse::<Size>().is_err());
        assert!("99999999999G".parse::<Size>().is_err());
    }

    #[test]
    fn limits_take_time_suffixes_and_are_not_zero() {
        assert_eq!("90".parse(), Ok(Limit(Duration::from_secs(90))));
        assert_eq!("250ms".parse(), Ok(Limit(Duration::from_millis(250))));
        assert_eq!("2h".parse(), Ok(Limit(Duration::from_secs(7200))));
        assert!("0s".parse::<Limit>().is_err());
        assert!("5 apples".parse::<Limit>().is_err());
    }

    #[test]
    fn an_export_is_module_name_and_bounded_length() {
        let Export(request) = "nt!KiBugCheckData:40".parse().unwrap();
        assert_eq!(
            (request.module.as_str(), request.name.as_str(), request.length),
            ("nt", "KiBugCheckData", 40)
        );
        assert!("nt!KiBugCheckData".parse::<Export>().is_err());
        assert!("nt!X:65537".parse::<Export>().is_err());
    }

    #[test]
    fn a_path_may_have_any_bytes_but_zero() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = FilePath(std::ffi::OsString::from_vec(b"/tmp/\xff".to_vec()).into());
        assert_eq!(serde_json::to_string(&odd).unwrap(), r#"{"hex":"2f746d702fff"}"#);
        for text in [r#""/tmp/a b""#, r#"{"hex":"2f746d702fff"}"#] {
            let path: FilePath = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&path).unwrap(), text);
        }
        for bad in [
            r#""""#,
            r#""a\u0000b""#,
            r#"{"hex":"2f0"}"#,
            r#"{"hex":"00"}"#,
            r#"{"hex":""}"#,
            r#"{"hxe":"2f"}"#,
            "7",
        ] {
            assert!(serde_json::from_str::<FilePath>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_size_and_a_limit_are_read_as_they_are_written(bytes: u64, milliseconds in 1..1_u64 << 50) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
            let limit = Limit(Duration::from_millis(milliseconds));
            prop_assert_eq!(limit.to_string().parse(), Ok(limit));
        }
    }
}
