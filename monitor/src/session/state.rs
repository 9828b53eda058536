//! What a session remembers between stops; everything here is behind its one lock.

use std::collections::VecDeque;
use std::time::Instant;

use storlock_check::checker::{Checker, Limits};
use storlock_check::contract::Routine;
use storlock_check::event::LockOperand;

use super::calls::Calls;
use super::config::{Config, LastLook};
use super::debugger::StopPolicy;
use super::doubts::Doubts;
use super::findings::Findings;
use super::guest_check::GuestChecks;
use super::modules::{ModuleId, ModuleMap};
use super::presence::Place;
use super::unknown::Unknowns;
use crate::escape;
use crate::report::{BugCheck, DebugPrint, DumpedExport, IgnoredHits, ModuleInfo, WatchGap};
use crate::vmi::Breakpoint;
use crate::windows::{Kernel, Modules, SymbolTable};

/// Caught returns under way at most; the oldest is forgotten. A vCPU has few debug registers to catch with.
const OPEN_RETURNS: usize = 256;
/// What is told of a run at most: a guest chooses how often some of it happens.
const MILESTONES: usize = 64;

/// How far the session has come.
pub(crate) enum Stage {
    /// Nothing known.
    Booting,
    /// The kernel is known; waits for the driver under test.
    Waiting(Box<Waiting>),
    /// The breakpoints are in force.
    Armed,
    /// It will not come further, and why.
    Failed(String),
}

/// The kernel is known.
pub(crate) struct Waiting {
    /// The breakpoint on the witness of driver initialisation.
    pub(crate) breakpoint: Breakpoint,
    /// Objects that may still be inserted before the wait for the driver's own object is given up.
    pub(crate) patience: u32,
}

/// A call whose return is to be caught.
pub(crate) struct OpenReturn {
    pub(crate) cookie: u64,
    /// Return address and stack pointer of the call.
    pub(crate) frame: (u64, u64),
    pub(crate) routine: Routine,
    pub(crate) operand: LockOperand,
}

/// Everything behind the lock.
pub(crate) struct State {
    pub(crate) stage: Stage,
    pub(crate) kernel: Option<Kernel>,
    /// The guest's list as it was last read.
    pub(crate) list: Option<Modules>,
    pub(crate) modules: ModuleMap,
    /// Modules that have come and gone since arming.
    pub(crate) module_changes: u32,
    pub(crate) target: Option<(ModuleInfo, ModuleId)>,
    /// Where the driver under test is, and was and may still be.
    pub(crate) places: Vec<Place>,
    /// Why the run cannot be Completed.
    pub(crate) doubts: Doubts,
    /// Releases that could not be judged.
    pub(crate) unknowns: Unknowns,
    pub(crate) checker: Checker,
    pub(crate) sequence: u64,
    pub(crate) armed_at: Option<u64>,
    pub(crate) armed: Option<Instant>,
    pub(crate) next_hook: u32,
    pub(crate) gaps: Vec<WatchGap>,
    pub(crate) plan_summary: String,
    pub(crate) symbols: SymbolTable,
    pub(crate) calls: Calls,
    pub(crate) findings: Findings,
    pub(crate) stops: StopPolicy,
    pub(crate) hits: u64,
    pub(crate) target_hits: u64,
    pub(crate) ignored: IgnoredHits,
    /// The guest has recorded a bug check: what runs since takes its locks by force.
    pub(crate) bug_checked: bool,
    /// Bit n: processor n was seen below DISPATCH_LEVEL since arming.
    pub(crate) seen_low: u64,
    pub(crate) returns: VecDeque<OpenReturn>,
    pub(crate) exports: Vec<DumpedExport>,
    pub(crate) bug_check: Option<BugCheck>,
    pub(crate) last_look: LastLook,
    pub(crate) notes: Vec<String>,
    /// Why the last write of LSTAR was not taken for the kernel's.
    pub(crate) no_kernel: Option<String>,
    /// What has been reached, for who watches the run.
    pub(crate) milestones: Vec<String>,
    /// What was printed.
    pub(crate) debug_print: DebugPrint,
    /// Only if asked for.
    pub(crate) guest_checks: Option<Box<GuestChecks>>,
}

impl State {
    pub(crate) fn new(config: &Config) -> Self {
        let exports = config.exports.iter();
        Self {
            stage: Stage::Booting,
            kernel: None,
            list: None,
            modules: ModuleMap::new(&config.target),
            module_changes: 0,
            target: None,
            places: Vec::new(),
            doubts: Doubts::default(),
            unknowns: Unknowns::default(),
            checker: Checker::new(Limits::default(), config.run.seed),
            sequence: 0,
            armed_at: None,
            armed: None,
            next_hook: 1,
            gaps: Vec::new(),
            plan_summary: String::new(),
            symbols: config.symbols.clone(),
            calls: Calls::default(),
            findings: Findings::default(),
            stops: StopPolicy::default(),
            hits: 0,
            target_hits: 0,
            ignored: IgnoredHits::default(),
            bug_checked: false,
            seen_low: 0,
            returns: VecDeque::new(),
            exports: exports
                .map(|e| DumpedExport {
                    name: e.to_string(),
                    ..DumpedExport::default()
                })
                .collect(),
            bug_check: None,
            last_look: LastLook::default(),
            notes: Vec::new(),
            no_kernel: None,
            milestones: Vec::new(),
            debug_print: DebugPrint::default(),
            guest_checks: config.check_guest.then(Box::default),
        }
    }

    /// Tells who watches the run what has been reached.
    pub(crate) fn milestone(&mut self, text: impl AsRef<str>) {
        let text = escape::line(text.as_ref()).into_owned();
        tracing::info!("{text}");
        if self.milestones.len() < MILESTONES {
            self.milestones.push(text);
        }
    }

    /// A number for a breakpoint that no other breakpoint of this session had.
    pub(crate) fn new_breakpoint(&mut self, address: u64) -> Breakpoint {
        let id = self.next_hook;
        self.next_hook += 1;
        Breakpoint { id, address }
    }

    /// Notes that the session will not come further.
    pub(crate) fn fail(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::warn!("{}", escape::line(&reason));
        self.stage = Stage::Failed(reason);
    }

    pub(crate) fn open_return(&mut self, open: OpenReturn) {
        // Whoever calls from the same frame again has come back from the call before, if on another processor than the
        // one that waits for it: that wait is for nothing, and must not be taken for this call's.
        self.returns.retain(|older| older.frame != open.frame);
        if self.returns.len() >= OPEN_RETURNS {
            self.returns.pop_front();
        }
        self.returns.push_back(open);
    }

    pub(crate) fn close_return(&mut self, cookie: u64) -> Option<OpenReturn> {
        let place = self.returns.iter().rposition(|open| open.cookie == cookie)?;
        self.returns.remove(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_from_the_same_frame_ends_the_wait_for_the_first() {
        let mut state = State::new(&Config::default());
        let open = |cookie, frame| OpenReturn {
            cookie,
            frame,
            routine: Routine::StorPortAcquireSpinLockEx,
            operand: LockOperand::Address(1),
        };
        for (cookie, frame) in [(1, (10, 100)), (2, (10, 200)), (3, (10, 100))] {
            state.open_return(open(cookie, frame));
        }
        assert!(state.close_return(1).is_none(), "its call has come back elsewhere");
        assert!(state.close_return(2).is_some() && state.close_return(3).is_some());
    }
}
