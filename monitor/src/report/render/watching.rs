//! The sentences of [`choice`](crate::report::choice): how the debug registers are used, what routines are watched for, what
//! follows where one is not, and why none is.

use std::fmt;

use super::counted;
use crate::report::{
    Choice, ImportUse, LockRoutine, NoKernelAt, NotArmed, PlannedTurns, Purpose, TurnsBecause, UnnamedImports,
    WatchChoice, WatchGap, WatchedRoutine, WhyWatched,
};

/// Numbers that are shown of one import.
const SHOWN: usize = 12;

impl Choice {
    /// How the choice was made, in a sentence; and how the debug registers are used, and why, a line each.
    #[must_use]
    pub(crate) fn sentences(&self) -> (String, Vec<String>) {
        match self {
            Self::None => Default::default(),
            Self::Made(choice) => (choice.summary(), choice.explanation()),
            Self::Told { summary, explanation } => (summary.clone(), explanation.clone()),
        }
    }
}

impl WatchChoice {
    /// How the choice was made, in a sentence.
    #[must_use]
    pub(crate) fn summary(&self) -> String {
        let mut text = self.first_choice();
        if let Some(turns) = &self.turns {
            text = format!("{text}; {}", turns_summary(turns));
        }
        if let Some(unnamed) = &self.unnamed {
            text = format!("{text}; not recognised: {unnamed}");
        }
        text
    }

    fn first_choice(&self) -> String {
        let whether = whether(self.imports_known);
        let (exports, registers, free) = (self.exports, self.registers, self.free());
        if exports == 0 {
            format!("{whether} no lock routine: there is nothing to watch")
        } else if self.hooked {
            format!("all {exports} lock exports that {whether} are hooked in its import table")
        } else if exports <= registers {
            let returns = if free > 0 {
                format!("{free} of {registers} debug registers stay free, for catching returns")
            } else {
                "no debug register stays free, so what a routine returned is told from later events".to_owned()
            };
            format!("all {exports} lock exports that {whether} are watched; {returns}")
        } else {
            format!(
                "{whether} {exports} lock exports and there are {registers} debug registers: chosen are those by which \
                 most releases can be judged; no register stays free, so what a routine returned is told from later events"
            )
        }
    }

    /// How the debug registers are used, and why, a line each.
    #[must_use]
    pub(crate) fn explanation(&self) -> Vec<String> {
        if self.hooked {
            return self.hooks();
        }
        let mut lines = vec![format!("debug registers: {}", self.summary())];
        lines.extend(self.uses.iter().map(import_use));
        lines.push(format!(
            "until the driver is loaded, 1 register waits for its driver object ({}); it is given back for these:",
            self.driver_object_at
        ));
        let watched = self.watched.iter().enumerate();
        lines.extend(watched.map(|(index, purpose)| format!("register {}: {}: {purpose}", index + 1, purpose.export)));
        lines.push(self.caught_returns());
        let gaps = self.gaps.iter();
        lines.extend(gaps.map(|gap| format!("no register: {}: {}", gap.what(), gap.consequence())));
        lines.extend(self.turns.iter().flat_map(turns));
        lines
    }

    /// What hooks are used for, a line each.
    fn hooks(&self) -> Vec<String> {
        let mut lines = vec![format!("hooks: {}", self.summary())];
        lines.extend(self.uses.iter().map(import_use));
        lines.push(format!(
            "1 debug register takes the calls that are not only written, 1 waits for the driver to be loaded again ({}), the \
             others catch returns",
            self.driver_object_at
        ));
        let watched = self.watched.iter();
        lines.extend(watched.map(|purpose| format!("import of {}: {purpose}", purpose.export)));
        match &self.may_fail[..] {
            [] => {}
            leaving => lines.push(format!(
                "every call leaves the guest, for its return: {}",
                names(leaving)
            )),
        }
        let gaps = self.gaps.iter();
        lines.extend(gaps.map(|gap| format!("not hooked: {}: {}", gap.what(), gap.consequence())));
        lines
    }

    fn caught_returns(&self) -> String {
        match (self.free(), &self.may_fail[..]) {
            (0, []) => "caught returns: no watched routine needs them".to_owned(),
            (0, needed) => format!(
                "caught returns: no register, since a call that is not seen is lost, and what {} returned is told from later events",
                names(needed)
            ),
            (free, []) => format!("{free} free; no watched routine needs its return caught"),
            (free, needed) => format!("{free} free: the returns of {} are caught", names(needed)),
        }
    }
}

fn whether(imports_known: bool) -> &'static str {
    if imports_known {
        "the driver imports"
    } else {
        "the driver may import"
    }
}

fn names(routines: &[LockRoutine]) -> String {
    let names: Vec<&str> = routines.iter().map(|routine| routine.0.name()).collect();
    names.join(", ")
}

fn turns_summary(turns: &PlannedTurns) -> String {
    let why = match turns.because {
        TurnsBecause::UseNotKnown => "what the driver wants of an export is not told by its code",
        TurnsBecause::TooMany => "each of them has to be seen",
    };
    let most = turns.rotations.iter().map(|rotation| rotation.sets.len() + 1).max();
    format!("{why}, so {} sets of exports take turns", most.unwrap_or(1))
}

/// Each set after the first.
fn turns(turns: &PlannedTurns) -> Vec<String> {
    let mut lines = Vec::new();
    for rotation in &turns.rotations {
        let when = if turns.rotations.len() > 1 {
            format!(", if {} is called often", rotation.clock)
        } else {
            String::new()
        };
        let sets = rotation.sets.iter().enumerate();
        lines.extend(sets.map(|(index, exports)| format!("in turn {}{when}: {}", index + 2, exports.join(", "))));
    }
    lines
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match (&self.acquires[..], &self.before[..]) {
            ([], _) => {}
            (acquires, []) => parts.push(format!("acquires ({}), to see a second acquire", names(acquires))),
            (acquires, before) => {
                parts.push(format!(
                    "acquires ({}) that may come before {}",
                    names(acquires),
                    names(before)
                ));
            }
        }
        if !self.judged.is_empty() {
            parts.push(format!("releases to judge ({})", names(&self.judged)));
        }
        if !self.suspect.is_empty() {
            parts.push(format!(
                "releases that are suspect at most, since not every acquire is watched ({})",
                names(&self.suspect)
            ));
        }
        write!(f, "{} it: {}", whether(self.imported), parts.join("; "))?;
        match &self.leads_to {
            Some(place) => write!(
                f,
                "; the driver's import of {} leads to {place} in its place, which is watched",
                self.export
            ),
            None => Ok(()),
        }
    }
}

impl WatchedRoutine {
    /// Why it is watched, in a sentence.
    #[must_use]
    pub(crate) fn reason(&self) -> String {
        let reasons = self.why.iter().map(|why| match why {
            WhyWatched::LockExport(purpose) => purpose.to_string(),
            WhyWatched::Told { text } => text.clone(),
        });
        reasons.collect::<Vec<_>>().join("; ")
    }
}

impl WatchGap {
    /// What is not watched.
    #[must_use]
    pub(crate) fn what(&self) -> String {
        match self {
            Self::NoRegister { routine, .. }
            | Self::LookedUp { routine }
            | Self::OtherModule { routine }
            | Self::Reloaded { routine }
            | Self::Told { routine, .. } => routine.clone(),
            Self::LocksInside { routines } => routines.join(", "),
            Self::Unnamed(unnamed) => unnamed.to_string(),
            Self::Modules { modules } => format!("imports from {}", modules.join(", ")),
        }
    }

    /// What follows from it for the verdicts, in a sentence.
    #[must_use]
    pub(crate) fn consequence(&self) -> String {
        match self {
            Self::NoRegister {
                releases,
                acquires,
                before,
                ..
            } => no_register(releases, acquires, before),
            Self::Unnamed(_) => {
                "a lock routine among them is not recognised and not watched: what it does to a lock is not seen, so releases \
                 that it may belong to are reported as suspect, not as defects"
                    .to_owned()
            }
            Self::LookedUp { .. } => {
                "lock routines that the driver looks up by name at run time are watched only if it imports them, too".to_owned()
            }
            Self::LocksInside { .. } => {
                "the spin lock that the driver passes is taken and given back inside: that is not seen, and what could not be \
                 told from it is reported as suspect"
                    .to_owned()
            }
            Self::OtherModule { .. } => {
                "that module is none whose lock routines are known: it is watched only if its import leads to the routine of \
                 that name"
                    .to_owned()
            }
            Self::Modules { .. } => {
                "code of these modules may take and release the driver's locks by routines that are not watched".to_owned()
            }
            Self::Reloaded { .. } => {
                "the driver imports it since it was loaded again; the breakpoints are those of its first load".to_owned()
            }
            Self::Told { consequence, .. } => consequence.clone(),
        }
    }
}

fn no_register(releases: &[LockRoutine], acquires: &[LockRoutine], before: &[LockRoutine]) -> String {
    let mut parts = Vec::new();
    if !releases.is_empty() {
        parts.push(format!("calls of {} are not seen and not judged", names(releases)));
    }
    match (acquires, before) {
        ([], _) => {}
        (acquires, []) => parts.push(format!("acquires by {} are not seen", names(acquires))),
        (acquires, before) => parts.push(format!(
            "a release by {} without a record may follow an acquire by {}: it is reported as suspect, not as a defect",
            names(before),
            names(acquires)
        )),
    }
    parts.join("; ")
}

impl fmt::Display for UnnamedImports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.more { " and others" } else { "" };
        write!(
            f,
            "{} without a name, from {}{more}",
            counted(self.imports, "import"),
            self.modules.join(", ")
        )
    }
}

/// What the driver's code wants of an import.
fn import_use(told: &ImportUse) -> String {
    match told {
        ImportUse::NotLookedAt { import } => {
            format!("{import}: what the driver wants of it is not known: its code was not looked at")
        }
        ImportUse::NotKnown { import, reason, values } => {
            let seen = match &values[..] {
                [] => String::new(),
                values => format!("; seen are {}", numbers(values)),
            };
            format!("{import}: what the driver wants of it is not known: {reason}{seen}")
        }
        ImportUse::Known {
            import,
            calls,
            values,
            routines,
        } => {
            let passed = match calls {
                0 => "it is not called".to_owned(),
                1 => format!("1 call passes {}", numbers(values)),
                calls => format!("{calls} calls pass {}", numbers(values)),
            };
            match &routines[..] {
                [] => format!("{import}: {passed}: no lock routine, so it needs no debug register"),
                routines => format!("{import}: {passed}: {}", names(routines)),
            }
        }
    }
}

fn numbers(values: &[u32]) -> String {
    let mut shown: Vec<String> = values.iter().take(SHOWN).map(|value| format!("{value:#x}")).collect();
    if let Some(more) = values.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

impl fmt::Display for NotArmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel { last: None } => {
                f.write_str("the guest's kernel was not found: it never wrote LSTAR with an address of its code")
            }
            Self::NoKernel { last: Some(last) } => write!(
                f,
                "the guest's kernel was not found: only an NT-compatible kernel, which is a PE image, can be watched, and {last}"
            ),
            Self::NoWitness { export } => write!(
                f,
                "the kernel does not export {export}, without which the driver's start is not seen"
            ),
            Self::ModulesUnknown { export } => write!(
                f,
                "the guest's modules are not known: its kernel does not export {export}, and neither a driver object nor a \
                 debugger data block (KDBG) has led to the list"
            ),
            Self::NeverLoaded {
                driver,
                modules,
                similar,
            } => {
                write!(
                    f,
                    "the guest never loaded {driver} ({} seen)",
                    match modules {
                        1 => "1 other module was".to_owned(),
                        modules => format!("{modules} other modules were"),
                    }
                )?;
                match similar {
                    Some(similar) => write!(f, "; it loaded {similar}: is that the driver under test?"),
                    None => Ok(()),
                }
            }
            Self::NoDriverObject { driver, base } => write!(
                f,
                "the guest loaded {driver} at {base:#x}, but no driver object was made for it until the end: its initialisation \
                 did not begin, or it is a library that other drivers call (an export driver), which has no driver object"
            ),
            Self::NotExported { routine } => {
                write!(f, "the guest does not export {routine}, which the driver imports")
            }
            Self::ExportsUnread { error } | Self::Refused { error } | Self::Told { text: error } => f.write_str(error),
        }
    }
}

impl fmt::Display for NoKernelAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a write of {:#x} to LSTAR led to no kernel: {}",
            self.lstar, self.error
        )
    }
}
