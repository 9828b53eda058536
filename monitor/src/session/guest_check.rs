//! What a run shows of whether the monitor's assumptions about Windows hold in this guest: `storlock run --check-guest`.
//!
//! Each check is one row of `docs/windows.md`'s list that a run can try by itself. Talks to the readers of Windows
//! structures. It must not change what the session does: with the check off nothing here is called.

use super::arm::Evidence;
use super::config::End;
use super::state::{Stage, State};
use super::{Session, Watch};
use crate::report::GuestCheck;
use crate::vmi::{CpuState, GuestMemory};
use crate::windows::{Image, Processor, kernel};

/// Exports of the kernel that the monitor reads or sets breakpoints on, beside the lock routines.
const EXPORTS: [&str; 5] = [
    "ObInsertObject",
    "PsLoadedModuleList",
    "KiBugCheckData",
    "KeAcquireSpinLockRaiseToDpc",
    "KeReleaseSpinLock",
];
/// `KUSER_SHARED_DATA.InterruptTime`: a count of 100 ns, its low and high half, and the high half again.
const INTERRUPT_TIME: u64 = 0xffff_f780_0000_0008;
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
    pub(crate) objects: u64,
    /// By processor: whether its control region was as expected, and what it was.
    processors: Vec<(u32, Result<(), String>)>,
    started: Option<u64>,
    ended: Option<u64>,
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

impl State {
    /// The driver under test is about to be watched.
    pub(crate) fn check_at_arming(&mut self, cpu: &impl CpuState, evidence: Evidence) {
        if self.guest_checks.is_none() {
            return;
        }
        let before = match evidence {
            Evidence::BeforeEntry => Ok("its driver object went through nt!ObInsertObject".to_owned()),
            Evidence::Unknown => Err("its driver object was not seen: it may have run already".to_owned()),
        };
        let rows = [
            row("kernel by two ways", self.check_kernel(cpu)),
            row("kernel's exports", self.check_exports()),
            row("module list", self.check_modules(cpu)),
            row("armed before DriverEntry", before),
        ];
        let time = interrupt_time(cpu);
        if let Some(checks) = &mut self.guest_checks {
            checks.rows.extend(rows);
            checks.started = time;
        }
    }

    /// A hit: the first of each processor shows its control region.
    pub(crate) fn check_at_hit(&mut self, cpu: &impl CpuState) {
        let Some(checks) = &mut self.guest_checks else { return };
        let index = cpu.index();
        if checks.processors.iter().all(|(seen, _)| *seen != index) {
            let result = check_processor(cpu);
            checks.processors.push((index, result));
        }
    }

    /// The machine has stopped for good.
    pub(crate) fn check_at_end(&mut self, memory: &impl GuestMemory) {
        if let Some(checks) = &mut self.guest_checks {
            checks.ended = checks.ended.or_else(|| interrupt_time(memory));
        }
    }

    fn check_kernel(&self, cpu: &impl CpuState) -> Result<String, String> {
        let base = self.kernel.as_ref().map_or(0, |kernel| kernel.image.base);
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

    fn check_exports(&self) -> Result<String, String> {
        let kernel = self.kernel.as_ref().ok_or("there is no kernel")?;
        let missing: Vec<_> = EXPORTS
            .iter()
            .filter(|name| kernel.address_of(name).is_none())
            .copied()
            .collect();
        if missing.is_empty() {
            Ok(format!("all {} that are needed are there", EXPORTS.len()))
        } else {
            Err(format!("missing: {}", missing.join(", ")))
        }
    }

    fn check_modules(&mut self, memory: &impl GuestMemory) -> Result<String, String> {
        let list = self.list.as_mut().ok_or("there is no list")?;
        list.refresh(memory).map_err(|error| error.to_string())?;
        let modules = list.known();
        let kernel = self.kernel.as_ref().map_or(0, |kernel| kernel.image.base);
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
        Ok(format!(
            "{} entries, each an image of the size that the list tells",
            modules.len()
        ))
    }
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

fn interrupt_time(memory: &impl GuestMemory) -> Option<u64> {
    let low = memory.read_u32(INTERRUPT_TIME).ok()?;
    let high = memory.read_u32(INTERRUPT_TIME + 4).ok()?;
    Some(u64::from(high) << 32 | u64::from(low))
}

impl Session {
    /// The rows of the check; none if it was not asked for.
    pub(crate) fn guest_checks(&self, state: &State, end: &End) -> Vec<GuestCheck> {
        let Some(checks) = &state.guest_checks else {
            return Vec::new();
        };
        let mut rows = checks.rows.clone();
        if !matches!(state.stage, Stage::Armed) {
            let objects = match checks.objects {
                0 => Err("nt!ObInsertObject was never reached".to_owned()),
                count => Ok(format!("nt!ObInsertObject was reached {count} times")),
            };
            rows.push(row("driver object witness", objects));
            return rows;
        }
        rows.push(row("processor control regions", checks.processors()));
        rows.push(row("hits", hits(&self.watches.load())));
        rows.push(row("stepping over", self.step_over(state, end)));
        rows.push(row("clock", checks.clock(end.armed_ms)));
        rows
    }

    /// By the resume flag there is one debug exit a hit.
    fn step_over(&self, state: &State, end: &End) -> Result<String, String> {
        let how = &self.config.step_over;
        let text = format!("by {how}; {} hits, {} debug exits", state.hits, end.debug_exits);
        let single = end.debug_exits <= end.hits.max(state.hits).saturating_add(self.config.processors.into());
        if how.contains("resume") && !single {
            return Err(format!("{text}: more than one exit a hit"));
        }
        Ok(text)
    }
}

fn hits(watches: &[Watch]) -> Result<String, String> {
    use std::sync::atomic::Ordering;
    let never: Vec<_> = watches
        .iter()
        .filter(|watch| watch.hits.load(Ordering::Relaxed) == 0)
        .flat_map(|watch| watch.names.iter().map(String::as_str))
        .collect();
    if watches.iter().all(|watch| watch.hits.load(Ordering::Relaxed) == 0) {
        Err("no watched routine was ever reached".to_owned())
    } else if never.is_empty() {
        Ok("every watched routine was reached".to_owned())
    } else {
        Ok(format!("never reached: {}", never.join(", ")))
    }
}

impl GuestChecks {
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

    fn clock(&self, host_ms: u64) -> Result<String, String> {
        let (Some(started), Some(ended)) = (self.started, self.ended) else {
            return Err("the interrupt time of KUSER_SHARED_DATA cannot be read".to_owned());
        };
        let guest_ms = ended.saturating_sub(started) / 10_000;
        let text = format!("{guest_ms} ms passed in the guest, {host_ms} ms outside");
        let (parts, fixed) = CLOCK_TOLERANCE;
        let most = (host_ms.saturating_mul(100 + parts) / 100).saturating_add(fixed);
        if guest_ms > most || guest_ms.saturating_mul(2).saturating_add(fixed) < host_ms {
            return Err(text);
        }
        Ok(text)
    }
}
