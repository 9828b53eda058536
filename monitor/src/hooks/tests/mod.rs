//! Stubs, executed an instruction at a time, and the ring that they write, as the host reads it.

pub(crate) mod interpreter;

use std::sync::Arc;

use proptest::prelude::*;
use storlock_check::contract::{CONTRACTS, Contract, Routine, contract};

use self::interpreter::{Cpu, IF, Ram};
use super::layout::{self, field};
use super::stub::{Code, is_written};
use super::*;
use crate::vmi::{
    CpuState as _, GuestMemory as _, PAGE_SIZE, ReadError, Registers, SharedMemory as _, SpecialRegisters,
};

pub(crate) const BASE: u64 = 0xffff_a000_0010_0000;
const TARGET: u64 = 0xffff_f800_2000_0000;
const STACKS: u64 = 0xffff_9000_0000_0000;
const KPCRS: u64 = 0xffff_9100_0000_0000;
pub(crate) const LOCKS: u64 = 0xffff_9200_0000_0000;
pub(crate) const SITE: u64 = 0xffff_f800_5000_1234;
/// More instructions than any way through a stub has.
const MOST: usize = 400;

/// A guest with a stub for each of these routines.
pub(crate) struct Guest {
    pub(crate) ram: Arc<Ram>,
    pub(crate) code: Code,
    pub(crate) stubs: Vec<Stub>,
    pub(crate) ring: Ring,
}

impl Guest {
    pub(crate) fn new(stubs: Vec<Stub>, processors: u64) -> Self {
        let ram = Arc::new(Ram::default());
        ram.map(BASE, layout::BYTES);
        ram.map(LOCKS, 2 * PAGE_SIZE);
        for processor in 0..processors {
            ram.map(STACKS + processor * 0x10_0000 - 4 * PAGE_SIZE, 8 * PAGE_SIZE);
            ram.map(KPCRS + processor * PAGE_SIZE, PAGE_SIZE);
            ram.set_u64(KPCRS + processor * PAGE_SIZE + 0x1a0, processor << 32);
            ram.set_u64(KPCRS + processor * PAGE_SIZE + 0x188, thread(processor));
            ram.set_u64(KPCRS + processor * PAGE_SIZE + 0x18, KPCRS + processor * PAGE_SIZE);
        }
        let code = generate(BASE, &stubs).unwrap();
        let pages = (0..layout::BYTES).step_by(PAGE_SIZE as usize);
        let region = Region::new(BASE, pages.map(|page| BASE + page).collect(), ram.clone());
        assert!(region.write(layout::CODE, &code.bytes));
        let ring = Ring::new(region);
        Self { ram, code, stubs, ring }
    }

    /// One stub for a routine, at the site that is known if `known`.
    pub(crate) fn of(routine: Routine, known: bool) -> Self {
        let guest = Self::new(vec![stub(&[routine])], 1);
        guest.ring.region().set_site(site_key(SITE, 0), known);
        guest
    }

    /// A processor that has just called: at the stub, with the return address on its stack.
    pub(crate) fn caller(&self, processor: u64, stub: usize, arguments: [u64; 4]) -> Cpu {
        let mut registers = Registers {
            rip: self.code.entries[stub],
            rflags: 0x202 | 0xd5,
            ..Registers::default()
        };
        for (number, register) in registers.gpr.iter_mut().enumerate() {
            *register = 0x0101_0101_0101_0101 * (number as u64 + 1);
        }
        let [rcx, rdx, r8, r9] = arguments;
        (registers.gpr[1], registers.gpr[2], registers.gpr[8], registers.gpr[9]) = (rcx, rdx, r8, r9);
        registers.gpr[4] = STACKS + processor * 0x10_0000;
        for word in 0..field::MOST {
            self.ram.set_u64(registers.gpr[4] + 8 * word, 0xabcd_0000 + word);
        }
        self.ram.set_u64(registers.gpr[4], SITE);
        Cpu {
            registers,
            cr8: 0,
            gs_base: KPCRS + processor * PAGE_SIZE,
        }
    }

    /// Runs a processor until it is at the routine, or at the way out.
    fn run(&self, cpu: &mut Cpu) {
        for _ in 0..MOST {
            if self.is_through(cpu) {
                return;
            }
            cpu.step(&self.ram);
        }
        panic!("the stub does not end: {cpu:?}");
    }

    pub(crate) fn is_through(&self, cpu: &Cpu) -> bool {
        let rip = cpu.registers.rip;
        rip == self.code.exit || self.stubs.iter().any(|stub| stub.target == rip)
    }

    /// What comes next of all that was begun.
    pub(crate) fn next(&mut self) -> Next {
        let begun = self.ring.begun().unwrap();
        self.ring.next(begun)
    }

    fn take(&mut self) -> Record {
        match self.next() {
            Next::Call(record) => *record,
            other => panic!("no call: {other:?}"),
        }
    }
}

pub(crate) fn thread(processor: u64) -> u64 {
    0xffff_9300_0000_0000 + 0x1000 * processor
}

pub(crate) fn stub(routines: &[Routine]) -> Stub {
    let rows: Vec<&'static Contract> = routines.iter().map(|&routine| contract(routine)).collect();
    Stub {
        target: TARGET + 0x100 * routines[0] as u64,
        rows,
        attention: vec![0x1009],
    }
}

/// Arguments of a routine: a lock at [`LOCKS`] that is held, or a handle of it at 40h above.
fn arguments(guest: &Guest, row: &Contract) -> [u64; 4] {
    let (lock, handle) = (LOCKS, LOCKS + 0x40);
    guest.ram.set_u64(lock, 0x77);
    // `STOR_LOCK_HANDLE`, and `KLOCK_QUEUE_HANDLE` 8 bytes before its queue would be.
    for (offset, value) in [(0, 1), (8, lock | 2), (16, lock | 1)] {
        guest.ram.set_u64(handle + offset, value);
    }
    let selector = row.selector.map(|selector| u64::from(selector.value));
    match row.operands {
        storlock_check::contract::OperandPlaces::StorPort { .. } => {
            guest.ram.set_u64(LOCKS + 0x140, 0x77);
            [selector.unwrap_or(0), 5, 1, LOCKS + 0x100]
        }
        storlock_check::contract::OperandPlaces::StorPortHandle { .. } => [selector.unwrap_or(0), 5, handle, 0],
        storlock_check::contract::OperandPlaces::QueuedHandle(_) => [handle, 6, 7, 8],
        _ => [selector.unwrap_or(lock), handle, 3, 4],
    }
}

pub(crate) fn kernel() -> SpecialRegisters {
    SpecialRegisters {
        gs_base: KPCRS,
        ..SpecialRegisters::default()
    }
}

#[test]
fn a_stub_keeps_everything_and_writes_the_call_of_every_routine() {
    for row in CONTRACTS.iter().filter(|row| is_written(row)) {
        let mut guest = Guest::of(row.routine, true);
        let arguments = arguments(&guest, row);
        let mut cpu = guest.caller(0, 0, arguments);
        let mut entered = cpu.registers;
        guest.run(&mut cpu);
        entered.rip = guest.stubs[0].target;
        assert_eq!(cpu.registers, entered, "{:?}", row.routine);
        let record = guest.take();
        assert!(matches!(guest.next(), Next::Empty));
        assert_eq!(
            (record.stub(), record.routine(), record.processor()),
            (0, row.routine as u32, 0)
        );
        assert_eq!(record.return_address(), SITE);
        let seen = RecordCpu::new(&record, (0, entered.rip), row, kernel(), &*guest.ram);
        let registers = seen.registers();
        assert_eq!(registers.gpr, entered.gpr, "{:?}", row.routine);
        assert_eq!((registers.rip, registers.rflags), (entered.rip, entered.rflags));
        assert_eq!(seen.read_u64(KPCRS + 0x188), Ok(thread(0)));
        // The fifth argument, and the end of what is kept.
        assert_eq!(seen.read_u64(entered.rsp() + 0x28), Ok(0xabcd_0005));
        let beyond = entered.rsp() + 8 * field::MOST;
        assert_eq!(seen.read_u64(beyond), Err(ReadError::NotKept(beyond)));
    }
}

#[test]
fn what_the_stub_has_read_is_what_the_routine_would_have() {
    use storlock_check::contract::OperandPlaces;
    for row in CONTRACTS.iter().filter(|row| is_written(row)) {
        let mut guest = Guest::of(row.routine, true);
        let arguments = arguments(&guest, row);
        let mut cpu = guest.caller(0, 0, arguments);
        guest.run(&mut cpu);
        let record = guest.take();
        // Since then all has changed.
        for offset in (0..0x200).step_by(8) {
            guest.ram.set_u64(LOCKS + offset, 0x9999);
        }
        let seen = RecordCpu::new(&record, (0, 0), row, kernel(), &*guest.ram);
        let reads: &[(u64, u64)] = match row.operands {
            OperandPlaces::Address(_) | OperandPlaces::Queued { .. } => &[(LOCKS, 0x77)],
            OperandPlaces::QueuedHandle(_) => &[(LOCKS, 0x77), (LOCKS + 0x48, LOCKS | 2)],
            OperandPlaces::StorPort { .. } => &[(LOCKS + 0x140, 0x77)],
            OperandPlaces::StorPortHandle { .. } => &[(LOCKS, 0x77), (LOCKS + 0x50, LOCKS | 1)],
            _ => &[],
        };
        for &(address, value) in reads {
            if row.class == storlock_check::contract::LockClass::ExSpinLock {
                assert_eq!(seen.read_u32(address), Ok(value as u32), "{:?}", row.routine);
            } else {
                assert_eq!(seen.read_u64(address), Ok(value), "{:?}", row.routine);
            }
        }
        if let OperandPlaces::StorPortHandle { .. } = row.operands {
            assert_eq!(seen.read_u32(LOCKS + 0x40), Ok(1));
        }
        assert_eq!(seen.read_u64(LOCKS + 0x1f0), Ok(0x9999), "other memory is as it is now");
    }
}

/// The guest was left with everything as at the entry, but for two words on the stack; and what stands there leads on.
fn assert_left(guest: &Guest, entered: &Registers, cpu: &mut Cpu) {
    assert_eq!(cpu.registers.rip, guest.code.exit);
    assert_eq!(cpu.registers.rsp(), entered.rsp() - 16);
    assert_eq!(guest.ram.u64(cpu.registers.rsp()), guest.stubs[0].target);
    assert_eq!(guest.ram.u64(cpu.registers.rsp() + 8), 0);
    cpu.step(&guest.ram);
    let on = Registers {
        rip: guest.stubs[0].target,
        ..*entered
    };
    assert_eq!(cpu.registers, on);
}

#[test]
fn a_call_leaves_the_guest_where_it_cannot_be_written() {
    let release = Routine::KeReleaseSpinLock;
    let leave = |guest: &Guest| {
        let mut cpu = guest.caller(0, 0, arguments(guest, contract(guest.stubs[0].rows[0].routine)));
        let entered = cpu.registers;
        guest.run(&mut cpu);
        assert_left(guest, &entered, &mut cpu);
    };
    // A site that nobody knows, a closed ring, a full ring, and a routine whose return is wanted.
    leave(&Guest::of(release, false));
    let mut guest = Guest::of(release, true);
    guest.ring.close();
    leave(&guest);
    guest.ring.open();
    let write = |guest: &Guest| {
        let mut cpu = guest.caller(0, 0, arguments(guest, contract(release)));
        guest.run(&mut cpu);
        assert_eq!(cpu.registers.rip, guest.stubs[0].target);
    };
    (0..layout::RECORDS).for_each(|_| write(&guest));
    assert!(guest.ring.is_full());
    leave(&guest);
    guest.take();
    assert!(!guest.ring.is_full());
    write(&guest);
    leave(&guest);
    for _ in 0..layout::RECORDS {
        guest.take();
    }
    assert!(matches!(guest.next(), Next::Empty));
    leave(&Guest::of(Routine::KeTryToAcquireSpinLockAtDpcLevel, true));
}

#[test]
fn an_export_that_is_many_routines_writes_its_lock_calls_and_passes_the_others() {
    let routines = [Routine::StorPortAcquireSpinLock, Routine::StorPortReleaseSpinLock];
    let mut guest = Guest::new(vec![stub(&routines)], 1);
    guest.ring.region().set_site(site_key(SITE, 0), true);
    for (code, written, leaves) in [
        (0x1003, true, false),
        (0x1004, true, false),
        (5, false, false),
        (0x1009, false, true),
    ] {
        // The upper half of RCX is nothing to the routine.
        let mut cpu = guest.caller(0, 0, [0xdead_0000_0000 | code, 5, LOCKS, LOCKS + 0x100]);
        let entered = cpu.registers;
        guest.run(&mut cpu);
        assert_eq!(matches!(guest.next(), Next::Call(_)), written, "{code:#x}");
        if leaves {
            assert_left(&guest, &entered, &mut cpu);
        } else {
            assert_eq!(cpu.registers.rip, guest.stubs[0].target);
        }
    }
}

#[test]
fn what_is_no_address_of_the_kernel_is_left_to_the_routine() {
    for row in CONTRACTS.iter().filter(|row| is_written(row)) {
        for bad in [0, 8, 0x7fff_ffff_f000] {
            let mut guest = Guest::of(row.routine, true);
            let mut arguments = [bad; 4];
            if let Some(selector) = row.selector {
                arguments[0] = u64::from(selector.value);
            }
            let mut cpu = guest.caller(0, 0, arguments);
            guest.run(&mut cpu);
            let record = guest.take();
            let seen = RecordCpu::new(&record, (0, 0), row, kernel(), &*guest.ram);
            assert!(seen.read_u64(bad).is_err(), "{:?}", row.routine);
        }
    }
    // A handle that was never filled in leads nowhere.
    for routine in [
        Routine::KeReleaseInStackQueuedSpinLock,
        Routine::StorPortReleaseSpinLock,
    ] {
        let mut guest = Guest::of(routine, true);
        let mut cpu = guest.caller(
            0,
            0,
            if routine == Routine::StorPortReleaseSpinLock {
                [0x1004, 5, LOCKS, 0]
            } else {
                [LOCKS; 4]
            },
        );
        guest.run(&mut cpu);
        let record = guest.take();
        let seen = RecordCpu::new(&record, (0, 0), contract(routine), kernel(), &*guest.ram);
        assert!(seen.read_u64(0).is_err());
    }
}

#[test]
fn of_a_stack_that_ends_with_its_page_only_that_is_read() {
    for left in [1, 2, field::MOST - 1, field::MOST] {
        let mut guest = Guest::of(Routine::KeReleaseSpinLock, true);
        let mut cpu = guest.caller(0, 0, arguments(&guest, contract(Routine::KeReleaseSpinLock)));
        // The last page that is mapped.
        let top = STACKS + 4 * PAGE_SIZE - 8 * left;
        cpu.registers.gpr[4] = top;
        for word in 0..left {
            guest.ram.set_u64(top + 8 * word, 0x5000 + word);
        }
        guest.ram.set_u64(top, SITE);
        let entered = cpu.registers;
        guest.run(&mut cpu);
        assert_eq!(cpu.registers.gpr, entered.gpr, "{left}");
        let record = guest.take();
        let seen = RecordCpu::new(
            &record,
            (0, 0),
            contract(Routine::KeReleaseSpinLock),
            kernel(),
            &*guest.ram,
        );
        if left > 1 {
            assert_eq!(seen.read_u64(top + 8 * (left - 1)), Ok(0x5000 + left - 1));
        }
        assert!(seen.read_u64(top + 8 * left).is_err(), "{left}");
    }
}

#[test]
fn an_operand_on_the_stack_is_copied_from_the_next_page_too() {
    let row = contract(Routine::StorPortAcquireSpinLock);
    for left in 1..=6 {
        let mut guest = Guest::of(Routine::StorPortAcquireSpinLock, true);
        let mut cpu = guest.caller(0, 0, arguments(&guest, row));
        let top = STACKS + PAGE_SIZE - 8 * left;
        cpu.registers.gpr[4] = top;
        for word in 1..6 {
            guest.ram.set_u64(top + 8 * word, 0x5000 + word);
        }
        guest.ram.set_u64(top, SITE);
        guest.run(&mut cpu);
        let record = guest.take();
        let seen = RecordCpu::new(&record, (0, 0), row, kernel(), &*guest.ram);
        assert_eq!(seen.read_u64(top + 0x28), Ok(0x5005), "{left}");
    }
}

/// A processor that has begun a record and not finished it.
fn stalled(guest: &Guest, processor: u64) -> Cpu {
    let row = contract(Routine::KeReleaseSpinLock);
    let mut cpu = guest.caller(processor, 0, arguments(guest, row));
    let begun = guest.ring.begun();
    while guest.ring.begun() == begun {
        cpu.step(&guest.ram);
    }
    cpu
}

#[test]
fn a_record_that_is_finished_late_is_taken_without_its_lock_word_and_keeps_its_slot() {
    let release = Routine::KeReleaseSpinLock;
    let mut guest = Guest::new(vec![stub(&[release])], 2);
    guest.ring.region().set_site(site_key(SITE, 0), true);
    let mut slow = stalled(&guest, 1);
    assert!(matches!(guest.next(), Next::Pending));
    guest.ring.skip();
    assert!(matches!(guest.ring.next_skipped(), Next::Empty));
    for _ in 1..layout::RECORDS {
        let mut cpu = guest.caller(0, 0, arguments(&guest, contract(release)));
        guest.run(&mut cpu);
        assert_eq!(guest.take().processor(), 0);
    }
    assert!(guest.ring.is_full(), "its slot is not used again");
    assert_eq!(guest.ring.unfinished(), 1);
    guest.run(&mut slow);
    let Next::Call(late) = guest.ring.next_skipped() else {
        panic!("it is finished")
    };
    assert_eq!(late.processor(), 1);
    let seen = RecordCpu::new(&late, (1, 0), contract(release), kernel(), &*guest.ram);
    assert!(
        seen.read_u64(LOCKS).is_err(),
        "not what was there before the other calls, nor what is there now"
    );
    assert!(!guest.ring.is_full());
    assert_eq!(guest.ring.unfinished(), 0);
}

#[test]
fn a_record_whose_number_is_spoilt_is_no_unfinished_one() {
    for (number, skipped) in [(7, false), (7, true), (u64::MAX, true)] {
        let mut guest = Guest::of(Routine::KeReleaseSpinLock, true);
        let _slow = stalled(&guest, 0);
        if skipped {
            guest.ring.skip();
        }
        guest.ram.set_u64(BASE + layout::RING + field::COMMIT, number);
        let next = if skipped {
            guest.ring.next_skipped()
        } else {
            guest.next()
        };
        assert!(matches!(next, Next::Broken), "{number}");
    }
    // One lap later the number of one lap before is there.
    let mut guest = Guest::of(Routine::KeReleaseSpinLock, true);
    for _ in 0..layout::RECORDS {
        let mut cpu = guest.caller(0, 0, arguments(&guest, contract(Routine::KeReleaseSpinLock)));
        guest.run(&mut cpu);
        guest.take();
    }
    let _slow = stalled(&guest, 0);
    assert!(matches!(guest.next(), Next::Pending));
    guest.ram.set_u64(BASE + layout::RING + field::COMMIT, 0);
    assert!(matches!(guest.next(), Next::Broken));
}

#[test]
fn a_lock_word_that_was_looked_at_before_the_ring_was_closed_does_not_count() {
    let row = contract(Routine::KeReleaseSpinLock);
    let mut steps = 0;
    loop {
        let mut guest = Guest::of(Routine::KeReleaseSpinLock, true);
        let mut cpu = guest.caller(0, 0, arguments(&guest, row));
        guest.ram.set_u64(LOCKS, 0);
        (0..steps).for_each(|_| cpu.step(&guest.ram));
        if guest.ring.begun() != Some(0) {
            break;
        }
        guest.ring.close();
        guest.ram.set_u64(LOCKS, 1);
        guest.ring.open();
        guest.run(&mut cpu);
        let record = guest.take();
        let seen = RecordCpu::new(&record, (0, 0), row, kernel(), &*guest.ram);
        guest.ram.set_u64(LOCKS, 2);
        assert_eq!(seen.read_u64(LOCKS), Ok(1), "after {steps} instructions");
        steps += 1;
    }
    assert!(steps > 10);
}

#[test]
fn calls_of_two_routines_next_to_each_other_are_two_sites() {
    let calls = (0..64).flat_map(|stub| (0..64).map(move |distance| (SITE + distance, stub)));
    let mut keys: Vec<u32> = calls.map(|(site, stub)| site_key(site, stub)).collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), all);
}

#[test]
fn a_record_is_read_only_when_it_is_finished() {
    let mut guest = Guest::of(Routine::KeReleaseSpinLock, true);
    let mut cpu = guest.caller(0, 0, arguments(&guest, contract(Routine::KeReleaseSpinLock)));
    let (mut pending, mut done) = (0, 0);
    while !guest.is_through(&cpu) {
        let interrupts = cpu.registers.rflags & IF != 0;
        match guest.next() {
            Next::Empty => assert_eq!(pending + done, 0),
            Next::Pending => {
                assert!(!interrupts, "an interrupt could come in between");
                pending += 1;
            }
            Next::Call(record) => {
                assert_eq!(record.return_address(), SITE);
                done += 1;
            }
            Next::Broken => panic!("broken"),
        }
        if done > 0 {
            break;
        }
        cpu.step(&guest.ram);
    }
    assert!(pending > 20 && done == 1, "{pending} {done}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Processors that write at the same time, in any order of their instructions, and a reader in between: each call is
    /// read once, and those of one processor in their order.
    #[test]
    fn calls_of_several_processors_are_read_once_and_in_order(schedule in prop::collection::vec(0..5_u64, 400..2500)) {
        const PROCESSORS: u64 = 4;
        let release = Routine::KeReleaseSpinLock;
        let mut guest = Guest::new(vec![stub(&[release])], PROCESSORS);
        guest.ring.region().set_site(site_key(SITE, 0), true);
        let mut begun = [0_u64; PROCESSORS as usize];
        let mut read = [0_u64; PROCESSORS as usize];
        let call = |guest: &Guest, processor: u64, number: u64| guest.caller(processor, 0, [LOCKS, number, 0, 0]);
        let mut cpus: Vec<Option<Cpu>> = vec![None; PROCESSORS as usize];
        let mut take = |guest: &mut Guest| {
            let Next::Call(record) = guest.next() else { return false };
            let seen = RecordCpu::new(&record, (0, 0), contract(release), kernel(), &*guest.ram);
            let processor = record.processor() as usize;
            assert_eq!(seen.registers().rdx(), read[processor], "of processor {processor}");
            read[processor] += 1;
            true
        };
        for turn in schedule {
            if turn == PROCESSORS {
                take(&mut guest);
                continue;
            }
            let (cpu, begun) = (&mut cpus[turn as usize], &mut begun[turn as usize]);
            // Several instructions at a time: else hardly any call would be finished.
            for _ in 0..7 {
                let running = cpu.get_or_insert_with(|| {
                    *begun += 1;
                    call(&guest, turn, *begun - 1)
                });
                running.step(&guest.ram);
                if guest.is_through(running) {
                    assert_eq!(running.registers.rip, guest.stubs[0].target);
                    *cpu = None;
                }
            }
        }
        for cpu in cpus.iter_mut().flatten() {
            guest.run(cpu);
        }
        while take(&mut guest) {}
        prop_assert_eq!(read, begun);
        prop_assert!(matches!(guest.next(), Next::Empty));
    }

    /// Whatever the guest writes into the ring: reading ends, and gives no more than the ring holds.
    #[test]
    fn a_hostile_ring_is_read_to_an_end(
        writes in prop::collection::vec((0..layout::BYTES / 8, prop_oneof![any::<u64>(), 0..5000_u64]), 0..40),
        places in prop::collection::vec((0..layout::RECORDS, any::<[u8; 16]>()), 0..40),
        head in prop_oneof![any::<u64>(), 0..2 * layout::RECORDS],
    ) {
        let mut guest = Guest::of(Routine::StorPortReleaseSpinLock, true);
        for (place, value) in writes {
            guest.ram.set_u64(BASE + 8 * place, value);
        }
        for (number, bytes) in places {
            let at = BASE + layout::RING + number * layout::RECORD_BYTES;
            guest.ram.set_u64(at + field::COMMIT, number + 1);
            guest.ram.write_physical(at + field::RCX, &bytes);
            guest.ram.write_physical(at + field::KIND, &bytes);
        }
        guest.ram.set_u64(BASE + layout::HEAD, head);
        let mut taken = 0;
        while let Next::Call(record) = guest.next() {
            taken += 1;
            let seen = RecordCpu::new(&record, (0, 0), contract(Routine::StorPortReleaseSpinLock), kernel(), &*guest.ram);
            let _ = (seen.read_u64(LOCKS), record.return_address(), seen.read_at(u64::MAX, &mut [0; 8]));
            prop_assert!(taken <= layout::RECORDS);
        }
    }
}
