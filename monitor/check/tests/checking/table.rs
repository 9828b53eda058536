//! The contract table: rows in order, operands where the calling convention puts them.

use storlock_check::contract::{
    CONTRACTS, Contract, Place, Register, ReturnValue, Role, Routine as R, RoutineSet, SystemModule, Width, contract,
    contracts_of_export,
};
use storlock_check::event::LockOperand;

/// RCX, RDX, R8, R9 with rubbish in their upper halves, and the fifth argument.
fn registers(ecx: u64) -> impl FnMut(Place) -> Option<u64> {
    move |place| match place {
        Place::Register(register) | Place::Narrow(register, _) => Some(match register {
            Register::Rcx => 0xdead_0000_0000_0000 | ecx,
            Register::Rdx => 0xffff_0000_0000_0022,
            Register::R8 => 0xffff_0000_0000_0001,
            Register::R9 => 0xffff_0000_0000_0044,
        }),
        Place::Stack(0x28) => Some(0x55),
        Place::Stack(_) => None,
    }
}

#[test]
fn rows_are_in_the_order_of_the_names() {
    for (index, row) in CONTRACTS.iter().enumerate() {
        assert_eq!(row.routine as usize, index);
        assert_eq!(contract(row.routine).export, row.export);
        assert!(!row.export.is_empty() && !row.source.is_empty(), "{}", row.routine);
        assert_eq!(R::from_name(row.routine.name()), Some(row.routine));
        assert_eq!(R::from_index(index as u64), Some(row.routine));
        if row.module == SystemModule::Ntoskrnl {
            assert_eq!(row.export, row.routine.to_string());
        }
    }
    assert_eq!(R::from_index(CONTRACTS.len() as u64), None);
    assert_eq!(RoutineSet::ALL.len(), CONTRACTS.len());
    assert_eq!(RoutineSet::from_bits(u64::MAX), RoutineSet::ALL);
}

#[test]
fn multiplexed_export_is_told_apart_by_ecx() {
    let which = |export: &str, ecx| -> Vec<R> {
        contracts_of_export(SystemModule::Storport, export)
            .filter(|row| row.selected(registers(ecx)))
            .map(|row| row.routine)
            .collect()
    };
    assert_eq!(which("StorPortNotification", 0x1003), [R::StorPortAcquireSpinLock]);
    assert_eq!(which("StorPortNotification", 0x1004), [R::StorPortReleaseSpinLock]);
    assert_eq!(which("StorPortNotification", 0x1002), []);
    assert_eq!(which("StorPortExtendedFunction", 0x0b), [R::StorPortAcquireMSISpinLock]);
    assert_eq!(which("StorPortExtendedFunction", 0x0c), [R::StorPortReleaseMSISpinLock]);
    assert_eq!(which("StorPortExtendedFunction", 0x5d), [R::StorPortAcquireSpinLockEx]);
}

#[test]
fn operands_are_cut_to_their_width() {
    let decode = |routine| contract(routine).decode(registers(0x10)).unwrap();
    let (rcx, rdx, r9) = (0xdead_0000_0000_0010, 0xffff_0000_0000_0022, 0xffff_0000_0000_0044);
    assert_eq!(decode(R::KeReleaseSpinLock), LockOperand::Address(rcx));
    assert_eq!(
        decode(R::KeAcquireInStackQueuedSpinLock),
        LockOperand::Queued { lock: rcx, handle: rdx }
    );
    assert_eq!(
        decode(R::StorPortAcquireSpinLock),
        LockOperand::StorPort {
            adapter: rdx,
            kind: 1,
            context: r9,
            handle: 0x55
        }
    );
    assert_eq!(
        decode(R::StorPortAcquireMSISpinLock),
        LockOperand::Msi {
            adapter: rdx,
            message: 1
        }
    );
    assert_eq!(decode(R::KeAcquireInterruptSpinLock), LockOperand::Interrupt(rcx));
    assert_eq!(decode(R::IoReleaseCancelSpinLock), LockOperand::Cancel);
    assert_eq!(contract(R::KeReleaseSpinLock).decode_old_irql(registers(0)), Some(0x22));
    assert_eq!(
        contract(R::IoReleaseCancelSpinLock).decode_old_irql(registers(2)),
        Some(2)
    );
    assert_eq!(
        contract(R::StorPortReleaseMSISpinLock).decode_old_irql(registers(0)),
        Some(0x44)
    );
    assert_eq!(contract(R::KeAcquireSpinLockRaiseToDpc).decode(|_| None), None);
}

#[test]
fn unreadable_stack_slot_leaves_the_rest_of_a_storport_acquire() {
    let mut read = registers(0x1003);
    let operand = contract(R::StorPortAcquireSpinLock).decode(|place| match place {
        Place::Stack(_) => None,
        place => read(place),
    });
    assert!(matches!(
        operand,
        Some(LockOperand::StorPort { handle: 0, kind: 1, .. })
    ));
}

#[test]
fn lock_word_is_where_the_class_says() {
    let word = |routine, operand| contract(routine).lock_word(&operand);
    let queued = LockOperand::QueuedHandle {
        handle: 0x100,
        lock: None,
    };
    assert_eq!(
        word(R::KeReleaseSpinLock, LockOperand::Address(8)),
        Some((8, Width::Qword))
    );
    assert_eq!(
        word(R::ExReleaseSpinLockShared, LockOperand::Address(8)),
        Some((8, Width::Dword))
    );
    assert_eq!(word(R::KeReleaseInStackQueuedSpinLock, queued), None);
    assert_eq!(Contract::handle_lock_field(&queued), Some(0x108));
    assert_eq!(
        Contract::handle_lock_field(&LockOperand::QueuedHandle {
            handle: u64::MAX,
            lock: None
        }),
        None
    );
    assert_eq!(
        (Width::Byte.bytes(), Width::Dword.bytes(), Width::Qword.bytes()),
        (1, 4, 8)
    );
}

#[test]
fn results_count_only_their_bits() {
    assert!(ReturnValue::Boolean.succeeded(0xff01) && !ReturnValue::Boolean.succeeded(0xff00));
    assert!(ReturnValue::StorStatus.succeeded(0) && !ReturnValue::StorStatus.succeeded(0xc100_0001));
    assert!(ReturnValue::OldIrql.succeeded(0) && !ReturnValue::OldIrql.may_fail());
}

#[test]
fn every_acquire_has_a_release_and_every_release_follows_acquires() {
    for row in &CONTRACTS {
        if row.role == Role::Release {
            assert!(!row.fed_by.is_empty(), "{}", row.routine);
            let acquires = row.fed_by.iter().all(|acquire| contract(acquire).role != Role::Release);
            assert!(acquires, "{}", row.routine);
        } else {
            let released = CONTRACTS.iter().any(|release| release.fed_by.contains(row.routine));
            assert!(released, "{}", row.routine);
        }
    }
}
