//! Events: Event Notification and Event Ack, and what is told of the topology.
//!
//! An event is a further reply to the request that turned notification on. It knows what a disk is called, not what
//! happens to it.

use std::collections::VecDeque;

use super::message::{Frame, Reply};
use super::spec::{MSGFLAGS_CONTINUATION_REPLY, event, ioc_status, link_rate, sas_dev_stat, sas_device_info};
use super::topology;

/// Events that wait to be told. Older ones are forgotten: the host can read the topology.
const QUEUE_LIMIT: usize = 64;
/// Bytes of an event's reply in front of its data.
const EVENT_REPLY: usize = 0x1c;
/// Where Switch of the request is.
const SWITCH: usize = 0;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    code: u32,
    /// Whole dwords.
    data: Vec<u8>,
}

/// What there is to save of [`Events`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EventsState {
    /// The request that has turned notification on.
    listener: Option<Frame>,
    /// Events that were not told yet.
    waiting: VecDeque<Event>,
    /// EventContext of the last event.
    last_context: u32,
}

/// Events, and who is told.
#[derive(Default)]
pub(super) struct Events {
    state: EventsState,
}

impl Events {
    /// As after power on: nobody listens.
    pub(super) fn reset(&mut self) {
        self.state = EventsState::default();
    }

    /// Whether the host has turned notification on.
    pub(super) fn are_listened_to(&self) -> bool {
        self.state.listener.is_some()
    }

    /// How many wait to be told.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.waiting.len()
    }

    /// Something has happened. Nobody is told of it later who does not listen now.
    fn push(&mut self, event: Event) {
        if self.state.listener.is_none() {
            return;
        }
        if self.state.waiting.len() >= QUEUE_LIMIT {
            self.state.waiting.pop_front();
        }
        self.state.waiting.push_back(event);
    }

    /// Event Notification: turns it on or off. The first reply tells which.
    pub(super) fn notification(&mut self, frame: &Frame) -> Reply {
        let on = frame.u8(SWITCH) != 0;
        self.state.listener = on.then_some(*frame);
        self.state.waiting.clear();
        let change = Event {
            code: event::EVENT_CHANGE,
            data: vec![u8::from(on), 0, 0, 0],
        };
        event_reply(frame, &change, 0, on)
    }

    /// Event Ack: no event asks for one, so that there is nothing to do.
    pub(super) fn acknowledge(frame: &Frame) -> Reply {
        Reply::with_status(frame, ioc_status::SUCCESS)
    }

    /// The reply that tells of the next event.
    pub(super) fn next(&mut self) -> Option<Reply> {
        let (listener, event) = self.state.listener.zip(self.state.waiting.pop_front())?;
        self.state.last_context = self.state.last_context.wrapping_add(1);
        Some(event_reply(&listener, &event, self.state.last_context, true))
    }

    /// A disk has come or gone: its phy's link, discovery, and the device.
    pub(super) fn tell_of_disk(&mut self, disk: usize, address: u64, added: bool) {
        let (now, before) = if added {
            (link_rate::RATE_3_0, link_rate::UNKNOWN)
        } else {
            (link_rate::UNKNOWN, link_rate::RATE_3_0)
        };
        let handle = topology::disk_handle(disk);
        let mut link = vec![disk as u8, now << 4 | before];
        link.extend(handle.to_le_bytes());
        link.extend(address.to_le_bytes());
        let reason = if added {
            sas_dev_stat::RC_ADDED
        } else {
            sas_dev_stat::RC_NOT_RESPONDING
        };
        let mut device = vec![disk as u8, 0, reason, 0, 0, 0];
        device.extend(handle.to_le_bytes());
        device.extend(sas_device_info::DISK.to_le_bytes());
        device.extend(topology::CONTROLLER_HANDLE.to_le_bytes());
        device.extend([disk as u8, 0]);
        device.extend(address.to_le_bytes());
        // LUN, TaskTag and a reserved field.
        device.extend([0; 12]);
        // DiscoveryStatus: in progress, with the bits of phys above it; or complete.
        let in_progress = 1_u32 << 16 << disk | 1;
        let discovery = |status: u32| [status.to_le_bytes(), [0; 4]].concat();
        for (code, data) in [
            (event::SAS_DISCOVERY, discovery(in_progress)),
            (event::SAS_PHY_LINK_STATUS, link),
            (event::SAS_DEVICE_STATUS_CHANGE, device),
            (event::SAS_DISCOVERY, discovery(0)),
        ] {
            self.push(Event { code, data });
        }
    }
}

/// The reply that tells of an event.
fn event_reply(frame: &Frame, event: &Event, context: u32, more: bool) -> Reply {
    let length = EVENT_REPLY + event.data.len();
    let flags = if more { MSGFLAGS_CONTINUATION_REPLY } else { 0 };
    Reply::to(frame, length)
        .put(0x00, &((event.data.len() / 4) as u16).to_le_bytes())
        // AckRequired.
        .put(0x06, &[0, flags])
        .put(0x14, &event.code.to_le_bytes())
        .put(0x18, &context.to_le_bytes())
        .put(EVENT_REPLY, &event.data)
}
