//! Values that the command line takes by name: the names, and the help for each.
//!
//! Talks to nothing. The types belong to the modules that use them.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::gdb::OnDisconnect;
use crate::report::Format;
use crate::run::spec::{AfterDeadlock, Hooks, Interrupts, OnViolation};
use crate::stress::planning::Profile;

/// Whether something is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Switch it on
    On,
    /// Switch it off
    Off,
}

/// How anything but a report is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Lets the command line choose a value by its name; `--help` has a line for each.
macro_rules! choice {
    ($type:ty { $($value:ident = $name:literal: $help:literal),+ $(,)? }) => {
        impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$value),+]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self {
                    $(Self::$value => PossibleValue::new($name).help($help)),+
                })
            }
        }
    };
}

choice!(Profile {
    Pr = "pr": "For a change under review: 10 minutes, stops at the first new finding",
    Nightly = "nightly": "For a night: 8 hours, does not stop at findings",
});
choice!(ListFormat {
    Text = "text": "For people",
    Json = "json": "For programs",
});

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.help()))
    }
}

choice!(Interrupts {
    Msix = "msix": "MSI-X, MSI and the INTx pin",
    Msi = "msi": "MSI and the INTx pin",
    Intx = "intx": "The INTx pin only",
});

choice!(OnViolation {
    Stop = "stop": "Stop the machine at the call, even if no debugger is attached",
    Report = "report": "Only report it",
});

choice!(AfterDeadlock {
    End = "end": "End the run there, with its report",
    GoOn = "go-on": "Go on until the time limit: the other processors may break rules, too",
});

choice!(Hooks {
    Imports = "imports": "Hooks in the driver's import table, which write most calls into a ring in guest memory",
});

choice!(OnDisconnect {
    Pause = "pause": "Keep the machine standing still until another debugger attaches",
    Resume = "resume": "Let the machine go on",
});
