//! The timeline of a run as a Perfetto trace of track events: a track for each processor, and below it one for each
//! lock that it held, so that the slices of a track never overlap.
//!
//! Messages and field numbers are those of Perfetto's `trace_packet.proto`, `track_event.proto` and
//! `track_descriptor.proto`.

use std::collections::BTreeSet;
use std::io::{self, Write};

use prost::Message;

use super::Renderer;
use crate::escape;
use crate::report::timeline::{Clock, Hold, Timeline, short};
use crate::report::{Finding, Report};

/// Nanoseconds that stand for an event where there are no times.
const EVENT: u64 = 1000;
/// The one writer of packets in the file.
const SEQUENCE: u32 = 1;
/// Field 1, a message, as it is encoded.
const PACKET_FIELD: u8 = 1 << 3 | 2;
/// Bytes of packets that are encoded before they are written.
const BLOCK: usize = 1 << 18;

/// A Perfetto trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Perfetto;

#[derive(Clone, PartialEq, Message)]
struct Packet {
    #[prost(uint64, optional, tag = "8")]
    timestamp: Option<u64>,
    #[prost(uint32, tag = "10")]
    trusted_packet_sequence_id: u32,
    #[prost(message, optional, tag = "11")]
    track_event: Option<TrackEvent>,
    #[prost(message, optional, tag = "60")]
    track_descriptor: Option<TrackDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackDescriptor {
    #[prost(uint64, tag = "1")]
    uuid: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, optional, tag = "5")]
    parent_uuid: Option<u64>,
    /// `EXPLICIT`: by rank.
    #[prost(int32, optional, tag = "11")]
    child_ordering: Option<i32>,
    #[prost(int32, optional, tag = "12")]
    sibling_order_rank: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackEvent {
    #[prost(message, repeated, tag = "4")]
    debug_annotations: Vec<DebugAnnotation>,
    #[prost(int32, tag = "9")]
    kind: i32,
    #[prost(uint64, tag = "11")]
    track_uuid: u64,
    #[prost(string, repeated, tag = "22")]
    categories: Vec<String>,
    #[prost(string, optional, tag = "23")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct DebugAnnotation {
    #[prost(uint64, optional, tag = "3")]
    uint_value: Option<u64>,
    #[prost(string, optional, tag = "6")]
    string_value: Option<String>,
    #[prost(string, tag = "10")]
    name: String,
}

const SLICE_BEGIN: i32 = 1;
const SLICE_END: i32 = 2;
const INSTANT: i32 = 3;
const EXPLICIT: i32 = 3;

impl Renderer for Perfetto {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let Some(timeline) = &report.timeline else {
            let text = "there is no timeline to be drawn: that takes the event trace, a regular file beside report.json, or a recording";
            return Err(io::Error::other(text));
        };
        let mut file = File { out, block: Vec::new() };
        file.tracks(timeline)?;
        for hold in &timeline.holds {
            file.hold(timeline, hold)?;
        }
        for mark in &timeline.marks {
            let found = report
                .findings
                .iter()
                .find(|v| v.event == mark.event || v.call_event == mark.event);
            file.mark(time(timeline, mark.time), mark.vcpu, mark.event, found)?;
        }
        file.flush()
    }
}

fn time(timeline: &Timeline, time: u64) -> u64 {
    match timeline.clock {
        Clock::Nanoseconds => time,
        Clock::Events => time.saturating_mul(EVENT),
    }
}

/// A processor's track, and that of a lock below it. 0 is no track.
fn processor(vcpu: u32) -> u64 {
    1 + u64::from(vcpu)
}

fn lock(hold: &Hold) -> u64 {
    (u64::from(hold.vcpu) + 1) << 32 | (u64::from(hold.lock) + 1)
}

struct File<'a> {
    out: &'a mut dyn Write,
    block: Vec<u8>,
}

impl File<'_> {
    fn tracks(&mut self, timeline: &Timeline) -> io::Result<()> {
        for vcpu in 0..timeline.processors {
            self.descriptor(TrackDescriptor {
                uuid: processor(vcpu),
                name: format!("vCPU {vcpu}"),
                child_ordering: Some(EXPLICIT),
                sibling_order_rank: i32::try_from(vcpu).ok(),
                parent_uuid: None,
            })?;
        }
        let pairs: BTreeSet<_> = timeline.holds.iter().map(|hold| (hold.vcpu, hold.lock)).collect();
        for (vcpu, number) in pairs {
            let Some(known) = timeline.locks.get(number as usize) else {
                continue;
            };
            let name = format!("{} ({})", known.identity, timeline.class_name(known.class));
            self.descriptor(TrackDescriptor {
                uuid: (u64::from(vcpu) + 1) << 32 | (u64::from(number) + 1),
                name: escape::line(&name).into_owned(),
                parent_uuid: Some(processor(vcpu)),
                child_ordering: None,
                sibling_order_rank: i32::try_from(number).ok(),
            })?;
        }
        Ok(())
    }

    fn hold(&mut self, timeline: &Timeline, hold: &Hold) -> io::Result<()> {
        let place = timeline.places.get(hold.place as usize);
        let place = place
            .map(|place| escape::line(&short(place)).into_owned())
            .unwrap_or_default();
        let end = hold.to.unwrap_or(timeline.end).max(hold.from);
        let begin = |name: String, category: &str| TrackEvent {
            kind: SLICE_BEGIN,
            track_uuid: lock(hold),
            name: Some(name),
            categories: vec![category.to_owned()],
            debug_annotations: vec![DebugAnnotation {
                name: "event".to_owned(),
                uint_value: Some(hold.event),
                string_value: None,
            }],
        };
        let close = || TrackEvent {
            kind: SLICE_END,
            track_uuid: lock(hold),
            ..TrackEvent::default()
        };
        if hold.from > hold.asked {
            self.event(time(timeline, hold.asked), begin(format!("waits: {place}"), "wait"))?;
            self.event(time(timeline, hold.from), close())?;
        }
        self.event(time(timeline, hold.from), begin(place, "hold"))?;
        if hold.to.is_some() {
            self.event(time(timeline, end), close())?;
        }
        Ok(())
    }

    fn mark(&mut self, time: u64, vcpu: u32, event: u64, found: Option<&Finding>) -> io::Result<()> {
        let name = found.map_or("finding", |v| v.cause.text());
        let mut notes = vec![DebugAnnotation {
            name: "event".to_owned(),
            uint_value: Some(event),
            string_value: None,
        }];
        if let Some(v) = found {
            notes.push(DebugAnnotation {
                name: "signature".to_owned(),
                uint_value: None,
                string_value: Some(v.signature.id.clone()),
            });
        }
        self.event(
            time,
            TrackEvent {
                kind: INSTANT,
                track_uuid: processor(vcpu),
                name: Some(name.to_owned()),
                categories: vec!["finding".to_owned()],
                debug_annotations: notes,
            },
        )
    }

    fn descriptor(&mut self, descriptor: TrackDescriptor) -> io::Result<()> {
        self.packet(Packet {
            track_descriptor: Some(descriptor),
            ..Packet::default()
        })
    }

    fn event(&mut self, time: u64, event: TrackEvent) -> io::Result<()> {
        self.packet(Packet {
            timestamp: Some(time),
            track_event: Some(event),
            ..Packet::default()
        })
    }

    /// A trace is a message whose only field, number 1, is a list of packets.
    fn packet(&mut self, packet: Packet) -> io::Result<()> {
        self.block.push(PACKET_FIELD);
        let packet = Packet {
            trusted_packet_sequence_id: SEQUENCE,
            ..packet
        };
        packet
            .encode_length_delimited(&mut self.block)
            .map_err(io::Error::other)?;
        if self.block.len() >= BLOCK {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}
