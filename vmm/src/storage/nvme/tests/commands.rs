//! Identify, features, log pages, Abort, and commands that do not exist.

use zerocopy::FromBytes;

use super::harness::*;
use crate::storage::backend::MemoryBackend;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::identify::{IdentifyController, IdentifyNamespace};
use crate::storage::nvme::spec::log_page::{ErrorEntry, SmartHealth};
use crate::storage::nvme::spec::status::Status;

fn get_feature(dword10: u32, dword11: u32) -> SubmissionEntry {
    SubmissionEntry {
        dword10: dword10.into(),
        dword11: dword11.into(),
        ..command(admin::GET_FEATURES)
    }
}

fn set_feature(dword10: u32, dword11: u32) -> SubmissionEntry {
    SubmissionEntry {
        opcode: admin::SET_FEATURES,
        ..get_feature(dword10, dword11)
    }
}

fn for_namespace(nsid: u32, command: SubmissionEntry) -> SubmissionEntry {
    SubmissionEntry {
        namespace_id: nsid.into(),
        ..command
    }
}

fn get_log(page: u32, bytes: u32) -> SubmissionEntry {
    SubmissionEntry {
        dword10: (page | (bytes / 4 - 1) << 16).into(),
        ..command(admin::GET_LOG_PAGE)
    }
}

#[test]
fn identify_controller_says_what_is_there() {
    let mut driver = Driver::enabled();
    driver.admin_ok(identify(1, 0));
    let data = IdentifyController::read_from_bytes(&driver.bytes(DATA, 4096)).unwrap();
    assert_eq!((data.vendor_id.get(), data.version.get()), (0x1af4, 0x0001_0400));
    assert_eq!(&data.serial_number, b"STORLOCK0           ");
    assert_eq!((data.submission_entry_size, data.completion_entry_size), (0x66, 0x44));
    assert_eq!((data.namespaces.get(), data.controller_type), (1, 1));
    assert_eq!(data.optional_admin_commands.get(), 1 << 8);
    assert_eq!(data.maximum_data_transfer_size, 6);
    assert_eq!((data.async_event_request_limit, data.error_log_page_entries), (3, 15));
    assert!(
        data.subsystem_name
            .starts_with(b"nqn.2014-08.org.nvmexpress:uuid:53544f52-4c4f-434b-")
    );
}

#[test]
fn identify_namespace_gives_size_and_format() {
    let mut driver = Driver::enabled();
    driver.admin_ok(identify(0, 1));
    let data = IdentifyNamespace::read_from_bytes(&driver.bytes(DATA, 4096)).unwrap();
    assert_eq!((data.size.get(), data.capacity.get()), (2048, 2048));
    assert_eq!((data.lba_format_0.data_size, data.lba_formats), (9, 0));
    assert_eq!(data.deallocate_features, 0b1001);
    for nsid in [0, 2, 0xffff_fffe, 0xffff_ffff] {
        driver.admin_fails(identify(0, nsid), Status::INVALID_NAMESPACE_OR_FORMAT);
    }
}

#[test]
fn identify_lists_active_namespaces_above_the_given_one() {
    let backends = (0..3).map(|_| Box::new(MemoryBackend::new(4096)) as _).collect();
    let mut driver = Driver::with_backends(backends, 1);
    driver.enable();
    for (after, expected) in [(0, [1, 2, 3, 0]), (1, [2, 3, 0, 0]), (3, [0; 4]), (0xffff_fffd, [0; 4])] {
        driver.admin_ok(identify(2, after));
        let list = driver.bytes(DATA, 16);
        assert_eq!(list, expected.map(u32::to_le_bytes).concat());
    }
    for after in [0xffff_fffe, 0xffff_ffff] {
        driver.admin_fails(identify(2, after), Status::INVALID_NAMESPACE_OR_FORMAT);
    }
}

#[test]
fn identify_descriptors_repeat_the_identifiers_of_the_namespace() {
    let mut driver = Driver::enabled();
    driver.admin_ok(identify(0, 1));
    let namespace = IdentifyNamespace::read_from_bytes(&driver.bytes(DATA, 4096)).unwrap();
    driver.admin_ok(identify(3, 1));
    let list = driver.bytes(DATA, 4096);
    assert_eq!((list[0], list[1], &list[4..12]), (1, 8, &namespace.eui64[..]));
    assert_eq!((list[12], list[13], &list[16..32]), (2, 16, &namespace.nguid[..]));
    assert!(list[32..].iter().all(|&byte| byte == 0));
    driver.admin_fails(identify(3, 2), Status::INVALID_NAMESPACE_OR_FORMAT);
}

#[test]
fn identify_refuses_unknown_structures() {
    let mut driver = Driver::enabled();
    for cns in [4, 5, 6, 0x10, 0x15, 0xff] {
        driver.admin_fails(identify(cns, 1), Status::INVALID_FIELD);
    }
}

#[test]
fn unknown_opcodes_are_invalid() {
    let mut driver = Driver::with_io_queue();
    for opcode in [0x03, 0x0d, 0x10, 0x11, 0x14, 0x18, 0x80, 0x81, 0x84, 0xff] {
        driver.admin_fails(command(opcode), Status::INVALID_OPCODE);
    }
    for opcode in [0x03, 0x0d, 0x0e, 0x11, 0x15, 0x7f, 0xff] {
        driver.io_fails(blocks(opcode, 0, 1), Status::INVALID_OPCODE);
    }
}

#[test]
fn fused_operations_and_sgls_are_refused() {
    let mut driver = Driver::with_io_queue();
    for flags in [1, 2, 0x40, 0x80] {
        driver.admin_fails(
            SubmissionEntry {
                flags,
                ..identify(1, 0)
            },
            Status::INVALID_FIELD,
        );
        driver.io_fails(
            SubmissionEntry {
                flags,
                ..blocks(nvm::READ, 0, 1)
            },
            Status::INVALID_FIELD,
        );
    }
}

#[test]
fn features_keep_what_is_set_and_have_defaults() {
    let mut driver = Driver::enabled();
    // Identifier, default, value to set, value that is then read.
    let cases = [
        (0x01, 3, 0x1122_33ff, 0x1122_3307),
        (0x02, 0, 0x60, 0x60),
        (0x04, 343, 400, 400),
        (0x06, 1, 0, 0),
        (0x08, 0, 0x1_2345, 0x2345),
        (0x0a, 0, 3, 1),
        (0x0b, 0, 0xffff, 0x1ff),
    ];
    for (feature, default, set, expected) in cases {
        assert_eq!(driver.admin_ok(get_feature(feature, 0)), default, "{feature:#x}");
        driver.admin_ok(set_feature(feature, set));
        assert_eq!(driver.admin_ok(get_feature(feature, 0)), expected, "{feature:#x}");
        assert_eq!(
            driver.admin_ok(get_feature(feature | 1 << 8, 0)),
            default,
            "default of {feature:#x}"
        );
        assert_eq!(
            driver.admin_ok(get_feature(feature | 2 << 8, 0)),
            default,
            "saved {feature:#x}"
        );
        assert_eq!(
            driver.admin_ok(get_feature(feature | 3 << 8, 0)),
            1 << 2,
            "capabilities of {feature:#x}"
        );
        driver.admin_fails(get_feature(feature | 4 << 8, 0), Status::INVALID_FIELD);
        driver.admin_fails(set_feature(feature | 1 << 31, set), Status::FEATURE_NOT_SAVEABLE);
        driver.admin_fails(
            for_namespace(1, set_feature(feature, set)),
            Status::FEATURE_NOT_NAMESPACE_SPECIFIC,
        );
        driver.admin_fails(
            for_namespace(2, set_feature(feature, set)),
            Status::INVALID_NAMESPACE_OR_FORMAT,
        );
        driver.admin_ok(for_namespace(0xffff_ffff, set_feature(feature, set)));
    }
}

#[test]
fn unknown_features_are_invalid_fields() {
    let mut driver = Driver::enabled();
    for feature in [0x00, 0x03, 0x0c, 0x0d, 0x0e, 0x10, 0x80, 0xff] {
        driver.admin_fails(get_feature(feature, 0), Status::INVALID_FIELD);
        driver.admin_fails(get_feature(feature | 3 << 8, 0), Status::INVALID_FIELD);
        driver.admin_fails(set_feature(feature, 0), Status::INVALID_FIELD);
    }
}

#[test]
fn power_states_above_the_only_one_are_refused() {
    Driver::enabled().admin_fails(set_feature(0x02, 1), Status::INVALID_FIELD);
}

#[test]
fn temperature_thresholds_have_sensor_and_kind() {
    let mut driver = Driver::enabled();
    driver.admin_ok(set_feature(0x04, 0x10_0000 + 250));
    assert_eq!(driver.admin_ok(get_feature(0x04, 1 << 20)), 250);
    assert_eq!(driver.admin_ok(get_feature(0x04, 0)), 343);
    driver.admin_ok(set_feature(0x04, 0xf_0000 + 350));
    assert_eq!(driver.admin_ok(get_feature(0x04, 0)), 350);
    for selection in [1 << 16, 2 << 20, 3 << 20] {
        driver.admin_fails(set_feature(0x04, selection), Status::INVALID_FIELD);
        driver.admin_fails(get_feature(0x04, selection), Status::INVALID_FIELD);
    }
    driver.admin_fails(get_feature(0x04, 0xf << 16), Status::INVALID_FIELD);
}

#[test]
fn error_recovery_belongs_to_a_namespace() {
    let mut driver = Driver::enabled();
    driver.admin_ok(for_namespace(1, set_feature(0x05, 7)));
    assert_eq!(driver.admin_ok(for_namespace(1, get_feature(0x05, 0))), 7);
    assert_eq!(driver.admin_ok(for_namespace(1, get_feature(0x305, 0))), 0b110);
    driver.admin_ok(for_namespace(0xffff_ffff, set_feature(0x05, 9)));
    assert_eq!(driver.admin_ok(for_namespace(1, get_feature(0x05, 0))), 9);
    for nsid in [0, 2] {
        driver.admin_fails(
            for_namespace(nsid, set_feature(0x05, 7)),
            Status::INVALID_NAMESPACE_OR_FORMAT,
        );
    }
    for nsid in [0, 2, 0xffff_ffff] {
        driver.admin_fails(
            for_namespace(nsid, get_feature(0x05, 7)),
            Status::INVALID_NAMESPACE_OR_FORMAT,
        );
    }
    driver.admin_fails(for_namespace(1, set_feature(0x05, 1 << 16)), Status::INVALID_FIELD);
}

#[test]
fn number_of_queues_is_granted_up_to_what_there_are() {
    let mut driver = Driver::enabled();
    assert_eq!(driver.admin_ok(get_feature(0x07, 0)), 3 << 16 | 3);
    assert_eq!(driver.admin_ok(set_feature(0x07, 9 << 16 | 1)), 3 << 16 | 1);
    assert_eq!(driver.admin_ok(get_feature(0x07, 0)), 3 << 16 | 1);
    for value in [0xffff, 0xffff_0000] {
        driver.admin_fails(set_feature(0x07, value), Status::INVALID_FIELD);
    }
    driver.create_queue_pair(1);
    driver.admin_fails(set_feature(0x07, 0), Status::COMMAND_SEQUENCE_ERROR);
    driver.admin_fails(
        create_sq(0x5_0000, 7 << 16 | 3, 1 | 1 << 16),
        Status::INVALID_QUEUE_IDENTIFIER,
    );
}

#[test]
fn interrupt_vector_configuration_is_kept_for_each_vector() {
    let mut driver = Driver::enabled();
    driver.admin_ok(set_feature(0x09, 1 << 16 | 4));
    assert_eq!(driver.admin_ok(get_feature(0x09, 4)), 1 << 16 | 4);
    assert_eq!(driver.admin_ok(get_feature(0x09, 3)), 3);
    driver.admin_fails(get_feature(0x09, 5), Status::INVALID_FIELD);
    driver.admin_fails(set_feature(0x09, 5), Status::INVALID_FIELD);
}

#[test]
fn error_log_has_the_newest_failure_first() {
    let mut driver = Driver::with_io_queue();
    driver.io_fails(
        SubmissionEntry {
            command_id: 0x77.into(),
            ..blocks(nvm::READ, 5000, 1)
        },
        Status::LBA_OUT_OF_RANGE,
    );
    driver.admin_fails(
        SubmissionEntry {
            command_id: 0x78.into(),
            ..identify(0x20, 0)
        },
        Status::INVALID_FIELD,
    );
    driver.admin_ok(get_log(1, 1024));
    let log = driver.bytes(DATA, 1024);
    let entry = |index: usize| ErrorEntry::read_from_bytes(&log[64 * index..64 * (index + 1)]).unwrap();
    let newest = entry(0);
    assert_eq!(
        (
            newest.error_count.get(),
            newest.submission_queue.get(),
            newest.command_id.get()
        ),
        (2, 0, 0x78)
    );
    assert_eq!(Status::from_completion(newest.status.get()), Status::INVALID_FIELD);
    assert_eq!(newest.parameter_location.get(), 40, "CNS is byte 40");
    let older = entry(1);
    assert_eq!(
        (older.error_count.get(), older.submission_queue.get(), older.lba.get()),
        (1, 1, 5000)
    );
    assert_eq!(older.namespace_id.get(), 1);
    assert_eq!(entry(2).error_count.get(), 0);
}

#[test]
fn error_log_keeps_sixteen_entries() {
    let mut driver = Driver::enabled();
    for _ in 0..20 {
        driver.admin_fails(command(0xff), Status::INVALID_OPCODE);
    }
    driver.admin_ok(get_log(1, 1024));
    let counts: Vec<u64> = driver
        .bytes(DATA, 1024)
        .chunks(64)
        .map(|entry| u64::from_le_bytes(entry[..8].try_into().unwrap()))
        .collect();
    assert_eq!(counts, (5..=20).rev().collect::<Vec<_>>());
}

#[test]
fn smart_log_counts_what_was_done() {
    let mut driver = Driver::with_io_queue();
    driver.io_ok(blocks(nvm::WRITE, 0, 4));
    driver.io_ok(blocks(nvm::READ, 0, 8));
    driver.io_ok(blocks(nvm::READ, 0, 8));
    driver.admin_fails(command(0xff), Status::INVALID_OPCODE);
    for nsid in [0, 0xffff_ffff] {
        driver.admin_ok(for_namespace(nsid, get_log(2, 512)));
    }
    driver.admin_fails(for_namespace(1, get_log(2, 512)), Status::INVALID_FIELD);
    let log = SmartHealth::read_from_bytes(&driver.bytes(DATA, 512)).unwrap();
    assert_eq!((log.host_read_commands.get(), log.host_write_commands.get()), (2, 1));
    assert_eq!((log.data_units_read.get(), log.data_units_written.get()), (1, 1));
    assert_eq!(
        (log.error_log_entries.get(), log.critical_warning, log.temperature.get()),
        (1, 0, 313)
    );
}

/// Section 5.14.1.2: Data Units Read has what Read, Compare and Verify read; Host Read Commands are Read and Compare.
#[test]
fn smart_log_counts_each_way_of_reading() {
    let units = |opcode: u8, commands: usize| {
        let mut driver = Driver::with_io_queue();
        // 16 blocks at a time; what Compare compares with is zero, as the disk.
        driver.put(DATA, &[0; 8192]);
        for _ in 0..commands {
            driver.io_ok(blocks(opcode, 0, 16));
        }
        driver.admin_ok(get_log(2, 512));
        let log = SmartHealth::read_from_bytes(&driver.bytes(DATA, 512)).unwrap();
        (log.data_units_read.get(), log.host_read_commands.get())
    };
    for (opcode, counted) in [(nvm::READ, true), (nvm::COMPARE, true), (nvm::VERIFY, false)] {
        for (commands, thousands) in [(1, 1), (62, 1), (63, 2), (126, 3)] {
            let host = if counted { commands as u128 } else { 0 };
            assert_eq!(units(opcode, commands), (thousands, host), "{opcode} {commands}");
        }
    }
    for other in [nvm::WRITE, nvm::WRITE_ZEROES, nvm::FLUSH] {
        assert_eq!(units(other, 2), (0, 0), "{other}");
    }
}

#[test]
fn firmware_slot_and_effects_logs_are_there() {
    let mut driver = Driver::enabled();
    driver.admin_ok(get_log(3, 512));
    let log = driver.bytes(DATA, 512);
    assert_eq!((log[0], &log[8..16]), (1, &b"1.0     "[..]));
    driver.admin_ok(get_log(5, 4096));
    let log = driver.bytes(DATA, 4096);
    let supported = |table: usize| {
        (0..=255u8)
            .filter(|&opcode| log[table + 4 * usize::from(opcode)] & 1 != 0)
            .collect::<Vec<_>>()
    };
    assert_eq!(supported(0), [0, 1, 2, 4, 5, 6, 8, 9, 0x0a, 0x0c, 0x7c]);
    assert_eq!(supported(1024), [0, 1, 2, 4, 5, 8, 9, 0x0c]);
}

#[test]
fn log_pages_that_are_not_announced_are_invalid() {
    let mut driver = Driver::enabled();
    for page in [0, 6, 7, 0x0d, 0x70, 0x80, 0xff] {
        driver.admin_fails(get_log(page, 512), Status::INVALID_LOG_PAGE);
    }
}

#[test]
fn log_pages_have_offset_and_length() {
    let mut driver = Driver::enabled();
    driver.put(DATA, &[0xee; 32]);
    driver.admin_ok(SubmissionEntry {
        dword12: 8.into(),
        ..get_log(3, 8)
    });
    assert_eq!(driver.bytes(DATA, 10), [&b"1.0     "[..], &[0xee; 2]].concat());
    // Beyond the end there is nothing; at the end the page is over.
    driver.admin_ok(SubmissionEntry {
        dword12: 512.into(),
        ..get_log(3, 8)
    });
    assert_eq!(driver.bytes(DATA, 8), [0; 8]);
    driver.admin_fails(
        SubmissionEntry {
            dword12: 516.into(),
            ..get_log(3, 8)
        },
        Status::INVALID_FIELD,
    );
    driver.admin_fails(
        SubmissionEntry {
            dword12: 2.into(),
            ..get_log(3, 8)
        },
        Status::INVALID_FIELD,
    );
    driver.admin_fails(
        SubmissionEntry {
            dword13: 1.into(),
            ..get_log(3, 8)
        },
        Status::INVALID_FIELD,
    );
    // Longer than MDTS, up to the longest that can be said.
    driver.admin_fails(
        SubmissionEntry {
            dword11: 1.into(),
            ..get_log(3, 4)
        },
        Status::INVALID_FIELD,
    );
    let longest = SubmissionEntry {
        dword10: 0xffff_0003.into(),
        dword11: 0xffff.into(),
        ..get_log(3, 4)
    };
    driver.admin_fails(longest, Status::INVALID_FIELD);
}

#[test]
fn data_that_cannot_be_delivered_is_a_transfer_error() {
    let mut driver = Driver::enabled();
    driver.admin_fails(
        SubmissionEntry {
            prp1: MEMORY.into(),
            ..identify(1, 0)
        },
        Status::DATA_TRANSFER_ERROR,
    );
    driver.admin_fails(
        SubmissionEntry {
            prp1: 2.into(),
            ..identify(1, 0)
        },
        Status::PRP_OFFSET_INVALID,
    );
}
