//! A recording as `storlock replay` reads it: any bytes, and any bytes after a valid start and header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storlock::session::{Config, replay};
use storlock::vmi::recording::{Frame, write_frame, write_start};

fuzz_target!(|data: &[u8]| {
    let _ = replay::recording(data);
    let mut whole = Vec::new();
    let header = serde_json::to_vec(&Config::default()).expect("a configuration can be written");
    write_start(&mut whole).expect("memory does not fail");
    write_frame(&mut whole, &Frame::Header(header)).expect("memory does not fail");
    whole.extend_from_slice(data);
    let _ = replay::recording(&whole[..]);
});
