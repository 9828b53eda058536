//! What the checker makes of a right program whose calls stubs write, whatever the order of their instructions.

use proptest::prelude::*;
use storlock_check::checker::{Checker, Limits};
use storlock_check::contract::{Routine, RoutineSet};
use storlock_check::event::{DISPATCH_LEVEL, Event, EventKind, Module, Order, WatchSet};

use crate::hooks::tests::interpreter::Cpu;
use crate::hooks::tests::{Guest, LOCKS, SITE, kernel, stub};
use crate::hooks::{Next, Record, RecordCpu, site_key};
use crate::session::decode;

const PROCESSORS: u64 = 3;
const ACQUIRE: Routine = Routine::KeAcquireSpinLockAtDpcLevel;
const RELEASE: Routine = Routine::KeReleaseSpinLockFromDpcLevel;

/// Processors that take two locks in turn and give them back.
struct Program {
    guest: Guest,
    cpus: Vec<Cpu>,
    /// Calls that each has made.
    made: Vec<u64>,
}

impl Program {
    fn new() -> Self {
        let guest = Guest::new(vec![stub(&[ACQUIRE]), stub(&[RELEASE])], PROCESSORS);
        for number in 0..2 {
            guest.ring.region().set_site(site_key(SITE, number), true);
        }
        let mut program = Self {
            guest,
            cpus: Vec::new(),
            made: vec![0; PROCESSORS as usize],
        };
        program.cpus = (0..PROCESSORS).map(|processor| program.call(processor, 0)).collect();
        program
    }

    /// A processor at its call with that number.
    fn call(&self, processor: u64, number: u64) -> Cpu {
        let lock = LOCKS + 0x40 * ((number / 2 + processor) % 2);
        let mut cpu = self.guest.caller(processor, (number % 2) as usize, [lock, 0, 0, 0]);
        cpu.cr8 = DISPATCH_LEVEL.into();
        cpu
    }

    /// One instruction of a stub, or the routine itself, which takes the lock only if nobody has it.
    fn step(&mut self, processor: u64) {
        let cpu = &mut self.cpus[processor as usize];
        if !self.guest.is_through(cpu) {
            cpu.step(&self.guest.ram);
            return;
        }
        let (lock, rip) = (cpu.registers.rcx(), cpu.registers.rip);
        assert_ne!(rip, self.guest.code.exit);
        let acquires = rip == self.guest.stubs[0].target;
        if acquires && self.guest.ram.u64(lock) != 0 {
            return; // It spins.
        }
        self.guest.ram.set_u64(lock, u64::from(acquires));
        self.made[processor as usize] += 1;
        self.cpus[processor as usize] = self.call(processor, self.made[processor as usize]);
    }
}

struct Judge {
    checker: Checker,
    sequence: u64,
    releases: u64,
}

impl Judge {
    fn new() -> Self {
        let mut judge = Self {
            checker: Checker::new(Limits::default(), 1),
            sequence: 0,
            releases: 0,
        };
        judge.apply(EventKind::ModuleLoad(Module {
            base: SITE & !0xffff,
            size: 0x1_0000,
            target: true,
            name: "target.sys".to_owned(),
        }));
        let both = RoutineSet::of(&[ACQUIRE, RELEASE]);
        judge.apply(EventKind::WatchSetChanged(WatchSet {
            watched: both,
            imported: both,
            processors: PROCESSORS as u32,
            before_target: true,
            closed: true,
            ..WatchSet::default()
        }));
        judge
    }

    fn apply(&mut self, kind: EventKind) {
        self.sequence += 1;
        self.checker.apply(&Event {
            sequence: self.sequence,
            order: Order::Total,
            kind,
        });
    }

    /// Reads one record; says whether there was one.
    fn read(&mut self, guest: &mut Guest) -> bool {
        let next = match guest.ring.next_skipped() {
            Next::Empty => guest.next(),
            late => late,
        };
        let Next::Call(record) = next else { return false };
        self.judge(guest, &record);
        true
    }

    /// What is done for a call that leaves the guest: all that is finished is read, and what was looked at before does not
    /// count.
    fn read_all(&mut self, guest: &mut Guest) {
        guest.ring.close();
        loop {
            if !self.read(guest) {
                match guest.next() {
                    Next::Pending => guest.ring.skip(),
                    _ => break,
                }
            }
        }
        guest.ring.open();
    }

    /// Judges a call, decoded as a session does it.
    fn judge(&mut self, guest: &Guest, record: &Record) {
        let stub = &guest.stubs[record.stub() as usize];
        let (at, memory) = ((record.processor(), stub.target), &*guest.ram);
        let cpu = RecordCpu::new(record, at, stub.rows[0], kernel(), memory);
        let (mut call, row) = decode::lock_call(&cpu, &stub.rows, decode::context(&cpu)).unwrap();
        call.word = decode::lock_word(&cpu, row, &call.operand).map(|word| word.value);
        self.releases += u64::from(call.routine == RELEASE);
        self.apply(EventKind::LockCall(call));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_right_program_is_right_in_whatever_order_its_processors_come(
        schedule in prop::collection::vec((0..=PROCESSORS + 1, 1..60_u8), 50..400),
    ) {
        let (mut program, mut judge) = (Program::new(), Judge::new());
        for (turn, steps) in schedule {
            match turn {
                0..PROCESSORS => (0..steps).for_each(|_| program.step(turn)),
                PROCESSORS => _ = judge.read(&mut program.guest),
                _ => judge.read_all(&mut program.guest),
            }
        }
        while judge.read(&mut program.guest) {}
        prop_assert!(judge.checker.findings().is_empty(), "{:#?}", judge.checker.findings());
        let statistics = judge.checker.statistics();
        prop_assert_eq!(statistics.matched, judge.releases);
        prop_assert_eq!(statistics.unknown_releases, 0);
    }
}
