//! A SCSI target under a hostile initiator: command descriptor blocks of any length and content, with any memory.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock_vmm::storage::backend::MemoryBackend;
use storlock_vmm::storage::scsi::{Data, Initiator, LogicalUnit, Request, Target, UnitConfig};
use vm_memory::VolatileSlice;

const DISK: usize = 1 << 18;

#[derive(Debug, Arbitrary)]
enum Direction {
    None,
    In { room: u16 },
    Out,
}

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Command {
        initiator: u8,
        lun: u8,
        cdb: &'a [u8],
        direction: Direction,
        data: &'a [u8],
    },
    Reset,
    NexusLoss,
}

fn run(target: &mut Target, step: &Step<'_>) {
    let Step::Command {
        initiator,
        lun,
        cdb,
        direction,
        data,
    } = step
    else {
        match step {
            Step::Reset => target.reset(),
            _ => target.lose_nexus(Initiator(0)),
        }
        return;
    };
    let mut memory = match direction {
        Direction::In { room } => vec![0xa5; usize::from(*room)],
        _ => data.to_vec(),
    };
    let pieces = [VolatileSlice::from(&mut memory[..])];
    let request = Request {
        initiator: Initiator(u64::from(initiator % 3)),
        lun: [0, lun % 2, 0, 0, 0, 0, 0, 0],
        cdb,
        data: match direction {
            Direction::None => Data::None,
            Direction::In { .. } => Data::In(&pieces),
            Direction::Out => Data::Out(&pieces),
        },
    };
    let done = target.execute(&request);
    assert!(done.transferred <= done.wanted);
    assert_eq!(done.status == 0x02, !done.sense.is_empty());
    match direction {
        Direction::In { .. } => {
            assert!(memory[done.transferred as usize..].iter().all(|byte| *byte == 0xa5));
        }
        _ => assert!(memory == *data, "only the initiator writes there"),
    }
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let disk = Box::new(MemoryBackend::new(DISK));
    let unit = LogicalUnit::new(UnitConfig::default(), disk).expect("a unit");
    let mut target = Target::new(unit);
    for step in steps.iter().take(64) {
        run(&mut target, step);
    }
});
