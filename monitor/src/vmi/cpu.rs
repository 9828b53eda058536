//! A stopped virtual processor as the monitor sees it: registers to read, breakpoints to set.
//!
//! Talks to nothing: backends implement these traits, the session uses them. It must not know KVM or file formats.

use super::GuestMemory;

/// The general registers of a stopped processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order of their encoding in an instruction.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
}

impl Registers {
    /// RCX: the first argument of a Windows x64 call.
    #[must_use]
    pub fn rcx(&self) -> u64 {
        self.gpr[1]
    }

    /// RDX: the second argument.
    #[must_use]
    pub(crate) fn rdx(&self) -> u64 {
        self.gpr[2]
    }

    /// R8: the third argument.
    #[must_use]
    pub fn r8(&self) -> u64 {
        self.gpr[8]
    }

    /// R9: the fourth argument.
    #[must_use]
    pub(crate) fn r9(&self) -> u64 {
        self.gpr[9]
    }

    /// RAX: the return value.
    #[must_use]
    pub fn rax(&self) -> u64 {
        self.gpr[0]
    }

    /// RSP: at the entry of a routine it points to the return address.
    #[must_use]
    pub fn rsp(&self) -> u64 {
        self.gpr[4]
    }
}

/// The special registers of a stopped processor, as far as the monitor reads them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialRegisters {
    /// CR0.
    pub cr0: u64,
    /// CR3: physical address of the top page table, and flags.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8: the IRQL.
    pub cr8: u64,
    /// EFER.
    pub efer: u64,
    /// GS base: the KPCR when in the kernel.
    pub gs_base: u64,
    /// Base of the interrupt descriptor table.
    pub idt_base: u64,
    /// Limit of the interrupt descriptor table in bytes, less one.
    pub idt_limit: u16,
    /// Privilege level of the code that runs, 0 to 3.
    pub cpl: u8,
}

impl SpecialRegisters {
    /// The IRQL, 0 to 15.
    #[must_use]
    pub fn irql(&self) -> u8 {
        (self.cr8 & 0xf) as u8
    }
}

/// An execution breakpoint. Numbers are never used twice in a session, so a hit that was under way while breakpoints
/// changed cannot be taken for another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breakpoint {
    /// Number by which the hit is reported.
    pub id: u32,
    /// Guest virtual address.
    pub address: u64,
}

/// What an interception can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// How many breakpoints can be set at once.
    pub breakpoints: usize,
    /// Whether [`Action::CatchReturn`] is honoured when fewer breakpoints are set than there could be.
    pub(crate) catch_return: bool,
}

/// Why breakpoints could not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("breakpoints cannot be set: {0}")]
pub struct ArmError(pub String);

/// Reads the state of one stopped processor.
pub trait CpuState: GuestMemory {
    /// Number of the virtual processor, from 0.
    fn index(&self) -> u32;
    /// Its general registers.
    fn registers(&self) -> Registers;
    /// Its special registers.
    fn special(&self) -> SpecialRegisters;
}

/// Changes what is intercepted, from the thread of a stopped processor.
pub trait Interception {
    /// Replaces all breakpoints on all processors. Returns when no processor executes guest code under the old set.
    ///
    /// An implementation waits for the other processors to leave the guest, never for a hit to be answered: another
    /// processor may run into a new breakpoint before this returns, and wait in its handler for a lock that the caller
    /// holds. So the caller may hold the lock that hits need, and does, to order the hits behind the change. It must
    /// hold no lock for which a processor waits in the middle of an instruction (a device's): that one does not leave
    /// the guest.
    ///
    /// # Errors
    /// [`ArmError`] if there are too many breakpoints or a processor cannot take them; what is set then is unspecified.
    fn set_breakpoints(&mut self, breakpoints: &[Breakpoint]) -> Result<(), ArmError>;

    /// Ends the interception of writes to LSTAR on all processors.
    fn end_msr_interception(&mut self);

    /// Has the stopped processor go on with these registers.
    ///
    /// # Errors
    /// [`ArmError`] if the machine cannot do that; nothing has changed then.
    fn set_registers(&mut self, registers: &Registers) -> Result<(), ArmError> {
        let _ = registers;
        Err(ArmError("this machine does not have registers changed".to_owned()))
    }

    /// Writes guest memory, read-only pages too.
    ///
    /// # Errors
    /// [`ArmError`] if some of it is not mapped to memory; nothing is written then.
    fn write_memory(&mut self, gva: u64, data: &[u8]) -> Result<(), ArmError> {
        let _ = (gva, data);
        Err(ArmError("this machine does not have memory changed".to_owned()))
    }

    /// Checks that the guest's page tables let the kernel execute code at these addresses, from `gva` on.
    ///
    /// # Errors
    /// [`ArmError`] if they do not.
    fn check_executable(&mut self, gva: u64, length: u64) -> Result<(), ArmError> {
        let _ = (gva, length);
        Err(ArmError("this machine does not tell".to_owned()))
    }
}

/// A processor stopped in the handler of a breakpoint.
pub trait StoppedCpu: CpuState + Interception {}

impl<T: CpuState + Interception> StoppedCpu for T {}

/// Why a processor stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuStop {
    /// It wrote LSTAR, with this value. The write has taken effect.
    LstarWrite(u64),
    /// It is about to execute the instruction under the breakpoint with this number.
    Breakpoint(u32),
    /// It has returned to where [`Action::CatchReturn`] asked for.
    CaughtReturn(u64),
    /// The machine has been reset and is about to start again; told once, for the first processor. All processors stand
    /// still after power-on, no breakpoint is set, and writes of LSTAR are intercepted as at the start.
    Reset,
}

/// What the processor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Goes on.
    Resume,
    /// Goes on, and stops again when it is at `return_address` with its stack pointer at `stack_pointer`.
    CatchReturn {
        /// Guest virtual address that the routine returns to.
        return_address: u64,
        /// RSP right after the return.
        stack_pointer: u64,
        /// Handed back in [`CpuStop::CaughtReturn`].
        cookie: u64,
    },
    /// The whole machine stops here.
    Stop,
}

/// Control over the run as a whole. May be used from any thread.
pub trait RunControl: Send + Sync {
    /// Asks the machine to stop; returns at once.
    fn request_stop(&self);

    /// Asks for the guest's own shutdown; returns at once.
    fn request_shutdown(&self);
}
