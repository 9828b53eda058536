//! The sentences of [`reason`](crate::report::reason): why conditions hold, notes, and why stacks end.

use std::fmt;

use super::counted;
use crate::report::{
    Doubt, ImportsFile, ImportsNote, ImportsUnread, Location, ModuleInfo, Note, Places, Reason, Share, StackEnd,
    StepOver, UnknownRelease,
};

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&reason(self))
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&doubt(self))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&note(self))
    }
}

impl fmt::Display for StackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&stack_end(self))
    }
}

impl fmt::Display for StepOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Why a condition holds.
fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Interrupted { was_over: false } => {
            "the run was interrupted; this report covers what was seen until then".to_owned()
        }
        Reason::Interrupted { was_over: true } => {
            "the run was interrupted when it was over already; this report is whole".to_owned()
        }
        Reason::HostFailed { error } => format!("the host failed: {error}"),
        Reason::Failure { error } => error.clone(),
        Reason::NotExecutable { what, at } => not_executable(what, at.as_ref()),
        Reason::RecordingEnds => "the recording ends before the run did".to_owned(),
        Reason::ContractsBroken(found) => {
            format!("contracts of lock routines were broken in {}", places(*found))
        }
        Reason::SuspectCalls(found) => format!(
            "what looks like broken contracts in {} has too little evidence for a verdict",
            places(*found)
        ),
        Reason::BugCheck { code } => format!("the guest crashed: bug check {code:#x}"),
        Reason::Reset => "the guest reset the machine".to_owned(),
        Reason::Crash { detail } => detail.clone(),
        Reason::Deadlock { vcpu } => format!(
            "vCPU {vcpu} is about to wait for ever for a lock that it holds, or that the port driver holds around the callback that \
             it runs; the run was ended there (--after-deadlock go-on runs on)"
        ),
        Reason::TripleFault => "the guest crashed: triple fault".to_owned(),
        Reason::TimeLimit {
            seconds,
            waiting,
            circle,
        } => format!("the guest had not ended after {seconds} s{}", hang(waiting, circle)),
        Reason::UnknownReleases {
            releases,
            driver,
            places,
            more,
        } => unknown_releases(*releases, driver, (places, *more)),
        Reason::NotYetWatched { routines } => format!(
            "the driver imports more lock routines than there are debug registers, and the run was over before the turn of {}: \
             what the driver did with them was not seen; let the guest run longer",
            routines.join(", ")
        ),
        Reason::WatchedInTurns { shares } => in_turns(shares),
        Reason::Missed(missed) => doubt(missed),
        Reason::Stopped => {
            "the run was over before the guest ended by itself; this report covers what was seen until then".to_owned()
        }
        Reason::FaultNeverInjected { spec, matched } => never_injected(spec, *matched),
        Reason::NeverArmed { not_armed } => not_armed.to_string(),
        Reason::NeverAcquired { driver } => format!("{driver} never acquired a lock by a watched routine"),
        Reason::Told { text } => text.clone(),
        Reason::UnknownConversions { .. }
        | Reason::UnreadableHandles { .. }
        | Reason::CallsIgnored { .. }
        | Reason::HoldsLost { .. }
        | Reason::WordsContradicted { .. }
        | Reason::RaisesUndone { .. } => left_open(reason),
    }
}

/// What hooks in the driver's imports have cost and given.
fn import_hooks(note: &Note) -> String {
    let Note::ImportHooks {
        imports,
        calls,
        exits,
        full,
        longest_ms,
        unfinished,
        confirmed,
        unconfirmed,
    } = note
    else {
        return String::new();
    };
    let full = match full {
        0 => String::new(),
        full => format!(", {full} of these since the ring was full"),
    };
    let mut parts = vec![
        format!(
            "{} of the driver hooked: {} written in the guest and {exits} taken at the call{full}",
            counted(*imports, "import"),
            counted(*calls, "call")
        ),
        format!("at most {longest_ms} ms from a call to its judgement"),
    ];
    if *unfinished > 0 {
        let calls = counted(*unfinished, "call");
        parts.push(format!("{calls} about to be made when the machine stopped"));
    }
    if *confirmed > 0 {
        parts.push(format!("findings seen in writing and again at the call: {confirmed}"));
    }
    if !unconfirmed.is_empty() {
        let events: Vec<String> = unconfirmed.iter().map(u64::to_string).collect();
        let events = events.join(", ");
        parts.push(format!(
            "findings seen in writing only, with as much of the stack as a hook keeps: event {events}"
        ));
    }
    parts.join("; ")
}

fn in_turns(shares: &[Share]) -> String {
    let told = shares
        .iter()
        .map(|share| format!("{} {} %", share.routine, share.percent));
    format!(
        "the driver imports more lock routines than there are debug registers, so that they took turns: a bug in the turn of others \
         is not seen. Of the hits, these had a share of {}; run it more often and with other seeds, and accept that by \
         --accept-turns",
        told.collect::<Vec<_>>().join(", ")
    )
}

fn not_executable(what: &str, at: Option<&Location>) -> String {
    let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
    format!(
        "{what}{at}: run it on a machine whose KVM has hardware virtualization (kvm_amd or kvm_intel), or in the project's lab \
         (scripts/lab/run)"
    )
}

fn places(found: Places) -> String {
    let more = if found.more { "at least " } else { "" };
    format!("{more}{}", counted(found.places, "place"))
}

fn unknown_releases(releases: u64, driver: &str, (places, more): (&[UnknownRelease], bool)) -> String {
    let named = places.iter().map(|place| match place.count {
        1 => format!("{} from {}", place.routine, place.caller),
        times => format!("{} from {}, {times} times", place.routine, place.caller),
    });
    let named: Vec<String> = named.collect();
    let from = if named.is_empty() {
        ", made by other modules".to_owned()
    } else {
        let more = if more { "; and others" } else { "" };
        format!(": {}{more}", named.join("; "))
    };
    format!(
        "{} of locks of {driver} could not be judged, since the state of the lock was not known{from}",
        counted(releases, "release")
    )
}

/// What the calls of the driver have left open.
fn left_open(reason: &Reason) -> String {
    let (times, what, how) = match *reason {
        Reason::UnreadableHandles { calls } => {
            return format!(
                "the lock handle of {} of the driver could not be read: which calls belong together is a guess",
                counted(calls, "call")
            );
        }
        Reason::UnknownConversions { conversions } => {
            return format!(
                "{} of locks of the driver could not be judged: no shared acquire of the caller's was seen that it can be of",
                counted(conversions, "conversion")
            );
        }
        Reason::CallsIgnored { calls } => (
            calls,
            "call",
            "told of a processor that there is not, and could not be judged",
        ),
        Reason::HoldsLost { acquires } => (
            acquires,
            "acquire",
            "over in a way that was not seen: it may have failed, its release may be missing, or the lock's memory went with it",
        ),
        Reason::WordsContradicted { holds } => (
            holds,
            "hold",
            "released when the lock word said that nobody held the lock: somebody may have cleared it",
        ),
        Reason::RaisesUndone { releases } => (
            releases,
            "release",
            "given a NewIrql that is not the one before the acquire, but may be the one before a raise of the driver's own or before \
             another acquire",
        ),
        _ => return String::new(),
    };
    let verb = if times == 1 { "was" } else { "were" };
    format!("{} of the driver {verb} {how}", counted(times, what))
}

fn never_injected(spec: &str, matched: u64) -> String {
    let matched = match matched {
        0 => "nothing that it is about has happened".to_owned(),
        1 => "only one thing that it is about has happened".to_owned(),
        times => format!("only {times} things that it is about have happened"),
    };
    format!("the planned fault {spec} was never injected: {matched}")
}

/// What may have been missed.
fn doubt(doubt: &Doubt) -> String {
    match doubt {
        Doubt::EntryChanged { driver, listed } => format!(
            "the guest's module list has {}, {:#x} bytes at {:#x} in the place of {}, {:#x} bytes at {:#x}, whose image is \
             still there: the driver under test may be hiding; what is in that range counts as the driver",
            listed.name, listed.size, listed.base, driver.name, driver.size, driver.base
        ),
        Doubt::TwoOfOneName {
            name,
            bases: [first, second],
        } => format!(
            "the guest's module list has two modules named {name}, at {first:#x} and at {second:#x}: one of them may be a \
             driver that hides"
        ),
        Doubt::TooManyImages { name, most } => format!("there are more than {most} images of {name}"),
        Doubt::ImageStays { name, base } => format!(
            "the guest's module list does not have {name} any more, but its image is still at {base:#x}: it may be hiding"
        ),
        Doubt::CalledUnlisted { driver, offset } => called_unlisted(driver, *offset),
        Doubt::TooManyModuleChanges { most } => format!(
            "modules were loaded and unloaded more than {most} times: what was loaded after that is not known by name"
        ),
        Doubt::ModuleListUnreadable { error } => {
            format!("at the end of the run {error}: what was loaded is not known for certain")
        }
        Doubt::TwoModuleLists { by_object, by_block } => format!(
            "the first driver object leads to a module list at {by_object:#x}, which was taken, and the debugger data block to \
             one at {by_block:#x}: what was loaded is not known for certain"
        ),
        Doubt::TwoKernels { watched, other } => format!(
            "at the first write of LSTAR there were two images that may be the kernel: its page fault handler is in the one at \
             {watched:#x}, which was watched, and its system call entry in the one at {other:#x}"
        ),
        Doubt::OtherKernel { vcpu, watched } => format!(
            "at the end the page fault handler of vCPU {vcpu} was not in the kernel at {watched:#x}, which was watched: another \
             kernel may have run"
        ),
        Doubt::HooksBroken => {
            "the guest has written into the memory of the hooks what no hook writes, or has freed it: nothing that \
             was written after that was read"
                .to_owned()
        }
        Doubt::Late => {
            "the driver may have run before its locks were watched: what it did until then was not seen".to_owned()
        }
        _ => imports_doubt(doubt),
    }
}

fn called_unlisted(driver: &ModuleInfo, offset: u64) -> String {
    let (name, base, size) = (&driver.name, driver.base, driver.size);
    format!(
        "{name} called a lock routine, to return to {name}+{offset:#x}, while the guest's module list did not have it: it \
         hides; what is in its {size:#x} bytes at {base:#x} counts as the driver"
    )
}

/// As it begins wherever the driver under test was loaded a second time.
const LOADED_AGAIN: &str = "the driver under test was unloaded and loaded again";

fn imports_doubt(doubt: &Doubt) -> String {
    match doubt {
        Doubt::ImportsUnknown => {
            "what the driver imports is not known, and not every lock routine of the guest is watched".to_owned()
        }
        Doubt::ImportsUnrecognised { unnamed } => {
            format!("lock routines may be among {unnamed}: what they do to a lock was not seen")
        }
        Doubt::ImportElsewhere { routine, place } => {
            format!("an import of {routine} leads to {place}, which is not watched: another import is")
        }
        Doubt::ReloadedUnread { base, why } => format!(
            "{LOADED_AGAIN}, at {base:#x}; what it calls is taken to be as before: {}",
            imports(why)
        ),
        Doubt::ReloadedImport { routine } => format!(
            "{LOADED_AGAIN} and imports {routine} since then, which is not watched: the breakpoints are those of its first load"
        ),
        _ => String::new(),
    }
}

/// Where the driver's imports are from.
fn imports(note: &ImportsNote) -> String {
    let why = match &note.memory {
        ImportsUnread::Unreadable { error } => error.as_str(),
        ImportsUnread::Discardable => {
            "they are named in a section that may be thrown away after the driver's initialisation"
        }
    };
    match note.file {
        ImportsFile::Taken => {
            format!("the driver's imports are those of its file, not of the guest's memory: {why}")
        }
        ImportsFile::NotCompared => format!("the driver's imports are unknown: {why}"),
        ImportsFile::AnotherBuild => format!(
            "the driver's imports are unknown: {why}; and the file that was given is another build: its time stamp, check sum \
             or size is not that of the driver in the guest"
        ),
        ImportsFile::NotGiven => {
            format!("the driver's imports are unknown: {why}; give the path of the driver's file by --driver")
        }
    }
}

/// A note.
fn note(note: &Note) -> String {
    match note {
        Note::Reset { watched: true } => {
            "the guest was reset while its locks were watched: locks held then are forgotten, and the driver under test is \
             looked for again"
                .to_owned()
        }
        Note::Reset { watched: false } => {
            "the guest was reset before its locks were watched: its kernel is looked for again".to_owned()
        }
        Note::NoKernel(write) => write.to_string(),
        Note::NoDriverObject {
            driver,
            objects,
            seconds,
        } => format!(
            "{driver} was loaded, and no driver object was made for it while {objects} other objects were inserted in {seconds} \
             s of the guest's time: a library that other drivers call (an export driver) has none"
        ),
        Note::Imports(note) => imports(note),
        Note::Detour { routine, place } => format!(
            "the driver's import of {routine} leads to {place} in its place, as with Driver Verifier: calls by other modules \
             are not seen there"
        ),
        Note::ProhibitedImports { routines } => format!(
            "the driver has registered as a physical miniport and imports lock routines that such a driver must not call \
             (HwStorPortProhibitedDDIs): {}",
            routines.join(", ")
        ),
        Note::NoImportHooks { why } => {
            format!("the driver's imports are not hooked (--hooks imports), breakpoints are used instead: {why}")
        }
        Note::ImportHooks { .. } => import_hooks(note),
        Note::LoadedAgain { base } => format!("{LOADED_AGAIN}, at {base:#x}"),
        Note::FromTrace => {
            "an event trace holds no memory: there are no names of functions, and of a stack its first frames".to_owned()
        }
        Note::Recovered { image, recovery } => format!("the disk image {image}: {recovery}"),
        Note::NoTimeline { why } => format!("there is no timeline: {why}"),
        Note::OtherTrace { file } => format!("there is no timeline: {file} is not the event trace of this run"),
        Note::Output { text } | Note::Told { text } => text.clone(),
    }
}

/// Why a stack ends early.
fn stack_end(end: &StackEnd) -> String {
    match end {
        StackEnd::NoKernel => "the kernel was not found".to_owned(),
        StackEnd::NoModule { address } => format!("no module at {address:#x}"),
        StackEnd::NoInformation { address } => format!("no unwind information for {address:#x}"),
        StackEnd::Damaged { address } => format!("damaged unwind information for {address:#x}"),
        StackEnd::Unreadable { error } => error.clone(),
        StackEnd::StackPointer { value } => format!("the stack pointer {value:#x} makes no sense"),
        StackEnd::Limit => "more frames than are shown".to_owned(),
        StackEnd::CallOver => "the call is over: its stack is gone".to_owned(),
        StackEnd::FromTrace => "an event trace holds no more of it".to_owned(),
        StackEnd::Told { text } => text.clone(),
    }
}

/// Which processors wait for locks.
fn hang(waiting: &[u32], circle: &[u32]) -> String {
    let list = |vcpus: &[u32]| vcpus.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match (circle, waiting) {
        ([own], _) => format!(": vCPU {own} waits for a lock that it holds"),
        ([_, ..], _) => format!(": vCPUs {} wait for each other's locks", list(circle)),
        ([], []) => String::new(),
        ([], [one]) => format!(": vCPU {one} waits for a lock"),
        ([], _) => format!(": vCPUs {} wait for locks", list(waiting)),
    }
}
