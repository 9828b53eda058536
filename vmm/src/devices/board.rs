//! The board: makes the devices that every machine has and puts them at their places on the buses.
//!
//! Talks to the buses and to what the machine injects. It must not know KVM, nor the storage controllers: the machine
//! plugs these into [`Board::pci`] afterwards.

use std::sync::Arc;

use thiserror::Error;

use super::chipset::{PIRQ_ROUTE_CONTROL, host_bridge, isa_bridge, power_management};
use super::debugcon::{DEBUG_CONSOLE_PORT, DebugConsole};
use super::fw_cfg::{FW_CFG_BASE, FW_CFG_LENGTH, FwCfg};
use super::keyboard::{KEYBOARD_COMMAND_PORT, KEYBOARD_DATA_PORT, KEYBOARD_IRQ, KeyboardController};
use super::pirq::{self, PirqRouter};
use super::power::{
    POWER_MANAGEMENT_BASE, POWER_MANAGEMENT_LENGTH, PowerManagement, SCI_IRQ, SEABIOS_POWER_MANAGEMENT_BASE, TimerWidth,
};
use super::reset::{PORT_A, PortA, ResetControl};
use super::rtc::{MemorySizes, RTC_BASE, RTC_IRQ, RTC_LENGTH, Rtc};
use super::serial::{COM1_BASE, COM1_IRQ, COM2_BASE, COM2_IRQ, Output, SerialPort, UART_LENGTH};
use super::{Clock, PowerControl};
use crate::bus::{Bus, BusError};
use crate::irq::InterruptLine;
use crate::memory::GuestRam;
use crate::pci::{
    CONFIG_PORTS_BASE, CONFIG_PORTS_LENGTH, ConfigPorts, ConfigSpaceError, INTA, PciAddress, PciBus, PciError,
    Resources,
};

/// Inputs of the interrupt controllers that PIRQ links A to D lead to after a direct boot: two, as firmware for this chip
/// set has it.
const LINK_INPUTS: [u8; 4] = [10, 10, 11, 11];

/// What the machine gives to the devices of the board.
pub struct BoardParts {
    /// Guest time.
    pub clock: Arc<dyn Clock>,
    /// Who powers off and resets.
    pub power: Arc<dyn PowerControl>,
    /// Inputs 0 to 15 of the interrupt controllers.
    pub inputs: [Arc<dyn InterruptLine>; 16],
    /// Where COM1 and COM2 go.
    pub serial_outputs: [Output; 2],
    /// Where the debug console goes.
    pub debug_output: Output,
    /// What the CMOS memory says about RAM.
    pub memory: MemorySizes,
    /// RAM, for DMA by the firmware configuration device.
    pub ram: GuestRam,
}

/// Why the board could not be built: two devices at one place, which is an error of this program.
#[derive(Debug, Error)]
pub enum BoardError {
    /// Two devices at the same ports.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Two functions at the same place.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A function with an impossible description.
    #[error(transparent)]
    Config(#[from] ConfigSpaceError),
}

/// The devices that others need to reach; the buses own all of them.
pub struct Board {
    /// PCI bus 0, with the host bridge and the functions of the south bridge in place.
    pub pci: Arc<PciBus>,
    /// The interrupt pins of the slots of PCI bus 0.
    pub pirq: Arc<PirqRouter>,
    /// COM1.
    pub serial: Arc<SerialPort>,
    /// Power management, with the power button.
    pub power: Arc<PowerManagement>,
    /// The items for firmware.
    pub fw_cfg: Arc<FwCfg>,
    /// The real-time clock, whose timer the machine starts.
    pub rtc: Arc<Rtc>,
}

impl Board {
    /// Connects everything.
    ///
    /// # Errors
    /// [`BoardError`] if something is on the port I/O bus already where a device of the board belongs.
    pub fn new(parts: BoardParts, pio: &Arc<Bus>, mmio: &Arc<Bus>) -> Result<Self, BoardError> {
        let BoardParts {
            clock,
            power,
            inputs,
            serial_outputs: [com1, com2],
            debug_output,
            memory,
            ram,
        } = parts;
        let input = |number: u32| Arc::clone(&inputs[number as usize]);
        let serial = Arc::new(SerialPort::new(input(COM1_IRQ), com1));
        pio.insert(COM1_BASE, UART_LENGTH, Arc::clone(&serial) as _)?;
        pio.insert(COM2_BASE, UART_LENGTH, Arc::new(SerialPort::new(input(COM2_IRQ), com2)))?;
        pio.insert(DEBUG_CONSOLE_PORT, 1, Arc::new(DebugConsole::new(debug_output)))?;
        let rtc = Arc::new(Rtc::new(Arc::clone(&clock), input(RTC_IRQ), memory));
        pio.insert(RTC_BASE, RTC_LENGTH, Arc::clone(&rtc) as _)?;
        pio.insert(PORT_A, 1, Arc::new(PortA::new(Arc::clone(&power))))?;
        let keyboard = KeyboardController::new(input(KEYBOARD_IRQ), Arc::clone(&power));
        pio.insert(KEYBOARD_DATA_PORT, 1, keyboard.data_port())?;
        pio.insert(KEYBOARD_COMMAND_PORT, 1, keyboard.command_port())?;
        let management = PowerManagement::new(clock, Arc::clone(&power), input(SCI_IRQ), TimerWidth::Bits32);
        let management = Arc::new(management);
        for base in [POWER_MANAGEMENT_BASE, SEABIOS_POWER_MANAGEMENT_BASE] {
            pio.insert(base, POWER_MANAGEMENT_LENGTH, Arc::clone(&management) as _)?;
        }
        let fw_cfg = Arc::new(FwCfg::new(ram));
        pio.insert(FW_CFG_BASE, FW_CFG_LENGTH, Arc::clone(&fw_cfg) as _)?;

        let pirq = PirqRouter::new(inputs);
        let pci = Arc::new(PciBus::new(pio, mmio));
        pci.add(PciAddress::HOST_BRIDGE, Arc::new(host_bridge()?))?;
        pci.add(PciAddress::ISA_BRIDGE, Arc::new(isa_bridge(Arc::clone(&pirq))?))?;
        pci.add(PciAddress::POWER_MANAGEMENT, Arc::new(power_management()?))?;
        let config_ports = ConfigPorts::new(Arc::clone(&pci), Arc::new(ResetControl::new(power)));
        pio.insert(CONFIG_PORTS_BASE, CONFIG_PORTS_LENGTH, Arc::new(config_ports))?;
        Ok(Self {
            pci,
            pirq,
            serial,
            power: management,
            fw_cfg,
            rtc,
        })
    }
}

impl Board {
    /// Does the firmware's work before a direct boot: gives the PCI functions their addresses, routes the PIRQ links, and
    /// notes in each function's Interrupt Line register which input its pin leads to.
    ///
    /// # Errors
    /// [`PciError::NoRoom`].
    pub(crate) fn configure_pci(&self, resources: &Resources) -> Result<(), PciError> {
        self.pci.assign_resources(resources)?;
        for (register, input) in (PIRQ_ROUTE_CONTROL..).zip(LINK_INPUTS) {
            self.pci.config_write(PciAddress::ISA_BRIDGE, register, &[input]);
        }
        self.pci
            .set_interrupt_lines(|address, pin| LINK_INPUTS[pirq::link(address.device(), pin - INTA)]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use proptest::prelude::*;

    use super::*;
    use crate::devices::PowerEvent;
    use crate::devices::chipset::NoBars;
    use crate::devices::testing::{FakeClock, LineProbe, PowerProbe, SharedOutput};
    use crate::pci::{FunctionDescription, Interrupts, Intx, PciFunction};

    fn board() -> (Arc<Bus>, Board, Arc<PowerProbe>, SharedOutput) {
        let (pio, mmio) = (Arc::new(Bus::pio()), Arc::new(Bus::mmio()));
        let (power, output) = (Arc::new(PowerProbe::default()), SharedOutput::default());
        let parts = BoardParts {
            clock: Arc::new(FakeClock::default()),
            power: power.clone(),
            inputs: std::array::from_fn(|_| Arc::new(LineProbe::default()) as _),
            serial_outputs: [Box::new(output.clone()), Box::new(output.clone())],
            debug_output: Box::new(output.clone()),
            memory: MemorySizes { low: 1 << 30, high: 0 },
            ram: GuestRam::new(16 << 20).unwrap(),
        };
        let board = Board::new(parts, &pio, &mmio).unwrap();
        (pio, board, power, output)
    }

    #[test]
    fn every_device_is_at_its_port() {
        let (pio, _board, power, output) = board();
        let read = |port| {
            let mut byte = [0];
            pio.read(port, &mut byte);
            byte[0]
        };
        pio.write(0x3f8, b"s");
        pio.write(0x2f8, b"t");
        pio.write(0x402, b"d");
        assert_eq!(output.bytes(), b"std");
        pio.write(0x70, &[0x0d]);
        assert_eq!((read(0x71), read(0x92), read(0x64), read(0x60)), (0x80, 2, 0x14, 0));
        pio.write(0x510, &[0, 0]);
        assert_eq!((read(0x511), read(0x511), read(0x514)), (b'Q', b'E', b'Q'));
        // What OVMF takes for a sign of CPU hot-plug if it reads as anything but ones.
        assert_eq!(read(0xaf08), 0xff);
        pio.write(0xcf8, &0x8000_0000u32.to_le_bytes());
        assert_eq!(
            (read(0xcfc), read(0xcfd), read(0xcfe), read(0xcff)),
            (0x86, 0x80, 0x37, 0x12)
        );
        pio.write(0xcf9, &[6]);
        pio.write(0x64, &[0xfe]);
        pio.write(0xb004, &0x2000u16.to_le_bytes());
        // Where SeaBIOS has power management.
        assert_eq!((read(0x608), read(0x60f)), (0, 0));
        pio.write(0x604, &0x2000u16.to_le_bytes());
        assert_eq!(
            power.events(),
            [
                PowerEvent::Reset,
                PowerEvent::Reset,
                PowerEvent::PowerOff,
                PowerEvent::PowerOff
            ]
        );
    }

    #[test]
    fn before_a_direct_boot_pins_lead_where_their_function_says() {
        let (_, board, ..) = board();
        let address = |device| PciAddress::new(device, 0).unwrap();
        for device in 4..8 {
            let description = FunctionDescription::default();
            let interrupts = Interrupts {
                intx: Some(Arc::new(Intx::new(board.pirq.pin(device, 0)))),
                ..Interrupts::default()
            };
            let function = PciFunction::new(description, interrupts, Arc::new(NoBars)).unwrap();
            board.pci.add(address(device), Arc::new(function)).unwrap();
        }
        let resources = Resources {
            memory: 0xc000_0000..=0xcfff_ffff,
            ports: 0xc000..=0xffff,
        };
        board.configure_pci(&resources).unwrap();
        let (mut routes, mut line) = ([0; 4], [0]);
        board.pci.config_read(PciAddress::ISA_BRIDGE, 0x60, &mut routes);
        for device in 4..8 {
            board.pci.config_read(address(device), 0x3c, &mut line);
            assert_eq!(line[0], routes[pirq::link(device, 0)], "device {device}");
        }
        board.pci.config_read(PciAddress::HOST_BRIDGE, 0x3c, &mut line);
        assert_eq!(line, [0], "a function without a pin");
    }

    #[test]
    fn nothing_outlives_the_buses() {
        let (pio, board, ..) = board();
        let (bus, pci): (Weak<Bus>, Weak<PciBus>) = (Arc::downgrade(&pio), Arc::downgrade(&board.pci));
        drop((pio, board));
        assert!(bus.upgrade().is_none() && pci.upgrade().is_none());
    }

    /// Ports of all devices that a reset changes; the clock and CMOS memory have their own test.
    const PORTS: [std::ops::Range<u64>; 8] = [
        0x3f8..0x400,
        0x2f8..0x300,
        0x60..0x61,
        0x64..0x65,
        0x92..0x93,
        0xb000..0xb008,
        0x510..0x51c,
        0xcf8..0xd00,
    ];

    /// Everything that a guest can read, in an order that reveals the most.
    fn seen(pio: &Bus) -> Vec<u8> {
        let mut bytes = Vec::new();
        for port in [0x64, 0x60, 0x92, 0xcf9].into_iter().chain(0xb000..0xb008) {
            let mut byte = [0];
            pio.read(port, &mut byte);
            bytes.extend(byte);
        }
        for port in (0x2f8..0x300).chain(0x3f8..0x400) {
            let mut byte = [0];
            pio.read(port, &mut byte);
            bytes.extend(byte);
        }
        // The data port of the firmware configuration device stands at the signature.
        let mut four = [0; 4];
        for byte in &mut four {
            pio.read(0x511, std::slice::from_mut(byte));
        }
        bytes.extend(four);
        pio.read(0xcf8, &mut four);
        bytes.extend(four);
        for function in [0u32, 1 << 11, 1 << 11 | 3 << 8] {
            for register in (0..256).step_by(4) {
                pio.write(0xcf8, &(0x8000_0000 | function | register).to_le_bytes());
                pio.read(0xcfc, &mut four);
                bytes.extend(four);
            }
        }
        bytes
    }

    proptest! {
        /// Whatever a guest did to the devices, after a reset they are as new, with their interrupt lines released.
        #[test]
        fn after_a_reset_the_board_is_as_new(
            accesses in proptest::collection::vec(
                (proptest::sample::select(&PORTS), any::<proptest::sample::Index>(), any::<u32>(), any::<bool>(), any::<bool>()),
                0..80,
            ),
        ) {
            let (pio, board, ..) = board();
            for (range, index, value, wide, read) in accesses {
                let port = range.start + index.index((range.end - range.start) as usize) as u64;
                let bytes = value.to_le_bytes();
                let mut data = if wide { bytes.to_vec() } else { bytes[..1].to_vec() };
                if read {
                    pio.read(port, &mut data);
                } else {
                    pio.write(port, &data);
                }
            }
            board.power.press_power_button();
            pio.reset();
            let (new, _board, ..) = super::tests::board();
            prop_assert_eq!(seen(&pio), seen(&new));
        }
    }
}
