//! Interrupts by the pin and by MSI: levels against a model of section 7.5.1, and a host that does nothing without an
//! interrupt.

use proptest::prelude::*;

use super::harness::*;
use crate::irq::InterruptMode::{self, Intx, Msi, Msix};
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::status::Status;

const INTMS: u64 = 0x0c;
const INTMC: u64 = 0x10;

/// I/O queue pairs 1 and 2, whose vectors are 0 as section 5.3.1 has it for the pin; or 1 and 2 for MSI.
fn driver(mode: InterruptMode) -> Driver {
    let mut driver = Driver::cold();
    driver.interrupts.set_mode(mode);
    driver.enable();
    for id in [1, 2] {
        let vector = if mode == Intx { 0 } else { id };
        driver.create_queue_pair_on(id, vector);
    }
    driver
}

fn on_queue(opcode: u8, id: u32) -> SubmissionEntry {
    SubmissionEntry {
        dword10: id.into(),
        ..command(opcode)
    }
}

fn flush(driver: &mut Driver, queue: usize) {
    driver.submit(queue, blocks(nvm::FLUSH, 0, 1));
    driver.ring_tail(queue);
}

#[test]
fn the_pin_is_asserted_until_every_entry_is_acknowledged() {
    let mut driver = driver(Intx);
    assert!(!driver.interrupts.pin());
    flush(&mut driver, 1);
    flush(&mut driver, 2);
    driver.settle();
    assert!(driver.interrupts.pin());
    driver.reap(1).unwrap();
    driver.ring_head(1);
    assert!(
        !driver.interrupts.pin(),
        "released at once, until it is known what is left"
    );
    driver.settle();
    assert!(driver.interrupts.pin(), "queue 2 still has an entry");
    driver.reap(2).unwrap();
    driver.ring_head(2);
    driver.settle();
    assert!(!driver.interrupts.pin());
    assert!(driver.interrupts.take().is_empty(), "no message");
}

#[test]
fn the_mask_and_a_reset_release_the_pin_at_once() {
    let mut driver = driver(Intx);
    flush(&mut driver, 1);
    driver.settle();
    driver.write(INTMS, 1);
    assert!(!driver.interrupts.pin());
    driver.write(INTMC, 0xffff_fffe);
    assert!(!driver.interrupts.pin(), "other bits");
    assert!(driver.write(INTMC, 1), "the controller has to look");
    driver.settle();
    assert!(driver.interrupts.pin());
    driver.write(INTMS, 2);
    assert!(driver.interrupts.pin(), "the pin has vector 0 only");
    driver.write(0x14, CC_ENABLE & !1);
    assert!(!driver.interrupts.pin());
    driver.settle();
    assert_eq!((driver.interrupts.pin(), driver.read(INTMS)), (false, 0));
}

#[test]
fn a_reset_of_the_function_releases_the_pin() {
    let mut driver = driver(Intx);
    flush(&mut driver, 1);
    driver.settle();
    driver.registers.reset_function();
    assert!(!driver.interrupts.pin());
    driver.settle();
    assert!(!driver.interrupts.pin());
}

#[test]
fn a_deleted_queue_asserts_nothing() {
    let mut driver = driver(Intx);
    flush(&mut driver, 2);
    driver.settle();
    driver.admin_ok(on_queue(admin::DELETE_SUBMISSION_QUEUE, 2));
    assert!(driver.interrupts.pin());
    driver.admin_ok(on_queue(admin::DELETE_COMPLETION_QUEUE, 2));
    assert!(!driver.interrupts.pin());
}

#[test]
fn with_shadow_doorbells_the_host_is_asked_for_the_head_while_the_pin_is_asserted() {
    let mut driver = driver(Intx);
    let config = SubmissionEntry {
        prp1: SHADOW.into(),
        prp2: EVENT_INDEX.into(),
        ..command(admin::DOORBELL_BUFFER_CONFIG)
    };
    driver.admin_ok(config);
    driver.put(EVENT_INDEX + 4 * 3, &[0xff; 4]);
    driver.submit(1, blocks(nvm::FLUSH, 0, 1));
    driver.put(SHADOW + 4 * 2, &1u32.to_le_bytes());
    driver.settle();
    assert!(driver.interrupts.pin());
    assert_eq!(
        driver.bytes(EVENT_INDEX + 4 * 3, 4),
        [0; 4],
        "to be told when the head leaves 0"
    );
    driver.put(SHADOW + 4 * 3, &1u32.to_le_bytes());
    driver.settle();
    assert!(!driver.interrupts.pin());
}

#[test]
fn a_vector_is_one_that_the_mode_has() {
    for (mode, vectors) in [(Intx, 1), (Msi { messages: 2 }, 2), (Msix, 5)] {
        let mut driver = Driver::cold();
        driver.interrupts.set_mode(mode);
        driver.enable();
        let (_, cq) = Driver::queue_addresses(1);
        let create = |vector: u32| create_cq(cq, 1 | (IO_ENTRIES - 1) << 16, 3 | vector << 16);
        driver.admin_fails(create(vectors), Status::INVALID_INTERRUPT_VECTOR);
        driver.admin_ok(create(vectors - 1));
    }
}

#[test]
fn msi_sends_a_message_for_new_entries_and_for_a_mask_taken_away() {
    let mut driver = driver(Msi { messages: 4 });
    flush(&mut driver, 1);
    flush(&mut driver, 2);
    driver.settle();
    assert_eq!(driver.interrupts.take(), [1, 2]);
    driver.settle();
    assert!(driver.interrupts.take().is_empty(), "once");
    driver.write(INTMS, 1 << 1);
    flush(&mut driver, 1);
    driver.settle();
    assert!(driver.interrupts.take().is_empty(), "masked");
    assert!(driver.write(INTMC, 1 << 1), "the controller has to look");
    driver.settle();
    assert_eq!(driver.interrupts.take(), [1]);
    driver.write(INTMS, 1 << 1);
    while driver.reap(1).is_some() {}
    driver.ring_head(1);
    driver.write(INTMC, 1 << 1);
    driver.settle();
    assert!(driver.interrupts.take().is_empty(), "nothing is left to tell");
    assert!(!driver.interrupts.pin());
}

#[test]
fn queues_share_a_message_where_the_host_has_allocated_fewer() {
    let mut driver = driver(Msi { messages: 4 });
    driver.interrupts.set_mode(Msi { messages: 1 });
    flush(&mut driver, 1);
    driver.settle();
    flush(&mut driver, 2);
    driver.settle();
    assert_eq!(driver.interrupts.take(), [0, 0]);
}

#[derive(Debug, Clone)]
enum Step {
    Submit(usize),
    Work,
    /// Takes so many entries, then writes the head.
    Consume(usize, usize),
    Mask(u32),
    Unmask(u32),
    Mode(InterruptMode),
}

fn step(modes: &'static [InterruptMode]) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..3usize).prop_map(Step::Submit),
        4 => Just(Step::Work),
        4 => (1..3usize, 1..4usize).prop_map(|(queue, count)| Step::Consume(queue, count)),
        1 => any::<u32>().prop_map(Step::Mask),
        2 => any::<u32>().prop_map(Step::Unmask),
        1 => prop::sample::select(modes).prop_map(Step::Mode),
    ]
}

/// What the host knows: commands on their way and entries not consumed, by queue.
struct Host {
    driver: Driver,
    outstanding: [usize; 3],
    mask: u32,
    mode: InterruptMode,
}

impl Host {
    fn new(mode: InterruptMode) -> Self {
        Self {
            driver: driver(mode),
            outstanding: [0; 3],
            mask: 0,
            mode,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            // One slot of a ring always stays empty.
            Step::Submit(queue) if self.outstanding[queue] + 1 < IO_ENTRIES as usize => {
                flush(&mut self.driver, queue);
                self.outstanding[queue] += 1;
            }
            Step::Submit(_) => {}
            Step::Work => self.driver.settle(),
            Step::Consume(queue, count) => {
                self.consume(queue, count);
            }
            Step::Mask(mask) => {
                self.mask |= mask;
                self.driver.write(INTMS, mask);
            }
            Step::Unmask(mask) => {
                self.mask &= !mask;
                self.driver.write(INTMC, mask);
            }
            Step::Mode(mode) => {
                self.mode = mode;
                self.driver.interrupts.set_mode(mode);
            }
        }
    }

    fn consume(&mut self, queue: usize, count: usize) -> usize {
        let consumed = (0..count).take_while(|_| self.driver.reap(queue).is_some()).count();
        if consumed != 0 {
            self.outstanding[queue] -= consumed;
            self.driver.ring_head(queue);
        }
        consumed
    }
}

proptest! {
    /// Whatever the host does, once the controller has looked the pin is asserted if and only if the mode is the pin's,
    /// entries are unacknowledged, and vector 0 is not masked.
    #[test]
    fn the_pin_follows_the_model(
        steps in prop::collection::vec(step(&[Intx, Intx, Msix, Msi { messages: 4 }]), 1..60)
    ) {
        let mut host = Host::new(Intx);
        for step in &steps {
            host.step(step);
            if matches!(step, Step::Mask(_)) && host.mask & 1 != 0 {
                prop_assert!(!host.driver.interrupts.pin(), "masked at once");
            }
            if matches!(step, Step::Work) {
                let entries = host.outstanding.iter().sum::<usize>() != 0;
                let expected = host.mode == Intx && entries && host.mask & 1 == 0;
                prop_assert_eq!(host.driver.interrupts.pin(), expected);
            }
        }
    }

    /// A host that looks at a queue only when its MSI message came misses no completion, whatever it masks meanwhile, and
    /// though it looks first and writes the head later.
    #[test]
    fn no_msi_message_is_lost(steps in prop::collection::vec(step(&[Msi { messages: 4 }]), 1..60)) {
        let mut host = Host::new(Msi { messages: 4 });
        let mut told = [false; 3];
        for step in &steps {
            match *step {
                Step::Consume(queue, 1) => {
                    host.driver.ring_head(queue);
                }
                Step::Consume(queue, _) if std::mem::take(&mut told[queue]) => {
                    while host.driver.reap(queue).is_some() {
                        host.outstanding[queue] -= 1;
                    }
                }
                Step::Consume(..) => {}
                _ => host.step(step),
            }
            for vector in host.driver.interrupts.take() {
                told[usize::from(vector)] = true;
            }
        }
        host.driver.ring_head(1);
        host.driver.ring_head(2);
        host.step(&Step::Unmask(u32::MAX));
        host.driver.settle();
        for vector in host.driver.interrupts.take() {
            told[usize::from(vector)] = true;
        }
        for queue in [1, 2] {
            prop_assert!(told[queue] || host.outstanding[queue] == 0, "queue {}", queue);
        }
    }
}
