//! Every pair of a fault and what it is about that a plan can say happens, and is seen by the driver.

use std::time::Duration;

use super::faults::driver_with;
use super::harness::*;
use crate::storage::fault::{
    CommandCode, CommandMatch, CompletionFault, Fault, FaultKind, FetchFault, RegisterFault, WordKind,
};
use crate::storage::sas::SasConfig;
use crate::storage::sas::faults::{self, IO, TASK_MANAGEMENT, VOCABULARY};
use crate::storage::sas::message::Frame;
use crate::storage::sas::spec::{function, ioc_state, offset};
use crate::storage::worker::StorageController;

const TIME: Duration = Duration::from_secs(1);

/// The commands that words name, with a request that each of them is about.
fn commands() -> Vec<(&'static str, CommandMatch, Vec<u8>)> {
    let mut all = vec![("any", CommandMatch::Any, request(IO, 0x28))];
    for class in VOCABULARY.classes {
        let (_, first) = class.commands[0];
        all.push((
            class.name,
            CommandMatch::Class(class.class),
            request(class.class, first),
        ));
        for &(name, code) in class.commands {
            let wanted = CommandMatch::Code(CommandCode {
                class: class.class,
                code,
            });
            all.push((name, wanted, request(class.class, code)));
        }
    }
    all
}

fn request(class: u8, code: u16) -> Vec<u8> {
    let code = code as u8;
    match class {
        IO => {
            let mut cdb = [0; 16];
            cdb[0] = code;
            scsi(0, &cdb, Way::None, 0)
        }
        TASK_MANAGEMENT => {
            let mut frame = message(function::SCSI_TASK_MGMT);
            frame[5] = code;
            frame
        }
        _ => message(code),
    }
}

/// A driver of a controller that does this once, at the first command that is sent from now on.
fn driver(kind: FaultKind) -> Driver {
    let (after, count) = (0, 1);
    let config = SasConfig {
        faults: vec![Fault { kind, after, count }],
        ..SasConfig::default()
    };
    let mut driver = Driver::cold(config, 2);
    let plan = driver.controller.faults().unwrap();
    plan.hold(0);
    driver.initialise();
    for target in 0..2 {
        driver.run(&scsi(target, &[0; 6], Way::None, 0));
    }
    plan.begin();
    driver
}

/// What the driver sees of a fault at a request; an error says what it sees instead.
fn happens(kind: WordKind, wanted: CommandMatch, request: &[u8]) -> Result<(), String> {
    let fault = match kind {
        WordKind::Fail => FaultKind::Fetch(wanted, FetchFault::Fail(VOCABULARY.default_status)),
        WordKind::Delay => FaultKind::Completion(wanted, CompletionFault::Delay(TIME)),
        WordKind::Remove => FaultKind::Fetch(wanted, FetchFault::Remove(None)),
        WordKind::Fetch(fault) => FaultKind::Fetch(wanted, fault),
        WordKind::Completion(fault) => FaultKind::Completion(wanted, fault),
        WordKind::Register(_) => unreachable!("no fault of commands"),
    };
    let mut driver = driver(fault);
    driver.post(request);
    let replies: Vec<Got> = std::iter::from_fn(|| driver.reap()).collect();
    let counts = driver.controller.faults().unwrap().counts();
    let seen = match fault {
        FaultKind::Fetch(_, FetchFault::Fail(_)) => is_failure(request, &replies),
        FaultKind::Fetch(_, FetchFault::Fatal) => {
            driver.get(offset::DOORBELL) & 0xf000_ffff == ioc_state::FAULT | 0x81ff
        }
        FaultKind::Fetch(_, FetchFault::Remove(_)) => {
            ioc_status(&driver.run(&scsi(0, &[0; 6], Way::None, 0)).frame()) == 0x43
        }
        FaultKind::Completion(_, CompletionFault::Delay(_)) => {
            let ticket = driver.controller.take_delays()[0].0;
            driver.controller.release(ticket);
            driver.settle();
            replies.is_empty() && driver.reap().is_some()
        }
        FaultKind::Completion(_, CompletionFault::Drop) => replies.is_empty(),
        FaultKind::Completion(_, CompletionFault::Duplicate) => replies.len() == 2 && replies[0] == replies[1],
        FaultKind::Completion(_, CompletionFault::Stray) => {
            replies.len() == 2 && replies[0] != replies[1] && matches!(replies[1], Got::Context(_))
        }
        _ => false,
    };
    if seen && counts[0].injected == 1 {
        return Ok(());
    }
    Err(format!("{counts:?} {replies:?}"))
}

fn is_failure(request: &[u8], replies: &[Got]) -> bool {
    let [Got::Frame(reply)] = replies else {
        return false;
    };
    match request[3] {
        function::SCSI_IO_REQUEST => reply[0x0c] == 2,
        function::SCSI_TASK_MGMT => (reply[4], ioc_status(reply)) == (5, 0x4a),
        _ => ioc_status(reply) == 4,
    }
}

#[test]
fn each_fault_happens_to_each_command_that_it_can_be_said_of() {
    let mut pairs = 0;
    for word in VOCABULARY.kinds.iter().filter(|word| !is_of_registers(word.kind)) {
        for (name, wanted, request) in commands() {
            if word.except.iter().any(|(except, _)| except.covers(wanted)) {
                continue;
            }
            if let Err(seen) = happens(word.kind, wanted, &request) {
                panic!("{}:{name}: {seen}", word.name);
            }
            pairs += 1;
        }
    }
    assert!(pairs > 150, "{pairs}");
}

/// What is refused is refused for a reason: nothing would be seen of it.
#[test]
fn a_fault_that_befalls_a_disk_waits_for_a_command_that_is_for_one() {
    let remove = FaultKind::Fetch(CommandMatch::Any, FetchFault::Remove(None));
    let mut driver = driver(remove);
    driver.run(&message(function::CONFIG));
    driver.run(&scsi(7, &[0; 6], Way::None, 0));
    let counts = driver.controller.faults().unwrap().counts();
    assert_eq!((counts[0].matched, counts[0].injected), (0, 0));
    assert_eq!(ioc_status(&driver.run(&read(0, 0, 1)).frame()), 0x43);
    driver.ok(&read(1, 0, 1));
}

fn is_of_registers(kind: WordKind) -> bool {
    matches!(kind, WordKind::Register(_))
}

/// A write that each register heeds at the start of this test.
fn writes(driver: &mut Driver, place: u64) -> u32 {
    match place {
        offset::DOORBELL => 0x40 << 24,
        offset::DIAGNOSTIC => {
            for key in [0xff, 4, 0xb, 2, 7, 0xd] {
                driver.put(offset::WRITE_SEQUENCE, key);
            }
            2
        }
        offset::HOST_INTERRUPT_STATUS => {
            driver.registers.write(offset::DOORBELL, &0x4201_0000_u32.to_le_bytes());
            0
        }
        offset::HOST_INTERRUPT_MASK => 8,
        _ => 0x1000,
    }
}

#[test]
fn each_register_fault_happens_to_each_register() {
    for (name, wanted) in VOCABULARY.registers {
        let state = |driver: &Driver| driver.registers.lock().clone();
        let mut driver_without = driver_with(&[]);
        let value = writes(&mut driver_without, wanted.first);
        let before = state(&driver_without);
        driver_without.registers.write(wanted.first, &value.to_le_bytes());
        assert_ne!(state(&driver_without), before, "a write to {name} has no effect anyway");
        for word in VOCABULARY.kinds {
            let WordKind::Register(fault) = word.kind else { continue };
            let mut driver = driver(FaultKind::Register(*wanted, fault));
            let plan = driver.controller.faults().unwrap();
            plan.hold(0);
            let value = writes(&mut driver, wanted.first);
            plan.begin();
            let before = state(&driver);
            driver.registers.write(wanted.first, &value.to_le_bytes());
            match fault {
                RegisterFault::Drop => assert_eq!(state(&driver), before, "drop:{name}"),
                RegisterFault::Fatal => {
                    assert_eq!(
                        driver.get(offset::DOORBELL) & 0xf000_0000,
                        ioc_state::FAULT,
                        "fatal:{name}"
                    );
                }
            }
            assert_eq!(plan.counts()[0].injected, 1, "{}:{name}", word.name);
        }
    }
}

/// Words that stand for a command under another name are known by that name.
#[test]
fn a_code_that_no_command_has_for_a_plan_leads_to_a_word() {
    for class in VOCABULARY.classes {
        for code in 0..=class.last_code {
            let of_plan = faults::code(&Frame::new(&request(class.class, code)));
            let met = (of_plan.class, of_plan.code) == (class.class, code);
            assert_eq!((class.instead)(code).is_none(), met, "{}.{code:#x}", class.name);
        }
    }
}
