//! Connecting the devices of [`crate::devices`] to one machine: its buses, its interrupt controllers, its power supply.
//!
//! Must not know what the devices do, nor vCPUs.
#![forbid(unsafe_code)]

use std::io::Write;
use std::sync::{Arc, Weak};

use super::coordinator::Shared;
use super::stop::MachineStop;
use crate::bus::BusDevice;
use crate::devices::board::{Board, BoardParts};
use crate::devices::rtc::MemorySizes;
use crate::devices::{PowerControl, PowerEvent};
use crate::irq::IrqRouter;
use crate::memory::{HIGH_RAM_BASE, LOW_RAM_LIMIT};
use crate::pci::Resources;
use crate::run::Error;

/// Where PCI devices may be: above low RAM, below the I/O APIC; ports above those of the board.
pub(crate) fn pci_resources() -> Resources {
    Resources {
        memory: LOW_RAM_LIMIT..=0xfebf_ffff,
        ports: 0xc000..=0xffff,
    }
}

/// Notes what the guest asks of the power supply; the coordinator carries it out.
struct PowerNote {
    /// Weak, because the machine owns the devices that own this.
    machine: Weak<Shared>,
}

impl PowerControl for PowerNote {
    fn request(&self, event: PowerEvent) {
        let reason = match event {
            PowerEvent::PowerOff => MachineStop::PowerOff,
            PowerEvent::Reset => MachineStop::Reset,
        };
        if let Some(machine) = self.machine.upgrade() {
            machine.stop_for(reason);
        }
    }
}

fn power(machine: &Arc<Shared>) -> Arc<dyn PowerControl> {
    Arc::new(PowerNote {
        machine: Arc::downgrade(machine),
    })
}

/// A port at which any write ends the machine.
struct EndPort(Arc<dyn PowerControl>);

impl BusDevice for EndPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _: u64, _: &[u8]) {
        self.0.request(PowerEvent::PowerOff);
    }
}

/// See [`crate::run::Machine::end_at_port`].
pub(crate) fn end_at_port(machine: &Arc<Shared>, port: u64) -> Result<(), Error> {
    Ok(machine.pio.insert(port, 1, Arc::new(EndPort(power(machine))))?)
}

/// Builds the board of a machine.
pub(crate) fn connect(
    machine: &Arc<Shared>,
    irq: &IrqRouter,
    serial: [Option<Box<dyn Write + Send>>; 2],
    debug_console: Option<Box<dyn Write + Send>>,
) -> Result<Board, Error> {
    let nowhere = || Box::new(std::io::sink());
    let sizes = |below_four_gib| {
        let ranges = machine.ram.ranges();
        ranges
            .filter(|range| (range.base < HIGH_RAM_BASE) == below_four_gib)
            .map(|range| range.length)
            .sum()
    };
    let parts = BoardParts {
        clock: Arc::clone(&machine.clock) as _,
        power: power(machine),
        inputs: std::array::from_fn(|input| irq.line(input as u32) as _),
        serial_outputs: serial.map(|output| output.unwrap_or_else(|| nowhere())),
        debug_output: debug_console.unwrap_or_else(|| nowhere()),
        memory: MemorySizes {
            low: sizes(true),
            high: sizes(false),
        },
        ram: machine.ram.clone(),
    };
    Ok(Board::new(parts, &machine.pio, &machine.mmio)?)
}
