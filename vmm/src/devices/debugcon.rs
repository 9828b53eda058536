//! The debug console: a port that prints every byte written to it (as in Bochs and QEMU).
//!
//! Talks to a writer. A read gives a fixed value, by which a guest detects the port.

use std::sync::{Mutex, PoisonError};

use super::serial::Output;
use crate::bus::BusDevice;

/// The port.
pub(crate) const DEBUG_CONSOLE_PORT: u64 = 0x402;
/// What it reads as.
const READBACK: u8 = 0xe9;

/// The debug console.
pub(crate) struct DebugConsole {
    output: Mutex<Output>,
}

impl DebugConsole {
    /// What the guest writes goes to `output`; bytes that cannot be written are lost.
    #[must_use]
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output: Mutex::new(output),
        }
    }
}

impl BusDevice for DebugConsole {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(READBACK);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = output.write_all(data).and_then(|()| output.flush()) {
            tracing::trace!(%error, "debug console output lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::SharedOutput;

    #[test]
    fn prints_what_is_written_and_reads_e9() {
        let output = SharedOutput::default();
        let console = DebugConsole::new(Box::new(output.clone()));
        console.write(0, b"a");
        console.write(0, b"b");
        let mut byte = [0];
        console.read(0, &mut byte);
        assert_eq!((output.bytes().as_slice(), byte), (b"ab".as_slice(), [READBACK]));
    }
}
