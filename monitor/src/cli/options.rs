//! Values on the command line that are one of several names.
//!
//! Talks to nothing. The types belong to the modules that use them; here are only the names and what `--help` says of
//! each.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::gdb::OnDisconnect;
use crate::report::Format;
use crate::run::spec::{AfterDeadlock, Interrupts, OnViolation};
use crate::stress::planning::Profile;

/// Whether something is to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// It is
    On,
    /// It is not
    Off,
}

/// How what is no report is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Lets the command line choose one of some values by name; each with what `--help` says of it.
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
    Pr = "pr": "A change that waits to be reviewed: 10 minutes, stops at the first new finding",
    Nightly = "nightly": "A night: 8 hours, goes on",
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
    Stop = "stop": "The machine stops at the call, also while no debugger is attached",
    Report = "report": "It is only reported",
});

choice!(AfterDeadlock {
    End = "end": "The run ends there, with its report",
    GoOn = "go-on": "The run goes on, to its time limit at most: the other processors may break rules, too",
});

choice!(OnDisconnect {
    Pause = "pause": "The machine stands still until another debugger attaches",
    Resume = "resume": "The machine goes on",
});
