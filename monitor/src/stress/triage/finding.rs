//! The findings of a run. Each has a signature, which is the same in every run of the same builds.
//!
//! Talks to nothing: the caller gives a report. The report has the signature of a broken lock contract. The signature
//! of a crash is made from the bug check and its callers; of a hang, from the places of the processors at
//! DISPATCH_LEVEL or above; of a failure of this program, from the way its process ended.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use storlock_check::event::DISPATCH_LEVEL;
use storlock_check::finding::Verdict as RuleVerdict;

use crate::outcome::Condition;
use crate::report::{self, EndKind, Location, ProcessorState, Report};
use crate::stress::planning::SerialFinding;

/// Callers that a signature of a crash or a hang holds.
const FRAMES: usize = 4;

/// What kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A lock contract was broken.
    Violation,
    /// The guest ended by a bug check.
    BugCheck,
    /// The guest was reset, or shut down by a triple fault.
    Crash,
    /// The guest did not end within its time.
    Hang,
    /// The guest said so on its serial port: lost data, for instance.
    Said,
    /// Not the guest: the host or this program failed.
    Host,
}

impl FindingKind {
    /// The word for people and programs.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::BugCheck => "bug_check",
            Self::Crash => "crash",
            Self::Hang => "hang",
            Self::Said => "said",
            Self::Host => "host",
        }
    }

    /// The kind with this word.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        let all = [
            Self::Violation,
            Self::BugCheck,
            Self::Crash,
            Self::Hang,
            Self::Said,
            Self::Host,
        ];
        all.into_iter().find(|kind| kind.text() == text)
    }
}

/// What a finding does to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Weight {
    /// It fails, unless it is known.
    Failure,
    /// It is suspect: the evidence is short.
    Warning,
}

/// Something that a run has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// 16 hexadecimal digits.
    pub signature: String,
    /// What kind of thing.
    pub kind: FindingKind,
    /// What it does to the job.
    pub(crate) weight: Weight,
    /// What stays the same from build to build: the rule and its cause, the bug check, that it hangs.
    pub(crate) class: String,
    /// One line for people.
    pub title: String,
}

impl Finding {
    /// A finding other than a broken contract: its signature is made of its class and `place`.
    fn new(kind: FindingKind, class: String, place: &str) -> Self {
        let title = if place.is_empty() {
            class.clone()
        } else {
            format!("{class}: {place}")
        };
        Self {
            signature: signature(&[kind.text(), &class, place]),
            kind,
            weight: Weight::Failure,
            class,
            title,
        }
    }

    /// The process of a run did not end as it should.
    #[must_use]
    pub fn host(class: &str) -> Self {
        Self::new(FindingKind::Host, class.to_owned(), "")
    }
}

fn signature(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    // Sixteen digits are enough to tell findings apart.
    format!("{:.16x}", hash.finalize())
}

/// All that a run has shown, each signature once, what fails first.
#[must_use]
pub(crate) fn findings(report: &Report, serial_log: &str, serial: &[SerialFinding]) -> Vec<Finding> {
    let holds = |condition| report.conditions.iter().any(|note| note.condition == condition);
    let mut found: Vec<Finding> = report.findings.iter().filter_map(violation).collect();
    if holds(Condition::GuestFailed) {
        found.push(guest_failure(report));
    }
    if holds(Condition::Infrastructure) {
        let place = report.end.kind.text();
        found.push(Finding::new(FindingKind::Host, "the host failed".to_owned(), place));
    }
    let said = serial.iter().filter(|finding| serial_log.contains(&finding.contains));
    found.extend(said.map(|said| Finding::new(FindingKind::Said, said.finding.clone(), "")));
    found.sort_by_key(|finding| finding.weight == Weight::Warning);
    let mut signatures = Vec::new();
    found.retain(|finding| {
        let new = !signatures.contains(&finding.signature);
        signatures.push(finding.signature.clone());
        new
    });
    found
}

/// A broken contract that concerns the driver. One of which only the rule's own words are broken is none.
fn violation(found: &report::Finding) -> Option<Finding> {
    let weight = match found.verdict {
        RuleVerdict::Semantic => Weight::Failure,
        RuleVerdict::Suspect => Weight::Warning,
        RuleVerdict::Literal => return None,
    };
    if !found.concerns_target {
        return None;
    }
    let signature = &found.signature;
    let (rule, cause) = (found.rule.meta().name, signature.cause.name());
    let name = found
        .caller
        .symbol
        .as_ref()
        .map_or_else(String::new, |(name, _)| format!(" ({name})"));
    Some(Finding {
        signature: signature.id.clone(),
        kind: FindingKind::Violation,
        weight,
        class: format!("{rule}: {cause} by {}", found.routine),
        title: format!("{rule}: {cause} by {} at {}{name}", found.routine, signature.site),
    })
}

fn guest_failure(report: &Report) -> Finding {
    let end = &report.end;
    if let Some(bug_check) = &end.bug_check {
        let class = format!("bug check {:#x}", bug_check.code);
        return Finding::new(FindingKind::BugCheck, class, &asked_for_bug_check(&end.processors));
    }
    match end.kind {
        EndKind::TimeLimit => Finding::new(
            FindingKind::Hang,
            "no end within the time limit".to_owned(),
            &stuck(&end.processors),
        ),
        EndKind::Deadlock => Finding::new(
            FindingKind::Hang,
            "a processor waits for a lock that it holds".to_owned(),
            &stuck(&end.processors),
        ),
        EndKind::TripleFault => {
            let class = end.kind.text().to_owned();
            let innermost = end.processors.iter().find_map(|processor| place(&processor.location));
            Finding::new(FindingKind::Crash, class, &innermost.unwrap_or_default())
        }
        kind => Finding::new(FindingKind::Crash, kind.text().to_owned(), ""),
    }
}

/// Who asked for a bug check: the callers of the last routine on a stack whose name says that it is one for that.
fn asked_for_bug_check(processors: &[ProcessorState]) -> String {
    let asks = |location: &Location| {
        let symbol = location.symbol.as_ref().map(|(name, _)| name.as_str());
        symbol.is_some_and(|name| name.starts_with("KeBugCheck"))
    };
    let callers = processors.iter().find_map(|processor| {
        let last = processor.stack.iter().rposition(asks)?;
        Some(places(&processor.stack[last + 1..]))
    });
    callers.unwrap_or_default()
}

/// Where the processors stand that let no thread run; what they were doing at the very moment is left out, as it differs.
fn stuck(processors: &[ProcessorState]) -> String {
    let busy = processors.iter().filter(|processor| processor.irql >= DISPATCH_LEVEL);
    let mut stacks: Vec<String> = busy
        .map(|processor| {
            let module = processor.location.module.as_deref().unwrap_or("no module");
            let callers = places(processor.stack.get(1..).unwrap_or_default());
            format!(
                "at DISPATCH_LEVEL or above in {}, called from {callers}",
                module.to_lowercase()
            )
        })
        .collect();
    stacks.sort();
    stacks.dedup();
    if stacks.is_empty() {
        return "no processor is at DISPATCH_LEVEL or above".to_owned();
    }
    stacks.join("; ")
}

/// Code addresses as module and offset, innermost first.
fn places(stack: &[Location]) -> String {
    let known: Vec<String> = stack.iter().filter_map(place).take(FRAMES).collect();
    known.join(" < ")
}

fn place(location: &Location) -> Option<String> {
    let (module, offset) = (location.module.as_ref()?, location.offset?);
    Some(format!("{}+{offset:#x}", module.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{BugCheck, ConditionNote, Reason};

    fn location(module: &str, offset: u64, symbol: Option<&str>, base: u64) -> Location {
        Location {
            address: base + offset,
            module: Some(module.to_owned()),
            offset: Some(offset),
            symbol: symbol.map(|name| (name.to_owned(), 4)),
            source: None,
        }
    }

    fn processor(vcpu: u32, irql: u8, stack: Vec<Location>) -> ProcessorState {
        ProcessorState {
            vcpu,
            location: stack[0].clone(),
            irql,
            activity: None,
            stack,
            stack_end: None,
            waits_for: None,
        }
    }

    /// A report of a guest that failed.
    fn failed(kind: EndKind, bug_check: Option<u64>, processors: Vec<ProcessorState>) -> Report {
        let mut report = crate::stress::triage::judge::tests::report();
        report.conditions = vec![ConditionNote {
            condition: Condition::GuestFailed,
            reason: Reason::Reset,
        }];
        report.end.kind = kind;
        report.end.bug_check = bug_check.map(|code| BugCheck {
            code,
            parameters: [code, 2, 3, 4],
        });
        report.end.processors = processors;
        report
    }

    fn only(report: &Report) -> Finding {
        let mut all = findings(report, "", &[]);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn crash(base: u64, caller: u64, code: u64) -> Report {
        let idle = processor(
            0,
            0,
            vec![location("ntoskrnl.exe", 0x99 + base, Some("KiIdleLoop"), base)],
        );
        let stack = vec![
            location("ntoskrnl.exe", 0x10, Some("HalpReset"), base),
            location("ntoskrnl.exe", 0x20, Some("KeBugCheckEx"), base),
            location("ntoskrnl.exe", 0x30, Some("KiPageFault"), base),
            location("NVMe.sys", caller, None, base * 3),
        ];
        failed(EndKind::Reset, Some(code), vec![idle, processor(1, 15, stack)])
    }

    #[test]
    fn a_bug_check_is_told_by_its_code_and_who_asked_for_it() {
        let one = only(&crash(0x1000, 0x55, 0xd1));
        assert_eq!(
            (one.kind, one.class.as_str()),
            (FindingKind::BugCheck, "bug check 0xd1")
        );
        assert_eq!(one.title, "bug check 0xd1: ntoskrnl.exe+0x30 < nvme.sys+0x55");
        assert_eq!(one.signature.len(), 16);
        // Wherever the modules are; the parameters are addresses as a rule.
        assert_eq!(only(&crash(0x77000, 0x55, 0xd1)).signature, one.signature);
        assert_ne!(only(&crash(0x1000, 0x66, 0xd1)).signature, one.signature);
        let other = only(&crash(0x1000, 0x55, 0xd5));
        assert!(other.signature != one.signature && other.class != one.class);
    }

    fn hang(innermost: u64, caller: u64, idle_at: u64) -> Report {
        let idle = processor(0, 0, vec![location("ntoskrnl.exe", idle_at, None, 0)]);
        let spinning = |vcpu| {
            processor(
                vcpu,
                2,
                vec![
                    location("nvme.sys", innermost, None, 0),
                    location("storport.sys", caller, None, 0),
                ],
            )
        };
        failed(EndKind::TimeLimit, None, vec![idle, spinning(1), spinning(2)])
    }

    #[test]
    fn a_hang_is_told_by_those_that_let_nobody_run() {
        let one = only(&hang(0x10, 0x20, 0x30));
        assert_eq!(
            one.title,
            "no end within the time limit: at DISPATCH_LEVEL or above in nvme.sys, called from storport.sys+0x20"
        );
        assert_eq!(only(&hang(0x14, 0x20, 0x99)).signature, one.signature, "the same loop");
        assert_ne!(only(&hang(0x10, 0x24, 0x30)).signature, one.signature);
        let idle = failed(EndKind::TimeLimit, None, vec![]);
        assert!(only(&idle).title.contains("no processor is at DISPATCH_LEVEL"));
    }

    #[test]
    fn other_ends_have_findings_of_their_own() {
        let kinds = [EndKind::TripleFault, EndKind::Reset, EndKind::Crash];
        let found: Vec<_> = kinds.iter().map(|&kind| only(&failed(kind, None, vec![]))).collect();
        assert!(found.iter().all(|finding| finding.kind == FindingKind::Crash));
        assert!(found[0].signature != found[1].signature && found[1].signature != found[2].signature);
    }

    #[test]
    fn what_the_guest_says_is_a_finding_if_the_job_says_so() {
        let lost = SerialFinding {
            finding: "data loss".to_owned(),
            contains: "LOST:".to_owned(),
        };
        let report = crate::stress::triage::judge::tests::report();
        let found = findings(&report, "a\nworkload: LOST: block 7\n", std::slice::from_ref(&lost));
        assert_eq!(
            (found.len(), found[0].kind, found[0].title.as_str()),
            (1, FindingKind::Said, "data loss")
        );
        assert!(findings(&report, "workload: PASS\n", &[lost]).is_empty());
    }

    #[test]
    fn kinds_have_words_of_their_own() {
        for kind in [FindingKind::Violation, FindingKind::Host, FindingKind::Said] {
            assert_eq!(FindingKind::named(kind.text()), Some(kind));
        }
        assert_eq!(FindingKind::named("x"), None);
    }
}
