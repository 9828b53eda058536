//! How JSON holds a reason, a note, the end of a stack and the choice of watched routines: as data, and as a sentence, since
//! the published schema has had the sentences from its beginning.
//!
//! It also reads reports that have sentences only, and data of kinds that this version does not know: both become sentences.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::outcome::Condition;
use crate::report::{
    Choice, ConditionNote, NotArmed, Note, Reason, StackEnd, WatchChoice, WatchGap, WatchedRoutine, WhyWatched,
};

/// Data, if this version knows them. Kinds of data are added without a new version of the schema, and the sentence beside
/// them says the same.
fn known<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Known<T> {
        Data(T),
        Other(IgnoredAny),
    }
    Ok(match Known::deserialize(deserializer)? {
        Known::Data(data) => Some(data),
        Known::Other(_) => None,
    })
}

#[derive(Serialize, Deserialize)]
struct ToldCondition {
    condition: Condition,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
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

/// As [`known`], each of a list.
fn known_all<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Option<T>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(bound = "T: Deserialize<'de>")]
    struct One<T>(#[serde(deserialize_with = "known")] Option<T>);
    let all = Vec::<One<T>>::deserialize(deserializer)?;
    Ok(all.into_iter().map(|one| one.0).collect())
}

/// The notes of a report: `notes`, the sentences, and `note_data`, one a sentence.
pub(crate) mod notes {
    use super::{Deserialize, Deserializer, Note, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Told {
        #[serde(default)]
        notes: Vec<String>,
        #[serde(default, deserialize_with = "super::known_all")]
        note_data: Vec<Option<Note>>,
    }

    pub(crate) fn serialize<S: Serializer>(notes: &[Note], serializer: S) -> Result<S::Ok, S::Error> {
        let told = Told {
            notes: notes.iter().map(ToString::to_string).collect(),
            note_data: notes.iter().cloned().map(Some).collect(),
        };
        told.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Note>, D::Error> {
        let told = Told::deserialize(deserializer)?;
        let mut data = told.note_data;
        if data.len() != told.notes.len() {
            data.clear();
        }
        let data = data.into_iter().chain(std::iter::repeat(None));
        let both = told.notes.into_iter().zip(data);
        Ok(both.map(|(text, data)| data.unwrap_or(Note::Told { text })).collect())
    }
}

/// A module by which serde puts optional data into a page as two fields: their sentence, and the data. Of a page without data
/// that are known here the sentence is kept.
macro_rules! beside_its_sentence {
    ($(#[$about:meta])* $module:ident, $data:ident, $sentence:ident, $(#[$field:meta])* $name:ident) => {
        $(#[$about])*
        pub(crate) mod $module {
            use super::{$data, Deserialize, Deserializer, Serialize, Serializer};

            #[derive(Serialize, Deserialize)]
            struct Told {
                #[serde(default)]
                $sentence: Option<String>,
                #[serde(default, deserialize_with = "super::known")]
                $(#[$field])*
                $name: Option<$data>,
            }

            #[allow(clippy::ref_option, reason = "the derived code passes the field")]
            pub(crate) fn serialize<S: Serializer>(data: &Option<$data>, serializer: S) -> Result<S::Ok, S::Error> {
                let told = Told {
                    $sentence: data.as_ref().map(ToString::to_string),
                    $name: data.clone(),
                };
                told.serialize(serializer)
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<$data>, D::Error> {
                let told = Told::deserialize(deserializer)?;
                let text = |text| $data::Told { text };
                Ok(told.$name.or(told.$sentence.map(text)))
            }
        }
    };
}

beside_its_sentence! {
    /// The end of a stack: `stack_note`, the sentence, and `stack_end`.
    stack_end, StackEnd, stack_note, stack_end
}

beside_its_sentence! {
    /// Why nothing is watched: `not_armed`, the sentence, and `why_not_armed`.
    not_armed, NotArmed, not_armed,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not_armed
}

/// How the watched routines were chosen: `summary` and `explanation`, the sentences, and `choice`.
pub(crate) mod choice {
    use super::{Choice, Deserialize, Deserializer, Serialize, Serializer, WatchChoice};

    #[derive(Serialize, Deserialize)]
    struct Told {
        #[serde(default)]
        summary: String,
        #[serde(default)]
        explanation: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::known")]
        choice: Option<Box<WatchChoice>>,
    }

    pub(crate) fn serialize<S: Serializer>(choice: &Choice, serializer: S) -> Result<S::Ok, S::Error> {
        let (summary, explanation) = choice.sentences();
        let choice = match choice {
            Choice::Made(choice) => Some(choice.clone()),
            Choice::None | Choice::Told { .. } => None,
        };
        let told = Told {
            summary,
            explanation,
            choice,
        };
        told.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Choice, D::Error> {
        let told = Told::deserialize(deserializer)?;
        Ok(match told.choice {
            Some(choice) => Choice::Made(choice),
            None if told.summary.is_empty() && told.explanation.is_empty() => Choice::None,
            None => Choice::Told {
                summary: told.summary,
                explanation: told.explanation,
            },
        })
    }
}

/// A watched routine: `reason`, the sentence, and `why`.
#[derive(Serialize, Deserialize)]
pub(crate) struct ToldRoutine {
    routine: String,
    #[serde(default)]
    same_address: Vec<String>,
    address: u64,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    why: Option<Vec<WhyWatched>>,
    hits: u64,
}

impl From<WatchedRoutine> for ToldRoutine {
    fn from(watched: WatchedRoutine) -> Self {
        Self {
            reason: watched.reason(),
            routine: watched.routine,
            same_address: watched.same_address,
            address: watched.address,
            why: Some(watched.why),
            hits: watched.hits,
        }
    }
}

impl From<ToldRoutine> for WatchedRoutine {
    fn from(told: ToldRoutine) -> Self {
        let text = told.reason;
        Self {
            routine: told.routine,
            same_address: told.same_address,
            address: told.address,
            why: told.why.unwrap_or_else(|| vec![WhyWatched::Told { text }]),
            hits: told.hits,
        }
    }
}

/// What is not watched: `routine` and `consequence`, for people, and `why`.
pub(crate) mod gaps {
    use super::{Deserialize, Deserializer, Serialize, Serializer, WatchGap};

    #[derive(Serialize, Deserialize)]
    struct Told {
        routine: String,
        consequence: String,
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::known")]
        why: Option<WatchGap>,
    }

    pub(crate) fn serialize<S: Serializer>(gaps: &[WatchGap], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(gaps.iter().map(|gap| Told {
            routine: gap.what(),
            consequence: gap.consequence(),
            why: Some(gap.clone()),
        }))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<WatchGap>, D::Error> {
        let told = Vec::<Told>::deserialize(deserializer)?;
        let gap = |told: Told| {
            told.why.unwrap_or(WatchGap::Told {
                routine: told.routine,
                consequence: told.consequence,
            })
        };
        Ok(told.into_iter().map(gap).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Doubt, ImportsFile, ImportsNote, ImportsUnread, Location, ModuleInfo, Places, WatchInfo};

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
    fn data_that_this_version_does_not_know_give_way_to_their_sentences() {
        let why =
            |why: serde_json::Value| serde_json::json!({ "condition": "inconclusive", "reason": "so", "why": why });
        let json = serde_json::json!({
            "conditions": [
                // Of a later version.
                why(serde_json::json!({ "kind": "new_kind", "number": 7 })),
                // Of an earlier one, which had a sentence in there.
                why(serde_json::json!({ "kind": "never_armed", "why": "so" })),
                why(serde_json::json!({ "kind": "missed", "doubt": "imports_unrecognised", "imports": "so" })),
                why(serde_json::json!({ "kind": "stopped" })),
            ],
            "stack_note": "it ends",
            "stack_end": { "kind": "new_kind" },
            "notes": ["one", "two"],
            "note_data": [{ "kind": "new_kind" }, { "kind": "from_trace" }],
        });
        let page: Page = serde_json::from_value(json).unwrap();
        let told = Reason::Told { text: "so".to_owned() };
        let reasons: Vec<_> = page.conditions.into_iter().map(|note| note.reason).collect();
        assert_eq!(reasons, [told.clone(), told.clone(), told, Reason::Stopped]);
        assert_eq!(page.stack_end.unwrap().to_string(), "it ends");
        let one = Note::Told { text: "one".to_owned() };
        assert_eq!(page.notes, [one, Note::FromTrace]);
    }

    /// What an earlier version wrote of its choice of routines.
    fn told_watch() -> serde_json::Value {
        serde_json::json!({
            "routines": [{
                "routine": "nt!KeReleaseSpinLock", "same_address": [], "address": 1, "reason": "to judge it", "hits": 2
            }],
            "summary": "all are watched",
            "explanation": ["debug registers: all are watched", "register 1: it"],
            "ignored": { "user_mode": 0, "after_bug_check": 0 },
            "gaps": [{ "routine": "nt!KeTestSpinLock", "consequence": "it is not seen" }],
            "step_over": "",
            "catch_return": false,
            "armed_at": null,
            "not_armed": "the guest never started",
        })
    }

    #[test]
    fn a_choice_that_an_earlier_version_told_is_told_again() {
        let json = told_watch();
        let watch: WatchInfo = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(watch.gaps[0].export(), Some("nt!KeTestSpinLock"));
        let mut again = serde_json::to_value(&watch).unwrap();
        assert_eq!(serde_json::from_value::<WatchInfo>(again.clone()).unwrap(), watch);
        // The data are those of sentences.
        for place in ["/why_not_armed", "/gaps/0/why", "/routines/0/why/0"] {
            assert_eq!(again.pointer(place).unwrap()["kind"], "told", "{place}");
        }
        let fields = again.as_object_mut().unwrap();
        fields.remove("why_not_armed");
        for list in ["routines", "gaps"] {
            fields[list][0].as_object_mut().unwrap().remove("why");
        }
        assert_eq!(again, json);
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
