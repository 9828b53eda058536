//! The rows of the contract table.
//!
//! Facts come from the DDI pages of the Windows driver documentation (named in each row) and, for the multiplexed
//! StorPort exports, from the inline functions of the port driver's header.

use super::{
    Contract, IrqlAfter, IrqlContract, LockClass, Mode, OperandPlaces, Place, Register, ReturnValue, Role, Routine,
    RoutineSet, Selector, SystemModule, Width,
};
use Routine as R;

const RCX: Place = Place::Register(Register::Rcx);
const RDX: Place = Place::Register(Register::Rdx);
const R8: Place = Place::Register(Register::R8);
const R9: Place = Place::Register(Register::R9);
const ECX: Place = Place::Narrow(Register::Rcx, Width::Dword);
const R8D: Place = Place::Narrow(Register::R8, Width::Dword);
const CL: Place = Place::Narrow(Register::Rcx, Width::Byte);
const DL: Place = Place::Narrow(Register::Rdx, Width::Byte);
const R9B: Place = Place::Narrow(Register::R9, Width::Byte);
/// Fifth argument: above the return address and the 32 bytes of home space.
const FIFTH: Place = Place::Stack(0x28);

const HIGH_LEVEL: u8 = 15;
const fn irql(min: u8, max: u8, after: IrqlAfter) -> IrqlContract {
    IrqlContract { min, max, after }
}
const RAISES: IrqlContract = irql(0, 2, IrqlAfter::Dispatch);
const AT_DPC_LEVEL: IrqlContract = irql(2, HIGH_LEVEL, IrqlAfter::Unchanged);
const LOWERS: IrqlContract = irql(2, 2, IrqlAfter::Argument);
const LOWERS_BY_HANDLE: IrqlContract = irql(2, 2, IrqlAfter::Handle);

const ACQUIRE: Contract = Contract {
    routine: R::KeAcquireSpinLockRaiseToDpc,
    module: SystemModule::Ntoskrnl,
    export: "",
    selector: None,
    role: Role::Acquire,
    class: LockClass::SpinLock,
    mode: Mode::Exclusive,
    operands: OperandPlaces::Address(RCX),
    old_irql: None,
    irql: AT_DPC_LEVEL,
    result: ReturnValue::None,
    fed_by: RoutineSet::EMPTY,
    may_call: RoutineSet::EMPTY,
    source: "",
};
const RELEASE: Contract = Contract {
    role: Role::Release,
    ..ACQUIRE
};
const QUEUED: Contract = Contract {
    class: LockClass::QueuedSpinLock,
    operands: OperandPlaces::Queued { lock: RCX, handle: RDX },
    ..ACQUIRE
};
const QUEUED_RELEASE: Contract = Contract {
    role: Role::Release,
    operands: OperandPlaces::QueuedHandle(RCX),
    ..QUEUED
};
const EX: Contract = Contract {
    class: LockClass::ExSpinLock,
    ..ACQUIRE
};
const EX_RELEASE: Contract = Contract {
    role: Role::Release,
    ..EX
};
const NOTIFICATION: Contract = Contract {
    module: SystemModule::Storport,
    export: "StorPortNotification",
    class: LockClass::StorPortSpinLock,
    ..ACQUIRE
};
const EXTENDED: Contract = Contract {
    export: "StorPortExtendedFunction",
    ..NOTIFICATION
};

const fn selector(value: u32) -> Selector {
    Selector { place: ECX, value }
}
const STORPORT_ACQUIRE: OperandPlaces = OperandPlaces::StorPort {
    adapter: RDX,
    kind: R8D,
    context: R9,
    handle: FIFTH,
};

/// The contract of every routine, in the order of [`Routine::ALL`].
pub static CONTRACTS: [Contract; Routine::ALL.len()] = [
    Contract {
        routine: R::KeAcquireSpinLockRaiseToDpc,
        export: "KeAcquireSpinLockRaiseToDpc",
        irql: RAISES,
        result: ReturnValue::OldIrql,
        may_call: RoutineSet::of(&[R::KeAcquireSpinLockAtDpcLevel]),
        source: "wdm/nf-wdm-keacquirespinlockraisetodpc",
        ..ACQUIRE
    },
    Contract {
        routine: R::KeReleaseSpinLock,
        export: "KeReleaseSpinLock",
        old_irql: Some(DL),
        irql: LOWERS,
        fed_by: RoutineSet::of(&[R::KeAcquireSpinLockRaiseToDpc, R::KeTryToAcquireSpinLockAtDpcLevel]),
        may_call: RoutineSet::of(&[R::KeReleaseSpinLockFromDpcLevel]),
        source: "wdm/nf-wdm-kereleasespinlock",
        ..RELEASE
    },
    Contract {
        routine: R::KeAcquireSpinLockAtDpcLevel,
        export: "KeAcquireSpinLockAtDpcLevel",
        source: "wdm/nf-wdm-keacquirespinlockatdpclevel",
        ..ACQUIRE
    },
    Contract {
        routine: R::KeReleaseSpinLockFromDpcLevel,
        export: "KeReleaseSpinLockFromDpcLevel",
        fed_by: RoutineSet::of(&[R::KeAcquireSpinLockAtDpcLevel, R::KeTryToAcquireSpinLockAtDpcLevel]),
        source: "wdm/nf-wdm-kereleasespinlockfromdpclevel",
        ..RELEASE
    },
    Contract {
        routine: R::KeTryToAcquireSpinLockAtDpcLevel,
        export: "KeTryToAcquireSpinLockAtDpcLevel",
        role: Role::TryAcquire,
        result: ReturnValue::Boolean,
        source: "wdm/nf-wdm-ketrytoacquirespinlockatdpclevel",
        ..ACQUIRE
    },
    Contract {
        routine: R::KeAcquireInStackQueuedSpinLock,
        export: "KeAcquireInStackQueuedSpinLock",
        irql: RAISES,
        may_call: RoutineSet::of(&[R::KeAcquireInStackQueuedSpinLockAtDpcLevel]),
        source: "wdm/nf-wdm-keacquireinstackqueuedspinlock",
        ..QUEUED
    },
    Contract {
        routine: R::KeReleaseInStackQueuedSpinLock,
        export: "KeReleaseInStackQueuedSpinLock",
        irql: LOWERS_BY_HANDLE,
        fed_by: RoutineSet::of(&[R::KeAcquireInStackQueuedSpinLock]),
        may_call: RoutineSet::of(&[R::KeReleaseInStackQueuedSpinLockFromDpcLevel]),
        source: "wdm/nf-wdm-kereleaseinstackqueuedspinlock",
        ..QUEUED_RELEASE
    },
    Contract {
        routine: R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
        export: "KeAcquireInStackQueuedSpinLockAtDpcLevel",
        source: "wdm/nf-wdm-keacquireinstackqueuedspinlockatdpclevel",
        ..QUEUED
    },
    Contract {
        routine: R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
        export: "KeReleaseInStackQueuedSpinLockFromDpcLevel",
        fed_by: RoutineSet::of(&[R::KeAcquireInStackQueuedSpinLockAtDpcLevel]),
        source: "wdm/nf-wdm-kereleaseinstackqueuedspinlockfromdpclevel",
        ..QUEUED_RELEASE
    },
    Contract {
        routine: R::KeAcquireSpinLockForDpc,
        export: "KeAcquireSpinLockForDpc",
        irql: RAISES,
        result: ReturnValue::OldIrql,
        may_call: RoutineSet::of(&[R::KeAcquireSpinLockAtDpcLevel, R::KeAcquireSpinLockRaiseToDpc]),
        source: "wdm/nf-wdm-keacquirespinlockfordpc",
        ..ACQUIRE
    },
    Contract {
        routine: R::KeReleaseSpinLockForDpc,
        export: "KeReleaseSpinLockForDpc",
        old_irql: Some(DL),
        irql: LOWERS,
        fed_by: RoutineSet::of(&[R::KeAcquireSpinLockForDpc]),
        may_call: RoutineSet::of(&[R::KeReleaseSpinLockFromDpcLevel, R::KeReleaseSpinLock]),
        source: "wdm/nf-wdm-kereleasespinlockfordpc",
        ..RELEASE
    },
    Contract {
        routine: R::KeAcquireInStackQueuedSpinLockForDpc,
        export: "KeAcquireInStackQueuedSpinLockForDpc",
        irql: RAISES,
        may_call: RoutineSet::of(&[
            R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
            R::KeAcquireInStackQueuedSpinLock,
        ]),
        source: "wdm/nf-wdm-keacquireinstackqueuedspinlockfordpc",
        ..QUEUED
    },
    Contract {
        routine: R::KeReleaseInStackQueuedSpinLockForDpc,
        export: "KeReleaseInStackQueuedSpinLockForDpc",
        irql: LOWERS_BY_HANDLE,
        fed_by: RoutineSet::of(&[R::KeAcquireInStackQueuedSpinLockForDpc]),
        may_call: RoutineSet::of(&[
            R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
            R::KeReleaseInStackQueuedSpinLock,
        ]),
        source: "wdm/nf-wdm-kereleaseinstackqueuedspinlockfordpc",
        ..QUEUED_RELEASE
    },
    Contract {
        routine: R::KeAcquireInterruptSpinLock,
        export: "KeAcquireInterruptSpinLock",
        class: LockClass::InterruptSpinLock,
        operands: OperandPlaces::Interrupt(RCX),
        irql: irql(0, HIGH_LEVEL, IrqlAfter::AtLeastDispatch),
        result: ReturnValue::OldIrql,
        source: "wdm/nf-wdm-keacquireinterruptspinlock",
        ..ACQUIRE
    },
    Contract {
        routine: R::KeReleaseInterruptSpinLock,
        export: "KeReleaseInterruptSpinLock",
        class: LockClass::InterruptSpinLock,
        operands: OperandPlaces::Interrupt(RCX),
        old_irql: Some(DL),
        irql: irql(2, HIGH_LEVEL, IrqlAfter::Argument),
        fed_by: RoutineSet::of(&[R::KeAcquireInterruptSpinLock]),
        source: "wdm/nf-wdm-kereleaseinterruptspinlock",
        ..RELEASE
    },
    Contract {
        routine: R::ExAcquireSpinLockShared,
        export: "ExAcquireSpinLockShared",
        mode: Mode::Shared,
        irql: RAISES,
        result: ReturnValue::OldIrql,
        may_call: RoutineSet::of(&[R::ExAcquireSpinLockSharedAtDpcLevel]),
        source: "wdm/nf-wdm-exacquirespinlockshared",
        ..EX
    },
    Contract {
        routine: R::ExAcquireSpinLockExclusive,
        export: "ExAcquireSpinLockExclusive",
        irql: RAISES,
        result: ReturnValue::OldIrql,
        may_call: RoutineSet::of(&[R::ExAcquireSpinLockExclusiveAtDpcLevel]),
        source: "wdm/nf-wdm-exacquirespinlockexclusive",
        ..EX
    },
    Contract {
        routine: R::ExReleaseSpinLockShared,
        export: "ExReleaseSpinLockShared",
        mode: Mode::Shared,
        old_irql: Some(DL),
        irql: LOWERS,
        fed_by: RoutineSet::of(&[R::ExAcquireSpinLockShared]),
        may_call: RoutineSet::of(&[R::ExReleaseSpinLockSharedFromDpcLevel]),
        source: "wdm/nf-wdm-exreleasespinlockshared",
        ..EX_RELEASE
    },
    Contract {
        routine: R::ExReleaseSpinLockExclusive,
        export: "ExReleaseSpinLockExclusive",
        old_irql: Some(DL),
        irql: LOWERS,
        fed_by: RoutineSet::of(&[R::ExAcquireSpinLockExclusive, R::ExTryConvertSharedSpinLockExclusive]),
        may_call: RoutineSet::of(&[R::ExReleaseSpinLockExclusiveFromDpcLevel]),
        source: "wdm/nf-wdm-exreleasespinlockexclusive",
        ..EX_RELEASE
    },
    Contract {
        routine: R::ExAcquireSpinLockSharedAtDpcLevel,
        export: "ExAcquireSpinLockSharedAtDpcLevel",
        mode: Mode::Shared,
        source: "wdm/nf-wdm-exacquirespinlocksharedatdpclevel",
        ..EX
    },
    Contract {
        routine: R::ExAcquireSpinLockExclusiveAtDpcLevel,
        export: "ExAcquireSpinLockExclusiveAtDpcLevel",
        source: "wdm/nf-wdm-exacquirespinlockexclusiveatdpclevel",
        ..EX
    },
    Contract {
        routine: R::ExReleaseSpinLockSharedFromDpcLevel,
        export: "ExReleaseSpinLockSharedFromDpcLevel",
        mode: Mode::Shared,
        fed_by: RoutineSet::of(&[R::ExAcquireSpinLockSharedAtDpcLevel]),
        source: "wdm/nf-wdm-exreleasespinlocksharedfromdpclevel",
        ..EX_RELEASE
    },
    Contract {
        routine: R::ExReleaseSpinLockExclusiveFromDpcLevel,
        export: "ExReleaseSpinLockExclusiveFromDpcLevel",
        fed_by: RoutineSet::of(&[
            R::ExAcquireSpinLockExclusiveAtDpcLevel,
            R::ExTryConvertSharedSpinLockExclusive,
        ]),
        source: "wdm/nf-wdm-exreleasespinlockexclusivefromdpclevel",
        ..EX_RELEASE
    },
    Contract {
        routine: R::ExTryConvertSharedSpinLockExclusive,
        export: "ExTryConvertSharedSpinLockExclusive",
        role: Role::Convert,
        result: ReturnValue::Boolean,
        source: "wdm/nf-wdm-extryconvertsharedspinlockexclusive",
        ..EX
    },
    Contract {
        routine: R::IoAcquireCancelSpinLock,
        export: "IoAcquireCancelSpinLock",
        class: LockClass::CancelSpinLock,
        operands: OperandPlaces::Cancel,
        irql: RAISES,
        source: "wdm/nf-wdm-ioacquirecancelspinlock",
        ..ACQUIRE
    },
    Contract {
        routine: R::IoReleaseCancelSpinLock,
        export: "IoReleaseCancelSpinLock",
        class: LockClass::CancelSpinLock,
        operands: OperandPlaces::Cancel,
        old_irql: Some(CL),
        irql: LOWERS,
        fed_by: RoutineSet::of(&[R::IoAcquireCancelSpinLock]),
        source: "wdm/nf-wdm-ioreleasecancelspinlock",
        ..RELEASE
    },
    Contract {
        routine: R::StorPortAcquireSpinLock,
        selector: Some(selector(0x1003)),
        operands: STORPORT_ACQUIRE,
        irql: irql(0, HIGH_LEVEL, IrqlAfter::AtLeastDispatch),
        source: "storport/nf-storport-storportacquirespinlock",
        ..NOTIFICATION
    },
    Contract {
        routine: R::StorPortReleaseSpinLock,
        selector: Some(selector(0x1004)),
        role: Role::Release,
        operands: OperandPlaces::StorPortHandle {
            adapter: RDX,
            handle: R8,
        },
        irql: irql(2, HIGH_LEVEL, IrqlAfter::Handle),
        fed_by: RoutineSet::of(&[R::StorPortAcquireSpinLock, R::StorPortAcquireSpinLockEx]),
        source: "storport/nf-storport-storportreleasespinlock",
        ..NOTIFICATION
    },
    Contract {
        routine: R::StorPortAcquireMSISpinLock,
        selector: Some(selector(0x0b)),
        class: LockClass::StorPortMsiSpinLock,
        operands: OperandPlaces::Msi {
            adapter: RDX,
            message: R8D,
        },
        irql: irql(0, HIGH_LEVEL, IrqlAfter::AtLeastDispatch),
        result: ReturnValue::StorStatus,
        source: "storport/nf-storport-storportacquiremsispinlock",
        ..EXTENDED
    },
    Contract {
        routine: R::StorPortReleaseMSISpinLock,
        selector: Some(selector(0x0c)),
        role: Role::Release,
        class: LockClass::StorPortMsiSpinLock,
        operands: OperandPlaces::Msi {
            adapter: RDX,
            message: R8D,
        },
        old_irql: Some(R9B),
        irql: irql(2, HIGH_LEVEL, IrqlAfter::Argument),
        result: ReturnValue::StorStatus,
        fed_by: RoutineSet::of(&[R::StorPortAcquireMSISpinLock]),
        source: "storport/nf-storport-storportreleasemsispinlock",
        ..EXTENDED
    },
    Contract {
        routine: R::StorPortAcquireSpinLockEx,
        selector: Some(selector(0x5d)),
        operands: STORPORT_ACQUIRE,
        irql: irql(0, HIGH_LEVEL, IrqlAfter::AtLeastDispatch),
        result: ReturnValue::StorStatus,
        source: "storport/nf-storport-storportacquirespinlockex",
        ..EXTENDED
    },
];
