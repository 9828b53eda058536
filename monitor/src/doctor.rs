//! What this machine can do for a run, what it cannot, and what to do about it.
//!
//! Asks the VMM's probes. It must not know guests, nor how the answers are shown.

use std::path::Path;

use serde::Serialize;
use storlock_vmm::debug::StepOver;
pub(crate) use storlock_vmm::kvm::DEFAULT_DEVICE;
use storlock_vmm::kvm::{self, Capabilities, Flavour};
use storlock_vmm::run::{StepOverResult, probe_step_over};
use storlock_vmm::sandbox::{FileLimit, Sandbox, SandboxError};

use crate::threads;

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// As it should be.
    Good,
    /// Runs work, with a restriction.
    Limited,
    /// No run is possible.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) subject: &'static str,
    pub(crate) status: Status,
    pub(crate) detail: String,
    /// What to do about it; empty if there is nothing to do.
    pub(crate) advice: String,
}

/// What a machine can do for a run.
#[derive(Debug, Serialize)]
pub(crate) struct Diagnosis {
    /// Whether runs are possible at all.
    pub(crate) usable: bool,
    #[serde(rename = "findings")]
    pub(crate) checks: Vec<Check>,
}

impl Diagnosis {
    /// Examines this machine, with the KVM device at that path.
    pub(crate) fn of(device: &Path) -> Self {
        let checks = examine(device);
        Self {
            usable: checks.iter().all(|check| check.status != Status::Missing),
            checks,
        }
    }
}

const LAB: &str =
    "on a machine without it, `scripts/lab/run -- COMMAND` runs any command with a KVM of its own, slowly";

fn examine(device: &Path) -> Vec<Check> {
    let kvm = match kvm::open(device) {
        Ok(kvm) => kvm,
        Err(error) => return vec![check("KVM", Status::Missing, error.to_string(), LAB)],
    };
    let capabilities = Capabilities::of(&kvm);
    let mut checks = vec![check(
        "KVM",
        Status::Good,
        format!("{} can be used", device.display()),
        "",
    )];
    checks.extend(assess(&capabilities));
    match probe_step_over(&kvm) {
        Ok(results) => checks.extend(assess_step_over(&results)),
        Err(error) => checks.push(check(
            "stepping over a breakpoint",
            Status::Missing,
            error.to_string(),
            LAB,
        )),
    }
    checks.extend(limits(&capabilities));
    checks.push(assess_sandbox(Sandbox::probe(&threads::all())));
    checks
}

/// What stands between a guest that has taken over this program and the host.
fn assess_sandbox(probed: Result<FileLimit, SandboxError>) -> Check {
    const SUBJECT: &str = "sandbox of a run";
    match probed {
        Ok(limit @ FileLimit::Full) => check(
            SUBJECT,
            Status::Good,
            format!("system calls are filtered (seccomp); {limit}"),
            "",
        ),
        Ok(limit) => check(
            SUBJECT,
            Status::Limited,
            format!("system calls are filtered (seccomp); {limit}"),
            "a newer kernel, or one booted with `landlock` among its security modules, limits more: docs/security.md",
        ),
        Err(error) => check(
            SUBJECT,
            Status::Limited,
            error.to_string(),
            "`storlock run --no-sandbox` works, if the guest is trusted",
        ),
    }
}

fn check(subject: &'static str, status: Status, detail: impl Into<String>, advice: &str) -> Check {
    Check {
        subject,
        status,
        detail: detail.into(),
        advice: advice.into(),
    }
}

/// A capability that is there or not.
fn capability(subject: &'static str, there: bool, otherwise: Status, purpose: &str, advice: &str) -> Check {
    if there {
        check(subject, Status::Good, format!("there: {purpose}"), "")
    } else {
        check(subject, otherwise, format!("not there: {purpose}"), advice)
    }
}

/// What to do where only a newer kernel helps.
const NEWER_KERNEL: &str = "use a newer Linux kernel on the host";

/// What the capabilities mean for a run.
fn assess(capabilities: &Capabilities) -> Vec<Check> {
    let mut checks = vec![virtualization(capabilities.flavour)];
    checks.extend(needed(capabilities));
    checks.extend(helpful(capabilities));
    checks
}

fn virtualization(flavour: Flavour) -> Check {
    const SUBJECT: &str = "virtualization";
    match flavour {
        Flavour::Other => check(
            SUBJECT,
            Status::Limited,
            format!("{flavour}: guests run slowly and some instructions do not run at all"),
            "the test guest that comes with the project runs here; for firmware, Windows and drivers that use SSE take a \
             machine with VMX or SVM enabled in its firmware, or scripts/lab/run",
        ),
        flavour => check(SUBJECT, Status::Good, flavour.to_string(), ""),
    }
}

/// Capabilities without which there is no run.
fn needed(capabilities: &Capabilities) -> [Check; 3] {
    let eventfds = capabilities.irqchip && capabilities.irqfd && capabilities.ioeventfd;
    [
        (
            "interrupt controllers",
            capabilities.irqchip,
            "the guest's APICs are KVM's",
            NEWER_KERNEL,
        ),
        (
            "eventfds",
            eventfds,
            "devices interrupt and are notified through them",
            NEWER_KERNEL,
        ),
        (
            "MSR filter",
            capabilities.msr_filter,
            "the kernel is found by its first write to LSTAR",
            "use Linux 5.10 or newer on the host",
        ),
    ]
    .map(|(subject, there, purpose, advice)| capability(subject, there, Status::Missing, purpose, advice))
}

/// Capabilities that a run can do without.
fn helpful(capabilities: &Capabilities) -> [Check; 5] {
    [
        (
            "unknown MSRs",
            capabilities.unknown_msrs,
            "the machine answers MSRs that KVM does not know, and the report lists them",
            "KVM raises #GP for them and the report cannot list them; use Linux 5.10 or newer on the host if a guest does \
             not boot",
        ),
        (
            "registers with each exit",
            capabilities.sync_registers,
            "a breakpoint then costs no further system call",
            "runs work, but each breakpoint costs two more system calls; a newer Linux kernel on the host helps",
        ),
        (
            "single step without interrupts",
            capabilities.block_interrupts,
            "keeps an interrupt from being taken for the stepped instruction, if single steps are used",
            "matters only where single step is the method below; use Linux 5.13 or newer on the host",
        ),
        (
            "PIT",
            capabilities.pit,
            "some guests calibrate their clocks by it",
            NEWER_KERNEL,
        ),
        (
            "TSC deadline timer",
            capabilities.tsc_deadline,
            "some guests prefer it",
            NEWER_KERNEL,
        ),
    ]
    .map(|(subject, there, purpose, advice)| capability(subject, there, Status::Limited, purpose, advice))
}

/// Which way of stepping over a breakpoint will be used, and why not a better one.
fn assess_step_over(results: &[StepOverResult]) -> Vec<Check> {
    let subject = "stepping over a breakpoint";
    let mut checks = Vec::new();
    let chosen = results.iter().find(|result| result.outcome.is_ok());
    checks.push(match chosen {
        None => check(subject, Status::Missing, "no method works", LAB),
        Some(result) => {
            let (status, cost, advice) = match result.method {
                StepOver::ResumeFlag => (Status::Good, "one entry into the guest a hit, no other system call", ""),
                StepOver::EmulateFirst => (
                    Status::Good,
                    "one entry into the guest a hit, no other system call, where the first instruction is a known one",
                    "",
                ),
                StepOver::SingleStep => (
                    Status::Limited,
                    "two entries into the guest and two more system calls a hit",
                    "expect about three times the cost a hit; hardware virtualization avoids it",
                ),
            };
            check(subject, status, format!("by {}: {cost}", result.method), advice)
        }
    });
    for result in results.iter().take_while(|result| result.outcome.is_err()) {
        if let (Err(reason), Some(_)) = (&result.outcome, chosen) {
            checks.push(check(
                "a better way to step over",
                Status::Limited,
                format!("{} does not work here: {reason}", result.method),
                "nothing to do: runs use the other method",
            ));
        }
    }
    checks
}

/// Limits that are the same on every machine, or a number.
fn limits(capabilities: &Capabilities) -> Vec<Check> {
    let host = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
    let cpus = check(
        "processors",
        Status::Good,
        format!(
            "a guest may have {} (recommended up to {}), this host has {host}",
            capabilities.maximum_cpus.min(64),
            capabilities.recommended_cpus.min(64)
        ),
        "with more than the host has, contended locks spin for whole time slices",
    );
    let registers = check(
        "debug registers",
        Status::Good,
        "4: at most four lock exports are watched at once, and the guest's own debugger cannot use them meanwhile",
        "`storlock symbols DRIVER` shows which a driver needs and what is left out",
    );
    vec![cpus, registers]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Capabilities = Capabilities {
        flavour: Flavour::Amd,
        sync_registers: true,
        msr_filter: true,
        unknown_msrs: true,
        guest_debug_flags: u32::MAX,
        block_interrupts: true,
        irqchip: true,
        pit: true,
        irqfd: true,
        ioeventfd: true,
        tsc_deadline: true,
        recommended_cpus: 8,
        maximum_cpus: 1024,
    };

    fn worst(checks: &[Check]) -> Status {
        checks.iter().map(|check| check.status).max().unwrap()
    }

    fn step(method: StepOver, works: bool) -> StepOverResult {
        StepOverResult {
            method,
            outcome: if works {
                Ok(())
            } else {
                Err("it did not move on".into())
            },
        }
    }

    #[test]
    fn what_a_run_cannot_do_without_is_missing_and_the_rest_a_limit() {
        assert_eq!(worst(&assess(&FULL)), Status::Good);
        for missing in [
            Capabilities {
                msr_filter: false,
                unknown_msrs: false,
                ..FULL
            },
            Capabilities { irqchip: false, ..FULL },
            Capabilities { irqfd: false, ..FULL },
            Capabilities {
                ioeventfd: false,
                ..FULL
            },
        ] {
            assert_eq!(worst(&assess(&missing)), Status::Missing, "{missing:?}");
        }
        for limited in [
            Capabilities {
                sync_registers: false,
                ..FULL
            },
            Capabilities {
                block_interrupts: false,
                ..FULL
            },
            Capabilities { pit: false, ..FULL },
            Capabilities {
                flavour: Flavour::Other,
                ..FULL
            },
        ] {
            assert_eq!(worst(&assess(&limited)), Status::Limited, "{limited:?}");
        }
    }

    #[test]
    fn every_gap_comes_with_advice() {
        let nothing = Capabilities {
            flavour: Flavour::Other,
            sync_registers: false,
            msr_filter: false,
            unknown_msrs: false,
            block_interrupts: false,
            irqchip: false,
            pit: false,
            irqfd: false,
            ioeventfd: false,
            tsc_deadline: false,
            ..FULL
        };
        for check in assess(&nothing) {
            assert!(check.status != Status::Good && !check.advice.is_empty(), "{check:?}");
        }
    }

    #[test]
    fn the_first_method_that_works_is_told_and_why_better_ones_do_not() {
        let results = [
            step(StepOver::ResumeFlag, false),
            step(StepOver::EmulateFirst, true),
            step(StepOver::SingleStep, true),
        ];
        let checks = assess_step_over(&results);
        assert_eq!(checks.len(), 2);
        assert!(checks[0].detail.contains("emulation"), "{checks:?}");
        assert!(
            checks[1]
                .detail
                .contains("resume flag does not work here: it did not move on"),
            "{checks:?}"
        );
        assert_eq!(
            worst(&assess_step_over(&[step(StepOver::ResumeFlag, true)])),
            Status::Good
        );
        assert_eq!(
            worst(&assess_step_over(&[step(StepOver::SingleStep, false)])),
            Status::Missing
        );
    }
}
