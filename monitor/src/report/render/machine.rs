//! Sentences about the machine: what it did not do for its guest, and what was last seen of the guest.

use crate::report::conformance::{AccessCount, CommandCount, Conformance, Display, MsrCount, Screen, TablePorts};

/// Lines of one sort that are shown.
const SHOWN: usize = 16;

/// Whether it was the machine, in a sentence.
#[must_use]
pub(crate) fn verdict(machine: &Conformance) -> String {
    if machine.is_clean() {
        return "did all that the guest asked of it, but for devices that it has not and nobody counts on".to_owned();
    }
    let kinds = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 kind of {what}")),
        count => Some(format!("{count} kinds of {what}")),
    };
    let parts = [
        kinds(machine.faults().count(), "access to MSRs that got #GP"),
        kinds(machine.strange_accesses().count(), "access that nobody answered"),
        kinds(machine.commands.len(), "command that was refused"),
        kinds(machine.table_ports.len(), "port that ACPI names and nobody answers"),
        kinds(
            usize::from(machine.not_listed > 0),
            "request beyond those that are listed",
        ),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!(
        "did not do all that the guest asked of it: {}; if the guest failed, this may be why",
        parts.join(", ")
    )
}

/// What it did not do, each kind a line; more than fit are counted.
#[must_use]
pub(crate) fn details(machine: &Conformance) -> Vec<String> {
    let accesses = |strange: bool| {
        let accesses = machine.accesses.iter();
        accesses.filter(move |access| access.absent.is_none() == strange)
    };
    let mut lines = shortened(machine.faults().map(MsrCount::text));
    lines.extend(shortened(accesses(true).map(AccessCount::text)));
    lines.extend(shortened(machine.commands.iter().map(CommandCount::text)));
    lines.extend(shortened(machine.table_ports.iter().map(TablePorts::text)));
    let answered = machine.msrs.iter().filter(|msr| !msr.answer.is_fault());
    lines.extend(shortened(answered.map(MsrCount::text)));
    lines.extend(shortened(accesses(false).map(AccessCount::text)));
    if machine.not_listed > 0 {
        lines.push(format!(
            "{} more of other kinds, which are not listed",
            machine.not_listed
        ));
    }
    lines
}

fn shortened(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    if let Some(more) = lines.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        lines.truncate(SHOWN);
        lines.push(format!("and {more} more kinds"));
    }
    lines
}

/// The last that was seen of the guest, a heading and its lines each.
#[must_use]
pub(crate) fn screens(screen: &Screen) -> Vec<(String, &[String])> {
    let mut screens = Vec::new();
    let serial = if screen.serial.is_empty() {
        "nothing was written to the serial port"
    } else {
        "the last lines on the serial port:"
    };
    screens.push((serial.to_owned(), &*screen.serial));
    if !screen.text_mode.is_empty() {
        screens.push((
            "text for a VGA, which this machine has not:".to_owned(),
            &*screen.text_mode,
        ));
    }
    if let Some(Display { width, height, blank }) = screen.display {
        let what = if blank {
            "all of one colour"
        } else {
            "something drawn: see --screenshot"
        };
        screens.push((format!("a display of {width} by {height} pixels, {what}"), &[]));
    }
    screens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::conformance::{MsrAnswer, Space};

    fn msr(index: u32, answer: MsrAnswer) -> MsrCount {
        MsrCount {
            index,
            write: false,
            answer,
            count: 2,
        }
    }

    fn access(address: u64, absent: Option<&str>) -> AccessCount {
        AccessCount {
            space: Space::Port,
            address,
            length: 1,
            write: true,
            absent: absent.map(str::to_owned),
            count: 1,
        }
    }

    #[test]
    fn what_nobody_counts_on_does_not_accuse_the_machine() {
        let machine = Conformance {
            msrs: vec![msr(0x88, MsrAnswer::Listed)],
            accesses: vec![access(0x2e, Some("Super I/O chip"))],
            ..Conformance::default()
        };
        assert!(verdict(&machine).starts_with("did all"), "{}", verdict(&machine));
        let expected = [
            "MSR 0x88 read: 0, by the machine's list, 2 times",
            "port 0x2e, write of 1 bytes: nobody there (Super I/O chip), once",
        ];
        assert_eq!(details(&machine), expected);
    }

    #[test]
    fn what_the_machine_did_not_do_is_named_first() {
        let command = CommandCount {
            controller: "nvme0".to_owned(),
            command: "set-features, feature 0xd".to_owned(),
            status: 0x4002,
            meaning: "Invalid Field in Command".to_owned(),
            count: 1,
        };
        let ports = TablePorts {
            purpose: "PM timer".to_owned(),
            address: 0xb008,
            length: 4,
        };
        let machine = Conformance {
            msrs: vec![msr(0x88, MsrAnswer::Listed), msr(0xce, MsrAnswer::Unknown)],
            accesses: vec![access(0x2e, Some("Super I/O chip")), access(0x5f0, None)],
            commands: vec![command],
            table_ports: vec![ports],
            not_listed: 3,
            ..Conformance::default()
        };
        let told = verdict(&machine);
        for part in [
            "MSRs that got #GP",
            "nobody answered",
            "refused",
            "ACPI names",
            "beyond",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let lines = details(&machine);
        assert_eq!(lines[0], "MSR 0xce read: #GP: unknown, 2 times");
        assert_eq!(lines[1], "port 0x5f0, write of 1 bytes: nobody there, once");
        assert_eq!(
            lines[2],
            "nvme0: set-features, feature 0xd: Invalid Field in Command (0x4002), once"
        );
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn many_kinds_are_shortened() {
        let machine = Conformance {
            accesses: (0..256).map(|port| access(0x9000 + port, None)).collect(),
            ..Conformance::default()
        };
        let lines = details(&machine);
        assert_eq!((lines.len(), &*lines[SHOWN]), (SHOWN + 1, "and 240 more kinds"));
    }
}
