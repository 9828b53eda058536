//! The baseline: accepted findings, each with a reason, a reference and, if wanted, a last day.
//!
//! Talks to the TOML parser. It must not know whether a listed finding was seen.

use std::fmt;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::value::Datetime;

/// A day of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Date {
    /// Year.
    pub(crate) year: i64,
    /// Month, from 1.
    pub(crate) month: u8,
    /// Day, from 1.
    pub(crate) day: u8,
}

impl Date {
    /// The day of a time in seconds since 1970 (UTC).
    #[must_use]
    pub(crate) fn of(seconds: i64) -> Self {
        let date = time(seconds).date_naive();
        Self {
            year: date.year().into(),
            month: date.month() as u8,
            day: date.day() as u8,
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// A time in seconds since 1970 as people and programs write it (ISO 8601, UTC).
#[must_use]
pub(crate) fn timestamp(seconds: i64) -> String {
    time(seconds).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// That time; the last one that the calendar has if there is no such time.
fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// An accepted finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Known {
    /// Its signature.
    pub signature: String,
    /// Why it is accepted.
    pub reason: String,
    /// Where it is followed up, such as the number of a bug.
    pub(crate) reference: String,
    /// Last day on which the entry counts without a warning.
    pub(crate) expires: Option<Date>,
}

/// All accepted findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Baseline {
    known: Vec<Known>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    known: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    signature: String,
    reason: String,
    reference: String,
    expires: Option<Datetime>,
}

impl Baseline {
    /// Reads a baseline: a list of `[[known]]`.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let mut known: Vec<Known> = Vec::new();
        for entry in file.known {
            let line = text.get(..entry.span().start).unwrap_or_default().matches('\n').count() + 1;
            let entry = Self::entry(entry.into_inner()).map_err(|what| format!("line {line}: {what}"))?;
            if known.iter().any(|other| other.signature == entry.signature) {
                return Err(format!("line {line}: {} is listed twice", entry.signature));
            }
            known.push(entry);
        }
        Ok(Self { known })
    }

    fn entry(entry: Entry) -> Result<Known, String> {
        let signature = entry.signature.to_ascii_lowercase();
        if signature.len() != 16 || !signature.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!(
                "`{}` is no signature: 16 hexadecimal digits",
                entry.signature.escape_debug()
            ));
        }
        for (key, text) in [("reason", &entry.reason), ("reference", &entry.reference)] {
            if text.trim().is_empty() {
                return Err(format!("{signature}: `{key}` is empty"));
            }
        }
        let expires = match entry.expires {
            None => None,
            Some(datetime) => {
                let date = datetime
                    .date
                    .ok_or_else(|| format!("{signature}: `expires` is a date, such as 2030-12-31"))?;
                Some(Date {
                    year: i64::from(date.year),
                    month: date.month,
                    day: date.day,
                })
            }
        };
        Ok(Known {
            signature,
            reason: entry.reason,
            reference: entry.reference,
            expires,
        })
    }

    /// The entry of a finding.
    #[must_use]
    pub(crate) fn get(&self, signature: &str) -> Option<&Known> {
        self.known.iter().find(|known| known.signature == signature)
    }

    /// All entries, in the file's order.
    #[must_use]
    pub(crate) fn all(&self) -> &[Known] {
        &self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_796_009_079, "2026-11-30T03:24:39Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn an_entry_has_a_signature_a_reason_and_a_reference() {
        let text = "[[known]]\nsignature = \"7147BAE26e99a974\"\nreason = \"fixed in 2.1\"\nreference = \"BUG-7\"\nexpires = 2027-01-31\n";
        let baseline = Baseline::parse(text).unwrap();
        let known = baseline.get("7147bae26e99a974").unwrap();
        assert_eq!(
            (known.reference.as_str(), known.expires.unwrap().to_string()),
            ("BUG-7", "2027-01-31".to_owned())
        );
        assert_eq!(baseline.get("0000000000000000"), None);
        assert_eq!(Baseline::parse("").unwrap(), Baseline::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let entry = |more: &str| format!("\n[[known]]\nsignature = \"7147bae26e99a974\"\n{more}");
        for (text, line, why) in [
            (entry("reason = \"a\""), 2, "missing field `reference`"),
            (entry("reason = \"a\"\nreference = \" \""), 2, "`reference` is empty"),
            (
                entry("reason = \"a\"\nreference = \"b\"\nexpire = 2027-01-31"),
                6,
                "unknown field `expire`",
            ),
            (
                entry("reason = \"a\"\nreference = \"b\"\nexpires = 12:00:00"),
                2,
                "`expires` is a date",
            ),
            (entry("reason = \"a\"\nreference = \"b\"").repeat(2), 6, "listed twice"),
            (
                "[[known]]\nsignature = \"71\"\nreason = \"a\"\nreference = \"b\"".to_owned(),
                1,
                "no signature",
            ),
        ] {
            let error = Baseline::parse(&text).unwrap_err();
            assert!(
                error.contains(&format!("line {line}")) && error.contains(why),
                "{text}: {error}"
            );
        }
    }
}
