//! Small hand-assembled guests on the real KVM. Run alone on a test platform: `cargo test -p storlock-vmm --test guest_machine`.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
// clippy spares functions marked `#[test]` only, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use storlock_vmm::boot::{BootRequest, KernelImage};
use storlock_vmm::debug::{Breakpoint, HitAction, StepOver};
use storlock_vmm::devices::DeviceWorker;
use storlock_vmm::run::{InternalError, Machine, MachineConfig, MachineStop};
use support::{Call, Code, LIMIT, Recorder, config, open, working_methods};

/// Every processor calls `routine` (which starts with `first`) `calls` times; the last one to finish ends the guest.
fn calling(cpus: u8, calls: u32, first: &[u8], rest: &[u8]) -> Code {
    Code::new()
        .raw(&[0xb9])
        .raw(&calls.to_le_bytes()) // mov ecx, calls
        .label("again")
        .call("routine")
        .label("returned")
        .raw(&[0xff, 0xc9]) // dec ecx
        .jump_if_not_zero("again")
        .raw(&[0xb8, 1, 0, 0, 0]) // mov eax, 1
        .relative(&[0xf0, 0x0f, 0xc1, 0x05], "done", &[]) // lock xadd [done], eax
        .raw(&[0x3c, cpus - 1]) // cmp al, cpus - 1
        .jump_if_not_zero("rest")
        .end()
        .label("rest")
        .raw(&[0xf4, 0xeb, 0xfd]) // hlt; jmp $-1
        .label("routine")
        .raw(first)
        .raw(rest)
        .raw(&[0xc3])
        .data("done", 4)
}

const PUSH_RBX: &[u8] = &[0x53];
const POP_RBX: &[u8] = &[0x5b];

#[test]
fn every_call_is_one_hit_by_each_way_of_stepping_over() {
    const CALLS: u32 = 10_000;
    let kvm = open();
    for method in working_methods(&kvm) {
        let recorder = Recorder::resuming();
        let guest = calling(2, CALLS, PUSH_RBX, POP_RBX).assemble();
        let configuration = MachineConfig {
            step_over: Some(method),
            ..config(2, &recorder)
        };
        let started = guest.prepare(&kvm, configuration).break_at(&["routine"]).run();
        let hits = |cpu| {
            recorder
                .calls()
                .iter()
                .filter(|call| matches!(call, Call::Breakpoint { cpu: at, id: 0, .. } if *at == cpu))
                .count()
        };
        assert_eq!((hits(0), hits(1)), (CALLS as usize, CALLS as usize), "{method}");
        for statistics in started.machine.statistics() {
            assert_eq!(statistics.hits, u64::from(CALLS), "{method}");
            if method != StepOver::SingleStep {
                // One KVM_RUN a hit and nothing else; the rest are the first entry, interruptions and port writes.
                assert_eq!(statistics.debug_exits, statistics.hits, "{method}");
                assert_eq!(statistics.hit_requests, 0, "{method}");
                assert!(statistics.runs <= statistics.hits + 10, "{method}: {statistics:?}");
            }
        }
    }
}

#[test]
fn a_routine_that_stores_flags_does_not_see_the_step() {
    let kvm = open();
    for method in working_methods(&kvm) {
        let recorder = Recorder::resuming();
        // pushfq; pop rax; or [flags], eax
        let rest = Code::new();
        let guest = rest
            .call("routine")
            .end()
            .label("routine")
            .raw(&[0x9c, 0x58])
            .relative(&[0x09, 0x05], "flags", &[])
            .raw(&[0xc3])
            .data("flags", 4)
            .assemble();
        let configuration = MachineConfig {
            step_over: Some(method),
            ..config(1, &recorder)
        };
        let started = guest.prepare(&kvm, configuration).break_at(&["routine"]).run();
        let flags = started.u32_at("flags", 0);
        assert_eq!(recorder.calls().len(), 1, "{method}");
        assert_eq!(flags & 0x1_0102, 0x2, "{method}: {flags:#x} shows TF or RF");
    }
}

#[test]
fn a_stop_keeps_the_machine_at_the_instruction_and_is_reported_once() {
    let kvm = open();
    for method in working_methods(&kvm) {
        let recorder = Recorder::new(|_, _| HitAction::Stop);
        let guest = calling(2, 3, PUSH_RBX, POP_RBX).assemble();
        let configuration = MachineConfig {
            step_over: Some(method),
            ..config(2, &recorder)
        };
        let started = guest.prepare(&kvm, configuration).break_at(&["routine"]).start();
        let routine = started.place.address("routine");
        for _ in 0..6 {
            let MachineStop::Breakpoint { cpu } = started.machine.wait(Some(LIMIT)) else {
                panic!("{method}: no stop")
            };
            let seen = started.machine.inspect(cpu, move |cpu| {
                let mut code = [0; 3];
                cpu.read_virtual(routine, &mut code).unwrap();
                (cpu.registers().rip, code)
            });
            assert_eq!(seen, Some((routine, [0x53, 0x5b, 0xc3])), "{method}");
            started.machine.resume().unwrap();
        }
        started.finish();
        assert_eq!(recorder.calls().len(), 6, "{method}");
        assert!(
            started.machine.resume().is_err(),
            "a guest that switched off cannot go on"
        );
    }
}

#[test]
fn a_return_is_caught_while_a_debug_register_is_left() {
    const CALLS: u32 = 100;
    let kvm = open();
    for method in working_methods(&kvm) {
        for (labels, caught) in [
            (&["routine"][..], CALLS as usize),
            (&["routine", "rest", "done", "again"][..], 0),
        ] {
            let recorder = Recorder::new(|cpu, call| match call {
                Call::Breakpoint { id: 0, .. } => {
                    let rsp = cpu.registers().rsp;
                    let mut return_address = [0; 8];
                    cpu.read_virtual(rsp, &mut return_address).unwrap();
                    HitAction::ResumeCatchReturn {
                        return_address: u64::from_le_bytes(return_address),
                        stack_pointer: rsp + 8,
                        cookie: cpu.registers().rcx,
                    }
                }
                _ => HitAction::Resume,
            });
            // The routine returns 3 times RCX: lea eax, [rcx + rcx * 2]
            let guest = calling(1, CALLS, PUSH_RBX, &[0x5b, 0x8d, 0x04, 0x49]).assemble();
            let configuration = MachineConfig {
                step_over: Some(method),
                ..config(1, &recorder)
            };
            guest.prepare(&kvm, configuration).break_at(labels).run();
            let calls = recorder.calls();
            let returns = calls.iter().filter_map(|call| match call {
                Call::Return { cookie, rax, .. } => Some((*cookie, *rax)),
                _ => None,
            });
            let returns: Vec<_> = returns.collect();
            assert_eq!(returns.len(), caught, "{method}");
            assert!(
                returns.iter().all(|(cookie, rax)| *rax == 3 * cookie),
                "{method}: {returns:?}"
            );
        }
    }
}

#[test]
fn two_processors_may_replace_the_breakpoints_at_once() {
    const CALLS: u32 = 200;
    let kvm = open();
    let addresses = Arc::new(std::sync::OnceLock::<Vec<Breakpoint>>::new());
    let both = Arc::clone(&addresses);
    let recorder = Recorder::new(move |cpu, call| {
        let Call::Breakpoint { .. } = call else {
            return HitAction::Resume;
        };
        let set = both.get().unwrap();
        // With and without the second, in turns; the first stays, so every call of it is a hit.
        let length = 1 + cpu.registers().rcx as usize % 2;
        cpu.set_breakpoints(&set[..length]).unwrap();
        HitAction::Resume
    });
    let guest = calling(2, CALLS, PUSH_RBX, POP_RBX).assemble();
    let prepared = guest.prepare(&kvm, config(2, &recorder)).break_at(&["routine"]);
    addresses.set(prepared.place.breakpoints(&["routine", "rest"])).unwrap();
    prepared.run();
    let hits = recorder
        .calls()
        .iter()
        .filter(|call| matches!(call, Call::Breakpoint { id: 0, .. }))
        .count();
    assert_eq!(hits, 2 * CALLS as usize);
}

#[test]
fn a_syscall_entry_is_told_after_it_was_written() {
    const LSTAR: u32 = 0xc000_0082;
    let kvm = open();
    let recorder = Recorder::new(|cpu, call| {
        if let Call::Msr { msr, value, .. } = call {
            assert_eq!(cpu.msr(msr).unwrap(), value);
            cpu.drop_msr_filter().unwrap();
        }
        HitAction::Resume
    });
    let write_lstar = |code: Code| code.raw(&[0xb9, 0x82, 0, 0, 0xc0]).raw(&[0x0f, 0x30]); // mov ecx, LSTAR; wrmsr
    let code = Code::new().raw(&[0x31, 0xd2, 0xb8, 0x78, 0x56, 0x34, 0x12]); // xor edx, edx; mov eax, 12345678h
    let code = write_lstar(code).raw(&[0xff, 0xc0]); // inc eax
    let code = write_lstar(code).raw(&[0x0f, 0x32]); // rdmsr
    let guest = code
        .relative(&[0x89, 0x05], "read", &[])
        .end()
        .data("read", 4)
        .assemble();
    let configuration = MachineConfig {
        msr_exits: vec![LSTAR],
        ..config(1, &recorder)
    };
    let started = guest.prepare(&kvm, configuration).run();
    let told = Call::Msr {
        cpu: 0,
        msr: LSTAR,
        value: 0x1234_5678,
    };
    assert_eq!(recorder.calls(), [told]);
    assert_eq!(started.u32_at("read", 0), 0x1234_5679);
}

#[test]
fn unassigned_ports_read_all_ones_in_every_size_and_as_strings() {
    let kvm = open();
    let guest = Code::new()
        .raw(&[0x66, 0xba, 0xf0, 0x05]) // mov dx, 5F0h
        .raw(&[0x31, 0xc0, 0xec]) // xor eax, eax; in al, dx
        .relative(&[0x89, 0x05], "read", &[])
        .raw(&[0x31, 0xc0, 0x66, 0xed]) // in ax, dx
        .relative(&[0x48, 0x8d, 0x3d], "read", &[]) // lea rdi, [read]
        .raw(&[0x89, 0x47, 0x04]) // mov [rdi + 4], eax
        .raw(&[0x31, 0xc0, 0xed]) // in eax, dx
        .raw(&[0x89, 0x47, 0x08])
        .raw(&[0x48, 0x83, 0xc7, 0x0c]) // add rdi, 12
        .raw(&[0xb9, 3, 0, 0, 0, 0xfc, 0xf3, 0x66, 0x6d]) // mov ecx, 3; cld; rep insw
        .end()
        .data("read", 32)
        .assemble();
    let started = guest.prepare(&kvm, config(1, &Recorder::resuming())).run();
    let read: Vec<_> = (0..5).map(|index| started.u32_at("read", index)).collect();
    assert_eq!(read, [0xff, 0xffff, 0xffff_ffff, 0xffff_ffff, 0xffff]);
}

#[test]
fn the_guests_own_single_step_is_given_back() {
    let kvm = open();
    for method in working_methods(&kvm) {
        let recorder = Recorder::resuming();
        let guest = Code::new()
            .relative(&[0x0f, 0x01, 0x1d], "idtr", &[]) // lidt [idtr]
            .raw(&[0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d]) // pushfq; or dword [rsp], 100h; popfq
            .raw(&[0x90]) // the trap flag counts from here: nop,
            .call("routine") // call, push, pop, ret,
            .raw(&[0x9c, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d]) // pushfq, and [rsp], ~100h, popfq
            .end()
            .label("routine")
            .raw(&[0x53, 0x5b, 0xc3])
            .label("on_debug")
            .count("steps")
            .raw(&[0x50, 0x0f, 0x21, 0xf0]) // push rax; mov rax, dr6
            .relative(&[0x48, 0x09, 0x05], "dr6", &[])
            .raw(&[0x58, 0x48, 0xcf]) // pop rax; iretq
            .data("steps", 4)
            .data("dr6", 8)
            .data("idtr", 16)
            .data("idt", 4096)
            .assemble();
        let configuration = MachineConfig {
            step_over: Some(method),
            ..config(1, &recorder)
        };
        let prepared = guest.prepare(&kvm, configuration).break_at(&["routine"]);
        prepared.set_gate(1, "on_debug");
        let started = prepared.run();
        assert_eq!(recorder.calls().len(), 1, "{method}");
        assert_eq!(started.u32_at("steps", 0), 8, "{method}");
        assert_ne!(started.u64_at("dr6", 0) & 1 << 14, 0, "{method}: DR6.BS");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "mostly the guest's program, an instruction a line")]
fn interrupts_between_a_hit_and_its_instruction_neither_lose_nor_invent_a_hit() {
    const CALLS: u32 = 3_000;
    let kvm = open();
    for method in working_methods(&kvm) {
        let recorder = Recorder::resuming();
        let write_msr = |code: Code, msr: u32, value: u32| {
            code.raw(&[0xb9])
                .raw(&msr.to_le_bytes())
                .raw(&[0xb8])
                .raw(&value.to_le_bytes())
                .raw(&[0x31, 0xd2, 0x0f, 0x30]) // mov ecx, msr; mov eax, value; xor edx, edx; wrmsr
        };
        let mut code = Code::new().relative(&[0x0f, 0x01, 0x1d], "idtr", &[]);
        // x2APIC on, spurious vector and enable, periodic timer on vector 40h, divide by 1, 200 us.
        let timer = [
            (0x1b, 0xfee0_0d00),
            (0x80f, 0x1ff),
            (0x83e, 0xb),
            (0x832, 0x2_0040),
            (0x838, 200_000),
        ];
        for (msr, value) in timer {
            code = write_msr(code, msr, value);
        }
        let guest = code
            .raw(&[0xfb, 0xbb]) // sti; mov ebx, calls
            .raw(&CALLS.to_le_bytes())
            .label("again")
            .call("routine")
            .raw(&[0xff, 0xcb]) // dec ebx
            .jump_if_not_zero("again")
            .raw(&[0xfa])
            .end()
            .label("on_timer")
            .raw(&[0x50, 0x51, 0x52]) // push rax, rcx, rdx
            .count("interrupts")
            .call("routine")
            .raw(&[0x31, 0xc0, 0x31, 0xd2, 0xb9, 0x0b, 0x08, 0, 0, 0x0f, 0x30]) // end of interrupt
            .raw(&[0x5a, 0x59, 0x58, 0x48, 0xcf])
            .label("routine")
            .raw(PUSH_RBX)
            .count("calls")
            .raw(&[0x5b, 0xc3])
            .data("calls", 4)
            .data("interrupts", 4)
            .data("idtr", 16)
            .data("idt", 4096)
            .assemble();
        let configuration = MachineConfig {
            step_over: Some(method),
            ..config(1, &recorder)
        };
        let prepared = guest.prepare(&kvm, configuration).break_at(&["routine"]);
        prepared.set_gate(0x40, "on_timer");
        let started = prepared.run();
        let (calls, interrupts) = (started.u32_at("calls", 0), started.u32_at("interrupts", 0));
        println!(
            "{method}: {calls} calls, {interrupts} interrupts, {:?}",
            started.machine.statistics()
        );
        assert!(interrupts > 10, "{method}: {interrupts} interrupts");
        assert_eq!(calls, CALLS + interrupts, "{method}");
        assert_eq!(recorder.calls().len(), calls as usize, "{method}");
    }
}

#[derive(Default)]
struct Worker {
    log: std::sync::Mutex<Vec<&'static str>>,
}

impl Worker {
    fn note(&self, what: &'static str) {
        self.log.lock().unwrap().push(what);
    }
}

/// A worker that panics when the machine is to pause: on the coordinator's thread.
struct Panicking;

impl DeviceWorker for Panicking {
    fn request_pause(&self) {
        panic!("on purpose");
    }

    fn wait_paused(&self) {}

    fn resume(&self) {}

    fn stop(&self) {}
}

#[test]
fn a_panic_of_the_coordinator_ends_the_run_and_says_so() {
    let kvm = open();
    let guest = Code::new().raw(&[0xeb, 0xfe]).assemble(); // jmp $
    let mut prepared = guest.prepare(&kvm, config(2, &Recorder::resuming()));
    prepared.machine.add_worker(Arc::new(Panicking));
    let running = prepared.machine.start().unwrap();
    let began = Instant::now();
    let reason = running.wait(Some(Duration::from_millis(200)));
    assert!(
        matches!(&reason, MachineStop::Failed(error) if error.to_string().contains("coordinator")),
        "{reason}"
    );
    drop(running);
    assert!(began.elapsed() < LIMIT);
}

impl DeviceWorker for Worker {
    fn request_pause(&self) {
        self.note("request");
    }
    fn wait_paused(&self) {
        self.note("paused");
    }
    fn resume(&self) {
        self.note("resume");
    }
    fn stop(&self) {
        self.note("stop");
    }
}

#[test]
fn a_paused_machine_stands_still_until_it_is_resumed() {
    let kvm = open();
    let guest = Code::new()
        .label("again")
        .count("turns")
        .jump("again")
        .data("turns", 4)
        .assemble();
    let worker = Arc::new(Worker::default());
    let mut prepared = guest.prepare(&kvm, config(2, &Recorder::resuming()));
    prepared.machine.add_worker(Arc::clone(&worker) as _);
    let started = prepared.start();
    let turns = || started.u32_at("turns", 0);
    let see_it_run = || {
        let before = turns();
        while turns() == before {
            std::thread::yield_now();
        }
    };
    for _ in 0..20 {
        see_it_run();
        started.machine.pause();
        let paused = turns();
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(turns(), paused);
        started.machine.resume().unwrap();
    }
    see_it_run();
    let handle = started.machine.handle();
    std::thread::spawn(move || handle.stop()).join().unwrap();
    let reason = started.machine.wait(Some(LIMIT));
    assert!(matches!(reason, MachineStop::Stopped), "{reason}");
    drop(started);
    let mut expected = vec!["resume"];
    expected.extend(["request", "paused", "resume"].repeat(20));
    expected.extend(["request", "paused", "request", "paused", "stop"]);
    assert_eq!(*worker.log.lock().unwrap(), expected);
}

#[test]
fn a_guest_that_never_ends_meets_the_time_limit_and_can_go_on() {
    let kvm = open();
    let guest = Code::new().label("again").jump("again").assemble();
    let started = guest.prepare(&kvm, config(1, &Recorder::resuming())).start();
    for _ in 0..2 {
        let reason = started.machine.wait(Some(Duration::from_millis(30)));
        assert!(matches!(reason, MachineStop::TimeLimit), "{reason}");
        started.machine.resume().unwrap();
    }
}

#[test]
fn a_fault_without_a_handler_is_a_triple_fault() {
    let kvm = open();
    let guest = Code::new().raw(&[0x0f, 0x0b]).assemble(); // ud2
    let started = guest.prepare(&kvm, config(1, &Recorder::resuming())).start();
    let reason = started.machine.wait(Some(LIMIT));
    assert!(matches!(reason, MachineStop::TripleFault { cpu: 0 }), "{reason}");
}

#[test]
fn an_instruction_that_this_kvm_does_not_know_is_named() {
    let kvm = open();
    let guest = Code::new().raw(&[0xf3, 0x48, 0x0f, 0xb8, 0xc1]).end().assemble(); // popcnt rax, rcx
    let started = guest.prepare(&kvm, config(1, &Recorder::resuming())).start();
    match started.machine.wait(Some(LIMIT)) {
        MachineStop::PowerOff => println!("this test platform executes popcnt"),
        MachineStop::InternalError(error) => {
            assert_eq!((error.cpu, error.suberror), (0, InternalError::EMULATION));
            assert_eq!(error.rip, started.place.info.entry_point);
            assert_eq!(error.instruction(), Some(("popcnt rax,rcx".into(), 5)));
        }
        reason => panic!("{reason}"),
    }
}

#[test]
fn every_processor_starts_with_its_number_and_stack() {
    const CPUS: u32 = 8;
    let kvm = open();
    // mov [rdx * 8 + numbers], rsp via lea; each processor counts, the last ends.
    let guest = Code::new()
        .relative(&[0x48, 0x8d, 0x3d], "stacks", &[]) // lea rdi, [stacks]
        .raw(&[0x48, 0x89, 0x24, 0xd7]) // mov [rdi + rdx * 8], rsp
        .raw(&[0xb8, 1, 0, 0, 0])
        .relative(&[0xf0, 0x0f, 0xc1, 0x05], "done", &[])
        .raw(&[0x3c, CPUS as u8 - 1])
        .jump_if_not_zero("rest")
        .end()
        .label("rest")
        .raw(&[0xf4, 0xeb, 0xfd])
        .data("done", 4)
        .data("stacks", 8 * CPUS as usize)
        .assemble();
    let started = guest.prepare(&kvm, config(CPUS, &Recorder::resuming())).run();
    let stacks: Vec<_> = (0..u64::from(CPUS)).map(|cpu| started.u64_at("stacks", cpu)).collect();
    for (cpu, stack) in (0..).zip(&stacks) {
        assert_eq!(*stack, started.place.info.stack_pointer(cpu));
        assert_eq!(stack % 16, 8, "as after a call");
    }
}

#[test]
fn processors_see_their_number_and_no_virtualization() {
    const CPUS: u32 = 3;
    let kvm = open();
    // Leaf 1: EBX, ECX; leaf 0BH, subleaf 1: EAX, EBX, EDX; leaf 80000001H: ECX; each at values + 32 * processor.
    let guest = Code::new()
        .relative(&[0x48, 0x8d, 0x3d], "values", &[]) // lea rdi, [values]
        .raw(&[0x48, 0xc1, 0xe2, 0x05, 0x48, 0x01, 0xd7]) // shl rdx, 5; add rdi, rdx
        .raw(&[0xb8, 1, 0, 0, 0, 0x0f, 0xa2]) // mov eax, 1; cpuid
        .raw(&[0x89, 0x1f, 0x89, 0x4f, 0x04]) // mov [rdi], ebx; mov [rdi + 4], ecx
        .raw(&[0xb8, 0x0b, 0, 0, 0, 0xb9, 1, 0, 0, 0, 0x0f, 0xa2]) // mov eax, 0Bh; mov ecx, 1; cpuid
        .raw(&[0x89, 0x47, 0x08, 0x89, 0x5f, 0x0c, 0x89, 0x57, 0x10]) // mov [rdi + 8], eax; ebx, edx
        .raw(&[0xb8, 1, 0, 0, 0x80, 0x0f, 0xa2, 0x89, 0x4f, 0x14]) // mov eax, 80000001h; cpuid; mov [rdi + 20], ecx
        .raw(&[0xb8, 1, 0, 0, 0])
        .relative(&[0xf0, 0x0f, 0xc1, 0x05], "done", &[])
        .raw(&[0x3c, CPUS as u8 - 1])
        .jump_if_not_zero("rest")
        .end()
        .label("rest")
        .raw(&[0xf4, 0xeb, 0xfd])
        .data("done", 4)
        .data("values", 32 * CPUS as usize)
        .assemble();
    let started = guest.prepare(&kvm, config(CPUS, &Recorder::resuming())).run();
    for cpu in 0..CPUS {
        let value = |index| started.u32_at("values", u64::from(cpu) * 8 + index);
        assert_eq!(value(0) >> 24, cpu, "initial APIC ID");
        assert_eq!(value(1) & (1 << 5), 0, "VMX");
        assert_eq!(value(1) >> 31, 1, "hypervisor present");
        // Three cores take two bits of the APIC ID.
        assert_eq!((value(2), value(3), value(4)), (2, CPUS, cpu), "topology");
        assert_eq!(value(5) & (1 << 2), 0, "SVM");
    }
}

#[test]
fn handlers_and_pauses_do_not_wait_for_each_other() {
    let kvm = open();
    let hits = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&hits);
    let recorder = Recorder::new(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        HitAction::Resume
    });
    // For ever.
    let guest = calling(2, 0, PUSH_RBX, POP_RBX).assemble();
    let started = guest.prepare(&kvm, config(2, &recorder)).break_at(&["routine"]).start();
    let set = started.place.breakpoints(&["routine"]);
    for _ in 0..50 {
        started.machine.pause();
        let before = hits.load(Ordering::Relaxed);
        started.machine.set_breakpoints(&set).unwrap();
        assert_eq!(
            hits.load(Ordering::Relaxed),
            before,
            "a paused processor called the handler"
        );
        started.machine.resume().unwrap();
        started.machine.set_breakpoints(&set).unwrap();
        assert!(started.machine.inspect(1, |cpu| cpu.index()) == Some(1));
    }
    let began = Instant::now();
    while hits.load(Ordering::Relaxed) == 0 {
        assert!(began.elapsed() < LIMIT, "the guest does not go on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_machine_that_was_not_booted_cannot_start() {
    let kvm = open();
    let machine = Machine::new(&kvm, MachineConfig::default()).unwrap();
    assert!(machine.start().is_err());
    for cpus in [0, 65] {
        let configuration = MachineConfig {
            cpus,
            ..MachineConfig::default()
        };
        assert!(Machine::new(&kvm, configuration).is_err(), "{cpus}");
    }
}

#[test]
fn the_seed_decides_where_the_kernel_lies() {
    let kvm = open();
    let boot = |seed| {
        let mut machine = Machine::new(&kvm, MachineConfig::default()).unwrap();
        let kernel = KernelImage::from_code("test", &[0xf4]).unwrap();
        let request = BootRequest {
            kernel,
            files: Vec::new(),
            command_line: String::new(),
            seed,
        };
        machine.boot(&request).unwrap()
    };
    assert_eq!(boot(1), boot(1));
    let (one, other) = (boot(1), boot(2));
    assert_ne!(one.kernel_base, other.kernel_base);
    assert_ne!(one.kernel_physical, other.kernel_physical);
    assert_ne!(one.direct_map_base, other.direct_map_base);
}
