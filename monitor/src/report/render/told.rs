//! How JSON holds a reason, a note and the end of a stack: as data, and as a sentence for programs that show it to
//! people. It also reads the sentences without data that earlier versions wrote.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::outcome::Condition;
use crate::report::{ConditionNote, Note, Reason, StackEnd};

#[derive(Serialize, Deserialize)]
struct ToldCondition {
    condition: Condition,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<Reason>,
}

impl Serialize for ConditionNote {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let told = ToldCondition {
            condition: self.condition,
            reason: self.reason.to_string(),
            why: Some(self.reason.clone()),
        };
        told.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ConditionNote {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let told = ToldCondition::deserialize(deserializer)?;
        Ok(Self {
            condition: told.condition,
            reason: told.why.unwrap_or(Reason::Told { text: told.reason }),
        })
    }
}

/// The notes of a report: `notes`, the sentences, and `note_data`, one a sentence.
pub(crate) mod notes {
    use super::{Deserialize, Deserializer, Note, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Told {
        #[serde(default)]
        notes: Vec<String>,
        #[serde(default)]
        note_data: Vec<Note>,
    }

    pub(crate) fn serialize<S: Serializer>(notes: &[Note], serializer: S) -> Result<S::Ok, S::Error> {
        let told = Told {
            notes: notes.iter().map(ToString::to_string).collect(),
            note_data: notes.to_vec(),
        };
        told.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Note>, D::Error> {
        let told = Told::deserialize(deserializer)?;
        if told.note_data.len() == told.notes.len() {
            return Ok(told.note_data);
        }
        Ok(told.notes.into_iter().map(|text| Note::Told { text }).collect())
    }
}

/// The end of a stack: `stack_note`, the sentence, and `stack_end`.
pub(crate) mod stack_end {
    use super::{Deserialize, Deserializer, Serialize, Serializer, StackEnd};

    #[derive(Serialize, Deserialize)]
    struct Told {
        #[serde(default)]
        stack_note: Option<String>,
        #[serde(default)]
        stack_end: Option<StackEnd>,
    }

    #[allow(clippy::ref_option, reason = "the derived code passes the field")]
    pub(crate) fn serialize<S: Serializer>(end: &Option<StackEnd>, serializer: S) -> Result<S::Ok, S::Error> {
        let told = Told {
            stack_note: end.as_ref().map(ToString::to_string),
            stack_end: end.clone(),
        };
        told.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<StackEnd>, D::Error> {
        let told = Told::deserialize(deserializer)?;
        let text = |text| StackEnd::Told { text };
        Ok(told.stack_end.or(told.stack_note.map(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Doubt, ImportsFile, ImportsNote, ImportsUnread, Location, ModuleInfo, Places};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Page {
        conditions: Vec<ConditionNote>,
        #[serde(flatten, with = "super::stack_end")]
        stack_end: Option<StackEnd>,
        #[serde(flatten, with = "super::notes")]
        notes: Vec<Note>,
    }

    fn module(name: &str) -> ModuleInfo {
        ModuleInfo {
            name: name.to_owned(),
            base: u64::MAX - 0xfff,
            size: 0x1000,
        }
    }

    fn condition(reason: Reason) -> ConditionNote {
        ConditionNote {
            condition: Condition::Inconclusive,
            reason,
        }
    }

    #[test]
    fn data_and_sentences_are_both_in_json_and_the_data_come_back() {
        let place = Location::unknown(0xffff_f800_0000_1000);
        let doubt = Doubt::EntryChanged {
            driver: module("a.sys"),
            listed: module("b.sys"),
        };
        let found = Places { places: 1, more: true };
        let file = ImportsNote {
            memory: ImportsUnread::Discardable,
            file: ImportsFile::AnotherBuild,
        };
        let page = Page {
            conditions: vec![
                condition(Reason::ContractsBroken(found)),
                condition(Reason::Missed(doubt)),
                condition(Reason::NotExecutable {
                    what: "fxsave".to_owned(),
                    at: Some(place),
                }),
            ],
            stack_end: Some(StackEnd::NoModule { address: u64::MAX }),
            notes: vec![Note::Imports(file), Note::FromTrace],
        };
        let json = serde_json::to_value(&page).unwrap();
        assert_eq!(
            json["conditions"][0],
            serde_json::json!({
                "condition": "inconclusive",
                "reason": "contracts of lock routines were broken in at least 1 place",
                "why": { "kind": "contracts_broken", "places": 1, "more": true },
            })
        );
        assert_eq!(json["conditions"][1]["why"]["doubt"], "entry_changed");
        assert_eq!(json["stack_note"], "no module at 0xffffffffffffffff");
        assert_eq!(json["note_data"][0]["file"], "another_build");
        assert!(json["notes"][0].as_str().unwrap().contains("is another build"));
        assert_eq!(serde_json::from_value::<Page>(json).unwrap(), page);
    }

    #[test]
    fn sentences_of_earlier_versions_are_read_and_told_again() {
        let json = serde_json::json!({
            "conditions": [{ "condition": "inconclusive", "reason": "because" }],
            "stack_note": "it ends",
            "notes": ["one", "two"],
        });
        let page: Page = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(page.conditions[0].reason.to_string(), "because");
        assert_eq!(page.stack_end.as_ref().unwrap().to_string(), "it ends");
        let again = serde_json::to_value(&page).unwrap();
        assert_eq!(
            (&again["notes"], &again["stack_note"]),
            (&json["notes"], &json["stack_note"])
        );
        // A recording of a run without anything to say has no notes at all.
        let none: Page = serde_json::from_value(serde_json::json!({ "conditions": [] })).unwrap();
        assert!(none.notes.is_empty() && none.stack_end.is_none());
    }
}
