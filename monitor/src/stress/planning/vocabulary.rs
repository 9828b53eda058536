//! The words of fault plans: the kinds of faults of a controller, and what each can be about.
//!
//! Asks the controllers' vocabularies, and the parser of `--fault`, which decides whether a fault made of these words
//! is valid. It must not know how plans choose.

use storlock_vmm::storage::ControllerKind;

use crate::run::spec::PlannedFault;

/// Kinds that a plan leaves out unless it names them: a medium that becomes read-only stays so, and loses data whatever
/// the driver does.
const NOT_BY_DEFAULT: [&str; 1] = ["read-only"];
/// What a plan's faults are about without being told: what a Storport workload sends, as far as the controller has it.
const DEFAULT_COMMANDS: [&str; 6] = [
    "read",
    "write",
    "flush",
    "dataset-management",
    "unmap",
    "synchronize-cache",
];
/// How much later a delayed completion comes: within an interrupt's time, within a request's, and long.
pub(crate) const DEFAULT_DELAYS: [&str; 3] = ["2ms", "50ms", "1s"];

/// What some kinds of faults need beside the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Status of a failed command.
    Status(u64),
    /// How much later a completion comes.
    Time(String),
}

/// Names of all kinds of faults of a controller, each once.
#[must_use]
pub(crate) fn kinds(controller: &ControllerKind) -> Vec<&'static str> {
    let mut names = Vec::new();
    for word in controller.faults.kinds {
        if !names.contains(&word.name) {
            names.push(word.name);
        }
    }
    names
}

/// Kinds that a plan has without being told.
#[must_use]
pub(crate) fn default_kinds(controller: &ControllerKind) -> Vec<&'static str> {
    let mut names = kinds(controller);
    names.retain(|name| !NOT_BY_DEFAULT.contains(name));
    names
}

/// Commands that a plan's faults are about without being told.
#[must_use]
pub(crate) fn default_commands(controller: &ControllerKind) -> Vec<&'static str> {
    let classes = controller.faults.classes.iter();
    let all: Vec<&str> = classes
        .flat_map(|class| class.commands.iter().map(|(name, _)| *name))
        .collect();
    let usual: Vec<&str> = DEFAULT_COMMANDS.into_iter().filter(|name| all.contains(name)).collect();
    if usual.is_empty() { all } else { usual }
}

/// Statuses of failed commands without being told.
#[must_use]
pub(crate) fn default_statuses(controller: &ControllerKind) -> Vec<u64> {
    controller
        .faults
        .usual_statuses
        .iter()
        .copied()
        .map(u64::from)
        .collect()
}

/// Whether a fault of this kind can be about this command or register.
#[must_use]
pub(crate) fn fits(kind: &str, what: &str, controller: &ControllerKind) -> bool {
    let value = match kind {
        "fail" => Some(Value::Status(u64::from(controller.faults.default_status))),
        "delay" => Some(Value::Time("1s".to_owned())),
        _ => None,
    };
    check(&fault(kind, what, 0, 1, value.as_ref()), controller).is_ok()
}

/// Whether the command line takes the fault, and the controller knows it.
///
/// # Errors
/// Why not.
pub(crate) fn check(fault: &str, controller: &ControllerKind) -> Result<(), String> {
    let parsed = fault
        .parse::<PlannedFault>()
        .map_err(|reason| format!("fault `{fault}`: {reason}"))?;
    parsed.resolve(&controller.faults).map(drop)
}

/// A fault as `--fault` takes it; `value` is the status of `fail` or the time of `delay`.
#[must_use]
pub(crate) fn fault(kind: &str, what: &str, after: u64, count: u64, value: Option<&Value>) -> String {
    let count = if count == 1 {
        String::new()
    } else {
        format!(",count={count}")
    };
    let value = match value {
        Some(Value::Status(status)) => format!(",status={status:#x}"),
        Some(Value::Time(time)) => format!(",for={time}"),
        None => String::new(),
    };
    format!("{kind}:{what},after={after}{count}{value}")
}

#[cfg(test)]
mod tests {
    use storlock_vmm::storage::CONTROLLERS;

    use super::*;

    #[test]
    fn what_plans_have_by_default_every_controller_knows() {
        for &controller in CONTROLLERS {
            let (kinds, commands) = (default_kinds(controller), default_commands(controller));
            assert!(!kinds.is_empty() && !commands.is_empty(), "{}", controller.name);
            for kind in &kinds {
                assert!(commands.iter().any(|what| fits(kind, what, controller)), "{kind}");
            }
            for status in default_statuses(controller) {
                let text = fault("fail", "any", 0, 1, Some(&Value::Status(status)));
                assert_eq!(check(&text, controller), Ok(()));
            }
            for time in DEFAULT_DELAYS {
                let text = fault("delay", "any", 3, 2, Some(&Value::Time(time.to_owned())));
                assert_eq!(check(&text, controller), Ok(()));
            }
        }
    }

    #[test]
    fn register_writes_have_kinds_of_their_own() {
        let nvme = ControllerKind::named("nvme").unwrap();
        assert!(fits("drop", "cc", nvme) && fits("drop", "read", nvme) && fits("fail", "read", nvme));
        assert!(!fits("fail", "cc", nvme) && !fits("explode", "read", nvme) && !fits("drop", "reed", nvme));
    }
}
