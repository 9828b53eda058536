//! Asks a machine at its end what it did not do for its guest, and takes a last look at the guest's output.
//!
//! Talks to the machine. It must not know what the guest is.

use storlock_vmm::devices::absent::{absent_at_address, absent_at_port};
use storlock_vmm::devices::ramfb::{Picture, RamFb};
use storlock_vmm::devices::text_screen::text_screen;
use storlock_vmm::run::{RunningMachine, Unserved};

use super::serial::SerialLog;
use crate::report::conformance::{
    AccessCount, CommandCount, Conformance, Display, MsrAnswer, MsrCount, Screen, Space, TablePorts,
};

/// What the machine did not do so far, and the guest's last output. The machine stands still.
pub(super) fn look(
    running: &RunningMachine,
    serial: &SerialLog,
    display: Option<&RamFb>,
) -> (Conformance, Option<Picture>) {
    let picture = display.and_then(RamFb::picture);
    let unserved = running.handle().unserved();
    let conformance = Conformance {
        msrs: msrs(&unserved),
        accesses: accesses(&unserved),
        not_listed: unserved.msrs.others + unserved.ports.others + unserved.memory.others + unserved.other_commands,
        table_ports: table_ports(&unserved),
        commands: commands(unserved),
        screen: Screen {
            serial: serial.last_lines(),
            text_mode: text_screen(running.ram()),
            display: picture.as_ref().map(describe),
        },
    };
    (conformance, picture)
}

fn msrs(unserved: &Unserved) -> Vec<MsrCount> {
    use storlock_vmm::msr::MsrAnswer as Answer;
    let counts = unserved.msrs.kinds.iter();
    let counts = counts.map(|(access, &count)| MsrCount {
        index: access.index,
        write: access.write,
        answer: match access.answer {
            Answer::Listed => MsrAnswer::Listed,
            Answer::Ignored => MsrAnswer::Ignored,
            Answer::Unknown => MsrAnswer::Unknown,
            Answer::Refused => MsrAnswer::Refused,
        },
        count,
    });
    counts.collect()
}

fn accesses(unserved: &Unserved) -> Vec<AccessCount> {
    let spaces = [
        (Space::Port, &unserved.ports, absent_at_port as fn(u64) -> _),
        (Space::Memory, &unserved.memory, absent_at_address),
    ];
    let counts = spaces.into_iter().flat_map(|(space, places, absent)| {
        places.kinds.iter().map(move |(place, &count)| AccessCount {
            space,
            address: place.address,
            length: place.length as u64,
            write: place.write,
            absent: absent(place.address).map(str::to_owned),
            count,
        })
    });
    counts.collect()
}

fn table_ports(unserved: &Unserved) -> Vec<TablePorts> {
    let ports = unserved.table_ports.iter();
    let ports = ports.map(|ports| TablePorts {
        purpose: ports.purpose.to_owned(),
        address: ports.first.into(),
        length: ports.length.into(),
    });
    ports.collect()
}

fn commands(unserved: Unserved) -> Vec<CommandCount> {
    let refused = unserved.commands.into_iter();
    let refused = refused.map(|refused| CommandCount {
        controller: refused.controller,
        command: refused.command,
        status: refused.status,
        meaning: refused.meaning,
        count: refused.count,
    });
    refused.collect()
}

fn describe(picture: &Picture) -> Display {
    let mut pixels = picture.rgb.chunks_exact(3);
    let first = pixels.next();
    Display {
        width: picture.width,
        height: picture.height,
        blank: pixels.all(|pixel| Some(pixel) == first),
    }
}
