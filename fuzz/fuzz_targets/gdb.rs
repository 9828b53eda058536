//! What a debugger sends: any bytes, and lines that are wrapped as packets, on a fake machine. Only the packets that
//! are meant to end a session end it.
#![no_main]

#[path = "support/machine.rs"]
mod machine;

use libfuzzer_sys::fuzz_target;
use machine::CPUS;
use storlock::vmi::debuggee::DebuggeeStop;
use storlock::vmi::fake::FakeMachine;

/// An answer is a few packets at most; a command's text is the longest.
const ANSWER_LIMIT: usize = 1 << 20;

/// Gives the bytes to a conversation, with each stop as soon as the machine has it.
fn converse(chunks: impl Iterator<Item = Vec<u8>>) {
    let (machine, mut stops) = FakeMachine::new(CPUS, 0..0x3000);
    let mut client = machine::converse(&machine);
    let mut sent = Vec::new();
    for chunk in chunks {
        client.receive(&chunk);
        sent.extend(chunk);
        loop {
            let running = std::mem::take(&mut machine.state().running);
            let stop = stops.try_recv().ok().or(running.then_some(DebuggeeStop::Violation(1)));
            match stop {
                Some(stop) => client.tell(Some(stop)),
                None => break,
            }
        }
        assert!(client.output().len() < ANSWER_LIMIT);
        if client.left().is_some() {
            assert!(sent.iter().any(|byte| b"Dkv".contains(byte)), "it left by itself");
            let _ = client.end();
            return;
        }
    }
    // Whatever was sent, the next packet is heard.
    client.receive(&packet(b"qsThreadInfo"));
    assert!(client.output().ends_with(b"$l#6c"));
    let _ = client.end();
}

fn packet(line: &[u8]) -> Vec<u8> {
    let sum = line.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let mut bytes = vec![b'$'];
    bytes.extend_from_slice(line);
    bytes.extend_from_slice(format!("#{sum:02x}").as_bytes());
    bytes
}

fuzz_target!(|data: &[u8]| {
    // The stops of a chunk come after it, as on a socket.
    converse(data.chunks(16).map(<[u8]>::to_vec));
    converse(data.split(|byte| *byte == b'\n').map(packet));
});
