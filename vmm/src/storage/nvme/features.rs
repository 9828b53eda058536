//! Get Features and Set Features (NVMe 1.4, sections 5.13 and 5.21).
//!
//! Values that the host sets, their defaults, and what each may be set to. Nothing is saved across resets.

use super::controller::Controller;
use super::events::ASYNC_EVENT_CONFIGURATION;
use super::identify::WARNING_TEMPERATURE;
use super::spec::command::NSID_ALL;
use super::spec::command::SubmissionEntry;
use super::spec::features::{CHANGEABLE, NAMESPACE_SPECIFIC, SAVE, id};
use super::spec::status::{Failure, Status};

/// The current values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// AB, LPW, MPW and HPW as set (section 5.21.1.1).
    pub arbitration: u32,
    /// PS and WH (section 5.21.1.2).
    pub power_management: u32,
    /// Over temperature threshold, kelvin (section 5.21.1.4).
    pub over_temperature: u16,
    /// Under temperature threshold, kelvin.
    pub under_temperature: u16,
    /// TLER of each namespace, by index (section 5.21.1.5).
    pub error_recovery: Vec<u32>,
    /// WCE (section 5.21.1.6).
    pub write_cache: bool,
    /// I/O submission queues allocated (section 5.21.1.7).
    pub submission_queues: u16,
    /// I/O completion queues allocated.
    pub completion_queues: u16,
    /// THR and TIME (section 5.21.1.8). Kept, not acted on: it is a recommendation, and interrupts are joined for the
    /// completions of one burst anyway.
    pub interrupt_coalescing: u32,
    /// CD of each vector (section 5.21.1.9).
    pub coalescing_disabled: Vec<bool>,
    /// DN (section 5.21.1.10).
    pub write_atomicity: u32,
    /// Which asynchronous events are wanted (section 5.21.1.11).
    pub async_events: u32,
}

impl Features {
    /// The defaults of a controller with that many queue pairs and namespaces.
    #[must_use]
    pub fn new(queue_pairs: u16, namespaces: usize) -> Self {
        Self {
            arbitration: 3, // bursts of 8
            power_management: 0,
            over_temperature: WARNING_TEMPERATURE,
            under_temperature: 0,
            error_recovery: vec![0; namespaces],
            write_cache: true,
            submission_queues: queue_pairs,
            completion_queues: queue_pairs,
            interrupt_coalescing: 0,
            coalescing_disabled: vec![false; usize::from(queue_pairs) + 1],
            write_atomicity: 0,
            async_events: 0,
        }
    }

    /// Commands fetched from one queue before the next one's turn: 2^AB, 7 meaning no limit (section 5.21.1.1).
    #[must_use]
    pub fn arbitration_burst(&self) -> u32 {
        match self.arbitration & 7 {
            7 => u32::MAX,
            exponent => 1 << exponent,
        }
    }

    fn number_of_queues(&self) -> u32 {
        u32::from(self.submission_queues - 1) | u32::from(self.completion_queues - 1) << 16
    }

    /// The value of dword 0 on Get Features, or on some features part of what `dword11` selects.
    fn value(&self, feature: u8, dword11: u32, nsid: u32) -> Result<u32, Failure> {
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
            id::ASYNC_EVENT_CONFIGURATION => self.async_events,
            _ => return Err(Failure::at(Status::INVALID_FIELD, 10, 0)),
        })
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

impl Controller {
    /// Get Features (section 5.13).
    pub(super) fn get_features(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let dword10 = command.dword10.get();
        let (feature, dword11) = (dword10 as u8, command.dword11.get());
        let nsid = command.namespace_id.get();
        match dword10 >> 8 & 7 {
            0 => self.state.features.value(feature, dword11, nsid),
            // Saved values that cannot be changed are the defaults.
            1 | 2 => Features::new(self.config.queue_pairs, self.namespaces.len()).value(feature, dword11, nsid),
            3 => match feature {
                id::ERROR_RECOVERY => Ok(CHANGEABLE | NAMESPACE_SPECIFIC),
                id::ARBITRATION..=id::POWER_MANAGEMENT
                | id::TEMPERATURE_THRESHOLD
                | id::VOLATILE_WRITE_CACHE..=id::ASYNC_EVENT_CONFIGURATION => Ok(CHANGEABLE),
                _ => Err(Failure::at(Status::INVALID_FIELD, 10, 0)),
            },
            _ => Err(Failure::at(Status::INVALID_FIELD, 10, 8)),
        }
    }

    /// Set Features (section 5.21).
    pub(super) fn set_features(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let dword10 = command.dword10.get();
        let (feature, value) = (dword10 as u8, command.dword11.get());
        let nsid = command.namespace_id.get();
        if !(id::ARBITRATION..=id::ASYNC_EVENT_CONFIGURATION).contains(&feature) || feature == 0x03 {
            return Err(Failure::at(Status::INVALID_FIELD, 10, 0));
        }
        if dword10 & SAVE != 0 {
            return Err(Failure::at(Status::FEATURE_NOT_SAVEABLE, 10, 31));
        }
        if feature != id::ERROR_RECOVERY && nsid != 0 && nsid != NSID_ALL {
            self.namespace(nsid)?;
            return Err(Failure::at(Status::FEATURE_NOT_NAMESPACE_SPECIFIC, 1, 0));
        }
        let features = &mut self.state.features;
        match feature {
            id::ARBITRATION => features.arbitration = value & 0xffff_ff07,
            id::POWER_MANAGEMENT if value & 0x1f != 0 => return Err(Failure::at(Status::INVALID_FIELD, 11, 0)),
            id::POWER_MANAGEMENT => features.power_management = value & 0xff,
            id::TEMPERATURE_THRESHOLD => {
                match selected_threshold(value, true)? {
                    Threshold::Over => features.over_temperature = value as u16,
                    Threshold::Under => features.under_temperature = value as u16,
                }
                self.check_health();
            }
            id::ERROR_RECOVERY => self.set_error_recovery(nsid, value)?,
            id::VOLATILE_WRITE_CACHE => self.set_write_cache(value & 1 != 0)?,
            id::NUMBER_OF_QUEUES => return self.set_number_of_queues(value),
            id::INTERRUPT_COALESCING => features.interrupt_coalescing = value & 0xffff,
            id::INTERRUPT_VECTOR_CONFIGURATION => {
                let disabled = features
                    .coalescing_disabled
                    .get_mut((value & 0xffff) as usize)
                    .ok_or(Failure::at(Status::INVALID_FIELD, 11, 0))?;
                *disabled = value >> 16 & 1 != 0;
            }
            id::WRITE_ATOMICITY_NORMAL => features.write_atomicity = value & 1,
            _ => {
                features.async_events = value & ASYNC_EVENT_CONFIGURATION;
                self.state.events.configure(features.async_events);
                self.check_health();
            }
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
            self.state.features.error_recovery.fill(value);
            return Ok(());
        }
        let (index, _) = self.namespace(nsid)?;
        if let Some(time_limit) = self.state.features.error_recovery.get_mut(index) {
            *time_limit = value;
        }
        Ok(())
    }

    /// Volatile Write Cache (section 5.21.1.6). What was cached before it is turned off is made durable.
    fn set_write_cache(&mut self, enabled: bool) -> Result<(), Failure> {
        if !enabled {
            self.flush_all()?;
        }
        self.state.features.write_cache = enabled;
        Ok(())
    }

    /// Number of Queues (section 5.21.1.7): as many as asked for, up to what there are.
    fn set_number_of_queues(&mut self, value: u32) -> Result<u32, Failure> {
        let (submission, completion) = (value & 0xffff, value >> 16);
        if submission == 0xffff || completion == 0xffff {
            return Err(Failure::at(
                Status::INVALID_FIELD,
                11,
                if submission == 0xffff { 0 } else { 16 },
            ));
        }
        if self.has_io_queues() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.into());
        }
        let most = u32::from(self.config.queue_pairs);
        let features = &mut self.state.features;
        features.submission_queues = (submission + 1).min(most) as u16;
        features.completion_queues = (completion + 1).min(most) as u16;
        Ok(features.number_of_queues())
    }
}
