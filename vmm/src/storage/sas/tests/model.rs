//! Random driver behaviour against a small model: what is answered when, in which order, and what the data are.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::harness::*;
use crate::storage::sas::SasConfig;
use crate::storage::sas::spec::offset;

/// The disks have few blocks, so that commands meet.
const BLOCKS: usize = 64;
const DISKS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// Posts a request: disk, first block, blocks, and what to write, if it writes.
    Post(usize, u32, u16, Option<u8>),
    /// Takes so many replies.
    Reap(usize),
    /// A reset of the message unit, or of everything.
    Reset(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let post = (0..DISKS, 0..70u32, 1..9u16, any::<Option<u8>>());
    prop_oneof![
        12 => post.prop_map(|(disk, block, count, fill)| Step::Post(disk, block, count, fill)),
        6 => (1..6usize).prop_map(Step::Reap),
        1 => any::<bool>().prop_map(Step::Reset),
    ]
}

/// What the driver has to find.
struct Expected {
    context: u32,
    /// It succeeds, and what was read is at this place.
    good: bool,
    data: Option<(u64, Vec<u8>)>,
}

fn check(driver: &mut Driver, expected: &mut VecDeque<Expected>) -> Result<bool, TestCaseError> {
    let Some(next) = expected.pop_front() else {
        prop_assert_eq!(driver.reap(), None);
        return Ok(false);
    };
    match driver.reap() {
        Some(Got::Context(context)) => prop_assert_eq!((context, true), (next.context, next.good)),
        Some(Got::Frame(frame)) => {
            prop_assert_eq!((u32_at(&frame, 8), frame[0x0c]), (next.context, 2));
            prop_assert!(!next.good);
        }
        None => prop_assert!(false, "a reply is missing"),
    }
    if let Some((place, data)) = next.data {
        prop_assert!(driver.bytes(place, data.len()) == data);
    }
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_controller_does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let disk = || Box::new(crate::storage::backend::MemoryBackend::new(BLOCKS * BLOCK)) as Box<_>;
        let mut driver = Driver::with_backends(SasConfig::default(), vec![disk(), disk()]);
        driver.initialise();
        let mut disks = vec![vec![0u8; BLOCKS * BLOCK]; DISKS];
        let mut attention = [true; DISKS];
        let mut expected = VecDeque::new();
        let mut next = 0u32;
        for step in steps {
            match step {
                Step::Post(..) if expected.len() >= REPLY_FRAMES as usize => {}
                Step::Post(disk, block, count, fill) => {
                    next += 1;
                    let place = DATA + 0x2000 * u64::from(next % 64);
                    let length = usize::from(count) * BLOCK;
                    let mut request = match fill {
                        Some(fill) => {
                            driver.fill(place, &vec![fill; length]);
                            write(disk as u8, block, count)
                        }
                        None => read(disk as u8, block, count),
                    };
                    request[8..12].copy_from_slice(&next.to_le_bytes());
                    request[0x30..0x38].copy_from_slice(&simple(place, length));
                    driver.post(&request);
                    let start = block as usize * BLOCK;
                    let there = disks[disk].get_mut(start..start + length);
                    let told = std::mem::take(&mut attention[disk]);
                    let (mut good, mut data) = (false, None);
                    if let (Some(there), false) = (there, told) {
                        good = true;
                        match fill {
                            Some(fill) => there.fill(fill),
                            None => data = Some((place, there.to_vec())),
                        }
                    }
                    expected.push_back(Expected { context: next, good, data });
                }
                Step::Reap(count) => {
                    for _ in 0..count {
                        if !check(&mut driver, &mut expected)? {
                            break;
                        }
                    }
                }
                Step::Reset(hard) => {
                    if hard {
                        driver.diagnostic_reset();
                        attention = [true; DISKS];
                    } else {
                        driver.put(offset::DOORBELL, 0x40 << 24);
                    }
                    expected.clear();
                    driver.initialise();
                }
            }
        }
        while check(&mut driver, &mut expected)? {}
        prop_assert_eq!(driver.bytes(0, 16), [0; 16], "page 0 belongs to nobody");
    }
}
