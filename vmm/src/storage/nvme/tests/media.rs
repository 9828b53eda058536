//! Compare, Verify, Write Uncorrectable, read-only media, and what is refused.

use zerocopy::{FromBytes, IntoBytes};

use super::harness::*;
use crate::storage::backend::MemoryBackend;
use crate::storage::nvme::NvmeConfig;
use crate::storage::nvme::config::MAX_NAMESPACES;
use crate::storage::nvme::media::MAX_UNREADABLE;
use crate::storage::nvme::spec::command::DatasetRange;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::identify::{IdentifyController, IdentifyNamespace};
use crate::storage::nvme::spec::log_page::SmartHealth;
use crate::storage::nvme::spec::status::Status;

fn get_log(page: u32, bytes: u32) -> SubmissionEntry {
    SubmissionEntry {
        dword10: (page | (bytes / 4 - 1) << 16).into(),
        ..command(admin::GET_LOG_PAGE)
    }
}

fn set_feature(feature: u32, value: u32) -> SubmissionEntry {
    SubmissionEntry {
        dword10: feature.into(),
        dword11: value.into(),
        ..command(admin::SET_FEATURES)
    }
}

#[test]
fn compare_tells_equal_from_different_and_changes_nothing() {
    let mut driver = Driver::with_io_queue();
    driver.put(DATA, &[3; 1024]);
    driver.io_ok(blocks(nvm::WRITE, 4, 2));
    driver.io_ok(blocks(nvm::COMPARE, 4, 2));
    driver.put(DATA + 1023, &[4]);
    driver.io_fails(blocks(nvm::COMPARE, 4, 2), Status::COMPARE_FAILURE);
    driver.io_ok(blocks(nvm::COMPARE, 4, 1));
    assert_eq!(driver.bytes(DATA, 1024)[1023], 4, "host memory is only read");
    driver.io_ok(blocks(nvm::READ, 4, 2));
    assert_eq!(driver.bytes(DATA, 1024), [3; 1024]);
}

#[test]
fn compare_is_a_transfer_and_verify_is_none() {
    let mut driver = Driver::with_io_queue();
    let too_much = 256 * 1024 / 512 + 1;
    driver.io_fails(blocks(nvm::COMPARE, 0, too_much), Status::INVALID_FIELD);
    driver.io_ok(blocks(nvm::VERIFY, 0, 2048));
    for opcode in [nvm::COMPARE, nvm::VERIFY, nvm::WRITE_UNCORRECTABLE] {
        driver.io_fails(blocks(opcode, 2047, 2), Status::LBA_OUT_OF_RANGE);
        driver.io_fails(blocks(opcode, u64::MAX, 1), Status::LBA_OUT_OF_RANGE);
        let elsewhere = SubmissionEntry {
            namespace_id: 2.into(),
            ..blocks(opcode, 0, 1)
        };
        driver.io_fails(elsewhere, Status::INVALID_NAMESPACE_OR_FORMAT);
    }
}

#[test]
fn blocks_made_uncorrectable_cannot_be_read_until_they_are_written() {
    let mut driver = Driver::with_io_queue();
    driver.io_ok(blocks(nvm::WRITE_UNCORRECTABLE, 10, 4));
    for opcode in [nvm::READ, nvm::COMPARE, nvm::VERIFY] {
        for (lba, count) in [(13, 1), (9, 2), (13, 5), (0, 64)] {
            driver.io_fails(blocks(opcode, lba, count), Status::UNRECOVERED_READ_ERROR);
        }
        driver.io_ok(blocks(opcode, 14, 1));
        driver.io_ok(blocks(opcode, 8, 2));
    }
    driver.put(DATA, &[9; 512]);
    driver.io_ok(blocks(nvm::WRITE, 11, 1));
    driver.io_ok(blocks(nvm::READ, 11, 1));
    driver.io_fails(blocks(nvm::READ, 10, 1), Status::UNRECOVERED_READ_ERROR);
    driver.io_ok(blocks(nvm::WRITE_ZEROES, 10, 1));
    driver.io_ok(blocks(nvm::READ, 10, 2));
    let range = DatasetRange {
        attributes: 0.into(),
        length: 2.into(),
        starting_lba: 12.into(),
    };
    driver.put(DATA, range.as_bytes());
    driver.io_ok(SubmissionEntry {
        dword10: 0.into(),
        dword11: 4.into(),
        ..blocks(nvm::DATASET_MANAGEMENT, 0, 1)
    });
    driver.io_ok(blocks(nvm::READ, 8, 8));
}

#[test]
fn uncorrectable_blocks_survive_a_reset_and_belong_to_their_namespace() {
    let backends = (0..2).map(|_| Box::new(MemoryBackend::new(DISK)) as _).collect();
    let mut driver = Driver::with_backends(backends, 4);
    driver.enable();
    driver.create_queue_pair(1);
    driver.io_ok(blocks(nvm::WRITE_UNCORRECTABLE, 0, 1));
    driver.write(0x14, 0);
    driver.settle();
    driver.enable();
    driver.create_queue_pair(1);
    driver.io_fails(blocks(nvm::READ, 0, 1), Status::UNRECOVERED_READ_ERROR);
    driver.io_ok(SubmissionEntry {
        namespace_id: 2.into(),
        ..blocks(nvm::READ, 0, 1)
    });
}

#[test]
fn a_host_cannot_make_the_controller_remember_without_end() {
    let mut driver = Driver::with_backend(Box::new(MemoryBackend::new(4 << 20)));
    for place in 0..MAX_UNREADABLE as u64 {
        driver.io_ok(blocks(nvm::WRITE_UNCORRECTABLE, 4 * place, 3));
    }
    driver.io_fails(blocks(nvm::WRITE_UNCORRECTABLE, 8000, 1), Status::INTERNAL_ERROR);
    driver.io_fails(blocks(nvm::WRITE, 1, 1), Status::INTERNAL_ERROR);
    driver.io_fails(blocks(nvm::READ, 1, 1), Status::UNRECOVERED_READ_ERROR);
    driver.io_ok(blocks(nvm::WRITE, 0, 1));
}

#[test]
fn what_is_not_offered_is_said_and_refused() {
    let mut driver = Driver::enabled();
    driver.admin_ok(identify(1, 0));
    let data = IdentifyController::read_from_bytes(&driver.bytes(DATA, 4096)).unwrap();
    assert_eq!(
        data.optional_admin_commands.get() & 0xf,
        0,
        "no security, format, firmware, namespace management"
    );
    assert_eq!(data.optional_nvm_commands.get(), 0b1001_1111);
    assert_eq!((data.fused_operations.get(), data.scatter_gather_lists.get()), (0, 0));
    assert_eq!(data.optional_async_events.get(), 1 << 8);
    driver.admin_fails(
        SubmissionEntry {
            namespace_id: 1.into(),
            ..command(0x80)
        },
        Status::INVALID_OPCODE,
    );
    driver.admin_ok(get_log(5, 4096));
    let effects = driver.bytes(DATA, 4096);
    assert_eq!(effects[4 * 0x80], 0, "Format NVM");
    let io = |opcode: u8| effects[1024 + 4 * usize::from(opcode)];
    assert_eq!(
        (io(nvm::COMPARE), io(nvm::VERIFY), io(nvm::WRITE_UNCORRECTABLE)),
        (1, 1, 3)
    );
}

#[test]
fn sixteen_namespaces_are_there_each_with_its_data() {
    let backends = (0..MAX_NAMESPACES)
        .map(|_| Box::new(MemoryBackend::new(4096)) as _)
        .collect();
    let mut driver = Driver::with_backends(backends, 4);
    driver.enable();
    driver.create_queue_pair(1);
    let of = |nsid: u32, command: SubmissionEntry| SubmissionEntry {
        namespace_id: nsid.into(),
        ..command
    };
    for nsid in 1..=16u32 {
        driver.put(DATA, &[nsid as u8; 512]);
        driver.io_ok(of(nsid, blocks(nvm::WRITE, 7, 1)));
    }
    for nsid in 1..=16u32 {
        driver.io_ok(of(nsid, blocks(nvm::READ, 7, 1)));
        assert_eq!(driver.bytes(DATA, 512), [nsid as u8; 512]);
    }
    driver.io_fails(of(17, blocks(nvm::READ, 7, 1)), Status::INVALID_NAMESPACE_OR_FORMAT);
    driver.admin_ok(identify(1, 0));
    let data = IdentifyController::read_from_bytes(&driver.bytes(DATA, 4096)).unwrap();
    assert_eq!(data.namespaces.get(), 16);
}

#[test]
fn each_namespace_is_listed_and_says_its_own_size_and_identifiers() {
    let backends = (1..=MAX_NAMESPACES)
        .map(|blocks| Box::new(MemoryBackend::new(512 * blocks)) as _)
        .collect();
    let mut driver = Driver::with_backends(backends, 4);
    driver.enable();
    let listed = |driver: &mut Driver, after: u32| {
        driver.admin_ok(identify(2, after));
        let ids: Vec<u32> = driver
            .bytes(DATA, 4096)
            .chunks(4)
            .map(|id| u32::from_le_bytes(id.try_into().unwrap()))
            .collect();
        ids.into_iter().take_while(|&id| id != 0).collect::<Vec<_>>()
    };
    assert_eq!(listed(&mut driver, 0), (1..=16).collect::<Vec<_>>());
    assert_eq!(listed(&mut driver, 11), (12..=16).collect::<Vec<_>>());
    assert!(listed(&mut driver, 16).is_empty());
    let mut identifiers = std::collections::BTreeSet::new();
    for nsid in 1..=16u32 {
        driver.admin_ok(identify(0, nsid));
        let data = IdentifyNamespace::read_from_bytes(&driver.bytes(DATA, 4096)).unwrap();
        assert_eq!(
            (data.size.get(), data.capacity.get()),
            (u64::from(nsid), u64::from(nsid))
        );
        assert!(
            identifiers.insert((data.eui64, data.nguid)),
            "namespace {nsid} has identifiers of another"
        );
        driver.admin_ok(identify(3, nsid));
        let descriptors = driver.bytes(DATA, 32);
        assert_eq!(
            (&descriptors[4..12], &descriptors[16..32]),
            (&data.eui64[..], &data.nguid[..])
        );
    }
    driver.admin_fails(identify(0, 17), Status::INVALID_NAMESPACE_OR_FORMAT);
}

/// Two namespaces; the `after`-th write makes the medium of its namespace read-only.
fn failing_media(after: u64) -> Driver {
    let config = NvmeConfig {
        queue_pairs: 4,
        faults: vec![Fault {
            kind: FaultKind::Fetch(io(nvm::WRITE), FetchFault::ReadOnly),
            after,
            count: 2,
        }],
        ..NvmeConfig::default()
    };
    let backends = (0..2).map(|_| Box::new(MemoryBackend::new(DISK)) as _).collect();
    let mut driver = Driver::with_config(config, backends);
    driver.enable();
    driver.create_queue_pair(1);
    driver
}

fn attributes(driver: &mut Driver, nsid: u32) -> u8 {
    driver.admin_ok(identify(0, nsid));
    IdentifyNamespace::read_from_bytes(&driver.bytes(DATA, 4096))
        .unwrap()
        .attributes
}

fn critical_warning(driver: &mut Driver) -> u8 {
    driver.admin_ok(get_log(2, 512));
    SmartHealth::read_from_bytes(&driver.bytes(DATA, 512))
        .unwrap()
        .critical_warning
}

#[test]
fn media_that_become_read_only_are_write_protected_and_say_so() {
    let mut driver = failing_media(1);
    driver.io_ok(blocks(nvm::WRITE, 0, 1));
    assert_eq!(attributes(&mut driver, 1), 0);
    for opcode in [nvm::WRITE, nvm::WRITE_ZEROES, nvm::WRITE_UNCORRECTABLE] {
        driver.io_fails(blocks(opcode, 0, 1), Status::NAMESPACE_WRITE_PROTECTED);
    }
    driver.io_ok(blocks(nvm::READ, 0, 1));
    driver.io_ok(blocks(nvm::FLUSH, 0, 1));
    assert_eq!((attributes(&mut driver, 1), attributes(&mut driver, 2)), (1, 0));
    assert_eq!(critical_warning(&mut driver), 0, "not all of the media");
    let second = SubmissionEntry {
        namespace_id: 2.into(),
        ..blocks(nvm::WRITE, 0, 1)
    };
    driver.io_fails(second, Status::NAMESPACE_WRITE_PROTECTED);
    assert_eq!(critical_warning(&mut driver), 1 << 3);
}

#[test]
fn changed_namespaces_are_reported_to_hosts_that_want_to_know() {
    let mut driver = failing_media(0);
    driver.admin_ok(set_feature(0x0b, 0xffff_ffff));
    assert_eq!(driver.controller.admin().events().configuration(), 0x1ff);
    for _ in 0..2 {
        driver.submit(0, command(admin::ASYNC_EVENT_REQUEST));
    }
    driver.ring_tail(0);
    driver.io_fails(blocks(nvm::WRITE, 0, 1), Status::NAMESPACE_WRITE_PROTECTED);
    let notice = driver.reap(0).unwrap();
    assert_eq!((notice.dword0, notice.status), (0x0004_0002, Status::SUCCESS));
    assert_eq!(driver.reap(0), None, "SMART warns when all of the media are read-only");
    let second = SubmissionEntry {
        namespace_id: 2.into(),
        ..blocks(nvm::WRITE, 0, 1)
    };
    driver.io_fails(second, Status::NAMESPACE_WRITE_PROTECTED);
    let warning = driver.reap(0).unwrap();
    assert_eq!(
        warning.dword0, 0x0002_0001,
        "the notice is masked until its log is read"
    );
    driver.ring_head(0);

    driver.admin_ok(SubmissionEntry {
        dword10: (4 | 1 << 15 | 1023 << 16).into(),
        ..command(admin::GET_LOG_PAGE)
    });
    let expected = [1u32, 2, 0].map(u32::to_le_bytes).concat();
    assert_eq!(driver.bytes(DATA, 12), expected);
    driver.admin_ok(get_log(4, 4096));
    assert_eq!(driver.bytes(DATA, 12), expected, "the first one retained the event");
    driver.admin_ok(get_log(4, 4096));
    assert_eq!(driver.bytes(DATA, 12), [0; 12]);
}

#[test]
fn hosts_that_do_not_want_notices_get_none() {
    let mut driver = failing_media(0);
    driver.submit(0, command(admin::ASYNC_EVENT_REQUEST));
    driver.ring_tail(0);
    driver.io_fails(blocks(nvm::WRITE, 0, 1), Status::NAMESPACE_WRITE_PROTECTED);
    assert_eq!(driver.reap(0), None);
}
