//! The host bridge's side of PCI: bus 0 with its functions, and configuration mechanism #1 (ports 0xCF8 and 0xCFC). It
//! keeps each BAR on the I/O buses where the guest puts it.
//!
//! Talks to the functions and to the two [`Bus`]es; must not know what any function does.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use thiserror::Error;

use super::bar::{BarKind, BarWindow};
use super::config::Command;
use super::function::{BarRegion, PciFunction};
use crate::bus::{Bus, BusDevice, BusRange};

/// First port of configuration mechanism #1.
pub const CONFIG_PORTS_BASE: u64 = 0xcf8;
/// Number of ports of configuration mechanism #1.
pub const CONFIG_PORTS_LENGTH: u64 = 8;

/// Place of a function on bus 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Where the host bridge of a PC is.
    pub(crate) const HOST_BRIDGE: Self = Self { device: 0, function: 0 };
    /// Where the ISA bridge of a PC with an i440FX chip set is.
    pub(crate) const ISA_BRIDGE: Self = Self { device: 1, function: 0 };

    /// Where power management of a PC with an i440FX chip set is.
    pub(crate) const POWER_MANAGEMENT: Self = Self { device: 1, function: 3 };

    /// Device 0 to 31, function 0 to 7; `None` outside.
    #[must_use]
    pub const fn new(device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self { device, function })
        } else {
            None
        }
    }

    /// Device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00:{:02x}.{}", self.device, self.function)
    }
}

/// Why the bus could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PciError {
    /// There is a function at that place already.
    #[error("there is a function at {0} already")]
    Occupied(PciAddress),
    /// A BAR does not fit into what is left of the address range.
    #[error("no room for base address register {bar} of {address}")]
    NoRoom {
        /// The function.
        address: PciAddress,
        /// Which of its registers.
        bar: u8,
    },
}

/// Address ranges from which [`PciBus::assign_resources`] hands out addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// Memory, below 4 GiB.
    pub memory: RangeInclusive<u64>,
    /// I/O ports.
    pub ports: RangeInclusive<u64>,
}

/// Bus 0.
pub struct PciBus {
    // Weak, because the port I/O bus owns the configuration ports, which own this.
    pio: Weak<Bus>,
    mmio: Weak<Bus>,
    functions: RwLock<BTreeMap<PciAddress, Arc<PciFunction>>>,
    /// Where each BAR was last in force. Its lock makes changes of the layout one at a time.
    placed: Mutex<BTreeMap<(PciAddress, u8), u64>>,
}

impl PciBus {
    /// An empty bus whose BARs will appear on `pio` and `mmio`.
    #[must_use]
    pub fn new(pio: &Arc<Bus>, mmio: &Arc<Bus>) -> Self {
        Self {
            pio: Arc::downgrade(pio),
            mmio: Arc::downgrade(mmio),
            functions: RwLock::default(),
            placed: Mutex::default(),
        }
    }

    /// Plugs a function in.
    ///
    /// # Errors
    /// [`PciError::Occupied`].
    pub fn add(&self, address: PciAddress, function: Arc<PciFunction>) -> Result<(), PciError> {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if functions.contains_key(&address) {
            return Err(PciError::Occupied(address));
        }
        functions.insert(address, function);
        Ok(())
    }

    fn function(&self, address: PciAddress) -> Option<Arc<PciFunction>> {
        self.functions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&address)
            .cloned()
    }

    /// Does the firmware's work before a direct boot: gives every BAR an address from `resources` and switches decoding
    /// and bus mastering on. Functions come in the order of their addresses, so the layout is the same every time.
    ///
    /// # Errors
    /// [`PciError::NoRoom`].
    pub fn assign_resources(&self, resources: &Resources) -> Result<(), PciError> {
        let mut next_memory = *resources.memory.start();
        let mut next_port = *resources.ports.start();
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (address, function) in &functions {
            let mut outcome = Ok(());
            function.change_config(|config| {
                let mut command = Command::empty();
                for index in 0..6 {
                    let Some(bar) = config.bar(index) else { continue };
                    let (next, end, enable) = match bar.kind {
                        BarKind::Io => (&mut next_port, *resources.ports.end(), Command::IO_SPACE),
                        _ => (&mut next_memory, *resources.memory.end(), Command::MEMORY_SPACE),
                    };
                    let base = next.checked_next_multiple_of(bar.size);
                    let last = base.and_then(|base| base.checked_add(bar.size - 1));
                    let (Some(base), Some(last)) = (base, last.filter(|last| *last <= end)) else {
                        outcome = Err(PciError::NoRoom {
                            address: *address,
                            bar: index,
                        });
                        return;
                    };
                    *next = last.saturating_add(1);
                    config.assign_bar(index, base);
                    command |= enable | Command::BUS_MASTER;
                }
                config.set_command(command);
            });
            outcome?;
        }
        self.place();
        Ok(())
    }

    /// Does the firmware's work: notes in each function that has an INTx pin (1 for INTA#) to which input of the interrupt
    /// controllers that leads (PCI 6.2.4).
    pub(crate) fn set_interrupt_lines(&self, input: impl Fn(PciAddress, u8) -> u8) {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (address, function) in &functions {
            function.change_config(|config| {
                let pin = config.interrupt_pin();
                if pin != 0 {
                    config.set_interrupt_line(input(*address, pin));
                }
            });
        }
    }

    /// Reads the configuration space of a function; all ones where there is none.
    pub(crate) fn config_read(&self, address: PciAddress, offset: u8, data: &mut [u8]) {
        match self.function(address) {
            Some(function) => function.config_read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes the configuration space of a function; dropped where there is none.
    pub(crate) fn config_write(&self, address: PciAddress, offset: u8, data: &[u8]) {
        let moved = self
            .function(address)
            .is_some_and(|function| function.config_write(offset, data));
        if moved {
            self.place();
        }
    }

    /// Resets every function: bus mastering and decoding are off then.
    fn reset(&self) {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner).clone();
        for function in functions.values() {
            function.reset();
        }
        self.place();
    }

    /// Puts all BARs on the buses as the configuration spaces say now, and tells those devices whose BAR came, went or
    /// moved. The layout follows from the configuration spaces alone, whatever the order in which they were written.
    fn place(&self) {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut ports = Vec::new();
        let mut memory = Vec::new();
        for (address, function) in &functions {
            for window in function.windows() {
                let list = if window.bar.kind == BarKind::Io {
                    &mut ports
                } else {
                    &mut memory
                };
                list.push((*address, window, function));
            }
        }
        let mut now = BTreeMap::new();
        now.extend(Self::place_on(&self.pio, &ports));
        now.extend(Self::place_on(&self.mmio, &memory));
        for (address, bar) in placed.keys().filter(|key| !now.contains_key(key)) {
            Self::tell(&functions, *address, *bar, None);
        }
        for ((address, bar), base) in now.iter().filter(|(key, base)| placed.get(key) != Some(base)) {
            Self::tell(&functions, *address, *bar, Some(*base));
        }
        *placed = now;
    }

    fn place_on(
        bus: &Weak<Bus>,
        windows: &[(PciAddress, BarWindow, &Arc<PciFunction>)],
    ) -> Vec<((PciAddress, u8), u64)> {
        let Some(bus) = bus.upgrade() else { return Vec::new() };
        let ranges = windows.iter().map(|(_, window, function)| BusRange {
            base: window.base,
            length: window.bar.size,
            device: Arc::new(BarRegion {
                function: Arc::clone(function),
                bar: window.index,
            }),
        });
        let in_force = bus.set_movable(ranges.collect());
        let placed = windows.iter().zip(in_force).filter(|(_, in_force)| *in_force);
        placed
            .map(|((address, window, _), _)| ((*address, window.index), window.base))
            .collect()
    }

    fn tell(functions: &BTreeMap<PciAddress, Arc<PciFunction>>, address: PciAddress, bar: u8, base: Option<u64>) {
        tracing::debug!(%address, bar, ?base, "base address register moved");
        if let Some(function) = functions.get(&address) {
            function.bar_moved(bar, base);
        }
    }
}

/// CONFIG_ADDRESS: accesses to CONFIG_DATA go to configuration space (PCI 3.2.2.3.2).
const CONFIG_ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: the bits that are kept: enable, bus, device, function, register.
const CONFIG_ADDRESS_MASK: u32 = CONFIG_ENABLE | 0x00ff_fffc;
/// Offset of CONFIG_DATA from CONFIG_ADDRESS.
const CONFIG_DATA: u64 = 4;
/// Offset of the reset control register of the PIIX3, 0xCF9, which lies among these ports.
const RESET_CONTROL: u64 = 1;

/// Configuration mechanism #1: CONFIG_ADDRESS at 0xCF8 (whole 32-bit accesses only) and CONFIG_DATA at 0xCFC.
///
/// Narrower accesses to the ports of CONFIG_ADDRESS are ordinary port accesses; the one port in use among them, 0xCF9,
/// is handed to the reset control device.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    reset_control: Arc<dyn BusDevice>,
    config_address: AtomicU32,
}

impl ConfigPorts {
    /// To be put on the port I/O bus at [`CONFIG_PORTS_BASE`]. `reset_control` answers at port 0xCF9 (offset 0).
    #[must_use]
    pub fn new(bus: Arc<PciBus>, reset_control: Arc<dyn BusDevice>) -> Self {
        Self {
            bus,
            reset_control,
            config_address: AtomicU32::new(0),
        }
    }

    /// Which function and register CONFIG_ADDRESS selects, if it is enabled and names bus 0.
    fn selected(&self) -> Option<(PciAddress, u8)> {
        let value = self.config_address.load(Ordering::SeqCst);
        let bus = value >> 16 & 0xff;
        let address = PciAddress::new((value >> 11 & 0x1f) as u8, (value >> 8 & 7) as u8)?;
        (value & CONFIG_ENABLE != 0 && bus == 0).then_some((address, (value & 0xfc) as u8))
    }

    /// Whether an access lies within CONFIG_DATA.
    fn is_data(offset: u64, length: usize) -> bool {
        (CONFIG_DATA..CONFIG_PORTS_LENGTH).contains(&offset) && length as u64 <= CONFIG_PORTS_LENGTH - offset
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.config_address.load(Ordering::SeqCst).to_le_bytes());
        } else if offset == RESET_CONTROL && data.len() == 1 {
            self.reset_control.read(0, data);
        } else if let (true, Some((address, register))) = (Self::is_data(offset, data.len()), self.selected()) {
            self.bus
                .config_read(address, register + (offset - CONFIG_DATA) as u8, data);
        } else {
            data.fill(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Ok(value)) = (offset, data.try_into()) {
            self.config_address
                .store(u32::from_le_bytes(value) & CONFIG_ADDRESS_MASK, Ordering::SeqCst);
        } else if offset == RESET_CONTROL && data.len() == 1 {
            self.reset_control.write(0, data);
        } else if let (true, Some((address, register))) = (Self::is_data(offset, data.len()), self.selected()) {
            self.bus
                .config_write(address, register + (offset - CONFIG_DATA) as u8, data);
        }
    }

    /// The whole bus with it.
    fn reset(&self) {
        self.config_address.store(0, Ordering::SeqCst);
        self.reset_control.reset();
        self.bus.reset();
    }
}
