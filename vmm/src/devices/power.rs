//! ACPI power management of the PIIX4: the PM1a event and control registers and the power management timer.
//!
//! Register names and layouts: ACPI Specification 6.4, section 4.8.3 and 4.8.4.1. Talks to the guest's clock, to the machine's
//! power control and to the SCI. The one event is the power button. There is no status for the timer's overflow, for
//! the global lock (nobody else takes it) or for the real-time clock (its alarm wakes nobody).

use std::sync::{Arc, Mutex, PoisonError};

use super::{Clock, PowerControl, PowerEvent};
use crate::bus::BusDevice;
use crate::irq::InterruptLine;

/// First port of the block.
pub(crate) const POWER_MANAGEMENT_BASE: u64 = 0xb000;
/// Where the block is seen as well. SeaBIOS moves it there, by a register that is fixed here ([`super::chipset`]), and does
/// not look whether it went: it would wait for ever by a timer that stands still. The ACPI tables name the first place.
pub(crate) const SEABIOS_POWER_MANAGEMENT_BASE: u64 = 0x600;
/// Number of ports of the block.
pub(crate) const POWER_MANAGEMENT_LENGTH: u64 = 16;
/// Frequency of the power management timer in Hz.
pub(crate) const PM_TIMER_FREQUENCY: u64 = 3_579_545;

/// Input of the interrupt controllers for the SCI: level-triggered, active high.
pub(crate) const SCI_IRQ: u32 = 9;

/// Offset of the control register in the block; the event registers come first.
pub(crate) const PM1_CNT: u64 = 4;
/// Offset of the timer.
pub(crate) const PM_TMR: u64 = 8;
/// Offset of the general-purpose events: 16 bits of status, then as many that enable.
pub(crate) const GPE0: u64 = 12;
/// Number of their ports.
pub(crate) const GPE0_LENGTH: u64 = 4;
const GPE0_EN: u64 = GPE0 + 2;
const PM1_EN: u64 = 2;

/// PM1_STS and PM1_EN: the power button.
const PWRBTN: u16 = 1 << 8;

/// PM1_CNT: type of sleep; 0 stands for S5 on a PIIX4.
const SLP_TYP: u16 = 7 << 10;
/// PM1_CNT: go to sleep. Write-only, reads as zero.
const SLP_EN: u16 = 1 << 13;
/// PM1_CNT: events raise an SCI, not an SMI. Always set: there is no system management mode.
const SCI_EN: u16 = 1 << 0;
/// PM1_CNT: bits that keep what was written: BM_RLD and SLP_TYP.
const PM1_CNT_KEPT: u16 = SLP_TYP | 0b10;
/// PM1_EN: bits that there are: timer, global lock, power button, real-time clock.
const PM1_EN_KEPT: u16 = 1 | 1 << 5 | 1 << 8 | 1 << 10;

/// Width of the power management timer: the fixed ACPI table tells the guest which (TMR_VAL_EXT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerWidth {
    /// 24 bits: wraps around every 4.7 seconds.
    Bits24,
    /// 32 bits: wraps around every 20 minutes.
    Bits32,
}

/// What the guest wrote, and what happened.
#[derive(Debug, Clone, Copy, Default)]
struct PowerState {
    status: u16,
    enable: u16,
    control: u16,
    /// GPE0_EN. There is no such event; the register keeps what an operating system writes.
    general_enable: u16,
}

/// The power management block.
pub struct PowerManagement {
    clock: Arc<dyn Clock>,
    power: Arc<dyn PowerControl>,
    sci: Arc<dyn InterruptLine>,
    timer_mask: u32,
    state: Mutex<PowerState>,
}

impl PowerManagement {
    /// As after power-on.
    #[must_use]
    pub fn new(
        clock: Arc<dyn Clock>,
        power: Arc<dyn PowerControl>,
        sci: Arc<dyn InterruptLine>,
        width: TimerWidth,
    ) -> Self {
        let timer_mask = match width {
            TimerWidth::Bits24 => 0xff_ffff,
            TimerWidth::Bits32 => u32::MAX,
        };
        Self {
            clock,
            power,
            sci,
            timer_mask,
            state: Mutex::default(),
        }
    }

    /// The timer: guest time in ticks, taken apart so that nothing overflows in a thousand years.
    fn timer(&self) -> u32 {
        let elapsed = self.clock.elapsed();
        let part = u64::from(elapsed.subsec_nanos()) * PM_TIMER_FREQUENCY / 1_000_000_000;
        elapsed.as_secs().wrapping_mul(PM_TIMER_FREQUENCY).wrapping_add(part) as u32 & self.timer_mask
    }

    /// Presses the power button: an operating system that listens shuts down and then switches off.
    pub fn press_power_button(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.status |= PWRBTN;
        self.update_sci(*state);
    }

    fn update_sci(&self, state: PowerState) {
        self.sci.set_level(state.status & state.enable != 0);
    }

    /// All registers of the block except the timer.
    fn registers(state: PowerState) -> [u8; PM_TMR as usize] {
        let [status_low, status_high] = state.status.to_le_bytes();
        let [enable_low, enable_high] = state.enable.to_le_bytes();
        let [control_low, control_high] = (state.control | SCI_EN).to_le_bytes();
        [
            status_low,
            status_high,
            enable_low,
            enable_high,
            control_low,
            control_high,
            0,
            0,
        ]
    }

    fn sleep(&self, control: u16) {
        if control & SLP_TYP == 0 {
            self.power.request(PowerEvent::PowerOff);
        } else {
            tracing::warn!(control, "the guest asks for a sleep state other than S5; it is ignored");
        }
    }
}

/// Replaces the byte at `offset` (0 or 1) of a 16-bit register.
fn replace_byte(register: u16, offset: u64, value: u8) -> u16 {
    if offset == 0 {
        register & 0xff00 | u16::from(value)
    } else {
        register & 0xff | u16::from(value) << 8
    }
}

impl BusDevice for PowerManagement {
    // The timer is read millions of times by guests that delay with it: no lock on its way.
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= GPE0 {
            let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let [low, high] = state.general_enable.to_le_bytes();
            for (byte, position) in data.iter_mut().zip((offset - GPE0) as usize..) {
                *byte = [0, 0, low, high].get(position).copied().unwrap_or(0xff);
            }
            return;
        }
        if offset >= PM_TMR {
            let timer = self.timer().to_le_bytes();
            for (byte, position) in data.iter_mut().zip((offset - PM_TMR) as usize..) {
                *byte = timer.get(position).copied().unwrap_or(0xff);
            }
            return;
        }
        let registers = Self::registers(*self.state.lock().unwrap_or_else(PoisonError::into_inner));
        for (byte, position) in data.iter_mut().zip(offset as usize..) {
            *byte = registers.get(position).copied().unwrap_or(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut sleep = None;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let events = (state.status, state.enable);
        for (value, position) in data.iter().zip(offset..) {
            match position {
                // PM1_STS is cleared by writing ones.
                0..PM1_EN => state.status &= !replace_byte(0, position, *value),
                PM1_EN..PM1_CNT => state.enable = replace_byte(state.enable, position - PM1_EN, *value) & PM1_EN_KEPT,
                PM1_CNT..6 => {
                    let control = replace_byte(state.control, position - PM1_CNT, *value);
                    if control & SLP_EN != 0 {
                        sleep = Some(control);
                    }
                    state.control = control & PM1_CNT_KEPT;
                }
                GPE0_EN..POWER_MANAGEMENT_LENGTH => {
                    state.general_enable = replace_byte(state.general_enable, position - GPE0_EN, *value);
                }
                // The timer is read-only, and no general-purpose event ever has a status.
                _ => {}
            }
        }
        if events != (state.status, state.enable) {
            self.update_sci(*state);
        }
        drop(state);
        if let Some(control) = sleep {
            self.sleep(control);
        }
    }

    fn reset(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = PowerState::default();
        self.update_sci(*state);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::devices::testing::{FakeClock, LineProbe, PowerProbe};

    fn device(width: TimerWidth) -> (PowerManagement, Arc<FakeClock>, Arc<PowerProbe>) {
        let (device, clock, power, _) = device_with_sci(width);
        (device, clock, power)
    }

    fn device_with_sci(width: TimerWidth) -> (PowerManagement, Arc<FakeClock>, Arc<PowerProbe>, Arc<LineProbe>) {
        let (clock, power) = (Arc::new(FakeClock::default()), Arc::new(PowerProbe::default()));
        let sci = Arc::new(LineProbe::default());
        let device = PowerManagement::new(clock.clone(), power.clone(), sci.clone(), width);
        (device, clock, power, sci)
    }

    fn read<const N: usize>(device: &PowerManagement, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        device.read(offset, &mut data);
        data
    }

    #[test]
    fn slp_en_with_type_zero_powers_off() {
        let (device, _, power) = device(TimerWidth::Bits32);
        device.write(4, &(1u16 << 13 | 5 << 10).to_le_bytes());
        assert!(power.events().is_empty());
        device.write(4, &(1u16 << 13).to_le_bytes());
        assert_eq!(power.events(), [PowerEvent::PowerOff]);
        assert_eq!(read(&device, 4), [1, 0], "SLP_EN reads as zero");
        device.write(5, &[0x20]);
        assert_eq!(power.events().len(), 2, "by a byte access too");
    }

    #[test]
    fn general_purpose_events_can_be_enabled_and_never_come() {
        let (device, _, _, sci) = device_with_sci(TimerWidth::Bits32);
        device.write(12, &[0xff, 0xff, 0x12, 0x34]);
        assert_eq!(read(&device, 12), [0, 0, 0x12, 0x34]);
        assert_eq!(read(&device, 15), [0x34, 0xff]);
        assert!(!sci.level());
        device.reset();
        assert_eq!(read(&device, 12), [0, 0, 0, 0]);
    }

    #[test]
    fn a_reset_releases_the_sci() {
        let (device, _, _, sci) = device_with_sci(TimerWidth::Bits32);
        device.write(2, &PWRBTN.to_le_bytes());
        device.press_power_button();
        assert!(sci.level());
        device.reset();
        assert!(!sci.level());
        assert_eq!(read(&device, 0), [0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn enable_and_control_keep_the_bits_that_exist() {
        let (device, ..) = device(TimerWidth::Bits32);
        device.write(0, &[0xff; 4]);
        device.write(4, &[0xff]);
        assert_eq!(read(&device, 0), [0, 0, 0x21, 0x05, 3, 0, 0, 0]);
    }

    #[test]
    fn the_power_button_raises_the_sci_while_it_is_enabled_and_not_cleared() {
        let (device, _, _, sci) = device_with_sci(TimerWidth::Bits32);
        device.press_power_button();
        assert!(!sci.level(), "nobody listens");
        assert_eq!(read(&device, 0), [0, 1]);
        device.write(2, &PWRBTN.to_le_bytes());
        assert!(sci.level());
        device.write(0, &[0xff]);
        assert!(sci.level(), "the other byte");
        device.write(0, &PWRBTN.to_le_bytes());
        assert!(!sci.level());
        assert_eq!(read(&device, 0), [0, 0]);
    }

    #[test]
    fn the_timer_counts_guest_time_and_wraps_at_its_width() {
        for (width, period) in [(TimerWidth::Bits24, 1u64 << 24), (TimerWidth::Bits32, 1 << 32)] {
            let (device, clock, _) = device(width);
            for (nanoseconds, ticks) in [(0, 0), (279, 0), (280, 1), (1_000_000_000, 3_579_545)] {
                clock.set(Duration::from_nanos(nanoseconds));
                assert_eq!(u64::from(u32::from_le_bytes(read(&device, 8))), ticks);
            }
            clock.set(Duration::from_secs(100_000));
            assert_eq!(
                u64::from(u32::from_le_bytes(read(&device, 8))),
                357_954_500_000 % period
            );
            clock.set(Duration::MAX);
            read::<4>(&device, 8);
        }
    }

    #[test]
    fn every_offset_and_length_is_harmless() {
        let (device, ..) = device(TimerWidth::Bits24);
        for (offset, length) in (0..20).flat_map(|offset| (0..9).map(move |length| (offset, length))) {
            device.write(offset, &vec![0xff; length]);
            device.read(offset, &mut vec![0; length]);
        }
    }
}
