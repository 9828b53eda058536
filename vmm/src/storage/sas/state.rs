//! Everything that a controller remembers besides its registers and its disks, in one plain struct that can be saved.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::events::EventQueue;
use super::message::Reply;
use super::spec::who_init;
use crate::storage::worker::Ticket;

/// What IOC Init has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initialisation {
    /// Who has initialised.
    pub who_init: u8,
    /// Upper halves of the addresses of requests and replies.
    pub host_mfa_high: u32,
    /// Upper halves of the addresses of sense buffers.
    pub sense_buffer_high: u32,
    /// Bytes of a reply frame.
    pub reply_frame_size: u16,
    /// MaxDevices.
    pub max_devices: u8,
    /// MaxBuses.
    pub max_buses: u8,
}

impl Default for Initialisation {
    fn default() -> Self {
        Self {
            who_init: who_init::NO_ONE,
            host_mfa_high: 0,
            sense_buffer_high: 0,
            reply_frame_size: 0,
            max_devices: 0,
            max_buses: 0,
        }
    }
}

/// What is posted for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The context only: all went well.
    Context(u32),
    /// A reply frame.
    Frame(Reply),
}

/// A reply that a fault keeps back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// The reply.
    pub answer: Answer,
    /// MsgContext of the request.
    pub context: u32,
    /// The disk that the request is for.
    pub disk: Option<usize>,
    /// The header of the request, for the reply that it gets if it is aborted.
    pub frame: super::message::Frame,
}

/// The state of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerState {
    /// What IOC Init has told.
    pub initialisation: Initialisation,
    /// Port Enable was sent.
    pub port_enabled: bool,
    /// Which disks are there: a fault may take them away.
    pub present: Vec<bool>,
    /// Events, and who is told.
    pub events: EventQueue,
    /// Replies that wait for room.
    pub replies: VecDeque<Answer>,
    /// Replies that faults keep back.
    pub withheld: BTreeMap<Ticket, Withheld>,
    /// Disks that come back later.
    pub returning: BTreeMap<Ticket, usize>,
    /// The ticket that is given next.
    pub next_ticket: Ticket,
    /// Tickets that the worker has not taken yet.
    pub delays: Vec<(Ticket, Duration)>,
    /// Configuration pages that were changed, by type and number.
    pub changed_pages: BTreeMap<(u8, u8), Vec<u8>>,
    /// The context that was answered before the last one.
    pub answered: [u32; 2],
}

impl ControllerState {
    /// As after power-on, with so many disks.
    #[must_use]
    pub fn new(disks: usize) -> Self {
        Self {
            initialisation: Initialisation::default(),
            port_enabled: false,
            present: vec![true; disks],
            events: EventQueue::default(),
            replies: VecDeque::new(),
            withheld: BTreeMap::new(),
            returning: BTreeMap::new(),
            next_ticket: 0,
            delays: Vec::new(),
            changed_pages: BTreeMap::new(),
            answered: [0; 2],
        }
    }

    /// After a reset: which disks are there survives, and when they come back, and what was written to pages.
    pub(super) fn reset(&mut self) {
        *self = Self {
            present: std::mem::take(&mut self.present),
            returning: std::mem::take(&mut self.returning),
            changed_pages: std::mem::take(&mut self.changed_pages),
            next_ticket: self.next_ticket,
            delays: std::mem::take(&mut self.delays),
            ..Self::new(0)
        };
    }
}
