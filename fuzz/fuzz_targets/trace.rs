//! An event trace as `storlock replay` reads it, with and without a whole header. What is decoded is encoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storlock::session::replay;
use storlock_check::trace::{Encoder, Reader};

fuzz_target!(|data: &[u8]| {
    let _ = replay::trace(data);
    let whole = [&Encoder::header()[..], data].concat();
    let Ok(reader) = Reader::new(&whole) else { return };
    let events: Vec<_> = reader.map_while(Result::ok).collect();
    let mut bytes = Encoder::header().to_vec();
    let mut encoder = Encoder::new();
    for event in &events {
        encoder.event(event, &mut bytes);
    }
    let again: Vec<_> = Reader::new(&bytes)
        .into_iter()
        .flatten()
        .map_while(Result::ok)
        .collect();
    assert_eq!(events, again);
    let _ = replay::trace(&whole[..]);
});
