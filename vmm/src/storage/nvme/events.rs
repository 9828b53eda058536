//! Asynchronous events (NVMe 1.4, section 5.2): requests that are held, events that wait for one, and masks.
//!
//! It decides when an event may be reported. It must not know completion queues.

use std::collections::VecDeque;

use super::completion::Answer;
use super::doorbells::DoorbellError;
use super::queues::CommandRequest;
use super::spec::features::NAMESPACE_ATTRIBUTE_NOTICES;
use super::spec::log_page;
use super::spec::status::Status;

/// Requests that can be outstanding at once (AERL + 1).
pub(super) const ASYNC_EVENT_REQUEST_LIMIT: usize = 4;
/// Bits of Asynchronous Event Configuration that the controller has: SMART / Health warnings, namespace notices.
const CONFIGURABLE: u32 = 0xff | NAMESPACE_ATTRIBUTE_NOTICES;

/// An event (Figures 146 to 149; section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
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
    fn dword0(self) -> u32 {
        u32::from(self.kind()) | u32::from(self.information()) << 8 | u32::from(self.log_page()) << 16
    }
}

impl From<DoorbellError> for Event {
    fn from(error: DoorbellError) -> Self {
        match error {
            DoorbellError::Register => Self::InvalidDoorbellRegister,
            DoorbellError::Value => Self::InvalidDoorbellValue,
        }
    }
}

/// Requests and events that wait for each other.
#[derive(Debug, Default)]
pub(super) struct AsyncEvents {
    /// Requests that are held, oldest first.
    requests: VecDeque<CommandRequest>,
    /// Requests that were aborted and whose completion is still to be posted.
    aborted: VecDeque<CommandRequest>,
    /// Events that are still to be reported, oldest first, each at most once.
    pending: VecDeque<Event>,
    /// Types (by bit) that were reported and whose log page was not read since.
    masked: u8,
    /// Which events are wanted (section 5.21.1.11).
    configuration: u32,
}

impl AsyncEvents {
    /// As after power on.
    pub(super) fn reset(&mut self) {
        let held = self.requests.drain(..).chain(self.aborted.drain(..));
        held.for_each(CommandRequest::abandon);
        *self = Self::default();
    }

    /// Command identifiers of the requests that have not completed.
    pub(super) fn held_ids(&self) -> impl Iterator<Item = u16> + '_ {
        let held = self.requests.iter().chain(&self.aborted);
        held.map(|request| request.command().entry.command_id.get())
    }

    /// Asynchronous Event Request (section 5.2): held until there is an event. An answer only if there are too many.
    pub(super) fn hold(&mut self, request: CommandRequest) -> Option<Answer> {
        if self.requests.len() >= ASYNC_EVENT_REQUEST_LIMIT {
            return Some(Answer::new(
                request,
                Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED.into()),
            ));
        }
        self.requests.push_back(request);
        None
    }

    /// Ends a held request, if there is one with that identifier. Returns whether there is.
    pub(super) fn abort(&mut self, command_id: u16) -> bool {
        let is_meant = |request: &CommandRequest| request.command().entry.command_id.get() == command_id;
        let held = self.requests.iter().position(is_meant);
        let request = held.and_then(|index| self.requests.remove(index));
        let found = request.is_some();
        self.aborted.extend(request);
        found
    }

    /// Notes an event, if the host wants to know of it. While its type is masked, or the same event waits already, it is
    /// dropped.
    pub(super) fn raise(&mut self, event: Event) {
        let is_masked = self.masked & 1 << event.kind() != 0;
        if event.is_wanted(self.configuration) && !is_masked && !self.pending.contains(&event) {
            self.pending.push_back(event);
        }
    }

    /// The log page was read without Retain Asynchronous Event, which clears the events that it is about: one that was
    /// reported may come again, one that still waits for a request is not reported any more (section 5.2).
    pub(super) fn log_page_read(&mut self, page: u8) {
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
    pub(super) fn configure(&mut self, configuration: u32) {
        self.configuration = configuration & CONFIGURABLE;
        self.pending.retain(|event| event.is_wanted(configuration));
    }

    /// Asynchronous Event Configuration.
    pub(super) fn configuration(&self) -> u32 {
        self.configuration
    }

    /// Takes the next request that is due a completion, with dword 0 and status of that.
    pub(super) fn next_completion(&mut self) -> Option<(CommandRequest, u32, Status)> {
        if let Some(request) = self.aborted.pop_front() {
            return Some((request, 0, Status::ABORT_REQUESTED));
        }
        let event = *self.pending.front()?;
        let request = self.requests.pop_front()?;
        self.masked |= 1 << event.kind();
        let masked = self.masked;
        self.pending.retain(|event| masked & 1 << event.kind() == 0);
        Some((request, event.dword0(), Status::SUCCESS))
    }

    /// Whether [`next_completion`](Self::next_completion) would give one.
    pub(super) fn is_completion_due(&self) -> bool {
        !self.aborted.is_empty() || !(self.pending.is_empty() || self.requests.is_empty())
    }

    /// How many requests are held and how many events wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.requests.len(), self.pending.len())
    }
}
