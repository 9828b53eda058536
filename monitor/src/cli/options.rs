//! Values on the command line that are more than a number: sizes, durations, names of exports.

use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::session::ExportRequest;

/// Whether something is to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

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

fn split(text: &str) -> Result<(u64, &str), String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number = number
        .parse()
        .map_err(|_| format!("`{text}` does not start with a whole number"))?;
    Ok((number, suffix))
}

impl FromStr for ExportRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not of the form MODULE!NAME:BYTES, such as nt!KiBugCheckData:40");
        let (module, rest) = text.split_once('!').ok_or_else(form)?;
        let (name, length) = rest.rsplit_once(':').ok_or_else(form)?;
        let length = length.parse().map_err(|_| form())?;
        if module.is_empty() || name.is_empty() || length == 0 {
            return Err(form());
        }
        if length > Self::LIMIT {
            return Err(format!("at most {} bytes of an export can be dumped", Self::LIMIT));
        }
        Ok(Self {
            module: module.to_owned(),
            name: name.to_owned(),
            length,
        })
    }
}

#[cfg(test)]
mod tests {
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
        let request: ExportRequest = "nt!KiBugCheckData:40".parse().unwrap();
        assert_eq!(
            (request.module.as_str(), request.name.as_str(), request.length),
            ("nt", "KiBugCheckData", 40)
        );
        assert!("nt!KiBugCheckData".parse::<ExportRequest>().is_err());
        assert!("nt!X:65537".parse::<ExportRequest>().is_err());
    }
}
