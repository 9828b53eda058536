//! Which debug register is for what, without KVM.

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
    assert!(!registers.can_catch() && !registers.catch(catch(9)));
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
