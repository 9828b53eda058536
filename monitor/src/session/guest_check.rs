//! Checks during a run whether the monitor's assumptions about Windows hold in this guest: `storlock run
//! --check-guest`.
//!
//! Each check is one row of the list in `docs/windows.md` that a run can try without help. Talks to the readers of
//! Windows structures. It must not change what the session does: with the check off nothing here is called.

use std::fmt::Write as _;

use super::arm::Evidence;
use super::config::End;
use super::guest::{Guest, ListWitness};
use crate::report::conformance::{AccessCount, CommandCount, Conformance, MsrCount, TablePorts};
use crate::report::{GuestCheck, StepOver};
use crate::vmi::{CpuState, GuestMemory};
use crate::windows::shared_user_data::{has_debugger, interrupt_time};
use crate::windows::{Image, Processor, kernel};

/// Exports of the kernel that the monitor reads or sets breakpoints on, beside the lock routines.
const EXPORTS: [&str; 4] = [
    "ObInsertObject",
    "KiBugCheckData",
    "KeAcquireSpinLockRaiseToDpc",
    "KeReleaseSpinLock",
];
const LOWEST_KERNEL_ADDRESS: u64 = 0xffff_8000_0000_0000;
/// How far the guest's clock may run ahead, in parts of a hundred and in milliseconds beside that. It lags where its
/// processors have to wait for the host's, and stands still while the guest shuts down: by half at most.
const CLOCK_TOLERANCE: (u64, u64) = (5, 500);
/// Modules whose images are held against the list.
const MODULES: usize = 512;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct GuestChecks {
    rows: Vec<GuestCheck>,
    /// Hits of the witness.
    objects: u64,
    /// By processor: whether its control region was as expected, and what it was.
    processors: Vec<(u32, Result<(), String>)>,
    started: Option<u64>,
    ended: Option<u64>,
    /// A kernel debugger was connected to the guest at the end.
    held: bool,
}

fn row(name: &str, result: Result<String, String>) -> GuestCheck {
    let (ok, found) = match result {
        Ok(found) => (true, found),
        Err(found) => (false, found),
    };
    GuestCheck {
        name: name.to_owned(),
        ok,
        found,
    }
}

impl GuestChecks {
    /// An object is being inserted.
    pub(crate) fn object_inserted(&mut self) {
        self.objects += 1;
    }

    /// The driver under test is about to be watched.
    pub(crate) fn check_at_arming(&mut self, guest: &mut Guest, cpu: &impl CpuState, evidence: Evidence) {
        let before = match evidence {
            Evidence::BeforeEntry => Ok("its driver object went through nt!ObInsertObject".to_owned()),
            Evidence::Unknown => Err("its driver object was not seen: it may have run already".to_owned()),
        };
        self.rows.extend([
            row("kernel by two ways", check_kernel(guest, cpu)),
            row("kernel's exports", check_exports(guest)),
            row("module list", check_modules(guest, cpu)),
            row("armed before DriverEntry", before),
        ]);
        self.started = interrupt_time(cpu);
    }

    /// A hit: the first of each processor shows its control region.
    pub(crate) fn check_at_hit(&mut self, cpu: &impl CpuState) {
        let index = cpu.index();
        if self.processors.iter().all(|(seen, _)| *seen != index) {
            let result = check_processor(cpu);
            self.processors.push((index, result));
        }
    }

    /// The machine has stopped for good.
    pub(crate) fn check_at_end(&mut self, memory: &impl GuestMemory) {
        self.ended = self.ended.or_else(|| interrupt_time(memory));
        self.held |= has_debugger(memory);
    }
}

/// What the machine did for the guest; the report lists what it did not. A guest that has ended by itself could do without
/// that.
pub(crate) fn machine_rows(machine: &Conformance, ended_by_itself: bool) -> [GuestCheck; 3] {
    let list = |texts: Vec<String>, good: &str| {
        let Some((first, others)) = texts.split_first() else {
            return Ok(good.to_owned());
        };
        let more = match others.len() {
            0 => String::new(),
            count => format!("; and {count} more kinds"),
        };
        if ended_by_itself {
            Ok(format!("{first}{more}; the guest could do without"))
        } else {
            Err(format!("{first}{more}"))
        }
    };
    let faults = machine.faults().map(MsrCount::text).collect();
    let accesses = machine.strange_accesses().map(AccessCount::text);
    let accesses = accesses
        .chain(machine.table_ports.iter().map(TablePorts::text))
        .collect();
    let commands = machine.commands.iter().map(CommandCount::text).collect();
    [
        row("machine: MSRs", list(faults, "none got #GP")),
        row(
            "machine: ports and memory",
            list(accesses, "all were answered, but for devices that nobody counts on"),
        ),
        row("machine: storage commands", list(commands, "none was refused")),
    ]
}

fn check_kernel(guest: &Guest, cpu: &impl CpuState) -> Result<String, String> {
    let base = guest.kernel_base();
    let special = cpu.special();
    let handler = kernel::page_fault_handler(cpu, special.idt_base, special.idt_limit)
        .ok_or("the interrupt descriptor table names no page fault handler")?;
    match kernel::find_image(cpu, handler) {
        Ok(image) if image.base == base => Ok(format!("{base:#x} by LSTAR and by the page fault handler")),
        Ok(image) => Err(format!(
            "{base:#x} was taken, the page fault handler {handler:#x} is in an image at {:#x}",
            image.base
        )),
        Err(error) => Err(format!(
            "{base:#x} was taken, the page fault handler leads to none: {error}"
        )),
    }
}

fn check_exports(guest: &Guest) -> Result<String, String> {
    guest.kernel().ok_or("there is no kernel")?;
    let missing: Vec<_> = EXPORTS
        .iter()
        .filter(|name| guest.kernel_export(name).is_none())
        .copied()
        .collect();
    if missing.is_empty() {
        Ok(format!("all {} that are needed are there", EXPORTS.len()))
    } else {
        Err(format!("missing: {}", missing.join(", ")))
    }
}

fn check_modules(guest: &mut Guest, memory: &impl GuestMemory) -> Result<String, String> {
    guest.refresh_list(memory).map_err(|error| error.to_string())?;
    let modules = guest.known().ok_or("there is no list")?;
    let kernel = guest.kernel_base();
    if modules.first().map(|module| module.base) != Some(kernel) {
        return Err(format!("its first entry is not the kernel at {kernel:#x}"));
    }
    for module in modules.iter().take(MODULES) {
        let image = Image::read(memory, module.base).map_err(|error| format!("{}: {error}", module.name))?;
        if image.size != module.size {
            return Err(format!(
                "{}: {:#x} bytes by the list, {:#x} by its header",
                module.name, module.size, image.size
            ));
        }
    }
    let mut text = format!(
        "{} entries, each an image of the size that the list tells",
        modules.len()
    );
    if let Some(witness) = guest.list_witness().filter(|&witness| witness != ListWitness::Export) {
        let _ = write!(text, "; its head is not exported and was found by {witness}");
    }
    Ok(text)
}

fn check_processor(cpu: &impl CpuState) -> Result<(), String> {
    let gs = cpu.special().gs_base;
    let found = Processor::read(cpu, gs, gs).map_err(|error| error.to_string())?;
    if found.number != cpu.index() {
        return Err(format!("it calls itself processor {}", found.number));
    }
    if found.thread < LOWEST_KERNEL_ADDRESS || cpu.read_u64(found.thread).is_err() {
        return Err(format!("its current thread {:#x} is no kernel object", found.thread));
    }
    Ok(())
}

/// What the rest of the session and the machine say of a run, for the rows that need it.
pub(crate) struct Seen<'a> {
    /// How breakpoints are stepped over, in words.
    pub(crate) step_over: StepOver,
    pub(crate) processors: u32,
    /// Hits of watched routines.
    pub(crate) hits: u64,
    /// Watched routines by their names, and how often each was hit.
    pub(crate) watched: Vec<(Vec<String>, u64)>,
    /// The guest has crashed.
    pub(crate) bug_checked: bool,
    /// A debugger of the machine was there.
    pub(crate) debugged: bool,
    pub(crate) end: &'a End,
}

impl GuestChecks {
    /// The rows of a run in which the driver under test was watched.
    pub(crate) fn rows(&self, seen: &Seen<'_>) -> Vec<GuestCheck> {
        let mut rows = self.rows.clone();
        rows.push(row("processor control regions", self.processors()));
        rows.push(row("hits", hits(&seen.watched)));
        rows.push(row("stepping over", seen.step_over()));
        rows.push(row("clock", self.clock(seen)));
        rows
    }

    /// The rows of a run in which it was not.
    pub(crate) fn rows_of_waiting(&self) -> Vec<GuestCheck> {
        let mut rows = self.rows.clone();
        let objects = match self.objects {
            0 => Err("nt!ObInsertObject was never reached".to_owned()),
            count => Ok(format!("nt!ObInsertObject was reached {count} times")),
        };
        rows.push(row("driver object witness", objects));
        rows
    }

    fn processors(&self) -> Result<String, String> {
        for (index, result) in &self.processors {
            if let Err(error) = result {
                return Err(format!("vCPU {index}: {error}"));
            }
        }
        match self.processors.len() {
            0 => Err("no processor was seen at a hit".to_owned()),
            count => Ok(format!("Self, Number and CurrentThread are right on {count} vCPUs")),
        }
    }

    fn clock(&self, seen: &Seen<'_>) -> Result<String, String> {
        let host_ms = seen.end.armed_ms;
        let (Some(started), Some(ended)) = (self.started, self.ended) else {
            return Err("the interrupt time of KUSER_SHARED_DATA cannot be read".to_owned());
        };
        let guest_ms = ended.saturating_sub(started) / 10_000;
        let mut text = format!("{guest_ms} ms passed in the guest, {host_ms} ms outside");
        if seen.end.dump_ms > 0 {
            let _ = write!(text, ", {} ms of them for the dump", seen.end.dump_ms);
        }
        // A guest that counts ticks does not see the time of a dump, one that goes by the TSC does.
        let least = host_ms.saturating_sub(seen.end.dump_ms);
        let (parts, fixed) = CLOCK_TOLERANCE;
        let most = (host_ms.saturating_mul(100 + parts) / 100).saturating_add(fixed);
        if seen.bug_checked {
            return Ok(format!("not judged: the guest's clock stops at a bug check; {text}"));
        }
        if self.held || seen.debugged {
            return Ok(format!(
                "not judged: a debugger that was connected may have held the guest; {text}"
            ));
        }
        if guest_ms > most || guest_ms.saturating_mul(2).saturating_add(fixed) < least {
            return Err(text);
        }
        Ok(text)
    }
}

impl Seen<'_> {
    /// By the resume flag there is one debug exit a hit, and one a return that is caught.
    fn step_over(&self) -> Result<String, String> {
        let (how, end) = (self.step_over, self.end);
        let mut text = format!("by {how}; {} hits, {} debug exits", self.hits, end.debug_exits);
        if end.returns > 0 {
            let _ = write!(text, ", {} of them for returns", end.returns);
        }
        // A processor may have been stopped between an exit and its count.
        let expected = end.hits.max(self.hits).saturating_add(end.returns);
        let single = end.debug_exits <= expected.saturating_add(self.processors.into());
        if how == StepOver::ResumeFlag && !single {
            return Err(format!("{text}: more than one exit a hit"));
        }
        Ok(text)
    }
}

fn hits(watched: &[(Vec<String>, u64)]) -> Result<String, String> {
    let never = watched.iter().filter(|(_, hits)| *hits == 0);
    let never: Vec<_> = never.flat_map(|(names, _)| names.iter().map(String::as_str)).collect();
    if watched.iter().all(|(_, hits)| *hits == 0) {
        Err("no watched routine was ever reached".to_owned())
    } else if never.is_empty() {
        Ok("every watched routine was reached".to_owned())
    } else {
        Ok(format!("never reached: {}", never.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::conformance::MsrAnswer;

    #[test]
    fn what_the_machine_did_not_do_fails_only_where_the_guest_did_not_end_by_itself() {
        let msr = |index, answer| MsrCount {
            index,
            write: false,
            answer,
            count: 1,
        };
        let lacking = Conformance {
            msrs: vec![
                msr(1, MsrAnswer::Unknown),
                msr(2, MsrAnswer::Listed),
                msr(3, MsrAnswer::Refused),
            ],
            ..Conformance::default()
        };
        let ok = |machine: &Conformance, ended| machine_rows(machine, ended).map(|row| row.ok);
        assert_eq!(ok(&lacking, false), [false, true, true]);
        assert_eq!(ok(&lacking, true), [true; 3]);
        assert_eq!(ok(&Conformance::default(), false), [true; 3]);
        let [told, ..] = machine_rows(&lacking, true);
        assert!(
            told.found.starts_with("MSR 0x1 read") && told.found.contains("1 more kinds; the guest could do without"),
            "{}",
            told.found
        );
    }
}
