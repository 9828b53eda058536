//! Asynchronous events (NVMe 1.4, section 5.2): requests that are held, events that wait for one, and masks.
//!
//! It knows what an event is and when it may be reported; it does not know completion queues.

use std::collections::VecDeque;

use super::controller::Controller;
use super::log_page::critical_warning;
use super::spec::command::SubmissionEntry;
use super::spec::features::NAMESPACE_ATTRIBUTE_NOTICES;
use super::spec::log_page::{self, ErrorEntry};
use super::spec::status::{Failure, Status};

/// Requests that can be outstanding at once (AERL + 1).
pub const ASYNC_EVENT_REQUEST_LIMIT: usize = 4;
/// Bits of Asynchronous Event Configuration that the controller has: SMART / Health warnings, namespace notices.
pub(super) const ASYNC_EVENT_CONFIGURATION: u32 = 0xff | NAMESPACE_ATTRIBUTE_NOTICES;

/// An event (Figures 146 to 149; section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Error status: a doorbell of a queue that does not exist was written.
    InvalidDoorbellRegister,
    /// Error status: a doorbell was written with a value that cannot be.
    InvalidDoorbellValue,
    /// SMART / Health status: the subsystem has become less reliable; here, its media are read-only.
    ReliabilityDegraded,
    /// SMART / Health status: the temperature crossed a threshold.
    TemperatureThreshold,
    /// Notice: Identify Namespace says something new of a namespace.
    NamespaceAttributeChanged,
}

impl Event {
    /// Asynchronous Event Type, bits 2:0 of dword 0.
    fn kind(self) -> u8 {
        match self {
            Self::InvalidDoorbellRegister | Self::InvalidDoorbellValue => 0,
            Self::ReliabilityDegraded | Self::TemperatureThreshold => 1,
            Self::NamespaceAttributeChanged => 2,
        }
    }

    /// Asynchronous Event Information, bits 15:8 of dword 0.
    fn information(self) -> u8 {
        match self {
            Self::InvalidDoorbellRegister | Self::ReliabilityDegraded | Self::NamespaceAttributeChanged => 0,
            Self::InvalidDoorbellValue | Self::TemperatureThreshold => 1,
        }
    }

    /// Log Page Identifier, bits 23:16 of dword 0: reading that page allows events of this type again.
    fn log_page(self) -> u8 {
        match self {
            Self::InvalidDoorbellRegister | Self::InvalidDoorbellValue => log_page::id::ERROR_INFORMATION,
            Self::ReliabilityDegraded | Self::TemperatureThreshold => log_page::id::SMART_HEALTH,
            Self::NamespaceAttributeChanged => log_page::id::CHANGED_NAMESPACES,
        }
    }

    /// Whether Asynchronous Event Configuration asks for it (section 5.21.1.11). Errors are not asked for.
    fn is_wanted(self, configuration: u32) -> bool {
        let bit = match self {
            Self::InvalidDoorbellRegister | Self::InvalidDoorbellValue => return true,
            Self::ReliabilityDegraded => u32::from(log_page::CRITICAL_WARNING_READ_ONLY),
            Self::TemperatureThreshold => u32::from(log_page::CRITICAL_WARNING_TEMPERATURE),
            Self::NamespaceAttributeChanged => NAMESPACE_ATTRIBUTE_NOTICES,
        };
        configuration & bit != 0
    }

    /// Dword 0 of the completion (Figure 145).
    #[must_use]
    pub fn dword0(self) -> u32 {
        u32::from(self.kind()) | u32::from(self.information()) << 8 | u32::from(self.log_page()) << 16
    }
}

/// Requests and events that wait for each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsyncEvents {
    /// Command identifiers of the requests that are held, oldest first.
    pub requests: VecDeque<u16>,
    /// Command identifiers of requests that were aborted and whose completion is still to be posted.
    pub aborted: VecDeque<u16>,
    /// Events that are still to be reported, oldest first, each at most once.
    pub pending: VecDeque<Event>,
    /// Types (by bit) that were reported and whose log page was not read since.
    pub masked: u8,
}

impl AsyncEvents {
    /// Whether the command identifier belongs to a request that has not completed.
    #[must_use]
    pub fn holds(&self, command_id: u16) -> bool {
        self.requests.contains(&command_id) || self.aborted.contains(&command_id)
    }

    /// Notes an event. While its type is masked, or the same event waits already, it is dropped.
    pub fn raise(&mut self, event: Event) {
        if self.masked & 1 << event.kind() == 0 && !self.pending.contains(&event) {
            self.pending.push_back(event);
        }
    }

    /// The log page was read without Retain Asynchronous Event, which clears the events that it is about: one that was
    /// reported may come again, one that still waits for a request is not reported any more (section 5.2).
    pub fn log_page_read(&mut self, page: u8) {
        let mask = match page {
            log_page::id::ERROR_INFORMATION => 1,
            log_page::id::SMART_HEALTH => 1 << 1,
            log_page::id::CHANGED_NAMESPACES => 1 << 2,
            _ => 0,
        };
        self.masked &= !mask;
        self.pending.retain(|event| event.log_page() != page);
    }

    /// Asynchronous Event Configuration was set: what is not wanted is not sent, also if it waits for a request already
    /// (section 5.21.1.11).
    pub fn configure(&mut self, configuration: u32) {
        self.pending.retain(|event| event.is_wanted(configuration));
    }

    /// Takes the next completion that is due: command identifier, dword 0 and status.
    pub fn next_completion(&mut self) -> Option<(u16, u32, Status)> {
        if let Some(command_id) = self.aborted.pop_front() {
            return Some((command_id, 0, Status::ABORT_REQUESTED));
        }
        let event = *self.pending.front()?;
        let command_id = self.requests.pop_front()?;
        self.masked |= 1 << event.kind();
        let masked = self.masked;
        self.pending.retain(|event| masked & 1 << event.kind() == 0);
        Some((command_id, event.dword0(), Status::SUCCESS))
    }

    /// Whether [`next_completion`](Self::next_completion) would give one.
    #[must_use]
    pub fn is_completion_due(&self) -> bool {
        !self.aborted.is_empty() || !(self.pending.is_empty() || self.requests.is_empty())
    }
}

impl Controller {
    /// Asynchronous Event Request (section 5.2): held until there is an event. `Ok(None)`: no completion now.
    pub(super) fn async_event_request(&mut self, command: &SubmissionEntry) -> Result<Option<u32>, Failure> {
        if self.state.events.requests.len() >= ASYNC_EVENT_REQUEST_LIMIT {
            return Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED.into());
        }
        self.state.events.requests.push_back(command.command_id.get());
        Ok(None)
    }

    /// Abort (section 5.1). Commands run to their end as they are fetched, so what can be aborted is a held
    /// Asynchronous Event Request; anything else is "not aborted" (bit 0 of dword 0).
    pub(super) fn abort(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let queue = command.dword10.get() as u16;
        let command_id = (command.dword10.get() >> 16) as u16;
        if self.state.submission_queue(queue).is_none() {
            return Err(Failure::at(Status::INVALID_FIELD, 10, 0));
        }
        let events = &mut self.state.events;
        let held = events.requests.iter().position(|&held| held == command_id);
        match held {
            Some(index) if queue == 0 => {
                events.requests.remove(index);
                events.aborted.push_back(command_id);
                Ok(0)
            }
            _ => Ok(1),
        }
    }

    /// Reports a doorbell error and logs it (section 5.2, Error status).
    pub(super) fn doorbell_error(&mut self, event: Event) {
        self.state.error_log.push(ErrorEntry::without_command(Status::SUCCESS));
        self.state.events.raise(event);
    }

    /// Raises an event if the host wants to know of it.
    fn raise_if_wanted(&mut self, event: Event) {
        if event.is_wanted(self.state.features.async_events) {
            self.state.events.raise(event);
        }
    }

    /// Raises the SMART / Health events of the critical warnings that the host wants to know of (section 5.21.1.11).
    pub(super) fn check_health(&mut self) {
        let warning = critical_warning(&self.state);
        if warning & log_page::CRITICAL_WARNING_TEMPERATURE != 0 {
            self.raise_if_wanted(Event::TemperatureThreshold);
        }
        if warning & log_page::CRITICAL_WARNING_READ_ONLY != 0 {
            self.raise_if_wanted(Event::ReliabilityDegraded);
        }
    }

    /// The medium of a namespace becomes read-only, for good: Identify Namespace, the SMART / Health log and, if wanted,
    /// events say so. Nothing happens if there is no such namespace.
    pub(super) fn make_read_only(&mut self, nsid: u32) {
        let Ok((index, _)) = self.namespace(nsid) else { return };
        if std::mem::replace(&mut self.state.media[index].read_only, true) {
            return;
        }
        self.state.changed_namespaces.insert(nsid);
        self.raise_if_wanted(Event::NamespaceAttributeChanged);
        self.check_health();
    }
}
