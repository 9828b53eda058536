//! REPORT SUPPORTED OPERATION CODES (SPC-4, 6.35): the table of [commands](super::commands), told.

use super::cdb::Cdb;
use super::commands::{COMMANDS, Command};
use super::exchange::{Exchange, Outcome};
use super::sense::Sense;
use super::unit::LogicalUnit;

/// REPORTING OPTIONS.
const ALL: u8 = 0;
const ONE: u8 = 1;
const ONE_WITH_SERVICE_ACTION: u8 = 2;
const ONE_EITHER_WAY: u8 = 3;
/// SUPPORT: not supported; as the standard says.
const NOT_SUPPORTED: u8 = 1;
const SUPPORTED: u8 = 3;
/// The timeouts descriptor, which names no times.
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl LogicalUnit {
    /// REPORT SUPPORTED OPERATION CODES.
    pub(super) fn report_supported_operation_codes(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let (timeouts, options, opcode, action) = (cdb.bit(2, 7), cdb.byte(2) & 7, cdb.byte(3), cdb.u16(4));
        let with_actions = COMMANDS
            .iter()
            .any(|command| command.opcode == opcode && command.service_action.is_some());
        let data = match options {
            ALL => all(timeouts),
            ONE if with_actions => return Err(Sense::cdb_byte(3).into()),
            ONE => one(timeouts, opcode, None),
            ONE_WITH_SERVICE_ACTION if !with_actions => return Err(Sense::cdb_byte(3).into()),
            ONE_EITHER_WAY if !with_actions && action == 0 => one(timeouts, opcode, None),
            ONE_WITH_SERVICE_ACTION | ONE_EITHER_WAY => one(timeouts, opcode, Some(action)),
            _ => return Err(Sense::cdb_bit(2, 2).into()),
        };
        exchange.send(&data, cdb.u32(6) as usize);
        Ok(())
    }
}

fn all(timeouts: bool) -> Vec<u8> {
    let descriptor = |command: &Command| {
        let mut data = vec![command.opcode, 0, 0, command.service_action.unwrap_or(0), 0];
        // CTDP and SERVACTV.
        let flags = u8::from(timeouts) << 1 | u8::from(command.service_action.is_some());
        data.extend([flags, 0, command.usage.len() as u8]);
        if timeouts {
            data.extend(TIMEOUTS);
        }
        data
    };
    let list: Vec<u8> = COMMANDS.iter().flat_map(descriptor).collect();
    let mut data = (list.len() as u32).to_be_bytes().to_vec();
    data.extend(list);
    data
}

fn one(timeouts: bool, opcode: u8, action: Option<u16>) -> Vec<u8> {
    let is_it = |command: &&Command| command.opcode == opcode && command.service_action.map(u16::from) == action;
    let Some(command) = COMMANDS.iter().find(is_it) else {
        return vec![0, NOT_SUPPORTED, 0, 0];
    };
    let mut usage = command.usage.to_vec();
    usage[0] = opcode;
    if let Some(action) = command.service_action {
        usage[1] = usage[1] & !0x1f | action;
    }
    // CTDP.
    let mut data = vec![0, u8::from(timeouts) << 7 | SUPPORTED, 0, usage.len() as u8];
    data.extend(usage);
    if timeouts {
        data.extend(TIMEOUTS);
    }
    data
}
