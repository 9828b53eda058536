//! Features (NVMe 1.4, section 5.21.1): values that the host sets, their defaults, and what each may be set to.
//!
//! Nothing is saved across resets. [`Admin`](super::admin::Admin) applies new values to the other parts of the
//! controller; its events keep Asynchronous Event Configuration.

use super::identify::{TEMPERATURE, WARNING_TEMPERATURE};
use super::spec::command::NSID_ALL;
use super::spec::features::{CHANGEABLE, NAMESPACE_SPECIFIC, id};
use super::spec::status::{Failure, Status};

/// The current values.
#[derive(Debug)]
pub(super) struct Features {
    /// AB, LPW, MPW and HPW as set (section 5.21.1.1).
    arbitration: u32,
    /// PS and WH (section 5.21.1.2).
    power_management: u32,
    /// Over temperature threshold, kelvin (section 5.21.1.4).
    over_temperature: u16,
    /// Under temperature threshold, kelvin.
    under_temperature: u16,
    /// TLER of each namespace, by index (section 5.21.1.5).
    error_recovery: Vec<u32>,
    /// WCE (section 5.21.1.6).
    write_cache: bool,
    /// I/O queue pairs that the controller has.
    queue_pairs: u16,
    /// I/O submission queues allocated (section 5.21.1.7).
    submission_queues: u16,
    /// I/O completion queues allocated.
    completion_queues: u16,
    /// THR and TIME (section 5.21.1.8). Kept, not acted on: it is a recommendation, and interrupts are joined for the
    /// completions of one burst anyway.
    interrupt_coalescing: u32,
    /// CD of each vector (section 5.21.1.9).
    coalescing_disabled: Vec<bool>,
    /// DN (section 5.21.1.10).
    write_atomicity: u32,
}

impl Features {
    /// The defaults of a controller with that many queue pairs and namespaces.
    pub(super) fn new(queue_pairs: u16, namespaces: usize) -> Self {
        Self {
            arbitration: 3, // bursts of 8
            power_management: 0,
            over_temperature: WARNING_TEMPERATURE,
            under_temperature: 0,
            error_recovery: vec![0; namespaces],
            write_cache: true,
            queue_pairs,
            submission_queues: queue_pairs,
            completion_queues: queue_pairs,
            interrupt_coalescing: 0,
            coalescing_disabled: vec![false; usize::from(queue_pairs) + 1],
            write_atomicity: 0,
        }
    }

    /// Back to the defaults.
    pub(super) fn reset(&mut self) {
        *self = self.defaults();
    }

    /// The defaults of the same controller.
    pub(super) fn defaults(&self) -> Self {
        Self::new(self.queue_pairs, self.error_recovery.len())
    }

    /// Commands fetched from one queue before the next one's turn: 2^AB, 7 meaning no limit (section 5.21.1.1).
    pub(super) fn arbitration_burst(&self) -> u32 {
        match self.arbitration & 7 {
            7 => u32::MAX,
            exponent => 1 << exponent,
        }
    }

    /// Whether what is written may stay in a cache.
    pub(super) fn has_write_cache(&self) -> bool {
        self.write_cache
    }

    /// I/O submission queues that the host may make.
    pub(super) fn submission_queues(&self) -> u16 {
        self.submission_queues
    }

    /// I/O completion queues that the host may make.
    pub(super) fn completion_queues(&self) -> u16 {
        self.completion_queues
    }

    /// Whether the temperature is outside the thresholds (section 5.21.1.4).
    pub(super) fn is_temperature_critical(&self) -> bool {
        TEMPERATURE >= self.over_temperature || TEMPERATURE <= self.under_temperature
    }

    fn number_of_queues(&self) -> u32 {
        u32::from(self.submission_queues - 1) | u32::from(self.completion_queues - 1) << 16
    }

    /// The value of dword 0 on Get Features, or on some features part of what `dword11` selects.
    pub(super) fn value(&self, feature: u8, dword11: u32, nsid: u32) -> Result<u32, Failure> {
        Ok(match feature {
            id::ARBITRATION => self.arbitration,
            id::POWER_MANAGEMENT => self.power_management,
            id::TEMPERATURE_THRESHOLD => match selected_threshold(dword11, false)? {
                Threshold::Over => self.over_temperature.into(),
                Threshold::Under => self.under_temperature.into(),
            },
            id::ERROR_RECOVERY => *(nsid as usize)
                .checked_sub(1)
                .and_then(|index| self.error_recovery.get(index))
                .ok_or(Failure::at(Status::INVALID_NAMESPACE_OR_FORMAT, 1, 0))?,
            id::VOLATILE_WRITE_CACHE => self.write_cache.into(),
            id::NUMBER_OF_QUEUES => self.number_of_queues(),
            id::INTERRUPT_COALESCING => self.interrupt_coalescing,
            id::INTERRUPT_VECTOR_CONFIGURATION => {
                let vector = dword11 & 0xffff;
                let disabled =
                    self.coalescing_disabled
                        .get(vector as usize)
                        .ok_or(Failure::at(Status::INVALID_FIELD, 11, 0))?;
                vector | u32::from(*disabled) << 16
            }
            id::WRITE_ATOMICITY_NORMAL => self.write_atomicity,
            _ => return Err(Failure::at(Status::INVALID_FIELD, 10, 0)),
        })
    }

    /// What can be done with a feature (section 5.13).
    pub(super) fn capabilities(feature: u8) -> Result<u32, Failure> {
        match feature {
            id::ERROR_RECOVERY => Ok(CHANGEABLE | NAMESPACE_SPECIFIC),
            id::ARBITRATION..=id::POWER_MANAGEMENT
            | id::TEMPERATURE_THRESHOLD
            | id::VOLATILE_WRITE_CACHE..=id::ASYNC_EVENT_CONFIGURATION => Ok(CHANGEABLE),
            _ => Err(Failure::at(Status::INVALID_FIELD, 10, 0)),
        }
    }

    /// Sets a feature, of those in [`value`](Self::value). Returns dword 0 of the completion.
    pub(super) fn set(&mut self, feature: u8, value: u32, nsid: u32, has_io_queues: bool) -> Result<u32, Failure> {
        match feature {
            id::ARBITRATION => self.arbitration = value & 0xffff_ff07,
            id::POWER_MANAGEMENT if value & 0x1f != 0 => return Err(Failure::at(Status::INVALID_FIELD, 11, 0)),
            id::POWER_MANAGEMENT => self.power_management = value & 0xff,
            id::TEMPERATURE_THRESHOLD => match selected_threshold(value, true)? {
                Threshold::Over => self.over_temperature = value as u16,
                Threshold::Under => self.under_temperature = value as u16,
            },
            id::ERROR_RECOVERY => self.set_error_recovery(nsid, value)?,
            id::VOLATILE_WRITE_CACHE => self.write_cache = value & 1 != 0,
            id::NUMBER_OF_QUEUES => return self.set_number_of_queues(value, has_io_queues),
            id::INTERRUPT_COALESCING => self.interrupt_coalescing = value & 0xffff,
            id::INTERRUPT_VECTOR_CONFIGURATION => {
                let vector = self.coalescing_disabled.get_mut((value & 0xffff) as usize);
                *vector.ok_or(Failure::at(Status::INVALID_FIELD, 11, 0))? = value >> 16 & 1 != 0;
            }
            id::WRITE_ATOMICITY_NORMAL => self.write_atomicity = value & 1,
            _ => return Err(Failure::at(Status::INVALID_FIELD, 10, 0)),
        }
        Ok(0)
    }

    /// Error Recovery (section 5.21.1.5). DULBE is refused: NSFEAT does not announce it.
    fn set_error_recovery(&mut self, nsid: u32, value: u32) -> Result<(), Failure> {
        if value & 1 << 16 != 0 {
            return Err(Failure::at(Status::INVALID_FIELD, 11, 16));
        }
        let value = value & 0xffff;
        if nsid == NSID_ALL {
            self.error_recovery.fill(value);
            return Ok(());
        }
        let index = (nsid as usize).checked_sub(1);
        let time_limit = index.and_then(|index| self.error_recovery.get_mut(index));
        *time_limit.ok_or(Failure::at(Status::INVALID_NAMESPACE_OR_FORMAT, 1, 0))? = value;
        Ok(())
    }

    /// Number of Queues (section 5.21.1.7): as many as asked for, up to what there are.
    fn set_number_of_queues(&mut self, value: u32, has_io_queues: bool) -> Result<u32, Failure> {
        let (submission, completion) = (value & 0xffff, value >> 16);
        if submission == 0xffff || completion == 0xffff {
            let bit = if submission == 0xffff { 0 } else { 16 };
            return Err(Failure::at(Status::INVALID_FIELD, 11, bit));
        }
        if has_io_queues {
            return Err(Status::COMMAND_SEQUENCE_ERROR.into());
        }
        let most = u32::from(self.queue_pairs);
        self.submission_queues = (submission + 1).min(most) as u16;
        self.completion_queues = (completion + 1).min(most) as u16;
        Ok(self.number_of_queues())
    }
}

enum Threshold {
    Over,
    Under,
}

/// TMPSEL and THSEL (section 5.21.1.4): there is no sensor but the composite temperature.
fn selected_threshold(dword11: u32, setting: bool) -> Result<Threshold, Failure> {
    match dword11 >> 16 & 0xf {
        0 => {}
        0xf if setting => {}
        _ => return Err(Failure::at(Status::INVALID_FIELD, 11, 16)),
    }
    match dword11 >> 20 & 3 {
        0 => Ok(Threshold::Over),
        1 => Ok(Threshold::Under),
        _ => Err(Failure::at(Status::INVALID_FIELD, 11, 20)),
    }
}
