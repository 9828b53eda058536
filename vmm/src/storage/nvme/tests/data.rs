//! I/O commands: data, ranges, PRPs, failing backends.

use std::sync::{Arc, Mutex};

use zerocopy::IntoBytes;

use super::harness::*;
use crate::storage::backend::{Backend, BackendError, MemoryBackend};
use crate::storage::nvme::spec::command::DatasetRange;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::status::Status;

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|at| {
            (at as u8)
                .wrapping_mul(7)
                .wrapping_add((at >> 8) as u8)
                .wrapping_add(seed)
        })
        .collect()
}

/// Lets the data of a command be found through a list at `list` with pages that are far apart.
fn with_list(driver: &Driver, list: u64, pages: u64, command: SubmissionEntry) -> SubmissionEntry {
    for page in 1..pages {
        driver.put(list + 8 * (page - 1), &(DATA + 0x2000 * page).to_le_bytes());
    }
    SubmissionEntry {
        prp1: DATA.into(),
        prp2: list.into(),
        ..command
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut driver = Driver::with_io_queue();
    // Within a page, across two, and through a list.
    for (count, lba) in [(1, 0), (8, 3), (9, 100), (16, 40), (17, 2048 - 17), (512, 0)] {
        let length = count as usize * 512;
        let pages = length.div_ceil(4096) as u64;
        let data = pattern(length, count as u8);
        let write = blocks(nvm::WRITE, lba, count);
        let write = if pages > 2 {
            with_list(&driver, LIST, pages, write)
        } else {
            write
        };
        for (page, chunk) in data.chunks(4096).enumerate() {
            let step = if pages > 2 { 0x2000 } else { 0x1000 };
            driver.put(DATA + step * page as u64, chunk);
        }
        driver.io_ok(write);
        driver.put(DATA, &vec![0; 0x10_0000]);
        driver.io_ok(SubmissionEntry {
            opcode: nvm::READ,
            ..write
        });
        let mut read = Vec::new();
        for page in 0..pages {
            let step = if pages > 2 { 0x2000 } else { 0x1000 };
            read.extend(driver.bytes(DATA + step * page, 4096));
        }
        assert!(
            read[..length] == data[..] && read[length..].iter().all(|&byte| byte == 0),
            "{count} blocks"
        );
    }
}

#[test]
fn data_may_begin_inside_a_page() {
    let mut driver = Driver::with_io_queue();
    let data = pattern(4096, 1);
    driver.put(DATA + 0xe04, &data[..0x1fc]);
    driver.put(DATA + 0x8000, &data[0x1fc..]);
    let write = blocks(nvm::WRITE, 8, 8);
    driver.io_ok(SubmissionEntry {
        prp1: (DATA + 0xe04).into(),
        prp2: (DATA + 0x8000).into(),
        ..write
    });
    driver.io_ok(blocks(nvm::READ, 8, 8));
    assert_eq!(driver.bytes(DATA, 4096), data);
}

#[test]
fn lists_are_chained_at_the_end_of_their_page() {
    let mut driver = Driver::with_io_queue();
    let data = pattern(0x1_0000, 9);
    for page in 0..16 {
        driver.put(DATA + 0x2000 * page, &data[0x1000 * page as usize..][..0x1000]);
    }
    // Room for three entries: two pages and the pointer to the next list.
    let first = LIST + 0x1000 - 24;
    let entries: Vec<u64> = (1..16).map(|page| DATA + 0x2000 * page).collect();
    driver.put(first, entries[..2].as_bytes());
    driver.put(first + 16, &(LIST + 0x4000).to_le_bytes());
    driver.put(LIST + 0x4000, entries[2..].as_bytes());
    driver.io_ok(SubmissionEntry {
        prp1: DATA.into(),
        prp2: first.into(),
        ..blocks(nvm::WRITE, 0, 128)
    });
    driver.io_ok(with_list(&driver, LIST, 16, blocks(nvm::READ, 0, 128)));
    for page in 0..16 {
        assert_eq!(
            driver.bytes(DATA + 0x2000 * page, 0x1000),
            data[0x1000 * page as usize..][..0x1000]
        );
    }
}

#[test]
fn wrong_prps_are_refused() {
    let mut driver = Driver::with_io_queue();
    let prps = |prp1: u64, prp2: u64, count| SubmissionEntry {
        prp1: prp1.into(),
        prp2: prp2.into(),
        ..blocks(nvm::WRITE, 0, count)
    };
    driver.put(LIST, [DATA, DATA + 8].as_bytes());
    driver.put(LIST + 0xff8, (LIST + 8).as_bytes());
    let cases = [
        (
            "PRP1 not dword aligned",
            prps(DATA + 2, 0, 1),
            Status::PRP_OFFSET_INVALID,
        ),
        (
            "PRP2 with an offset",
            prps(DATA, DATA + 0x1200, 16),
            Status::PRP_OFFSET_INVALID,
        ),
        (
            "list not qword aligned",
            prps(DATA, LIST + 4, 24),
            Status::PRP_OFFSET_INVALID,
        ),
        (
            "list entry with an offset",
            prps(DATA, LIST, 24),
            Status::PRP_OFFSET_INVALID,
        ),
        (
            "chain with an offset",
            prps(DATA, LIST + 0xff8, 24),
            Status::PRP_OFFSET_INVALID,
        ),
        ("PRP1 outside memory", prps(MEMORY, 0, 1), Status::DATA_TRANSFER_ERROR),
        ("PRP1 at the end", prps(!0xfff, 0, 1), Status::DATA_TRANSFER_ERROR),
        (
            "PRP2 outside memory",
            prps(DATA, MEMORY, 16),
            Status::DATA_TRANSFER_ERROR,
        ),
        (
            "list outside memory",
            prps(DATA, MEMORY, 24),
            Status::DATA_TRANSFER_ERROR,
        ),
        (
            "list at the end of the address space",
            prps(DATA, !7, 24),
            Status::DATA_TRANSFER_ERROR,
        ),
    ];
    for (what, command, status) in cases {
        assert_eq!(driver.run(1, command).status, status.with_more(), "{what}");
        let read = SubmissionEntry {
            opcode: nvm::READ,
            ..command
        };
        assert_eq!(driver.run(1, read).status, status.with_more(), "{what}");
    }
}

#[test]
fn ranges_and_namespaces_are_checked() {
    let mut driver = Driver::with_io_queue();
    for opcode in [nvm::READ, nvm::WRITE, nvm::WRITE_ZEROES] {
        driver.io_ok(blocks(opcode, 2047, 1));
        driver.io_fails(blocks(opcode, 2047, 2), Status::LBA_OUT_OF_RANGE);
        driver.io_fails(blocks(opcode, 2048, 1), Status::LBA_OUT_OF_RANGE);
        driver.io_fails(blocks(opcode, u64::MAX, 1), Status::LBA_OUT_OF_RANGE);
        driver.io_fails(blocks(opcode, 1 << 55, 1), Status::LBA_OUT_OF_RANGE);
        for nsid in [0, 2, 0xffff_ffff] {
            let wrong = SubmissionEntry {
                namespace_id: nsid.into(),
                ..blocks(opcode, 0, 1)
            };
            driver.io_fails(wrong, Status::INVALID_NAMESPACE_OR_FORMAT);
        }
    }
    // MDTS is 256 KiB.
    driver.io_fails(blocks(nvm::READ, 0, 513), Status::INVALID_FIELD);
    driver.io_fails(blocks(nvm::WRITE, 0, 513), Status::INVALID_FIELD);
    driver.io_ok(blocks(nvm::WRITE_ZEROES, 0, 2048));
}

#[test]
fn write_zeroes_clears_the_range_and_nothing_else() {
    for deallocate in [0, 1 << 25] {
        let mut driver = Driver::with_io_queue();
        driver.put(DATA, &[0xaa; 8192]);
        driver.io_ok(blocks(nvm::WRITE, 0, 16));
        let mut zero = blocks(nvm::WRITE_ZEROES, 3, 5);
        zero.dword12 = (4 | deallocate).into();
        driver.io_ok(zero);
        driver.io_ok(blocks(nvm::READ, 0, 16));
        let expected: Vec<u8> = (0..8192)
            .map(|at| if (3 * 512..8 * 512).contains(&at) { 0 } else { 0xaa })
            .collect();
        assert_eq!(driver.bytes(DATA, 8192), expected);
    }
}

fn dataset(driver: &Driver, ranges: &[(u32, u64)], dword11: u32) -> SubmissionEntry {
    for (index, &(length, lba)) in ranges.iter().enumerate() {
        let range = DatasetRange {
            attributes: 0.into(),
            length: length.into(),
            starting_lba: lba.into(),
        };
        driver.put(DATA + 0x4000 + 16 * index as u64, range.as_bytes());
    }
    SubmissionEntry {
        namespace_id: 1.into(),
        prp1: (DATA + 0x4000).into(),
        dword10: (ranges.len() as u32 - 1).into(),
        dword11: dword11.into(),
        ..command(nvm::DATASET_MANAGEMENT)
    }
}

#[test]
fn deallocated_blocks_read_as_zeroes() {
    let mut driver = Driver::with_io_queue();
    driver.put(DATA, &[0xaa; 8192]);
    driver.io_ok(blocks(nvm::WRITE, 0, 16));
    // Overlapping, touching and empty ranges.
    let deallocate = dataset(&driver, &[(2, 8), (2, 1), (1, 2), (3, 9), (0, 15)], 4);
    driver.io_ok(deallocate);
    driver.io_ok(blocks(nvm::READ, 0, 16));
    let expected: Vec<u8> = (0..8192)
        .map(|at| {
            if [1, 2, 8, 9, 10, 11].contains(&(at / 512)) {
                0
            } else {
                0xaa
            }
        })
        .collect();
    assert_eq!(driver.bytes(DATA, 8192), expected);
}

#[test]
fn dataset_management_checks_all_ranges_first() {
    let mut driver = Driver::with_io_queue();
    driver.put(DATA, &[0xaa; 512]);
    driver.io_ok(blocks(nvm::WRITE, 0, 1));
    let wrong = dataset(&driver, &[(1, 0), (2, 2047)], 4);
    driver.io_fails(wrong, Status::LBA_OUT_OF_RANGE);
    let hints = dataset(&driver, &[(1, 0)], 3);
    driver.io_ok(hints);
    driver.io_ok(blocks(nvm::READ, 0, 1));
    assert_eq!(driver.bytes(DATA, 512), [0xaa; 512], "nothing was deallocated");
    driver.io_fails(
        SubmissionEntry {
            namespace_id: 2.into(),
            ..hints
        },
        Status::INVALID_NAMESPACE_OR_FORMAT,
    );
    driver.io_fails(
        SubmissionEntry {
            prp1: MEMORY.into(),
            ..hints
        },
        Status::DATA_TRANSFER_ERROR,
    );
    driver.io_ok(dataset(&driver, &[(2048, 0); 256], 4));
}

/// A backend that notes its calls and fails on demand.
#[derive(Clone, Default)]
struct Probe {
    calls: Arc<Mutex<Vec<&'static str>>>,
    error: Arc<Mutex<Option<i32>>>,
    read_only: bool,
}

impl Probe {
    fn call(&self, name: &'static str) -> Result<(), BackendError> {
        self.calls.lock().unwrap().push(name);
        match *self.error.lock().unwrap() {
            Some(code) => Err(std::io::Error::from_raw_os_error(code).into()),
            None => Ok(()),
        }
    }

    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Backend for Probe {
    fn len(&self) -> u64 {
        1 << 20
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }
    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), BackendError> {
        self.call("read")
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BackendError> {
        self.call("write")
    }
    fn flush(&mut self) -> Result<(), BackendError> {
        self.call("flush")
    }
    fn write_zeroes(&mut self, _: u64, _: u64, deallocate: bool) -> Result<(), BackendError> {
        self.call(if deallocate { "zero and deallocate" } else { "zero" })
    }
}

#[test]
fn flush_and_forced_unit_access_reach_the_medium() {
    let probe = Probe::default();
    let mut driver = Driver::with_backend(Box::new(probe.clone()));
    let mut forced = |opcode, dword12: u32| {
        driver.io_ok(SubmissionEntry {
            dword12: dword12.into(),
            ..blocks(opcode, 0, 1)
        });
        probe.take()
    };
    assert_eq!(forced(nvm::WRITE, 0), ["write"]);
    assert_eq!(forced(nvm::WRITE, 1 << 30), ["write", "flush"]);
    assert_eq!(forced(nvm::READ, 1 << 30), ["flush", "read"]);
    assert_eq!(forced(nvm::WRITE_ZEROES, 1 << 30), ["zero", "flush"]);
    assert_eq!(forced(nvm::WRITE_ZEROES, 1 << 25), ["zero and deallocate"]);
    assert_eq!(forced(nvm::FLUSH, 0), ["flush"]);
    driver.io_ok(SubmissionEntry {
        namespace_id: 0xffff_ffff.into(),
        ..command(nvm::FLUSH)
    });
    assert_eq!(probe.take(), ["flush"]);
    for nsid in [0, 2] {
        let wrong = SubmissionEntry {
            namespace_id: nsid.into(),
            ..command(nvm::FLUSH)
        };
        driver.io_fails(wrong, Status::INVALID_NAMESPACE_OR_FORMAT);
    }
}

#[test]
fn without_a_write_cache_every_write_is_durable() {
    let probe = Probe::default();
    let mut driver = Driver::with_backend(Box::new(probe.clone()));
    driver.admin_ok(SubmissionEntry {
        dword10: 6.into(),
        dword11: 0.into(),
        ..command(admin::SET_FEATURES)
    });
    assert_eq!(probe.take(), ["flush"], "what was cached before");
    driver.io_ok(blocks(nvm::WRITE, 0, 1));
    assert_eq!(probe.take(), ["write", "flush"]);
    driver.write(0x14, CC_ENABLE | 1 << 14);
    driver.settle();
    assert_eq!(probe.take(), ["flush"], "shutdown");
}

#[test]
fn failures_of_the_backend_have_their_status() {
    let probe = Probe::default();
    let mut driver = Driver::with_backend(Box::new(probe.clone()));
    let deallocate = dataset(&driver, &[(1, 0)], 4);
    let all = [
        (
            blocks(nvm::READ, 0, 1),
            Status::UNRECOVERED_READ_ERROR,
            Status::UNRECOVERED_READ_ERROR,
        ),
        (blocks(nvm::WRITE, 0, 1), Status::WRITE_FAULT, Status::CAPACITY_EXCEEDED),
        (
            blocks(nvm::WRITE_ZEROES, 0, 1),
            Status::WRITE_FAULT,
            Status::CAPACITY_EXCEEDED,
        ),
        (blocks(nvm::FLUSH, 0, 1), Status::WRITE_FAULT, Status::CAPACITY_EXCEEDED),
        (deallocate, Status::WRITE_FAULT, Status::CAPACITY_EXCEEDED),
    ];
    for (command, on_io_error, on_full_disk) in all {
        *probe.error.lock().unwrap() = Some(libc::EIO);
        driver.io_fails(command, on_io_error);
        *probe.error.lock().unwrap() = Some(libc::ENOSPC);
        driver.io_fails(command, on_full_disk);
        *probe.error.lock().unwrap() = None;
        driver.io_ok(command);
    }
    assert!(!Status::WRITE_FAULT.do_not_retry() && Status::CAPACITY_EXCEEDED.do_not_retry());
    assert_eq!(driver.controller.namespaces().counters().media_errors, 5);
    // A shutdown completes all the same.
    *probe.error.lock().unwrap() = Some(libc::EIO);
    driver.write(0x14, CC_ENABLE | 1 << 14);
    driver.settle();
    assert_eq!(driver.read(0x1c) >> 2 & 3, 2);
}

#[test]
fn a_read_only_namespace_is_write_protected() {
    let probe = Probe {
        read_only: true,
        ..Probe::default()
    };
    let mut driver = Driver::with_backend(Box::new(probe.clone()));
    driver.io_ok(blocks(nvm::READ, 0, 1));
    assert_eq!(probe.take(), ["read"]);
    for command in [
        blocks(nvm::WRITE, 0, 1),
        blocks(nvm::WRITE_ZEROES, 0, 1),
        dataset(&driver, &[(1, 0)], 4),
    ] {
        driver.io_fails(command, Status::NAMESPACE_WRITE_PROTECTED);
    }
    assert!(probe.take().is_empty(), "nothing has reached the medium");
    driver.io_ok(dataset(&driver, &[(1, 0)], 0));
    driver.admin_ok(identify(0, 1));
    assert_eq!(driver.bytes(DATA + 99, 1), [1], "NSATTR");
}

#[test]
fn controllers_that_cannot_be_are_refused() {
    use crate::storage::nvme::{Controller, NvmeConfig, NvmeConfigError};
    let make = |config: NvmeConfig, sizes: &[usize]| {
        let memory = Driver::cold().memory;
        let backends = sizes
            .iter()
            .map(|&size| Box::new(MemoryBackend::new(size)) as _)
            .collect();
        let sink = Arc::new(Interrupts::default());
        Controller::new(config, Box::new(memory), sink, Box::new(()), backends).err()
    };
    let config = NvmeConfig::default();
    assert_eq!(make(config.clone(), &[4096]), None);
    assert_eq!(make(config.clone(), &[]), Some(NvmeConfigError::Namespaces(0)));
    assert_eq!(make(config.clone(), &[4096; 17]), Some(NvmeConfigError::Namespaces(17)));
    for queue_pairs in [0, 65] {
        let config = NvmeConfig {
            queue_pairs,
            ..config.clone()
        };
        assert_eq!(make(config, &[4096]), Some(NvmeConfigError::QueuePairs(queue_pairs)));
    }
    let odd = make(config.clone(), &[4096, 1000]);
    assert_eq!(
        odd,
        Some(NvmeConfigError::OddBackend {
            nsid: 2,
            length: 1000,
            block_size: 512
        })
    );
    assert!(matches!(
        make(config.clone(), &[0]),
        Some(NvmeConfigError::OddBackend { length: 0, .. })
    ));
    assert_eq!(
        make(
            NvmeConfig {
                block_size: 1024,
                ..config
            },
            &[4096]
        ),
        Some(NvmeConfigError::BlockSize(1024))
    );
}
