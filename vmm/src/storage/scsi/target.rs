//! The target device: which logical unit a command is for.
//!
//! There is logical unit 0. What is addressed to another one is answered here, as SPC-4 wants it.

use super::commands;
use super::exchange::{Completion, Exchange, Initiator, Outcome, Request};
use super::sense::Sense;
use super::spec::{asc, opcode};
use super::unit::LogicalUnit;

/// PERIPHERAL QUALIFIER 011b and PERIPHERAL DEVICE TYPE 1Fh: no unit can be there.
const NO_UNIT: u8 = 0x7f;
/// Bytes of standard INQUIRY data that the answer for a unit that is not there has.
const INQUIRY_LENGTH: usize = 36;
/// Logical unit 0 in the flat space addressing method; with the peripheral device one all bytes are 0.
const FLAT_ZERO: [u8; 8] = [0x40, 0, 0, 0, 0, 0, 0, 0];

/// A target with one logical unit.
pub struct Target {
    unit: LogicalUnit,
}

impl Target {
    /// A target whose logical unit 0 that is.
    #[must_use]
    pub fn new(unit: LogicalUnit) -> Self {
        Self { unit }
    }

    /// Its logical unit.
    #[must_use]
    pub fn unit(&self) -> &LogicalUnit {
        &self.unit
    }

    /// Executes a command.
    pub fn execute(&mut self, request: &Request<'_>) -> Completion {
        if Self::has_unit(request.lun) {
            return self.unit.execute(request);
        }
        if request.cdb.first() == Some(&opcode::REPORT_LUNS) {
            // Any unit tells which there are, and one that is not there has no attention to call.
            return self.unit.execute(request);
        }
        let mut exchange = Exchange::new(request);
        let outcome = refuse(request.cdb, &mut exchange);
        exchange.complete(outcome, false)
    }

    /// Whether there is a unit with that number.
    #[must_use]
    pub(crate) fn has_unit(lun: [u8; 8]) -> bool {
        lun == [0; 8] || lun == FLAT_ZERO
    }

    /// LOGICAL UNIT RESET, or a reset of the target.
    pub fn reset(&mut self) {
        self.unit.reset();
    }

    /// The initiator's nexus was lost, and is there again.
    pub fn lose_nexus(&mut self, initiator: Initiator) {
        self.unit.lose_nexus(initiator);
    }
}

/// A command for a unit that is not there (SPC-4, 4.3.3 and 6.39).
fn refuse(cdb: &[u8], exchange: &mut Exchange<'_>) -> Outcome {
    let sense = Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED);
    match cdb.first() {
        Some(&opcode::INQUIRY) => {
            let (_, cdb) = commands::identify(cdb)?;
            if cdb.bit(1, 0) {
                return Err(sense.into());
            }
            let mut data = [0; INQUIRY_LENGTH];
            (data[0], data[4]) = (NO_UNIT, INQUIRY_LENGTH as u8 - 5);
            exchange.send(&data, cdb.u16(3).into());
            Ok(())
        }
        Some(&opcode::REQUEST_SENSE) => {
            let (_, cdb) = commands::identify(cdb)?;
            exchange.send(&sense.encode(cdb.bit(1, 0)), cdb.byte(4).into());
            Ok(())
        }
        _ => Err(sense.into()),
    }
}
