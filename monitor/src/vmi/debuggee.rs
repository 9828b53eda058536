//! A machine under a debugger: all registers of its processors, stops, steps, and the guest's memory, for writing too.
//!
//! A backend implements these traits; the gdb server uses them. Stop points, resume actions and floating point
//! registers are plain data of the machine's crate. It must not know a debugger's protocol.

use std::time::Duration;

pub use storlock_vmm::debug::{ResumeAction, StopPoint, StopPointKind};
pub use storlock_vmm::registers::FloatingPoint;

use super::{CpuState, ReadError, Registers};

/// All registers of a stopped processor that a debugger shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the processor's.
pub struct AllRegisters {
    pub(crate) general: Registers,
    /// CS, SS, DS, ES, FS, GS.
    pub(crate) selectors: [u16; 6],
    pub(crate) fs_base: u64,
    pub gs_base: u64,
    /// What SWAPGS would put into the base of GS.
    pub(crate) kernel_gs_base: u64,
    pub cr0: u64,
    pub(crate) cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub(crate) floating: FloatingPoint,
}

/// Registers cannot be read or changed; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegisterError(pub String);

/// Where a guest virtual address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a bit of the tables.
pub struct Page {
    /// Guest physical address.
    pub physical: u64,
    /// Size of the page in bytes.
    pub size: u64,
    /// It can be written.
    pub writable: bool,
    /// User mode can reach it.
    pub user: bool,
    /// Code there can be executed.
    pub executable: bool,
}

/// A processor of a stopped machine.
pub trait DebuggedCpu: CpuState {
    /// The same processor, for who only reads it.
    fn as_cpu_state(&self) -> &dyn CpuState;

    /// All its registers.
    ///
    /// # Errors
    /// [`RegisterError`] if the machine does not give them.
    fn all(&self) -> Result<AllRegisters, RegisterError>;

    /// Changes its registers.
    ///
    /// # Errors
    /// [`RegisterError`] if the processor cannot have this state; some of it may have been taken.
    fn set_all(&mut self, registers: &AllRegisters) -> Result<(), RegisterError>;

    /// Writes guest memory, read-only pages too.
    ///
    /// # Errors
    /// [`ReadError`] with the first address that is not mapped to memory; nothing is written then.
    fn write(&mut self, gva: u64, data: &[u8]) -> Result<(), ReadError>;

    /// Where an address leads by the page tables in force.
    ///
    /// # Errors
    /// [`ReadError`] if it leads nowhere.
    fn translate(&self, gva: u64) -> Result<Page, ReadError>;

    /// Reads guest physical memory; `false` if some of it is no memory.
    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool;
}

/// Stop points were refused; the text says why and what is possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StopPointError(pub String);

/// What watches instructions and data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopPointUse {
    /// What the debug registers are used for, in words.
    pub registers: Vec<String>,
    /// Where software breakpoints are.
    pub(crate) software: Vec<u64>,
}

/// Why the machine stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebuggeeStop {
    /// Before the first instruction.
    Start,
    /// The session stopped it, on this processor: at a violation.
    Violation(u32),
    /// A stop point, on this processor.
    StopPoint(u32, StopPoint),
    /// This processor has made its step.
    Stepped(u32),
    /// Somebody asked for it.
    Interrupted,
    /// The session took the debug registers of so many stop points, which are in force no longer.
    StopPointsLost(usize),
    /// The guest has crashed and can only be looked at; on this processor, if it is known; what happened.
    Crashed(Option<u32>, String),
}

/// What is done with a processor of the stopped machine.
pub(crate) type Look = Box<dyn FnOnce(&mut dyn DebuggedCpu) + Send>;

/// A machine as a debugger sees it. Its stops come through a channel of their own.
pub trait Debuggee: Send + Sync {
    /// Number of processors.
    fn processors(&self) -> u32;

    /// Has `look` called with a processor; `false` if the machine is gone.
    fn look(&self, cpu: u32, look: Look) -> bool;

    /// Replaces the stop points.
    ///
    /// # Errors
    /// [`StopPointError`]; the old ones stay.
    fn set_stop_points(&self, stop_points: &[StopPoint]) -> Result<(), StopPointError>;

    /// Whether stop points by INT3 work.
    fn has_software_breakpoints(&self) -> bool;

    /// What watches instructions and data at the moment.
    fn in_use(&self) -> StopPointUse;

    /// Asks a running machine to stop; [`DebuggeeStop::Interrupted`] or another reason follows, unless it comes to its
    /// end.
    fn interrupt(&self);

    /// Lets a stopped machine go on, each processor by its resume action; without any, all of them continue.
    fn resume(&self, actions: Vec<ResumeAction>);

    /// Ends the run.
    fn end(&self);

    /// For each processor, how long it still ran after the last stop was asked for; `None` if it stood still.
    fn ran_on(&self) -> Vec<Option<Duration>>;
}

/// Has something done with a processor and gives what came out; `None` if the machine is gone.
pub fn ask<R: Send + 'static>(
    machine: &(impl Debuggee + ?Sized),
    cpu: u32,
    question: impl FnOnce(&mut dyn DebuggedCpu) -> R + Send + 'static,
) -> Option<R> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let look = Box::new(move |cpu: &mut dyn DebuggedCpu| {
        // The receiver waits below.
        let _ = sender.send(question(cpu));
    });
    machine.look(cpu, look).then(|| receiver.recv().ok())?
}
