//! One PCI function: configuration space, interrupts and the device behind the BARs, put together.
//!
//! It must not know its own place on the bus, nor the buses on which its BARs are decoded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bar::BarWindow;
use super::config::{Command, ConfigSpace, ConfigSpaceError, FunctionDescription};
use super::interrupts::Interrupts;
use super::msix::Msix;
use crate::bus::BusDevice;

/// The low byte of the STATUS register, and its bit that says that the function has an interrupt for its pin.
const STATUS: u8 = 0x06;
const INTERRUPT_STATUS: u8 = 1 << 3;

/// What a PCI function does behind its base address registers.
///
/// The configuration space, BAR decoding and the MSI-X table are not its business; the MSI-X table and pending bits are
/// cut out of the BAR that holds them before a device sees the access. Calls may come from several vCPUs at once.
/// None of them may access configuration space.
pub trait PciDevice: Send + Sync {
    /// Reads `data.len()` (1 to 8) bytes at `offset` in base address register `bar` (0 to 5). The access lies within
    /// the BAR, but need not be aligned.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes `data` (1 to 8 bytes) at `offset` in base address register `bar` (0 to 5). The access lies within the
    /// BAR, but need not be aligned.
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]);

    /// The guest moved a BAR, or turned its decoding on (`Some`, guest-physical address or port) or off (`None`).
    /// Devices with doorbells in the kernel (ioeventfd) register them anew here.
    fn bar_moved(&self, bar: u8, base: Option<u64>) {
        let _ = (bar, base);
    }

    /// A register of the function's own ([`OwnRegister`](super::OwnRegister)) now holds `value`. Called in the order of the
    /// changes, like [`PciDevice::bus_master_changed`].
    fn own_register_changed(&self, offset: u8, value: u8) {
        let _ = (offset, value);
    }

    /// How the function interrupts may have changed. The device sets the level of its pin anew, or sends what is due.
    fn interrupts_changed(&self) {}

    /// COMMAND.BusMasterEnable changed: without it a device may not access memory. (Messages are held back without the
    /// device's help.)
    fn bus_master_changed(&self, enabled: bool) {
        let _ = enabled;
    }

    /// Takes what is behind the BARs back to the state after power-on; configuration space is there already. See
    /// [`BusDevice::reset`].
    fn reset(&self) {}
}

/// A function of a device on the PCI bus.
pub struct PciFunction {
    config: Mutex<ConfigSpace>,
    /// As it is after power-on.
    powered: ConfigSpace,
    interrupts: Interrupts,
    /// Offsets of the registers that only this function has.
    own_registers: Vec<u8>,
    device: Arc<dyn PciDevice>,
}

impl PciFunction {
    /// Puts a function together. What `interrupts` offers is added to the description, in front of its capabilities.
    ///
    /// # Errors
    /// [`ConfigSpaceError`] if the description is not possible.
    pub fn new(
        mut description: FunctionDescription,
        interrupts: Interrupts,
        device: Arc<dyn PciDevice>,
    ) -> Result<Self, ConfigSpaceError> {
        interrupts.describe(&mut description)?;
        let config = ConfigSpace::new(&description)?;
        Ok(Self {
            powered: config.clone(),
            config: Mutex::new(config),
            interrupts,
            own_registers: description.own_registers.iter().map(|own| own.offset).collect(),
            device,
        })
    }

    fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the function and its device back to the state after power-on. The caller has the BARs placed anew.
    pub(super) fn reset(&self) {
        self.change_config(|config| config.clone_from(&self.powered));
        self.interrupts.reset();
        self.device.reset();
    }

    /// Reads configuration space.
    pub(crate) fn config_read(&self, offset: u8, data: &mut [u8]) {
        self.config().read(offset, data);
        // The one bit that the device changes.
        let status = STATUS.checked_sub(offset).and_then(|at| data.get_mut(usize::from(at)));
        if let Some(status) = status {
            *status |= u8::from(self.interrupts.status()) * INTERRUPT_STATUS;
        }
    }

    /// Writes configuration space; says whether what the BARs decode has changed.
    pub(super) fn config_write(&self, offset: u8, data: &[u8]) -> bool {
        self.change_config(|config| config.write(offset, data))
    }

    /// Applies a change to the configuration space and passes its effects on, still under the lock, so that two
    /// changes take effect in the order in which they were made.
    pub(super) fn change_config(&self, change: impl FnOnce(&mut ConfigSpace)) -> bool {
        let mut config = self.config();
        let before = config.clone();
        change(&mut config);
        if *config == before {
            return false;
        }
        let bus_master = config.command().contains(Command::BUS_MASTER);
        if before.command().contains(Command::BUS_MASTER) != bus_master {
            self.device.bus_master_changed(bus_master);
        }
        for &offset in &self.own_registers {
            let (mut old, mut new) = ([0], [0]);
            before.read(offset, &mut old);
            config.read(offset, &mut new);
            if old != new {
                self.device.own_register_changed(offset, new[0]);
            }
        }
        let mode = self.interrupts.mode();
        self.interrupts.update(&config);
        if self.interrupts.mode() != mode {
            self.device.interrupts_changed();
        }
        !before.windows().eq(config.windows())
    }

    /// What the BARs decode now.
    pub(super) fn windows(&self) -> Vec<BarWindow> {
        self.config().windows().collect()
    }

    pub(super) fn bar_moved(&self, bar: u8, base: Option<u64>) {
        self.device.bar_moved(bar, base);
    }
}

/// One BAR of a function as a device on a bus.
pub(super) struct BarRegion {
    pub(super) function: Arc<PciFunction>,
    pub(super) bar: u8,
}

impl BarRegion {
    /// The MSI-X logic, if this BAR holds its structures.
    fn msix(&self) -> Option<&Msix> {
        let msix = self.function.interrupts.msix.as_deref();
        msix.filter(|msix| msix.layout().bar == self.bar)
    }
}

impl BusDevice for BarRegion {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if !self.msix().is_some_and(|msix| msix.bar_read(offset, data)) {
            self.function.device.bar_read(self.bar, offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if !self.msix().is_some_and(|msix| msix.bar_write(offset, data)) {
            self.function.device.bar_write(self.bar, offset, data);
        }
    }
}
