//! Random driver behaviour against a small model: what completes when, in which order, and what the data are.

use std::collections::VecDeque;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::harness::*;
use crate::storage::nvme::spec::command::DatasetRange;
use crate::storage::nvme::spec::command::{SubmissionEntry, nvm};
use crate::storage::nvme::spec::status::Status;

/// The disk has few blocks, so that commands meet.
const BLOCKS: u64 = 64;
const BLOCK: usize = 512;
const QUEUES: usize = 2;

#[derive(Clone, Debug)]
enum Request {
    Read { lba: u64, count: u32 },
    Write { lba: u64, count: u32, fill: u8 },
    Zero { lba: u64, count: u32, deallocate: bool },
    Deallocate { lba: u64, count: u32 },
    Flush,
    Unknown,
}

#[derive(Clone, Debug)]
enum Step {
    Submit(usize, Request),
    Ring(usize),
    Reap(usize, usize),
    Reset,
}

fn request() -> impl Strategy<Value = Request> {
    // A few ranges end behind the disk.
    let range = || (0..BLOCKS, 1..17u32);
    prop_oneof![
        3 => range().prop_map(|(lba, count)| Request::Read { lba, count }),
        3 => (range(), any::<u8>()).prop_map(|((lba, count), fill)| Request::Write { lba, count, fill }),
        1 => (range(), any::<bool>()).prop_map(|((lba, count), deallocate)| Request::Zero { lba, count, deallocate }),
        1 => range().prop_map(|(lba, count)| Request::Deallocate { lba, count }),
        1 => Just(Request::Flush),
        1 => Just(Request::Unknown),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..QUEUES, request()).prop_map(|(queue, request)| Step::Submit(queue, request)),
        6 => (0..QUEUES).prop_map(Step::Ring),
        6 => (0..QUEUES, 1..8usize).prop_map(|(queue, count)| Step::Reap(queue, count)),
        1 => Just(Step::Reset),
    ]
}

/// A command that the driver has put into a queue.
#[derive(Clone, Debug)]
struct Sent {
    id: u16,
    buffer: u64,
    request: Request,
}

/// What the driver has to find in the completion queue.
struct Expected {
    id: u16,
    status: Status,
    /// The data of a read, and where.
    data: Option<(u64, Vec<u8>)>,
}

#[derive(Default)]
struct Queue {
    /// In the ring, doorbell not rung.
    written: VecDeque<Sent>,
    /// Doorbell rung, not executed: there is no room for the completion.
    rung: VecDeque<Sent>,
    /// Executed, not reaped.
    done: VecDeque<Expected>,
}

struct Model {
    disk: Vec<u8>,
    queues: [Queue; QUEUES],
}

impl Model {
    fn new() -> Self {
        Self {
            disk: vec![0; BLOCKS as usize * BLOCK],
            queues: Default::default(),
        }
    }

    fn bytes(&mut self, lba: u64, count: u32) -> Option<&mut [u8]> {
        self.disk
            .get_mut(lba as usize * BLOCK..(lba as usize + count as usize) * BLOCK)
    }

    fn execute(&mut self, sent: &Sent) -> Expected {
        let mut data = None;
        let done = match sent.request {
            Request::Read { lba, count } => self.bytes(lba, count).map(|bytes| {
                data = Some((sent.buffer, bytes.to_vec()));
            }),
            Request::Write { lba, count, fill } => self.bytes(lba, count).map(|bytes| bytes.fill(fill)),
            Request::Zero { lba, count, .. } | Request::Deallocate { lba, count } => {
                self.bytes(lba, count).map(|bytes| bytes.fill(0))
            }
            Request::Flush => Some(()),
            Request::Unknown => {
                return Expected {
                    id: sent.id,
                    status: Status::INVALID_OPCODE.with_more(),
                    data: None,
                };
            }
        };
        let status = if done.is_some() {
            Status::SUCCESS
        } else {
            Status::LBA_OUT_OF_RANGE.with_more()
        };
        Expected {
            id: sent.id,
            status,
            data,
        }
    }

    /// Executes what the controller can execute now.
    fn work(&mut self, queue: usize) {
        while self.queues[queue].done.len() < IO_ENTRIES as usize - 1 {
            let Some(sent) = self.queues[queue].rung.pop_front() else {
                break;
            };
            let expected = self.execute(&sent);
            self.queues[queue].done.push_back(expected);
        }
    }
}

/// The command for a request whose data are in two pages that are not neighbours.
fn build(driver: &Driver, request: &Request, buffer: u64) -> SubmissionEntry {
    let prps = |command: SubmissionEntry| SubmissionEntry {
        prp1: buffer.into(),
        prp2: (buffer + 0x3000).into(),
        ..command
    };
    match *request {
        Request::Read { lba, count } => prps(blocks(nvm::READ, lba, count)),
        Request::Write { lba, count, fill } => {
            driver.put(buffer, &[fill; 0x1000]);
            driver.put(buffer + 0x3000, &[fill; 0x1000]);
            prps(blocks(nvm::WRITE, lba, count))
        }
        Request::Zero { lba, count, deallocate } => {
            let mut command = blocks(nvm::WRITE_ZEROES, lba, count);
            command.dword12 = ((count - 1) | (u32::from(deallocate) << 25)).into();
            command
        }
        Request::Deallocate { lba, count } => {
            let range = DatasetRange {
                attributes: 0.into(),
                length: count.into(),
                starting_lba: lba.into(),
            };
            driver.put(buffer, range.as_bytes());
            let command = blocks(nvm::DATASET_MANAGEMENT, 0, 1);
            prps(SubmissionEntry {
                dword10: 0.into(),
                dword11: 4.into(),
                ..command
            })
        }
        Request::Flush => blocks(nvm::FLUSH, 0, 1),
        Request::Unknown => blocks(0x7f, 0, 1),
    }
}

fn reap(driver: &mut Driver, model: &mut Model, queue: usize, count: usize) -> Result<(), TestCaseError> {
    for _ in 0..count {
        let Some(expected) = model.queues[queue].done.pop_front() else {
            prop_assert_eq!(driver.reap(queue + 1), None);
            break;
        };
        let done = driver.reap(queue + 1);
        prop_assert!(done.is_some(), "a completion is missing");
        let done = done.unwrap();
        prop_assert_eq!((done.command_id, done.status), (expected.id, expected.status));
        prop_assert_eq!(done.queue as usize, queue + 1);
        if let Some((buffer, data)) = expected.data {
            let first = driver.bytes(buffer, data.len().min(0x1000));
            let second = driver.bytes(buffer + 0x3000, data.len().saturating_sub(0x1000));
            prop_assert!([first, second].concat() == data);
        }
    }
    driver.ring_head(queue + 1);
    driver.settle();
    model.work(queue);
    Ok(())
}

fn reset(driver: &mut Driver, model: &mut Model) {
    driver.write(0x14, 0);
    driver.settle();
    driver.enable();
    for queue in 1..=QUEUES as u16 {
        driver.create_queue_pair(queue);
    }
    model.queues = Default::default();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_controller_does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let disk = crate::storage::backend::MemoryBackend::new(BLOCKS as usize * BLOCK);
        let mut driver = Driver::with_backends(vec![Box::new(disk)], QUEUES as u16);
        let mut model = Model::new();
        reset(&mut driver, &mut model);
        let mut slots = [0; QUEUES];
        for step in steps {
            match step {
                Step::Submit(queue, request) => {
                    let in_ring = model.queues[queue].written.len() + model.queues[queue].rung.len();
                    if in_ring + model.queues[queue].done.len() >= IO_ENTRIES as usize - 1 + 7 || in_ring >= 7 {
                        continue;
                    }
                    // A queue has at most 14 commands under way, and they end in order.
                    let slot = &mut slots[queue];
                    *slot = (*slot + 1) % 15;
                    let buffer = DATA + (15 * queue as u64 + *slot) * 0x8000;
                    let command = build(&driver, &request, buffer);
                    let id = driver.submit(queue + 1, command);
                    model.queues[queue].written.push_back(Sent { id, buffer, request });
                }
                Step::Ring(queue) => {
                    driver.ring_tail(queue + 1);
                    driver.settle();
                    let written = std::mem::take(&mut model.queues[queue].written);
                    model.queues[queue].rung.extend(written);
                    model.work(queue);
                }
                Step::Reap(queue, count) => reap(&mut driver, &mut model, queue, count)?,
                Step::Reset => reset(&mut driver, &mut model),
            }
        }
        for queue in 0..QUEUES {
            reap(&mut driver, &mut model, queue, 7)?;
            reap(&mut driver, &mut model, queue, 7)?;
        }
        // No wrong doorbell was seen in all this.
        prop_assert!(driver.controller.admin().events().waiting().1 == 0);
        let guest: u32 = driver.memory.read_obj(GuestAddress(0)).unwrap();
        prop_assert_eq!(guest, 0, "page 0 belongs to nobody");
    }
}
