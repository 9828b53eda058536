//! The data for the page's script: names as JSON, and the holds as one string, since there may be a million.
//!
//! The string is base64 of LEB128 numbers, six for each hold, in the order of `asked`: the time from the hold before to
//! `asked`, the time from there to `from`, the time from there to `to` plus one, or 0 if the hold never ended;
//! processor, lock, place.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::escape;
use crate::report::Report;
use crate::report::timeline::{Clock, Timeline, short};

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let value = report
        .timeline
        .as_ref()
        .map_or(Value::Null, |timeline| names(report, timeline));
    let names = value.to_string();
    // Inside of a script element only `<` can end it.
    let mut safe = String::with_capacity(names.len());
    for character in names.chars() {
        match character {
            '<' => safe.push_str("\\u003c"),
            '>' => safe.push_str("\\u003e"),
            '&' => safe.push_str("\\u0026"),
            other => safe.push(other),
        }
    }
    writeln!(out, "<script type=\"application/json\" id=\"names\">{safe}</script>")?;
    let holds = report.timeline.as_ref().map(holds).unwrap_or_default();
    writeln!(
        out,
        "<script type=\"text/plain\" id=\"holds\">{}</script>",
        base64(&holds)
    )
}

fn names(report: &Report, timeline: &Timeline) -> Value {
    let line = |text: &str| escape::line(text).into_owned();
    let marks = timeline.marks.iter().filter_map(|mark| {
        let of = |v: &crate::report::Finding| v.event == mark.event || v.call_event == mark.event;
        let found = report.findings.iter().position(of)?;
        Some(json!([mark.time, mark.vcpu, mark.event, found]))
    });
    json!({
        "clock": match timeline.clock { Clock::Nanoseconds => "ns", Clock::Events => "events" },
        "end": timeline.end,
        "processors": timeline.processors,
        "count": timeline.holds.len(),
        "locks": timeline.locks.iter().map(|lock| json!([line(&lock.identity.to_string()), lock.class])).collect::<Vec<_>>(),
        "classes": (0..timeline.classes.len() as u32).map(|class| line(&timeline.class_name(class))).collect::<Vec<_>>(),
        "places": timeline.places.iter().map(|place| line(&short(place))).collect::<Vec<_>>(),
        "order": timeline.order.iter().map(|edge| json!([edge.held, edge.taken, edge.count, edge.event])).collect::<Vec<_>>(),
        "marks": marks.collect::<Vec<_>>(),
    })
}

fn holds(timeline: &Timeline) -> Vec<u8> {
    let mut order: Vec<_> = timeline.holds.iter().collect();
    order.sort_by_key(|hold| hold.asked);
    let mut bytes = Vec::with_capacity(order.len() * 12);
    let mut before = 0;
    for hold in order {
        let held = hold.to.map_or(0, |to| to.saturating_sub(hold.from).saturating_add(1));
        for value in [hold.asked - before, hold.from.saturating_sub(hold.asked), held] {
            number(&mut bytes, value);
        }
        for value in [hold.vcpu, hold.lock, hold.place] {
            number(&mut bytes, value.into());
        }
        before = hold.asked;
    }
    bytes
}

fn number(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// RFC 4648, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            if place > group.len() {
                text.push('=');
            } else {
                let digit = bits >> (18 - 6 * place) & 0x3f;
                text.push(char::from(DIGITS[digit as usize]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
