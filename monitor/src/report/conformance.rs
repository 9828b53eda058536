//! What the guest asked of the machine in vain, and what was last seen of the guest: plain data. It shows whether a
//! guest that does not boot failed because of the machine.

use serde::{Deserialize, Serialize};

/// The machine's side of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conformance {
    /// Accesses to model-specific registers that KVM did not perform.
    pub(crate) msrs: Vec<MsrCount>,
    /// Accesses to ports and memory that no device answered.
    pub(crate) accesses: Vec<AccessCount>,
    /// Commands that storage controllers refused, but for those that the fault plan has fail.
    pub commands: Vec<CommandCount>,
    /// Ports that the ACPI tables name and nobody answers.
    pub(crate) table_ports: Vec<TablePorts>,
    /// What came after 256 different kinds of one sort: counted, not listed.
    pub(crate) not_listed: u64,
    /// The last that was seen of the guest.
    pub(crate) screen: Screen,
}

/// Accesses of a kind to a model-specific register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsrCount {
    /// Number of the register.
    pub index: u32,
    /// A write rather than a read.
    pub write: bool,
    /// What the guest got.
    pub answer: MsrAnswer,
    /// How often.
    pub count: u64,
}

/// What a guest got for an access that KVM did not perform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MsrAnswer {
    /// 0, or a write without effect: the register is on the machine's list.
    Listed,
    /// The same, by `--ignore-msrs`.
    Ignored,
    /// #GP: nobody knows the register.
    Unknown,
    /// #GP: KVM knows the register and refused the access.
    Refused,
}

/// Where an access went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Space {
    /// Port I/O.
    Port,
    /// Memory.
    Memory,
}

/// Accesses of a kind that nobody answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccessCount {
    /// Where it went.
    pub space: Space,
    /// First port or guest-physical address.
    pub address: u64,
    /// Length in bytes, 1 to 8.
    pub length: u64,
    /// A write rather than a read.
    pub write: bool,
    /// What a PC may have there and this one has not; such accesses mean no harm.
    pub absent: Option<String>,
    /// How often.
    pub count: u64,
}

/// Ports that the ACPI tables name for one purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TablePorts {
    /// What they are for, such as `PM timer`.
    pub purpose: String,
    /// First port.
    pub address: u64,
    /// How many.
    pub length: u64,
}

/// Commands of a kind that a storage controller refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandCount {
    /// Name of the controller, such as `nvme0`.
    pub controller: String,
    /// The command, such as `set-features, feature 0xd`.
    pub command: String,
    /// Status, as a fault plan writes it.
    pub status: u32,
    /// What it means.
    pub(crate) meaning: String,
    /// How often.
    pub count: u64,
}

/// The last that was seen of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Screen {
    /// The last lines on the first serial port.
    pub serial: Vec<String>,
    /// What was written where a VGA has its text, though there is none; no lines: nothing.
    pub(crate) text_mode: Vec<String>,
    /// The frame buffer that firmware announced, if there is one.
    pub display: Option<Display>,
}

/// A frame buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Display {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub(crate) height: u32,
    /// All of it has one colour.
    pub(crate) blank: bool,
}

impl MsrAnswer {
    /// Whether it was #GP.
    #[must_use]
    pub(crate) fn is_fault(self) -> bool {
        matches!(self, Self::Unknown | Self::Refused)
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

fn way(write: bool) -> &'static str {
    if write { "write" } else { "read" }
}

impl MsrCount {
    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        let answer = match self.answer {
            MsrAnswer::Listed => "0, by the machine's list",
            MsrAnswer::Ignored => "0, by --ignore-msrs",
            MsrAnswer::Unknown => "#GP: unknown",
            MsrAnswer::Refused => "#GP: refused by KVM",
        };
        let (way, times) = (way(self.write), times(self.count));
        format!("MSR {:#x} {way}: {answer}, {times}", self.index)
    }
}

impl AccessCount {
    /// In words.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let space = match self.space {
            Space::Port => "port",
            Space::Memory => "memory",
        };
        let absent = self
            .absent
            .as_ref()
            .map(|what| format!(" ({what})"))
            .unwrap_or_default();
        format!(
            "{space} {:#x}, {} of {} bytes: nobody there{absent}, {}",
            self.address,
            way(self.write),
            self.length,
            times(self.count)
        )
    }
}

impl TablePorts {
    /// In words.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let Self {
            purpose,
            address,
            length,
        } = self;
        format!("{purpose} at {address:#x}, {length} bytes: named by ACPI, nobody there")
    }
}

impl CommandCount {
    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}: {}: {} ({:#x}), {}",
            self.controller,
            self.command,
            self.meaning,
            self.status,
            times(self.count)
        )
    }
}

impl Conformance {
    /// Accesses to MSRs that raised #GP.
    pub fn faults(&self) -> impl Iterator<Item = &MsrCount> {
        self.msrs.iter().filter(|msr| msr.answer.is_fault())
    }

    /// Accesses that nobody answered where no device is known to be looked for in vain.
    pub(crate) fn strange_accesses(&self) -> impl Iterator<Item = &AccessCount> {
        self.accesses.iter().filter(|access| access.absent.is_none())
    }

    /// Whether the machine did all that it was asked for, or that no guest may count on.
    #[must_use]
    pub(crate) fn is_clean(&self) -> bool {
        self.faults().next().is_none()
            && self.strange_accesses().next().is_none()
            && self.commands.is_empty()
            && self.table_ports.is_empty()
            && self.not_listed == 0
    }
}
