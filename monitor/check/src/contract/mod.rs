//! The contracts of the lock routines: one table, with a row for each routine.
//!
//! The checker reads it, and so does the monitor (which export, which registers) and whoever explains a verdict. It
//! must not know how a register is read. Sources: the DDI pages named in each row; register places follow the Microsoft
//! x64 calling convention at the first instruction of the routine.

mod callbacks;
mod routine;
mod table;

use serde::{Deserialize, Serialize};

use crate::event::LockOperand;
use crate::identity::is_dpc_lock;
pub use callbacks::{Callback, PortHold, PortModel};
pub use routine::{Routine, RoutineSet};
pub use table::CONTRACTS;

/// What one lock routine takes, does and promises.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    /// The routine.
    pub routine: Routine,
    /// The module that exports it.
    pub module: SystemModule,
    /// The exported name. Several routines share a multiplexed one and differ by `selector`.
    pub export: &'static str,
    /// For a multiplexed export, the argument that picks this routine.
    pub selector: Option<Selector>,
    /// What it does to the lock.
    pub role: Role,
    /// The kind of lock.
    pub class: LockClass,
    /// Whether holders exclude each other.
    pub mode: Mode,
    /// Where its operands are.
    pub operands: OperandPlaces,
    /// Where a release takes the IRQL to go back to, if it does.
    pub old_irql: Option<Place>,
    /// IRQL at which it may be called and after which it returns.
    pub irql: IrqlContract,
    /// What EAX/AL means when it returns.
    pub result: ReturnValue,
    /// For a release: the acquires (and conversions) that it may legally follow.
    pub fed_by: RoutineSet,
    /// Routines that an implementation may call on the same lock to do its work.
    pub may_call: RoutineSet,
    /// The documentation page the row was made from.
    pub source: &'static str,
}

/// A module that exports lock routines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SystemModule {
    /// The kernel, `ntoskrnl.exe`. On x64 no lock routine lives in `hal.dll`.
    Ntoskrnl,
    /// The port driver, `storport.sys`.
    Storport,
}

impl SystemModule {
    /// Base name of the image, lower case.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Ntoskrnl => "ntoskrnl.exe",
            Self::Storport => "storport.sys",
        }
    }
}

/// What a routine does to the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Returns when the lock is held (or with an error status, see [`ReturnValue::StorStatus`]).
    Acquire,
    /// May return without the lock.
    TryAcquire,
    /// Gives the lock back.
    Release,
    /// Turns a shared hold into an exclusive one, or does not.
    Convert,
}

/// The kinds of locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockClass {
    /// `KSPIN_LOCK` taken the ordinary way.
    SpinLock,
    /// `KSPIN_LOCK` taken through an in-stack queue handle.
    QueuedSpinLock,
    /// `EX_SPIN_LOCK`, reader/writer, 32 bits.
    ExSpinLock,
    /// The lock of an interrupt object.
    InterruptSpinLock,
    /// The cancel spin lock.
    CancelSpinLock,
    /// A lock of the port driver by `STOR_SPINLOCK`.
    StorPortSpinLock,
    /// The port driver's lock of one interrupt message.
    StorPortMsiSpinLock,
}

/// Whether holders exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// One holder.
    Exclusive,
    /// Many holders, no exclusive one.
    Shared,
}

/// An argument that picks the function of a multiplexed export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Where it is.
    pub place: Place,
    /// Its value.
    pub value: u32,
}

/// A general-purpose register that carries an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// First argument.
    Rcx,
    /// Second argument.
    Rdx,
    /// Third argument.
    R8,
    /// Fourth argument.
    R9,
}

/// Where an argument is at the first instruction of a routine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A whole register.
    Register(Register),
    /// The low bytes of a register; the rest is undefined.
    Narrow(Register, Width),
    /// The quadword at RSP plus this many bytes.
    Stack(u32),
}

/// Number of bytes of an argument or lock word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 8 bits (`KIRQL`, `BOOLEAN`).
    Byte,
    /// 32 bits.
    Dword,
    /// 64 bits.
    Qword,
}

impl Width {
    /// The bits that count.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Self::Byte => 0xff,
            Self::Dword => 0xffff_ffff,
            Self::Qword => u64::MAX,
        }
    }

    /// Number of bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }
}

/// Where a routine's operands are; mirrors [`LockOperand`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandPlaces {
    /// [`LockOperand::Address`].
    Address(Place),
    /// [`LockOperand::Queued`].
    Queued {
        /// The lock.
        lock: Place,
        /// The handle.
        handle: Place,
    },
    /// [`LockOperand::QueuedHandle`].
    QueuedHandle(Place),
    /// [`LockOperand::StorPort`].
    StorPort {
        /// `HwDeviceExtension`.
        adapter: Place,
        /// `STOR_SPINLOCK`.
        kind: Place,
        /// `LockContext`.
        context: Place,
        /// `STOR_LOCK_HANDLE`.
        handle: Place,
    },
    /// [`LockOperand::StorPortHandle`].
    StorPortHandle {
        /// `HwDeviceExtension`.
        adapter: Place,
        /// `STOR_LOCK_HANDLE`.
        handle: Place,
    },
    /// [`LockOperand::Msi`].
    Msi {
        /// `HwDeviceExtension`.
        adapter: Place,
        /// `MessageId`.
        message: Place,
    },
    /// [`LockOperand::Interrupt`].
    Interrupt(Place),
    /// [`LockOperand::Cancel`]: no operand.
    Cancel,
}

/// IRQL before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqlContract {
    /// Lowest legal IRQL at the call.
    pub min: u8,
    /// Highest legal IRQL at the call.
    pub max: u8,
    /// What it is afterwards.
    pub after: IrqlAfter,
}

/// IRQL after a routine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqlAfter {
    /// As before.
    Unchanged,
    /// `DISPATCH_LEVEL`.
    Dispatch,
    /// `DISPATCH_LEVEL`, or the device's level: the routine decides by the lock.
    AtLeastDispatch,
    /// What the caller passed as old IRQL.
    Argument,
    /// What the acquire had stored in the handle.
    Handle,
}

/// What EAX means after a return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnValue {
    /// Nothing.
    None,
    /// AL is the IRQL before the call.
    OldIrql,
    /// AL non-zero: success.
    Boolean,
    /// EAX is a `STOR_STATUS`, 0 is success.
    StorStatus,
}

impl ReturnValue {
    /// Whether the routine did what it was asked, from EAX.
    #[must_use]
    pub const fn succeeded(self, eax: u32) -> bool {
        match self {
            Self::None | Self::OldIrql => true,
            Self::Boolean => eax & 0xff != 0,
            Self::StorStatus => eax == 0,
        }
    }

    /// Whether the routine may come back without the lock.
    #[must_use]
    pub const fn may_fail(self) -> bool {
        matches!(self, Self::Boolean | Self::StorStatus)
    }
}

/// Offset of `Lock` in a `KLOCK_QUEUE_HANDLE` (`LockQueue.Lock`), bytes.
pub const QUEUE_HANDLE_LOCK: u64 = 8;
/// Offset of `Lock`, a `STOR_SPINLOCK` of 32 bits, in a `STOR_LOCK_HANDLE`, bytes.
pub const STOR_HANDLE_LOCK: u64 = 0;
/// The three low bits of the field at [`QUEUE_HANDLE_LOCK`] are flags of the queue, not address.
pub const QUEUE_HANDLE_LOCK_FLAGS: u64 = 7;
/// Offset of the `KLOCK_QUEUE_HANDLE` in a `STOR_LOCK_HANDLE`, bytes.
pub const STOR_HANDLE_QUEUE: u64 = 8;
/// Offset of `Lock`, a `KSPIN_LOCK`, in a `STOR_DPC`: behind its `KDPC`.
pub const STOR_DPC_LOCK: u64 = 0x40;

impl Contract {
    /// Whether this is the routine that a multiplexed export was called for. `read` fetches an argument.
    pub fn selected(&self, mut read: impl FnMut(Place) -> Option<u64>) -> bool {
        match self.selector {
            None => true,
            Some(Selector { place, value }) => fetch(&mut read, place) == Some(u64::from(value)),
        }
    }

    /// Collects the operands. `read` gives a whole register or the quadword of a stack slot, `None` if it is not
    /// readable. The result is `None` if an operand that the checker cannot do without is missing.
    ///
    /// For a release by handle the caller fills in what the handle says: `lock` from [`Contract::handle_lock_field`],
    /// `kind` of a StorPort one from [`Contract::handle_kind_field`].
    pub fn decode(&self, mut read: impl FnMut(Place) -> Option<u64>) -> Option<LockOperand> {
        let mut get = |place| fetch(&mut read, place);
        Some(match self.operands {
            OperandPlaces::Address(lock) => LockOperand::Address(get(lock)?),
            OperandPlaces::Queued { lock, handle } => LockOperand::Queued {
                lock: get(lock)?,
                handle: get(handle)?,
            },
            OperandPlaces::QueuedHandle(handle) => LockOperand::QueuedHandle {
                handle: get(handle)?,
                lock: None,
            },
            OperandPlaces::StorPort {
                adapter,
                kind,
                context,
                handle,
            } => LockOperand::StorPort {
                adapter: get(adapter)?,
                kind: get(kind)? as u32,
                context: get(context)?,
                handle: get(handle).unwrap_or(0),
            },
            OperandPlaces::StorPortHandle { adapter, handle } => LockOperand::StorPortHandle {
                adapter: get(adapter)?,
                handle: get(handle)?,
                kind: None,
                lock: None,
            },
            OperandPlaces::Msi { adapter, message } => LockOperand::Msi {
                adapter: get(adapter)?,
                message: get(message)? as u32,
            },
            OperandPlaces::Interrupt(object) => LockOperand::Interrupt(get(object)?),
            OperandPlaces::Cancel => LockOperand::Cancel,
        })
    }

    /// The old-IRQL argument, where the routine has one that can be read.
    pub fn decode_old_irql(&self, mut read: impl FnMut(Place) -> Option<u64>) -> Option<u8> {
        self.old_irql
            .and_then(|place| fetch(&mut read, place))
            .map(|value| value as u8)
    }

    /// Address and width of the lock word for an operand of this routine, if it can be seen at all.
    #[must_use]
    pub const fn lock_word(&self, operand: &LockOperand) -> Option<(u64, Width)> {
        let width = match self.class {
            LockClass::ExSpinLock => Width::Dword,
            _ => Width::Qword,
        };
        match *operand {
            LockOperand::Address(lock)
            | LockOperand::Queued { lock, .. }
            | LockOperand::QueuedHandle { lock: Some(lock), .. } => Some((lock, width)),
            LockOperand::StorPort { kind, context, .. } if is_dpc_lock(kind) && context != 0 => {
                match context.checked_add(STOR_DPC_LOCK) {
                    Some(lock) => Some((lock, width)),
                    None => None,
                }
            }
            LockOperand::StorPortHandle {
                kind: Some(kind),
                lock: Some(lock),
                ..
            } if is_dpc_lock(kind) && lock != 0 => Some((lock, width)),
            _ => None,
        }
    }

    /// Address of the quadword from which a release by handle finds its lock; mask it with
    /// `!`[`QUEUE_HANDLE_LOCK_FLAGS`].
    #[must_use]
    pub const fn handle_lock_field(operand: &LockOperand) -> Option<u64> {
        match *operand {
            LockOperand::QueuedHandle { handle, .. } => handle.checked_add(QUEUE_HANDLE_LOCK),
            LockOperand::StorPortHandle { handle, .. } => handle.checked_add(STOR_HANDLE_QUEUE + QUEUE_HANDLE_LOCK),
            _ => None,
        }
    }

    /// Address of the 32 bits by which the handle of a StorPort release says what kind of lock it is of.
    #[must_use]
    pub const fn handle_kind_field(operand: &LockOperand) -> Option<u64> {
        match *operand {
            LockOperand::StorPortHandle { handle, .. } => handle.checked_add(STOR_HANDLE_LOCK),
            _ => None,
        }
    }
}

/// Reads an argument and cuts it to its width.
fn fetch(read: &mut impl FnMut(Place) -> Option<u64>, place: Place) -> Option<u64> {
    let width = match place {
        Place::Narrow(_, width) => width,
        Place::Register(_) | Place::Stack(_) => Width::Qword,
    };
    Some(read(place)? & width.mask())
}

/// The row of a routine.
#[must_use]
pub fn contract(routine: Routine) -> &'static Contract {
    &CONTRACTS[routine as usize]
}

/// The rows behind one exported name.
pub fn contracts_of_export(module: SystemModule, export: &str) -> impl Iterator<Item = &'static Contract> {
    CONTRACTS
        .iter()
        .filter(move |row| row.module == module && row.export == export)
}
