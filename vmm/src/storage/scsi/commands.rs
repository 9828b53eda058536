//! The commands that there are: their bits, what a reservation means for them, and who carries them out.
//!
//! The bits that a command uses are written down once: a set bit that is none of them is an illegal field, and REPORT
//! SUPPORTED OPERATION CODES tells them.

use super::cdb::Cdb;
use super::exchange::{Exchange, Outcome};
use super::sense::Sense;
use super::spec::{asc, opcode, service_action};
use super::unit::LogicalUnit;

/// What a command does to the medium, for those whom a persistent reservation of another keeps out (SPC-4, 5.12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It is always allowed.
    Free,
    /// It is not allowed while the access is exclusive.
    Read,
    /// It is not allowed while writing is exclusive, either.
    Write,
}

/// A command.
pub(super) struct Command {
    /// OPERATION CODE.
    pub(super) opcode: u8,
    /// SERVICE ACTION of those that have one.
    pub(super) service_action: Option<u8>,
    /// The bits that it uses, for each byte; the length of the block.
    pub(super) usage: &'static [u8],
    pub(super) access: Access,
    /// It needs a unit that has been started.
    pub(super) needs_medium: bool,
    pub(super) run: fn(&mut LogicalUnit, Cdb<'_>, &mut Exchange<'_>) -> Outcome,
}

type Run = fn(&mut LogicalUnit, Cdb<'_>, &mut Exchange<'_>) -> Outcome;

/// A command that is about the unit.
const fn plain(opcode: u8, usage: &'static [u8], access: Access, run: Run) -> Command {
    Command {
        opcode,
        service_action: None,
        usage,
        access,
        needs_medium: false,
        run,
    }
}

/// A command that is about the medium.
const fn medium(opcode: u8, usage: &'static [u8], access: Access, run: Run) -> Command {
    Command {
        needs_medium: true,
        ..plain(opcode, usage, access, run)
    }
}

/// A service action.
const fn action(opcode: u8, action: u8, usage: &'static [u8], access: Access, run: Run) -> Command {
    Command {
        service_action: Some(action),
        ..plain(opcode, usage, access, run)
    }
}

// DPO and FUA; DPO and BYTCHK. Protection fields, group numbers and NACA are not used.
const IO_6: [u8; 6] = [0, 0x1f, 0xff, 0xff, 0xff, 0];
const IO_10: [u8; 10] = [0, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0];
const IO_12: [u8; 12] = [0, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
const IO_16: [u8; 16] = [
    0, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
];
const VERIFY_10: [u8; 10] = [0, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0];
const VERIFY_12: [u8; 12] = [0, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
const VERIFY_16: [u8; 16] = [
    0, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
];
// IMMED.
const SYNCHRONIZE_10: [u8; 10] = [0, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0];
const SYNCHRONIZE_16: [u8; 16] = [
    0, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
];
// UNMAP; UNMAP and NDOB.
const WRITE_SAME_10: [u8; 10] = [0, 0x08, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0];
const WRITE_SAME_16: [u8; 16] = [
    0, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
];
const RESERVE_IN: [u8; 10] = [0, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0];
const RESERVE_OUT: [u8; 10] = [0, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0];

const fn reserve_in(number: u8, run: Run) -> Command {
    action(opcode::PERSISTENT_RESERVE_IN, number, &RESERVE_IN, Access::Free, run)
}

const fn reserve_out(number: u8) -> Command {
    // Who may do what is for the command itself to say.
    action(
        opcode::PERSISTENT_RESERVE_OUT,
        number,
        &RESERVE_OUT,
        Access::Free,
        LogicalUnit::persistent_reserve_out,
    )
}

/// All commands, by operation code.
pub(super) static COMMANDS: &[Command] = &[
    medium(
        opcode::TEST_UNIT_READY,
        &[0; 6],
        Access::Free,
        LogicalUnit::test_unit_ready,
    ),
    plain(
        opcode::REQUEST_SENSE,
        &[0, 0x01, 0, 0, 0xff, 0],
        Access::Free,
        LogicalUnit::request_sense,
    ),
    medium(opcode::READ_6, &IO_6, Access::Read, LogicalUnit::read),
    medium(opcode::WRITE_6, &IO_6, Access::Write, LogicalUnit::write),
    plain(
        opcode::INQUIRY,
        &[0, 0x01, 0xff, 0xff, 0xff, 0],
        Access::Free,
        LogicalUnit::inquiry,
    ),
    plain(
        opcode::MODE_SELECT_6,
        &[0, 0x11, 0, 0, 0xff, 0],
        Access::Write,
        LogicalUnit::mode_select,
    ),
    plain(
        opcode::MODE_SENSE_6,
        &[0, 0x08, 0xff, 0xff, 0xff, 0],
        Access::Read,
        LogicalUnit::mode_sense,
    ),
    plain(
        opcode::START_STOP_UNIT,
        &[0, 0x01, 0, 0, 0x07, 0],
        Access::Write,
        LogicalUnit::start_stop_unit,
    ),
    plain(
        opcode::SEND_DIAGNOSTIC,
        &[0, 0x14, 0, 0xff, 0xff, 0],
        Access::Write,
        LogicalUnit::send_diagnostic,
    ),
    plain(
        opcode::READ_CAPACITY_10,
        &[0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, 0],
        Access::Free,
        LogicalUnit::read_capacity_10,
    ),
    medium(opcode::READ_10, &IO_10, Access::Read, LogicalUnit::read),
    medium(opcode::WRITE_10, &IO_10, Access::Write, LogicalUnit::write),
    medium(opcode::VERIFY_10, &VERIFY_10, Access::Read, LogicalUnit::verify),
    medium(
        opcode::SYNCHRONIZE_CACHE_10,
        &SYNCHRONIZE_10,
        Access::Write,
        LogicalUnit::synchronize_cache,
    ),
    medium(
        opcode::WRITE_SAME_10,
        &WRITE_SAME_10,
        Access::Write,
        LogicalUnit::write_same,
    ),
    medium(
        opcode::UNMAP,
        &[0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Access::Write,
        LogicalUnit::unmap,
    ),
    plain(
        opcode::LOG_SENSE,
        &[0, 0, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Access::Free,
        LogicalUnit::log_sense,
    ),
    plain(
        opcode::MODE_SELECT_10,
        &[0, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Access::Write,
        LogicalUnit::mode_select,
    ),
    plain(
        opcode::MODE_SENSE_10,
        &[0, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0],
        Access::Read,
        LogicalUnit::mode_sense,
    ),
    reserve_in(service_action::READ_KEYS, LogicalUnit::read_keys),
    reserve_in(service_action::READ_RESERVATION, LogicalUnit::read_reservation),
    reserve_in(
        service_action::REPORT_CAPABILITIES,
        LogicalUnit::report_reservation_capabilities,
    ),
    reserve_in(
        service_action::READ_FULL_STATUS,
        LogicalUnit::read_full_reservation_status,
    ),
    reserve_out(service_action::REGISTER),
    reserve_out(service_action::RESERVE),
    reserve_out(service_action::RELEASE),
    reserve_out(service_action::CLEAR),
    reserve_out(service_action::PREEMPT),
    reserve_out(service_action::PREEMPT_AND_ABORT),
    reserve_out(service_action::REGISTER_AND_IGNORE_EXISTING_KEY),
    medium(opcode::READ_16, &IO_16, Access::Read, LogicalUnit::read),
    medium(opcode::WRITE_16, &IO_16, Access::Write, LogicalUnit::write),
    medium(opcode::VERIFY_16, &VERIFY_16, Access::Read, LogicalUnit::verify),
    medium(
        opcode::SYNCHRONIZE_CACHE_16,
        &SYNCHRONIZE_16,
        Access::Write,
        LogicalUnit::synchronize_cache,
    ),
    medium(
        opcode::WRITE_SAME_16,
        &WRITE_SAME_16,
        Access::Write,
        LogicalUnit::write_same,
    ),
    action(
        opcode::SERVICE_ACTION_IN_16,
        service_action::READ_CAPACITY_16,
        &[
            0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0,
        ],
        Access::Free,
        LogicalUnit::read_capacity_16,
    ),
    plain(
        opcode::REPORT_LUNS,
        &[0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Access::Free,
        LogicalUnit::report_luns,
    ),
    action(
        opcode::MAINTENANCE_IN,
        service_action::REPORT_SUPPORTED_OPERATION_CODES,
        &[0, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Access::Read,
        LogicalUnit::report_supported_operation_codes,
    ),
    medium(opcode::READ_12, &IO_12, Access::Read, LogicalUnit::read),
    medium(opcode::WRITE_12, &IO_12, Access::Write, LogicalUnit::write),
    medium(opcode::VERIFY_12, &VERIFY_12, Access::Read, LogicalUnit::verify),
];

/// The command that a block is, and the block cut to its length, once all its bits are ones that the command uses.
pub(super) fn identify(bytes: &[u8]) -> Result<(&'static Command, Cdb<'_>), Sense> {
    let whole = Cdb::new(bytes);
    let mut known = COMMANDS.iter().filter(|command| command.opcode == whole.byte(0));
    let mut of_opcode = known.clone().peekable();
    if bytes.is_empty() || of_opcode.peek().is_none() {
        return Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE));
    }
    let chosen = |command: &&Command| {
        command
            .service_action
            .is_none_or(|action| action == whole.service_action())
    };
    let command = known.find(chosen).ok_or(Sense::cdb_bit(1, 4))?;
    let Some(block) = bytes.get(..command.usage.len()) else {
        // The first byte that is not there.
        return Err(Sense::cdb_byte(bytes.len() as u16));
    };
    for (at, (byte, usage)) in (0..).zip(block.iter().zip(command.usage)).skip(1) {
        let illegal = byte & !usage;
        if illegal != 0 {
            return Err(Sense::cdb_bit(at, 7 - illegal.leading_zeros() as u8));
        }
    }
    Ok((command, Cdb::new(block)))
}
