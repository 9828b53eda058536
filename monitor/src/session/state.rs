//! What a session remembers between stops, behind its one lock: its parts, each of which owns its fields, and the work
//! on several parts that a stop causes.
//!
//! Talks to its parts. It must not know where stops come from, nor where a recording of them goes.

use std::cmp::Reverse;
use std::sync::Arc;

use storlock_check::checker::{Found, Response, ReturnInterest};
use storlock_check::contract::{Callback, Contract, PortHold, Role};
use storlock_check::event::{CallerAttributed, Context, EventKind, InCallback, LockCall, LockReturn};
use storlock_check::finding::Finding;
use storlock_check::identity::LockIdentity;

use super::arm::{self, AtArming, Evidence};
use super::callbacks::Callbacks;
use super::config::Config;
use super::coverage::Coverage;
use super::debug_print::DebugLog;
use super::decode::{self, Decoded, LockWord};
use super::discovery::Discovery;
use super::exports::ExportDumps;
use super::finish::Ending;
use super::follow::{self, ModuleChanges};
use super::guest::{Guest, ModuleId};
use super::guest_check::GuestChecks;
use super::held;
use super::hooked::{self, Hooks};
use super::ledger::Ledger;
use super::log::Log;
use super::pages::LockPages;
use super::returns;
use super::stops::StopPolicy;
use super::target::Target;
use super::trace::Trace;
use super::unknown::UnknownCaller;
use super::watching::{InForce, Watch, Watching};
use crate::dump::Subject;
use crate::report::{ModuleInfo, Note};
use crate::vmi::recorder::Recorder;
use crate::vmi::{Action, CpuState, GuestMemory, PAGE_SIZE};
use crate::windows::debug_print::Printer;

/// Repetitions of a finding whose callers are asked for, each; and of how many more one is. A driver may break a rule, or be
/// suspected to, as often as it takes locks.
const ASKED: u64 = 1000;
const SAMPLED: u64 = 64;

/// The adapter that a lock of the port driver belongs to.
const fn adapter_of(lock: &LockIdentity) -> Option<u64> {
    match *lock {
        LockIdentity::StorPort { adapter, .. } | LockIdentity::Msi { adapter, .. } => Some(adapter),
        _ => None,
    }
}

/// Whether the callers of a finding are asked for that was seen so often.
const fn is_asked(times: u64) -> bool {
    times <= ASKED || times % SAMPLED == 0
}

/// Everything behind the lock. Each part keeps its own fields; the stops below are where parts meet.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) config: Arc<Config>,
    pub(super) discovery: Discovery,
    pub(super) guest: Guest,
    pub(super) target: Target,
    pub(super) watching: Watching,
    pub(super) hooks: Hooks,
    pub(super) callbacks: Callbacks,
    pub(super) coverage: Coverage,
    pub(super) module_changes: ModuleChanges,
    pub(super) ledger: Ledger,
    pages: LockPages,
    pub(super) stops: StopPolicy,
    pub(super) at_arming: AtArming,
    pub(super) log: Log,
    pub(super) exports: ExportDumps,
    pub(super) debug_log: DebugLog,
    /// Only if asked for.
    pub(super) guest_checks: Option<Box<GuestChecks>>,
    pub(super) ending: Ending,
}

impl State {
    /// Nothing is known of the guest yet.
    pub(super) fn new(config: Arc<Config>, in_force: Arc<InForce>, trace: Option<Arc<Trace>>) -> Self {
        Self {
            discovery: Discovery::default(),
            guest: Guest::new(&config),
            target: Target::default(),
            watching: Watching::new(&config, in_force),
            hooks: Hooks::new(config.import_hooks),
            callbacks: Callbacks::default(),
            coverage: Coverage::default(),
            module_changes: ModuleChanges::default(),
            pages: LockPages::default(),
            ledger: Ledger::new(config.run.seed, &config.rules, trace),
            stops: StopPolicy::new(config.after_deadlock_go_on),
            at_arming: AtArming::default(),
            log: Log::default(),
            exports: ExportDumps::new(&config.exports),
            debug_log: DebugLog::new(config.debug_print),
            guest_checks: config.check_guest.then(Box::default),
            ending: Ending::default(),
            config,
        }
    }

    /// A processor has written LSTAR.
    pub(super) fn lstar_written(&mut self, cpu: &mut Recorder<'_>, value: u64) {
        let parts = (&mut self.guest, &mut self.watching, &mut self.log);
        self.discovery.kernel_appeared(parts, cpu, value);
    }

    /// An object is being inserted: arms if it is the driver object that is waited for.
    pub(super) fn object_inserted(&mut self, cpu: &mut Recorder<'_>) {
        if let Some(checks) = &mut self.guest_checks {
            checks.object_inserted();
        }
        if self.hooks.are_calling() {
            if let Some((module, id)) = hooked::came_back(self, cpu) {
                arm::arm(self, cpu, &module, id, Evidence::BeforeEntry);
            }
            return;
        }
        let parts = (&mut self.guest, &mut self.log);
        let found = self.discovery.object_inserted(parts, cpu, &self.config.target);
        if let Some((module, id, evidence)) = found {
            if evidence == Evidence::BeforeEntry {
                match hooked::begin(self, cpu, (&module, id)) {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(why) => self.hooks.refuse(why),
                }
            }
            arm::arm(self, cpu, &module, id, evidence);
        }
    }

    /// A printing routine was entered.
    pub(super) fn printed(&mut self, cpu: &Recorder<'_>, printer: Printer) {
        self.debug_log.printed(cpu, printer, self.ledger.sequence());
    }

    /// A watched routine was entered. `call` is what was read before the lock was taken, `None` if it is no lock call.
    pub(super) fn entered(
        &mut self,
        cpu: &Recorder<'_>,
        watch: &Watch,
        context: Context,
        call: Option<Decoded>,
    ) -> Action {
        if let Some(checks) = &mut self.guest_checks {
            checks.check_at_hit(cpu);
        }
        if self.concerns_nobody(cpu, &context) {
            self.watching.ignore_after_bug_check();
            return Action::Resume;
        }
        let Some(decoded) = call else {
            if let Some(driver) = self
                .target
                .module()
                .filter(|driver| driver.contains(context.return_address))
            {
                self.callbacks.told(cpu, watch, driver);
            }
            return self.entered_for_something_else(cpu, context);
        };
        let (mut call, row) = if watch.shares_code() {
            self.called_routine(cpu, &watch.rows, decoded)
        } else {
            decoded
        };
        if let Some(word) = decode::lock_word(cpu, row, &call.operand) {
            call.word = Some(word.value);
            let first = self.look_at_page(cpu, &word);
            call.operand = call.operand.moved(first.wrapping_sub(word.address));
        }
        self.called(cpu, call, row)
    }

    /// Notes that the memory of a lock is another than before. The address by which the lock was met first: memory that is
    /// mapped twice has one lock.
    fn look_at_page(&mut self, cpu: &Recorder<'_>, word: &LockWord) -> u64 {
        let Some(physical) = word.physical.filter(|_| self.discovery.is_armed()) else {
            return word.address;
        };
        if let Some(address) = self.pages.seen(word.address, physical) {
            let length = PAGE_SIZE;
            self.ledger.append(EventKind::MemoryFreed { address, length });
        }
        let maps = |address| cpu.read_at(address, &mut [0]).ok().flatten();
        self.pages.first_address(word.address, physical, maps)
    }

    /// A lock routine was entered.
    fn called(&mut self, cpu: &Recorder<'_>, call: LockCall, row: &'static Contract) -> Action {
        let decoded = !cpu.has_missed();
        follow::follow(self, cpu, call.context.return_address);
        if !self.hit(&call.context, Some(row)) {
            return Action::Resume;
        }
        self.watching.sees_low(&call.context);
        // At DISPATCH_LEVEL or above nothing ends by that.
        for returned in returns::since_then(self.ledger.checker(), cpu, &call.context) {
            self.ledger.append(EventKind::LockReturn(returned));
        }
        cpu.set_missed(!decoded);
        if let Some(driver) = self.target.module() {
            if let Some(told) = self.callbacks.port_of(cpu, self.guest.names_mut(), driver, &call) {
                self.ledger.append(EventKind::PortTold(told));
            }
            let making = self.callbacks.making(cpu, self.guest.names_mut(), driver, &call);
            if let Some((told, PortHold::Certainly)) = making {
                self.ledger.append(EventKind::InCallback(told));
            }
        }
        let (response, not_judged) = self.ledger.append_call(call);
        let cookie = self.ledger.sequence();
        if let Some(driver) = self.target.module() {
            let parts = (&mut self.callbacks, self.guest.names_mut());
            let missed = cpu.has_missed();
            cpu.set_missed(false);
            self.coverage
                .called(cpu, parts, driver, (&call, cookie), || !cpu.has_missed());
            cpu.set_missed(missed);
        }
        let own = |driver: &ModuleInfo| driver.contains(call.context.return_address);
        if row.role != Role::Release && self.target.module().is_some_and(own) {
            self.ledger.acquired_now();
        }
        if not_judged {
            self.release_not_judged(cpu, &call, response.found.is_none());
        }
        if self.found(cpu, &call.context, &response) {
            return Action::Stop;
        }
        // A return that would only be useful is not worth a second exit on every call.
        if response.interest != ReturnInterest::Needed || !self.watching.can_catch() {
            return Action::Resume;
        }
        self.watching.catch_return(&call, cookie)
    }

    /// A multiplexed export was entered for something that is no lock call. All that it shows is an IRQL, which is news
    /// once a processor.
    fn entered_for_something_else(&mut self, cpu: &Recorder<'_>, context: Context) -> Action {
        follow::follow(self, cpu, context.return_address);
        if !self.hit(&context, None) || !self.watching.sees_low(&context) {
            return Action::Resume;
        }
        let response = self.ledger.append(EventKind::IrqlSeen {
            processor: context.processor,
            irql: context.irql,
        });
        self.resume_or_stop(cpu, &context, &response)
    }

    /// A lock routine came back, with this value.
    pub(super) fn returned(&mut self, cpu: &Recorder<'_>, context: Context, value: u32, cookie: u64) -> Action {
        if self.concerns_nobody(cpu, &context) {
            return Action::Resume;
        }
        let Some(open) = self.watching.caught(cookie) else {
            return Action::Resume;
        };
        let response = self.ledger.append(EventKind::LockReturn(LockReturn {
            call: cookie,
            routine: open.routine,
            operand: open.operand,
            value,
            context,
        }));
        self.resume_or_stop(cpu, &context, &response)
    }

    /// The emulated hardware has had the fault with that number.
    pub(super) fn fault_injected(&mut self, fault: u64) {
        self.ledger.append(EventKind::FaultInjected { fault });
        self.coverage.fault_injected();
    }

    /// The machine starts again: what was known of the kernel and of locks is void, what was found stays. It has taken the
    /// breakpoints away and intercepts writes of LSTAR again, so that the kernel is found as at the first start.
    pub(super) fn restart(&mut self) {
        let watched = self.discovery.is_armed();
        if watched {
            // Locks that were held are gone with the memory that they were in, and so is every image: other code may
            // be loaded where the driver under test was.
            self.ledger.append(EventKind::Restored);
        }
        let note = Note::Reset { watched };
        self.log.milestone(note.to_string());
        self.log.note_once(note);
        self.discovery.restart();
        self.guest.forget();
        self.target.forget();
        self.watching.restart();
        self.hooks.restart();
        self.callbacks.forget();
        self.pages.forget();
        self.guest_checks = self.config.check_guest.then(Box::default);
    }

    /// A last look at a processor of the stopped machine.
    pub(super) fn last_look(&mut self, cpu: &Recorder<'_>) {
        let armed = self.discovery.is_armed();
        if self.ending.is_first_look() {
            self.ending.read_bug_check(&self.guest, cpu);
            self.exports.read_at_end(&self.guest, cpu);
            if let Some(checks) = &mut self.guest_checks {
                checks.check_at_end(cpu);
            }
            if armed {
                self.target.look_at_end(&mut self.guest, &mut self.log, cpu);
            }
        }
        if armed {
            Ending::look_for_another_kernel(&self.guest, &mut self.log, cpu);
        }
        let (target, checker) = (self.target.module(), self.ledger.checker());
        let frames = self.ending.look(self.guest.names_mut(), checker, cpu);
        if let Some(target) = target.filter(|_| armed) {
            let held = held::still_held(checker, cpu, target, &mut self.callbacks, &frames);
            if held.iter().any(|open| open.left) {
                if let Some(told) = self.callbacks.port_at_end(cpu) {
                    self.ledger.append(EventKind::PortTold(told));
                }
            }
            self.ending.still_held(held);
        }
        if let Some(told) = self.waits_in_callback(cpu) {
            self.ending.waits_in_callback(told);
        }
    }

    /// The callback in which a processor of the stopped machine waits for a lock.
    fn waits_in_callback(&self, cpu: &Recorder<'_>) -> Option<InCallback> {
        let stopped = self.ending.processor(cpu.index())?;
        let event = stopped.waits_for.as_ref()?.acquire.event;
        let base = self.target.module()?.base;
        let callback = self.callbacks.running(cpu, base, &stopped.stack)?;
        let mut open = self.ledger.checker().open_acquires().into_iter();
        let acquire = open.find(|open| open.call.sequence == event)?;
        Some(InCallback {
            callback,
            port: self.callbacks.model(cpu, adapter_of(&acquire.lock)),
            context: acquire.call.context,
        })
    }

    /// Whether what a processor does is of no interest, since the guest has crashed.
    fn concerns_nobody(&mut self, cpu: &Recorder<'_>, context: &Context) -> bool {
        let (guest, armed) = (&self.guest, self.discovery.is_armed());
        self.watching
            .is_after_bug_check(context, || armed && guest.has_bug_checked(cpu))
    }

    /// Counts a hit; false if the breakpoints are not in force, as when arming failed half-way.
    fn hit(&mut self, context: &Context, row: Option<&'static Contract>) -> bool {
        if !self.discovery.is_armed() {
            return false;
        }
        let module = self.guest.modules().find(context.return_address);
        let module = module.map_or(ModuleId::UNKNOWN, |(_, id)| id);
        self.target.called_by_unlisted(&mut self.log, context.return_address);
        let by_target = self.target.id() == Some(module);
        self.ledger.count_hit(module, by_target, row.map(|row| row.routine));
        true
    }

    /// Decides which of several routines that share their code was called: the one that the checker's records and the IRQL suggest,
    /// among equals the first of the table, which is `first`.
    fn called_routine(&self, cpu: &Recorder<'_>, rows: &[&'static Contract], first: Decoded) -> Decoded {
        let fitness = |(call, row): &Decoded| {
            let legal = (row.irql.min..=row.irql.max).contains(&call.context.irql);
            match row.role {
                Role::Release if self.ledger.checker().ends_an_acquire(call) => 3,
                Role::Release => u8::from(legal),
                _ => 1 + u8::from(legal),
            }
        };
        decode::lock_calls(cpu, rows, first.0.context)
            .min_by_key(|call| Reverse(fitness(call)))
            .unwrap_or(first)
    }

    /// The release that the processor is about to enter could not be judged. If the driver under test has made it by a jump
    /// the checker is told that, unless it is asked about a finding of the call anyway.
    fn release_not_judged(&mut self, cpu: &Recorder<'_>, call: &LockCall, tell: bool) {
        let (guest, target) = (&mut self.guest, &self.target);
        let jumped_from = self.ledger.not_judged(call, || {
            let return_address = call.context.return_address;
            let caller = guest.names_mut().caller(cpu, return_address);
            let own = |function: &u64| target.module().is_some_and(|module| module.contains(*function));
            let jumped_from = caller.jumped_from.filter(own);
            let by_target = jumped_from.is_some() || target.is_at(guest.modules(), return_address);
            UnknownCaller {
                place: caller.place,
                by_target,
                jumped_from,
            }
        });
        if let Some(caller) = jumped_from.filter(|_| tell) {
            let call = self.ledger.sequence();
            let told = CallerAttributed {
                call,
                target: true,
                caller,
                ..CallerAttributed::default()
            };
            self.ledger.append(EventKind::CallerAttributed(told));
        }
    }

    fn resume_or_stop(&mut self, cpu: &Recorder<'_>, context: &Context, response: &Response) -> Action {
        if self.found(cpu, context, response) {
            Action::Stop
        } else {
            Action::Resume
        }
    }

    /// Notes what was found; says whether the machine is to stop for it.
    fn found(&mut self, cpu: &Recorder<'_>, context: &Context, response: &Response) -> bool {
        if response.found.is_none() {
            return false;
        }
        let finding = |found: &Found| found.index.and_then(|index| self.ledger.finding(index));
        let of_call = |found: &Found| finding(found).is_some_and(Finding::stands_at_call);
        let (of_call, mut found): (Vec<Found>, Vec<Found>) = response.findings().copied().partition(of_call);
        let times = |found: &Found| finding(found).map_or(0, |finding| finding.count);
        if of_call.iter().any(|found| found.first || is_asked(times(found))) {
            // A wrapper may hide who called it: which of the call's findings are new is known once its callers are.
            let (call, names) = (self.ledger.sequence(), self.guest.names_mut());
            let told = names.attribute_call(cpu, call, context.return_address, self.target.module());
            let known = self.ledger.append(EventKind::CallerAttributed(told));
            found.extend(known.findings());
        }
        let event = self.ledger.sequence();
        for index in found.iter().filter_map(|found| found.index) {
            self.hooks.found(index, event);
        }
        let mut stops = false;
        for found in found.iter().filter(|found| found.first) {
            if let Some(index) = found.index {
                stops |= self.found_new(cpu, index);
            }
        }
        stops
    }

    /// Notes where a new finding came from; says whether the machine is to stop for it.
    fn found_new(&mut self, cpu: &Recorder<'_>, index: usize) -> bool {
        let Some(finding) = self.ledger.finding(index) else {
            return false;
        };
        let mut attribution = self.guest.names_mut().attribution(cpu, finding);
        let base = self.target.module().map(|module| module.base);
        let callback = base.and_then(|base| self.callbacks.running(cpu, base, &attribution.stack));
        attribution.callback = callback.map(Callback::name);
        self.ledger.attribute(index, attribution);
        let Some(finding) = self.ledger.finding(index) else {
            return false;
        };
        let subject = || {
            let kernel = self.guest.kernel()?;
            Some(Subject::new(finding, &self.ledger.caller(index), kernel))
        };
        let stops = self.stops.stops_at(cpu.index(), index, finding, subject);
        if stops {
            self.ledger.forget_ages();
        }
        stops
    }
}
