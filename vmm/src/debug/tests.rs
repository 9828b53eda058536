//! Tests of who gets which debug register, without KVM.

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
};

use super::*;

fn breakpoint(id: u32) -> Breakpoint {
    Breakpoint {
        id,
        address: 0x1000 * u64::from(id + 1),
    }
}

fn catch(number: u64) -> Catch {
    Catch {
        return_address: 0x10_0000 + number,
        stack_pointer: 0x8000 + 8 * number,
        cookie: number,
    }
}

/// Addresses of the enabled registers, by DR7 as the processor reads it.
fn enabled(request: &kvm_guest_debug) -> Vec<u64> {
    let dr7 = request.arch.debugreg[7];
    assert_eq!(dr7 >> 16, 0, "execution breakpoints of one byte only");
    (0..4)
        .filter(|index| dr7 & 2 << (2 * index) != 0)
        .map(|index| request.arch.debugreg[index])
        .collect()
}

#[test]
fn only_possible_sets_are_taken() {
    let five: Vec<_> = (0..5).map(breakpoint).collect();
    assert_eq!(check_breakpoints(&five), Err(BreakpointError::TooMany(5)));
    assert_eq!(check_breakpoints(&five[..4]), Ok(()));
    let twice = [breakpoint(1), breakpoint(1)];
    assert!(matches!(
        check_breakpoints(&twice),
        Err(BreakpointError::Duplicate { .. })
    ));
    let outside = Breakpoint {
        id: 1,
        address: 1 << 47,
    };
    assert!(matches!(
        check_breakpoints(&[outside]),
        Err(BreakpointError::NonCanonical { .. })
    ));
}

#[test]
fn no_register_in_use_switches_debugging_off() {
    let registers = DebugRegisters::new();
    assert_eq!(registers.armed().control, 0);
    assert!(enabled(&registers.armed()).is_empty());
    let step = registers.stepping(0x1000, true);
    assert_eq!(
        step.control,
        KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ
    );
}

#[test]
fn a_step_leaves_out_the_breakpoint_that_it_steps_over() {
    let mut registers = DebugRegisters::new();
    registers.set(&[breakpoint(0), breakpoint(1)], &[]);
    assert_eq!(enabled(&registers.armed()), [0x1000, 0x2000]);
    assert_eq!(enabled(&registers.stepping(0x1000, false)), [0x2000]);
}

#[test]
fn catches_take_what_breakpoints_leave_and_the_oldest_goes_first() {
    let mut registers = DebugRegisters::new();
    registers.set(&[breakpoint(0), breakpoint(1)], &[]);
    for number in 0..3 {
        assert!(registers.catch(catch(number)));
    }
    assert_eq!(
        enabled(&registers.armed()),
        [0x1000, 0x2000, catch(2).return_address, catch(1).return_address]
    );
    registers.set(&[breakpoint(0), breakpoint(1), breakpoint(2)], &[]);
    assert_eq!(enabled(&registers.armed()).len(), 4);
    registers.set(&[0, 1, 2, 3].map(breakpoint), &[]);
    assert!(!registers.catch(catch(9)));
    assert_eq!(enabled(&registers.armed()), [0x1000, 0x2000, 0x3000, 0x4000]);
}

#[test]
fn the_same_frame_is_waited_for_once() {
    let mut registers = DebugRegisters::new();
    assert!(registers.catch(catch(1)));
    let again = Catch { cookie: 77, ..catch(1) };
    assert!(registers.catch(again));
    assert_eq!(enabled(&registers.armed()).len(), 1);
    let hit = registers.classify(catch(1).return_address, 1, catch(1).stack_pointer);
    assert_eq!(hit, Some(Hit::Return { slot: 0 }));
    assert_eq!(registers.take_catch(0, 0), None, "another frame");
    assert_eq!(registers.take_catch(0, catch(1).stack_pointer), Some(again));
    assert!(enabled(&registers.armed()).is_empty());
}

#[test]
fn a_recursive_routine_returns_frame_by_frame() {
    let mut registers = DebugRegisters::new();
    let inner = Catch {
        stack_pointer: 0x7000,
        ..catch(0)
    };
    assert!(registers.catch(catch(0)) && registers.catch(inner));
    let hit = registers.classify(inner.return_address, 0b11, inner.stack_pointer);
    assert_eq!(hit, Some(Hit::Return { slot: 1 }));
}

#[test]
fn an_exit_is_ours_only_if_register_and_address_agree() {
    let mut registers = DebugRegisters::new();
    registers.set(&[breakpoint(4), breakpoint(5)], &[]);
    let ours = Some(Hit::Breakpoint { id: 5, slot: 1 });
    assert_eq!(registers.classify(0x6000, 0b10, 0), ours);
    // DR6 may also name registers that were not enabled or did not cause the exception.
    assert_eq!(registers.classify(0x6000, 0b1111, 0), ours);
    assert_eq!(registers.classify(0x6000, 0b01, 0), None);
    assert_eq!(registers.classify(0x6001, 0b10, 0), None);
    assert_eq!(registers.classify(0x6000, DR6_BS, 0), None);
}

fn stop_point(kind: StopPointKind, address: u64, length: u8) -> StopPoint {
    StopPoint { kind, address, length }
}

#[test]
fn traps_get_the_registers_that_breakpoints_leave_with_their_conditions() {
    let stop_points = [
        stop_point(StopPointKind::HardwareBreakpoint, 0x1000, 1),
        stop_point(StopPointKind::WriteWatchpoint, 0x8000, 8),
        stop_point(StopPointKind::AccessWatchpoint, 0x9004, 4),
    ];
    let set = [breakpoint(0), breakpoint(1)];
    assert_eq!(
        check_stop_points(&set, &stop_points),
        Ok(()),
        "the first one shares a breakpoint's register"
    );
    let mut registers = DebugRegisters::new();
    registers.set(&set, &stop_points);
    let request = registers.armed();
    assert_eq!(request.arch.debugreg[..4], [0x1000, 0x2000, 0x8000, 0x9004]);
    // R/W 1 and LEN 2 for register 2, R/W 3 and LEN 3 for register 3.
    assert_eq!(request.arch.debugreg[7], 0x600 | 0b1010_1010 | 0b1111_1001 << 24);
    assert_eq!(
        registers.classify(0x1000, 0b1, 0),
        Some(Hit::Breakpoint { id: 0, slot: 0 })
    );
    assert_eq!(registers.executed(0x1000, 0b1), Some(stop_points[0]));
    assert_eq!(registers.executed(0x2000, 0b10), None);
    assert_eq!(registers.accessed(0b100), Some(stop_points[1]));
    assert_eq!(registers.accessed(0b11), None);
    // Stepping from 9004h is no reason to miss an access to it.
    assert_eq!(
        registers.stepping(0x9004, false).arch.debugreg[7],
        request.arch.debugreg[7]
    );
    assert!(!registers.catch(catch(9)));
}

#[test]
fn traps_that_cannot_be_are_refused_and_those_that_no_longer_fit_counted() {
    let four: Vec<_> = (0..4)
        .map(|n| stop_point(StopPointKind::WriteWatchpoint, 0x100 * n, 8))
        .collect();
    let set = [breakpoint(0), breakpoint(1), breakpoint(2)];
    assert_eq!(check_stop_points(&[], &four), Ok(()));
    assert!(matches!(
        check_stop_points(&set, &four),
        Err(StopPointError::TooMany {
            breakpoints: 3,
            stop_points: 4
        })
    ));
    assert_eq!(fitting(&set, &four), four[..1]);
    for wrong in [
        stop_point(StopPointKind::WriteWatchpoint, 0x1004, 8),
        stop_point(StopPointKind::WriteWatchpoint, 0x1000, 3),
        stop_point(StopPointKind::WriteWatchpoint, 0x1000, 0),
        stop_point(StopPointKind::HardwareBreakpoint, 0x1000, 4),
        stop_point(StopPointKind::WriteWatchpoint, 1 << 47, 1),
    ] {
        assert!(check_stop_points(&[], &[wrong]).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_trap_by_int3_takes_no_register_and_nothing_at_all_on_a_watched_routine() {
    let set = [breakpoint(0), breakpoint(1), breakpoint(2), breakpoint(3)];
    let stop_points = [
        stop_point(StopPointKind::SoftwareBreakpoint, 0x7000, 1),
        stop_point(StopPointKind::HardwareBreakpoint, 0x7008, 1),
        stop_point(StopPointKind::SoftwareBreakpoint, 0x2000, 1),
    ];
    assert!(check_stop_points(&set, &stop_points).is_err());
    assert_eq!(fitting(&set, &stop_points), [stop_points[0], stop_points[2]]);
    assert_eq!(check_stop_points(&set[..3], &stop_points), Ok(()));
    let mut registers = DebugRegisters::new();
    registers.set(&set[..3], &stop_points);
    let request = registers.armed();
    assert_eq!(request.control & KVM_GUESTDBG_USE_SW_BP, KVM_GUESTDBG_USE_SW_BP);
    assert_eq!(request.arch.debugreg[..4], [0x1000, 0x2000, 0x3000, 0x7008]);
    assert_eq!(registers.software_breakpoint(0x7000), Some(stop_points[0]));
    assert_eq!(
        registers.executed(0x2000, 0b10),
        Some(stop_points[2]),
        "it shares the register"
    );
    // Alone it needs KVM's attention, too; without it the guest keeps its own INT3.
    registers.set(&[], &stop_points[..1]);
    assert_eq!(registers.armed().control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP);
    registers.set(&set, &stop_points[2..]);
    assert_eq!(registers.armed().control & KVM_GUESTDBG_USE_SW_BP, 0);
}
