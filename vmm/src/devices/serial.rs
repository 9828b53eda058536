//! The serial port: vm-superio's 16550A UART, whose output goes to a writer.
//!
//! Talks to an interrupt line (IRQ 4 for COM1, 3 for COM2) and a writer. A UART's interrupt is a level, but on a PC it
//! goes to an edge-triggered input; so each new cause is signalled as a pulse, which is all that the guest could see of
//! it.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::BusDevice;
use crate::irq::InterruptLine;

/// First port of COM1.
pub(crate) const COM1_BASE: u64 = 0x3f8;
/// First port of COM2.
pub(crate) const COM2_BASE: u64 = 0x2f8;
/// Interrupt request line of COM2.
pub(crate) const COM2_IRQ: u32 = 3;
/// Number of ports of a UART.
pub(crate) const UART_LENGTH: u64 = 8;
/// Interrupt request line of COM1.
pub(crate) const COM1_IRQ: u32 = 4;

/// Where the guest's output goes.
pub type Output = Box<dyn Write + Send>;

/// Hands the interrupts of the UART to the line.
struct Pulse(Arc<dyn InterruptLine>);

impl Trigger for Pulse {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.pulse();
        Ok(())
    }
}

/// A serial port.
pub struct SerialPort {
    uart: Mutex<Serial<Pulse, NoEvents, Output>>,
}

impl SerialPort {
    /// A UART as after a reset. What the guest sends is written to `output` and flushed byte by byte; if that fails the
    /// byte is lost, as on a cable that is not plugged in.
    #[must_use]
    pub fn new(interrupt: Arc<dyn InterruptLine>, output: Output) -> Self {
        Self {
            uart: Mutex::new(Serial::new(Pulse(interrupt), output)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Pulse, NoEvents, Output>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All registers are one byte wide: a wider access goes to consecutive ports, as on the ISA bus.
impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.lock();
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = uart.read((port % UART_LENGTH) as u8);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = self.lock();
        for (byte, port) in data.iter().zip(offset..) {
            if let Err(error) = uart.write((port % UART_LENGTH) as u8, *byte) {
                tracing::trace!(%error, "serial output lost");
            }
        }
    }

    fn reset(&self) {
        let mut uart = self.lock();
        let line = Arc::clone(&uart.interrupt_evt().0);
        let output = std::mem::replace(uart.writer_mut(), Box::new(std::io::sink()));
        *uart = Serial::new(Pulse(line), output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::{LineProbe, SharedOutput};

    fn port() -> (SerialPort, Arc<LineProbe>, SharedOutput) {
        let (line, output) = (Arc::new(LineProbe::default()), SharedOutput::default());
        (SerialPort::new(line.clone(), Box::new(output.clone())), line, output)
    }

    #[test]
    fn output_reaches_the_writer() {
        let (port, _, output) = port();
        for byte in b"ok\n" {
            port.write(0, &[*byte]);
        }
        assert_eq!(output.bytes(), b"ok\n");
    }

    #[test]
    fn every_offset_and_length_is_harmless() {
        let (port, ..) = port();
        for (offset, length) in (0..300).flat_map(|offset| (0..9).map(move |length| (offset, length))) {
            port.write(offset, &vec![0xff; length]);
            port.read(offset, &mut vec![0; length]);
        }
    }
}
