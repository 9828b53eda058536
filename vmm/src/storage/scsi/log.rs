//! Log pages (SPC-4, 7.3): LOG SENSE.

use super::cdb::Cdb;
use super::exchange::{Exchange, Outcome};
use super::sense::Sense;
use super::spec::log_page;
use super::unit::LogicalUnit;

/// Parameter codes of the error counter pages (SPC-4, 7.3.8).
const TOTAL_BYTES: u16 = 0x0005;
const UNCORRECTED_ERRORS: u16 = 0x0006;
/// A temperature that is not known.
const NO_TEMPERATURE: u8 = 0xff;

const PAGES: [u8; 4] = [
    log_page::SUPPORTED_PAGES,
    log_page::WRITE_ERROR_COUNTERS,
    log_page::READ_ERROR_COUNTERS,
    log_page::INFORMATIONAL_EXCEPTIONS,
];

impl LogicalUnit {
    /// LOG SENSE (SPC-4, 6.8). All kinds of values (PC) are the same here.
    pub(super) fn log_sense(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let (page, subpage, from) = (cdb.byte(2) & 0x3f, cdb.byte(3), cdb.u16(5));
        if !PAGES.contains(&page) {
            return Err(Sense::cdb_bit(2, 5).into());
        }
        if subpage != 0 {
            return Err(Sense::cdb_byte(3).into());
        }
        let content = if page == log_page::SUPPORTED_PAGES {
            if from != 0 {
                return Err(Sense::cdb_byte(5).into());
            }
            PAGES.to_vec()
        } else {
            let parameters = self.log_parameters(page);
            if parameters.iter().all(|(code, _)| *code < from) {
                return Err(Sense::cdb_byte(5).into());
            }
            let wanted = parameters.into_iter().filter(|(code, _)| *code >= from);
            wanted.flat_map(|(code, value)| parameter(code, &value)).collect()
        };
        let mut data = vec![page, 0];
        data.extend((content.len() as u16).to_be_bytes());
        data.extend(content);
        exchange.send(&data, cdb.u16(7).into());
        Ok(())
    }

    /// Codes and values of a page that is there.
    fn log_parameters(&self, page: u8) -> Vec<(u16, Vec<u8>)> {
        let counters = &self.state.counters;
        let (bytes, errors) = match page {
            log_page::WRITE_ERROR_COUNTERS => (counters.bytes_written, counters.write_errors),
            log_page::READ_ERROR_COUNTERS => (counters.bytes_read, counters.read_errors),
            // No exception, and no temperature.
            _ => return vec![(0, vec![0, 0, NO_TEMPERATURE, 0])],
        };
        let value = |number: u64| number.to_be_bytes().to_vec();
        vec![(TOTAL_BYTES, value(bytes)), (UNCORRECTED_ERRORS, value(errors))]
    }
}

/// A log parameter: a counter, or a list whose format its page defines.
fn parameter(code: u16, value: &[u8]) -> Vec<u8> {
    // FORMAT AND LINKING 11b: binary, not a counter with a limit.
    let mut data = code.to_be_bytes().to_vec();
    data.extend([0x03, value.len() as u8]);
    data.extend(value);
    data
}
