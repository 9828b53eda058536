//! What a debugger asks of a machine: steps, stop points, all registers. Small hand-assembled guests on the real KVM.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
// clippy spares functions marked `#[test]` only, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use storlock_vmm::debug::{HitAction, ResumeAction, StopPoint, StopPointError, StopPointKind};
use storlock_vmm::run::{MachineConfig, MachineStop, RunningMachine};
use support::{Code, LIMIT, Place, Prepared, Recorder, config, open, working_methods};

const ONE: ResumeAction = ResumeAction::Step { range: None };

/// Calls `routine` three times, counts each call in `counter`, and ends.
fn three_calls() -> Code {
    Code::new()
        .raw(&[0xb9, 3, 0, 0, 0]) // mov ecx, 3
        .label("again")
        .call("routine")
        .label("returned")
        .raw(&[0xff, 0xc9]) // dec ecx
        .jump_if_not_zero("again")
        .label("behind")
        .end()
        .label("routine")
        .raw(&[0x53]) // push rbx
        .label("counting")
        .count("counter")
        .label("counted")
        .raw(&[0x5b, 0xc3]) // pop rbx; ret
        .data("counter", 4)
}

fn start(prepared: Prepared) -> (RunningMachine, Place) {
    (prepared.machine.start_paused().unwrap(), prepared.place)
}

fn go(machine: &RunningMachine, actions: &[ResumeAction]) -> MachineStop {
    machine.handle().resume_by(actions).unwrap();
    machine.wait(Some(LIMIT))
}

fn rip(machine: &RunningMachine, cpu: u32) -> u64 {
    machine.inspect(cpu, |cpu| cpu.registers().rip).unwrap()
}

/// A counter of the guest's.
fn counter(machine: &RunningMachine, place: &Place, label: &str) -> u32 {
    let mut bytes = [0xff; 4];
    machine.ram().read(place.physical(label), &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn steps_execute_one_instruction_each_and_count_a_watched_routine_once() {
    let kvm = open();
    for method in working_methods(&kvm) {
        let recorder = Recorder::resuming();
        let configuration = MachineConfig {
            step_over: Some(method),
            ..config(1, &recorder)
        };
        let prepared = three_calls()
            .assemble()
            .prepare(&kvm, configuration)
            .break_at(&["routine"]);
        let (machine, place) = start(prepared);
        let at = |label| place.address(label);
        let routine = [
            at("routine"),
            at("counting"),
            at("counted"),
            at("counted") + 1,
            at("returned"),
            at("returned") + 2,
        ];
        let mut expected = vec![at("again")];
        for _ in 0..2 {
            expected.extend(routine);
            expected.push(at("again"));
        }
        for (number, expected) in expected.into_iter().enumerate() {
            let reason = go(&machine, &[ONE]);
            assert!(
                matches!(reason, MachineStop::Stepped { cpu: 0 }),
                "{method}, step {number}: {reason}"
            );
            assert_eq!(rip(&machine, 0), expected, "{method}, step {number}");
        }
        // Twice by steps, once by running.
        assert_eq!(recorder.calls().len(), 2, "{method}");
        let reason = go(&machine, &[]);
        assert!(matches!(reason, MachineStop::PowerOff), "{method}: {reason}");
        assert_eq!(recorder.calls().len(), 3, "{method}");
    }
}

#[test]
fn a_handler_that_stops_at_a_stepped_routine_has_it_before_its_first_instruction() {
    let kvm = open();
    let recorder = Recorder::new(|_, _| HitAction::Stop);
    let prepared = three_calls()
        .assemble()
        .prepare(&kvm, config(1, &recorder))
        .break_at(&["routine"]);
    let (machine, place) = start(prepared);
    let mut stops = 0;
    for _ in 0..12 {
        match go(&machine, &[ONE]) {
            MachineStop::Breakpoint { cpu: 0 } => {
                stops += 1;
                assert_eq!(rip(&machine, 0), place.address("routine"));
            }
            MachineStop::Stepped { cpu: 0 } => {}
            reason => panic!("{reason}"),
        }
    }
    assert_eq!((stops, recorder.calls().len()), (2, 2));
}

#[test]
fn a_range_is_stepped_through_without_a_stop() {
    let kvm = open();
    let recorder = Recorder::resuming();
    let prepared = three_calls()
        .assemble()
        .prepare(&kvm, config(1, &recorder))
        .break_at(&["routine"]);
    let (machine, place) = start(prepared);
    let whole = ResumeAction::Step {
        range: Some((place.address("routine"), place.address("counter"))),
    };
    go(&machine, &[ONE]);
    go(&machine, &[ONE]);
    assert_eq!(rip(&machine, 0), place.address("routine"));
    let reason = go(&machine, &[whole]);
    assert!(matches!(reason, MachineStop::Stepped { cpu: 0 }), "{reason}");
    assert_eq!(rip(&machine, 0), place.address("returned"));
    assert_eq!(recorder.calls().len(), 1);
}

#[test]
fn traps_stop_beside_breakpoints_while_registers_are_left() {
    let kvm = open();
    let recorder = Recorder::resuming();
    let prepared = three_calls()
        .assemble()
        .prepare(&kvm, config(1, &recorder))
        .break_at(&["routine", "behind"]);
    let (machine, place) = start(prepared);
    let execute = |label| StopPoint {
        kind: StopPointKind::HardwareBreakpoint,
        address: place.address(label),
        length: 1,
    };
    let three = [execute("counted"), execute("again"), execute("returned")];
    assert_eq!(
        machine.handle().set_stop_points(&three),
        Err(StopPointError::TooMany {
            breakpoints: 2,
            stop_points: 3
        })
    );
    // One on the routine that is watched anyway takes no register.
    let stop_points = [execute("counted"), execute("routine"), execute("returned")];
    machine.handle().set_stop_points(&stop_points).unwrap();
    for _ in 0..3 {
        for stop_point in [stop_points[1], stop_points[0], stop_points[2]] {
            match go(&machine, &[]) {
                MachineStop::StopPoint {
                    cpu: 0,
                    stop_point: hit,
                } => assert_eq!(hit, stop_point),
                reason => panic!("{reason}"),
            }
            assert_eq!(rip(&machine, 0), stop_point.address);
        }
    }
    assert_eq!(recorder.calls().len(), 3, "the watched routine was seen each time");
    machine.handle().set_stop_points(&[]).unwrap();
    assert!(matches!(go(&machine, &[]), MachineStop::PowerOff));
}

#[test]
fn breakpoints_take_the_registers_of_traps_and_that_is_told() {
    let kvm = open();
    let recorder = Recorder::resuming();
    let (machine, place) = start(three_calls().assemble().prepare(&kvm, config(1, &recorder)));
    let execute = |label| StopPoint {
        kind: StopPointKind::HardwareBreakpoint,
        address: place.address(label),
        length: 1,
    };
    machine
        .handle()
        .set_stop_points(&[execute("counted"), execute("again")])
        .unwrap();
    let set = place.breakpoints(&["routine", "behind", "returned"]);
    machine.set_breakpoints(&set).unwrap();
    let reason = machine.wait(Some(LIMIT));
    assert!(matches!(reason, MachineStop::StopPointsLost { count: 1 }), "{reason}");
    assert_eq!(machine.handle().debug_registers(), (set, vec![execute("counted")]));
}

/// Only test platforms that run guest code on a processor, or emulate a whole one, stop at data.
#[test]
fn written_data_stops_the_machine_behind_the_write() {
    let kvm = open();
    let recorder = Recorder::resuming();
    let (machine, place) = start(three_calls().assemble().prepare(&kvm, config(1, &recorder)));
    let stop_point = StopPoint {
        kind: StopPointKind::WriteWatchpoint,
        address: place.address("counter"),
        length: 4,
    };
    assert!(matches!(
        machine.handle().set_stop_points(&[StopPoint {
            length: 3,
            ..stop_point
        }]),
        Err(StopPointError::Length { .. })
    ));
    machine.handle().set_stop_points(&[stop_point]).unwrap();
    let interpreted = std::env::var("STORLOCK_TEST_PLATFORM").is_ok_and(|platform| platform == "native");
    for _ in 0..3 {
        match go(&machine, &[]) {
            MachineStop::StopPoint {
                cpu: 0,
                stop_point: hit,
            } => assert_eq!(hit, stop_point),
            MachineStop::PowerOff if interpreted => {
                println!("this test platform does not stop at data");
                return;
            }
            reason => panic!("{reason}"),
        }
        assert_eq!(rip(&machine, 0), place.address("counted"));
    }
    assert!(matches!(go(&machine, &[]), MachineStop::PowerOff));
}

#[test]
fn a_held_processor_does_not_move_and_an_interrupted_step_does_not_either() {
    let kvm = open();
    let recorder = Recorder::resuming();
    // Both count for ever.
    let guest = Code::new()
        .label("again")
        .count("counter")
        .jump("again")
        .data("counter", 4)
        .assemble();
    let prepared = guest.prepare(&kvm, config(2, &recorder));
    let (machine, _) = start(prepared);
    let before = machine.inspect(1, |cpu| *cpu.registers()).unwrap();
    for _ in 0..5 {
        assert!(matches!(
            go(&machine, &[ONE, ResumeAction::Hold]),
            MachineStop::Stepped { cpu: 0 }
        ));
    }
    machine
        .handle()
        .resume_by(&[ResumeAction::Run, ResumeAction::Hold])
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    machine.handle().interrupt();
    let reason = machine.wait(Some(LIMIT));
    assert!(matches!(reason, MachineStop::Interrupted), "{reason}");
    assert_eq!(machine.inspect(1, |cpu| *cpu.registers()), Some(before));
    let ran_on = machine.handle().ran_on();
    assert!(ran_on[0].is_some() && ran_on[1].is_none(), "{ran_on:?}");
    // An endless range is left by an interruption.
    let endless = ResumeAction::Step {
        range: Some((0, u64::MAX)),
    };
    machine.handle().resume_by(&[endless, ResumeAction::Hold]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    machine.handle().interrupt();
    assert!(matches!(machine.wait(Some(LIMIT)), MachineStop::Interrupted));
    assert!(matches!(
        go(&machine, &[ResumeAction::Hold, ONE]),
        MachineStop::Stepped { cpu: 1 }
    ));
}

/// UD2 under a step: the processor stores the step's trap flag with the other flags. The handler runs into a breakpoint, or
/// the machine is stopped in it, so that the step is over before the handler returns.
#[test]
fn a_step_that_is_over_in_an_exceptions_handler_leaves_no_trap_flag_behind() {
    let kvm = open();
    for watched in [true, false] {
        let recorder = Recorder::resuming();
        let guest = Code::new()
            .relative(&[0x0f, 0x01, 0x1d], "idtr", &[]) // lidt [idtr]
            .label("undefined")
            .raw(&[0x0f, 0x0b, 0x90, 0x90]) // ud2; nop; nop
            .end()
            .label("on_undefined")
            .raw(&[0x90])
            .label("waiting")
            .relative(&[0x83, 0x3d], "go", &[0]) // cmp dword [go], 0
            .raw(&[0x74, 0xf7]) // je waiting
            .raw(&[0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xcf]) // add qword [rsp], 2; iretq
            .label("on_debug")
            .count("stop_points")
            .raw(&[0x48, 0xcf]) // iretq
            .data("go", 4)
            .data("stop_points", 4)
            .data("idtr", 16)
            .data("idt", 4096)
            .assemble();
        let mut prepared = guest.prepare(&kvm, config(1, &recorder));
        if watched {
            prepared = prepared.break_at(&["on_undefined"]);
        }
        prepared.set_gate(1, "on_debug");
        prepared.set_gate(6, "on_undefined");
        let (machine, place) = start(prepared);
        go(&machine, &[ONE]);
        assert_eq!(rip(&machine, 0), place.address("undefined"));
        machine.handle().resume_by(&[ONE]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        machine.handle().interrupt();
        let reason = machine.wait(Some(LIMIT));
        assert!(
            matches!(reason, MachineStop::Stepped { .. } | MachineStop::Interrupted),
            "{reason}"
        );
        machine.ram().write(place.physical("go"), &[1]).unwrap();
        let reason = go(&machine, &[]);
        assert!(matches!(reason, MachineStop::PowerOff), "{reason}");
        assert_eq!(recorder.calls().len(), usize::from(watched));
        assert_eq!(counter(&machine, &place, "stop_points"), 0, "watched: {watched}");
    }
}

/// The vector of an interrupt that a guest sends itself.
const VECTOR: u8 = 0x41;

/// Waits for an interrupt by STI and HLT, then ends; whether one waits already is the caller's choice. The handler counts
/// it in `served`.
fn waits(pending: bool) -> support::Guest {
    let mut code = Code::new()
        .relative(&[0x0f, 0x01, 0x1d], "idtr", &[]) // lidt [idtr]
        .raw(&[0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32]) // mov ecx, IA32_APIC_BASE; rdmsr
        .raw(&[0x0d, 0, 0x0c, 0, 0, 0x0f, 0x30]) // or eax, x2APIC and enabled; wrmsr
        .raw(&[0xb9, 0x0f, 0x08, 0, 0, 0xb8, 0xff, 1, 0, 0]) // mov ecx, SIVR; mov eax, enabled
        .raw(&[0x31, 0xd2, 0x0f, 0x30]); // xor edx, edx; wrmsr
    if pending {
        code = code
            .raw(&[0xb9, 0x3f, 0x08, 0, 0, 0xb8, VECTOR, 0, 0, 0]) // mov ecx, SELF IPI; mov eax, VECTOR
            .raw(&[0x31, 0xd2, 0x0f, 0x30]); // xor edx, edx; wrmsr
    }
    code.label("enable")
        .raw(&[0xfb]) // sti
        .label("halt")
        .raw(&[0xf4]) // hlt
        .label("behind")
        .raw(&[0x90, 0x90])
        .end()
        .label("on_interrupt")
        .raw(&[0x90, 0x90])
        .count("served")
        .raw(&[0xb9, 0x0b, 0x08, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30]) // EOI
        .raw(&[0x48, 0xcf]) // iretq
        .data("served", 4)
        .data("idtr", 16)
        .data("idt", 4096)
        .assemble()
}

/// Starts [`waits`] and runs it to a stop point at `label`.
fn wait_at(label: &str, pending: bool) -> (RunningMachine, Place) {
    let prepared = waits(pending).prepare(&open(), config(1, &Recorder::resuming()));
    prepared.set_gate(VECTOR.into(), "on_interrupt");
    let (machine, place) = start(prepared);
    let stop_point = StopPoint {
        address: place.address(label),
        kind: StopPointKind::HardwareBreakpoint,
        length: 1,
    };
    machine.handle().set_stop_points(&[stop_point]).unwrap();
    assert!(matches!(go(&machine, &[]), MachineStop::StopPoint { .. }));
    (machine, place)
}

#[test]
fn a_step_of_hlt_leaves_the_processor_waiting_behind_it_and_an_interrupt_is_served_whole() {
    for pending in [true, false] {
        let (machine, place) = wait_at("enable", pending);
        for label in ["halt", "behind"] {
            let reason = go(&machine, &[ONE]);
            assert!(matches!(reason, MachineStop::Stepped { .. }), "{reason}");
            assert_eq!(rip(&machine, 0), place.address(label), "pending: {pending}");
        }
        if pending {
            let reason = go(&machine, &[]);
            assert!(matches!(reason, MachineStop::PowerOff), "{reason}");
        } else {
            machine.handle().resume_by(&[]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            machine.handle().interrupt();
            let reason = machine.wait(Some(LIMIT));
            assert!(matches!(reason, MachineStop::Interrupted), "{reason}");
            assert_eq!(rip(&machine, 0), place.address("behind"));
        }
        assert_eq!(counter(&machine, &place, "served"), u32::from(pending));
    }
}

#[test]
fn a_breakpoint_at_hlt_is_got_past_with_an_interrupt_waiting() {
    let (machine, place) = wait_at("halt", true);
    let reason = go(&machine, &[]);
    assert!(matches!(reason, MachineStop::PowerOff), "{reason}");
    assert_eq!(counter(&machine, &place, "served"), 1);
}

#[test]
fn all_registers_can_be_changed() {
    const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
    let kvm = open();
    let recorder = Recorder::resuming();
    let (machine, _) = start(three_calls().assemble().prepare(&kvm, config(1, &recorder)));
    let seen = machine.inspect(0, |cpu| {
        let mut special = *cpu.special();
        special.cr2 = 0x1234_5678;
        special.cr8 = 5;
        special.gs.base = 0xffff_f800_0000_1000;
        cpu.set_special(&special).unwrap();
        assert_eq!(*cpu.special(), special);
        let mut floating = cpu.floating_point().unwrap();
        floating.xmm[15] = [0xa5; 16];
        floating.mxcsr = 0x1fa0;
        floating.st[2][..10].copy_from_slice(&[0x11; 10]);
        match &mut floating.ymm_high {
            Some(high) => high[15] = [0x5a; 16],
            None => println!("the processors of this test platform have no AVX"),
        }
        cpu.set_floating_point(&floating).unwrap();
        assert_eq!(cpu.floating_point().unwrap(), floating);
        assert!(cpu.set_msr(MSR_KERNEL_GS_BASE, 0xffff_f800_0000_2000).unwrap());
        cpu.msr(MSR_KERNEL_GS_BASE).unwrap()
    });
    assert_eq!(seen, Some(0xffff_f800_0000_2000));
    assert!(matches!(go(&machine, &[]), MachineStop::PowerOff));
}

/// Calls `routine` with stop points by INT3 in it, more than there are debug registers.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one session, of which each step needs those before it"
)]
fn traps_by_int3_take_no_register_and_are_got_past_alone() {
    let kvm = open();
    let recorder = Recorder::resuming();
    let configuration = MachineConfig {
        software_breakpoints: true,
        ..config(2, &recorder)
    };
    // The second processor waits.
    let guest = Code::new()
        .raw(&[0xb8, 1, 0, 0, 0]) // mov eax, 1
        .relative(&[0xf0, 0x0f, 0xc1, 0x05], "arrived", &[]) // lock xadd [arrived], eax
        .raw(&[0x84, 0xc0]) // test al, al
        .jump_if_not_zero("wait")
        .raw(&[0xb9, 3, 0, 0, 0]) // mov ecx, 3
        .label("again")
        .call("routine")
        .label("returned")
        .raw(&[0xff, 0xc9]) // dec ecx
        .jump_if_not_zero("again")
        .end()
        .label("wait")
        .count("waiting")
        .jump("wait")
        .label("routine")
        .raw(&[0x53]) // push rbx
        .label("counting")
        .count("counter")
        .label("counted")
        .raw(&[0x5b, 0xc3]) // pop rbx; ret
        .data("counter", 4)
        .data("waiting", 4)
        .data("arrived", 4)
        .assemble();
    let prepared = guest.prepare(&kvm, configuration).break_at(&["again"]);
    let (machine, place) = start(prepared);
    let patch = |address| StopPoint {
        kind: StopPointKind::SoftwareBreakpoint,
        address,
        length: 1,
    };
    let at = |label| patch(place.address(label));
    let stop_points = [
        at("routine"),
        at("counting"),
        at("counted"),
        patch(at("counted").address + 1),
        at("returned"),
        at("again"),
    ];
    if !machine.handle().has_software_breakpoints() {
        println!("int3 does not come out of this KVM");
        assert_eq!(
            machine.handle().set_stop_points(&stop_points),
            Err(StopPointError::NoSoftwareBreakpoints)
        );
        return;
    }
    assert_eq!(
        machine.handle().set_stop_points(&[patch(0x1234_5678_9000)]),
        Err(StopPointError::NotMapped(0x1234_5678_9000))
    );
    machine.handle().set_stop_points(&stop_points).unwrap();
    // The host sees the code as it was.
    let mut code = [0; 1];
    machine.ram().read(place.physical("routine"), &mut code).unwrap();
    assert_eq!(code, [0x53]);
    let go_on = |actions: &[ResumeAction]| match machine.go_on(actions, LIMIT).unwrap() {
        Some(reason) => reason,
        None => machine.wait(Some(LIMIT)),
    };
    machine.resume().unwrap();
    let mut reason = machine.wait(Some(LIMIT));
    let order = [5, 0, 1, 2, 3, 4];
    for number in 0..18 {
        let expected = stop_points[order[number % 6]];
        let MachineStop::StopPoint { cpu, stop_point } = reason else {
            panic!("{number}: {reason}");
        };
        assert_eq!(
            (stop_point, rip(&machine, cpu)),
            (expected, expected.address),
            "{number}"
        );
        // By a step, or by running on.
        if number % 4 == 1 {
            let mut actions = [ResumeAction::Hold; 2];
            actions[cpu as usize] = ONE;
            let stepped = go_on(&actions);
            assert!(matches!(stepped, MachineStop::Stepped { .. }), "{number}: {stepped}");
            assert!(rip(&machine, cpu) > expected.address, "{number}");
        }
        reason = go_on(&[]);
    }
    assert!(matches!(reason, MachineStop::PowerOff), "{reason}");
    assert_eq!(recorder.calls().len(), 3, "the watched one was seen each time");
    let mut counter = [0; 4];
    machine.ram().read(place.physical("counter"), &mut counter).unwrap();
    assert_eq!(u32::from_le_bytes(counter), 3);
}

/// A guest that runs into its own INT3, beside a stop point of ours.
#[test]
fn the_guests_own_int3_is_its_own() {
    let kvm = open();
    let recorder = Recorder::resuming();
    let configuration = MachineConfig {
        software_breakpoints: true,
        ..config(1, &recorder)
    };
    let guest = Code::new()
        .label("begin")
        .raw(&[0x90])
        .label("own")
        .raw(&[0xcc])
        .end()
        .assemble();
    let (machine, place) = start(guest.prepare(&kvm, configuration));
    if !machine.handle().has_software_breakpoints() {
        println!("int3 does not come out of this KVM");
        return;
    }
    let stop_point = StopPoint {
        kind: StopPointKind::SoftwareBreakpoint,
        address: place.address("begin"),
        length: 1,
    };
    machine.handle().set_stop_points(&[stop_point]).unwrap();
    machine.resume().unwrap();
    let reason = machine.wait(Some(LIMIT));
    assert!(matches!(reason, MachineStop::StopPoint { .. }), "{reason}");
    assert!(machine.go_on(&[], LIMIT).unwrap().is_none());
    // It has no interrupt descriptor table.
    let reason = machine.wait(Some(LIMIT));
    assert!(matches!(reason, MachineStop::TripleFault { cpu: 0 }), "{reason}");
}
