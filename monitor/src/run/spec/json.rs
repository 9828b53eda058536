//! A run's description in JSON: by itself, or in the report of a run.
//!
//! Opens no file.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::units::FilePath;
use super::{Firmware, RunSpec, SCHEMA};
use crate::report::{self, json};

/// Why a text is no description of a run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// It is no JSON, or a field is unknown or has a value that it cannot have.
    #[error("{0}")]
    Json(String),
    /// It does not say what it is.
    #[error("it has no `schema`: a description of a run begins with {{\"schema\": \"{SCHEMA}\"}}")]
    NoSchema,
    /// It is something else, or of another version of this program.
    #[error("its schema is `{0}`; this program reads {SCHEMA}, and reports (report.json) of {report}, which hold one", report = report::SCHEMA)]
    Schema(String),
    /// A report without the description of its run.
    #[error("the report does not hold the description of its run: an earlier version of this program has written it")]
    NotInReport,
}

impl From<json::ReadError> for SpecError {
    /// The names of a run's fields, which are dozens, are left out.
    fn from(error: json::ReadError) -> Self {
        let text = error.to_string();
        Self::Json(match text.split_once(", expected one of ") {
            Some((what, list)) if what.contains("unknown field ") && list.matches(',').count() >= SHORT_LIST => {
                let place = list.find(" at line ").map_or("", |at| &list[at..]);
                format!("{what}{place}; `storlock run --print-spec` shows all fields")
            }
            _ => text,
        })
    }
}

/// Longest list of fields that an error shows.
const SHORT_LIST: usize = 12;

/// What a description was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// A file of its own.
    File,
    /// The report of a run.
    Report,
}

impl RunSpec {
    /// Reads a description in JSON, or that in a report in JSON.
    ///
    /// # Errors
    /// [`SpecError`], which names the field or the place.
    pub(crate) fn from_json(text: &[u8]) -> Result<(Self, Carrier), SpecError> {
        #[derive(Deserialize)]
        struct Head {
            schema: Option<String>,
        }
        #[derive(Deserialize)]
        struct Report {
            run: json::Object<Run>,
        }
        #[derive(Deserialize)]
        struct Run {
            spec: Option<Value>,
        }
        let head: Head = json::read(text)?;
        match head.schema {
            Some(schema) if schema == SCHEMA => Ok((json::read(text)?, Carrier::File)),
            Some(schema) if schema == report::SCHEMA => {
                let report: Report = json::read(text)?;
                let spec = report.run.0.spec.ok_or(SpecError::NotInReport)?;
                match spec.get("schema").and_then(Value::as_str) {
                    Some(SCHEMA) => Ok((json::read_from(spec)?, Carrier::Report)),
                    Some(other) => Err(SpecError::Schema(other.to_owned())),
                    None => Err(SpecError::NoSchema),
                }
            }
            Some(schema) => Err(SpecError::Schema(schema)),
            None => Err(SpecError::NoSchema),
        }
    }

    /// The description in JSON, for people too.
    ///
    /// # Errors
    /// None that can happen: every value has a form in JSON.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The description as a report and a recording carry it.
    #[must_use]
    pub(crate) fn to_value(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }
}

/// The value of `schema`: there is one that this program reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Schema;

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SCHEMA)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = String::deserialize(deserializer)?;
        if found == SCHEMA {
            return Ok(Self);
        }
        Err(D::Error::custom(SpecError::Schema(found)))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`firmware` is true, for the installed one, or the path of its code"
)]
enum FirmwareForm {
    Installed(bool),
    File(FilePath),
}

impl Serialize for Firmware {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Installed => FirmwareForm::Installed(true),
            Self::File(path) => FirmwareForm::File(path.clone()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Firmware {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match FirmwareForm::deserialize(deserializer)? {
            FirmwareForm::Installed(true) => Ok(Self::Installed),
            FirmwareForm::Installed(false) => Err(D::Error::custom(
                "`firmware` is true or a path: leave it out to enter a kernel directly",
            )),
            FirmwareForm::File(path) => Ok(Self::File(path)),
        }
    }
}
