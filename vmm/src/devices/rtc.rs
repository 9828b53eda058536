//! The real-time clock and CMOS memory: Motorola MC146818A (data sheet: "address map", "registers", "update cycle"),
//! reached through an index port and a data port.
//!
//! Talks to the guest's clock. It raises no interrupt (no alarm, no periodic rate): guests of this PC have better timers.
//! The time registers are computed when they are read; only the difference from the guest's wall clock is kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Clock;
use super::calendar::DateTime;
use crate::bus::BusDevice;

/// First port: index, then data.
pub const RTC_BASE: u64 = 0x70;
/// Number of ports.
pub const RTC_LENGTH: u64 = 2;

/// Register of the century; the fixed ACPI table names it.
pub const CENTURY_REGISTER: u8 = register::CENTURY;

/// Bytes of CMOS memory, the clock's registers included.
const CMOS_SIZE: usize = 128;
/// Index port: the selected register; bit 7 masks the NMI, which this PC does not have.
const INDEX_MASK: u8 = 0x7f;

/// Registers of the clock.
mod register {
    pub(super) const SECONDS: u8 = 0x00;
    pub(super) const MINUTES: u8 = 0x02;
    pub(super) const HOURS: u8 = 0x04;
    pub(super) const DAY_OF_WEEK: u8 = 0x06;
    pub(super) const DAY_OF_MONTH: u8 = 0x07;
    pub(super) const MONTH: u8 = 0x08;
    pub(super) const YEAR: u8 = 0x09;
    pub(super) const A: u8 = 0x0a;
    pub(super) const B: u8 = 0x0b;
    pub(super) const C: u8 = 0x0c;
    pub(super) const D: u8 = 0x0d;
    /// Not in the data sheet: where PC firmware keeps the century.
    pub(super) const CENTURY: u8 = 0x32;
}

/// The registers that make up the time, in the order of [`Rtc::encode`].
const TIME_REGISTERS: [u8; 8] = [
    register::SECONDS,
    register::MINUTES,
    register::HOURS,
    register::DAY_OF_WEEK,
    register::DAY_OF_MONTH,
    register::MONTH,
    register::YEAR,
    register::CENTURY,
];

/// Register A: update in progress; read-only.
const UIP: u8 = 1 << 7;
/// Register A: 32.768 kHz time base, 1.024 kHz periodic rate, as PC firmware sets it.
const A_DEFAULT: u8 = 0x26;
/// Register B: updates are stopped so that software can set the time.
const SET: u8 = 1 << 7;
/// Register B: periodic, alarm and update-ended interrupts, and the square wave.
const INTERRUPT_ENABLES: u8 = 0b1111 << 3;
/// Register B: binary rather than BCD.
const DATA_MODE_BINARY: u8 = 1 << 2;
/// Register B: 24 rather than 12 hours.
const HOURS_24: u8 = 1 << 1;
/// Register D: RAM and time are valid; all other bits read as zero.
const VALID_RAM_AND_TIME: u8 = 1 << 7;
/// Hours register in 12-hour mode: afternoon.
const AFTERNOON: u8 = 1 << 7;
/// How long before a new second UIP is set: 244 us of notice and the update cycle of 1984 us (32.768 kHz time base).
const UPDATE_TIME: Duration = Duration::from_micros(244 + 1984);

/// Sizes of guest memory for the registers from which firmware learns them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySizes {
    /// Bytes of RAM from address 0 up, below 4 GiB.
    pub low: u64,
    /// Bytes of RAM from 4 GiB up.
    pub high: u64,
}

/// Everything that the guest can see or change.
#[derive(Debug, Clone)]
struct RtcState {
    index: u8,
    /// Bytes as last written; those of the time only count while updates are stopped.
    cmos: [u8; CMOS_SIZE],
    /// The clock shows the guest's wall clock plus this many seconds.
    offset: i64,
}

/// The real-time clock.
pub struct Rtc {
    clock: Arc<dyn Clock>,
    state: Mutex<RtcState>,
}

impl Rtc {
    /// A clock that shows `clock`'s wall time in UTC, in BCD and 24-hour mode.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, memory: MemorySizes) -> Self {
        let mut cmos = [0; CMOS_SIZE];
        cmos[usize::from(register::A)] = A_DEFAULT;
        cmos[usize::from(register::B)] = HOURS_24;
        set_memory_sizes(&mut cmos, memory);
        Self {
            clock,
            state: Mutex::new(RtcState {
                index: 0,
                cmos,
                offset: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RtcState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since 1970 that the clock shows.
    fn now(&self, state: &RtcState) -> i64 {
        self.wall_seconds().saturating_add(state.offset)
    }

    fn wall_seconds(&self) -> i64 {
        i64::try_from(self.clock.wall().as_secs()).unwrap_or(i64::MAX)
    }

    fn read_register(&self, state: &RtcState) -> u8 {
        let stopped = state.register(register::B) & SET != 0;
        match state.index {
            register::A => {
                let into_second = Duration::from_nanos(self.clock.wall().subsec_nanos().into());
                let updating = !stopped && into_second + UPDATE_TIME >= Duration::from_secs(1);
                state.register(register::A) | if updating { UIP } else { 0 }
            }
            // No interrupt cause is ever pending.
            register::C => 0,
            register::D => VALID_RAM_AND_TIME,
            index if !stopped && TIME_REGISTERS.contains(&index) => {
                let mut shown = state.clone();
                shown.encode(self.now(state));
                shown.register(index)
            }
            index => state.register(index),
        }
    }

    fn write_register(&self, state: &mut RtcState, value: u8) {
        let index = state.index;
        let stopped = state.register(register::B) & SET != 0;
        match index {
            register::A => state.cmos[usize::from(index)] = value & !UIP,
            register::B => {
                // The time is encoded in the mode that was in force while it ran, and decoded in the new one, which is
                // how a guest sets the mode together with the time.
                if !stopped && value & SET != 0 {
                    state.encode(self.now(state));
                }
                state.cmos[usize::from(index)] = value;
                if stopped && value & SET == 0 {
                    self.set_time(state);
                }
            }
            register::C | register::D => {}
            _ if !stopped && TIME_REGISTERS.contains(&index) => {
                state.encode(self.now(state));
                state.cmos[usize::from(index)] = value;
                self.set_time(state);
            }
            _ => state.cmos[usize::from(index)] = value,
        }
    }

    /// Sets the clock from the time registers; a date that does not exist changes nothing.
    fn set_time(&self, state: &mut RtcState) {
        if let Some(seconds) = state.decode() {
            state.offset = seconds.saturating_sub(self.wall_seconds());
        } else {
            tracing::debug!("the guest set the real-time clock to a time that does not exist");
        }
    }
}

impl RtcState {
    fn register(&self, index: u8) -> u8 {
        self.cmos[usize::from(index & INDEX_MASK)]
    }

    /// Turns a number below 100 into the format that register B asks for.
    fn number(&self, value: u8) -> u8 {
        if self.register(register::B) & DATA_MODE_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    /// The reverse; `None` if a BCD digit is none.
    fn value(&self, number: u8) -> Option<u8> {
        if self.register(register::B) & DATA_MODE_BINARY != 0 {
            return Some(number);
        }
        let (tens, ones) = (number >> 4, number & 0xf);
        (tens < 10 && ones < 10).then_some(tens * 10 + ones)
    }

    /// Fills the time registers.
    fn encode(&mut self, seconds: i64) {
        let time = DateTime::from_seconds(seconds);
        let hours = if self.register(register::B) & HOURS_24 != 0 {
            self.number(time.hour)
        } else {
            let afternoon = if time.hour >= 12 { AFTERNOON } else { 0 };
            self.number((time.hour + 11) % 12 + 1) | afternoon
        };
        let values = [
            self.number(time.second),
            self.number(time.minute),
            hours,
            // Sunday is 1; a number below ten is the same in BCD.
            time.day_of_week + 1,
            self.number(time.day),
            self.number(time.month),
            self.number((time.year % 100) as u8),
            self.number((time.year / 100 % 100) as u8),
        ];
        for (index, value) in TIME_REGISTERS.into_iter().zip(values) {
            self.cmos[usize::from(index)] = value;
        }
    }

    /// Seconds since 1970 that the time registers stand for. The day of the week is not looked at.
    fn decode(&self) -> Option<i64> {
        let hours = self.register(register::HOURS);
        let hour = if self.register(register::B) & HOURS_24 != 0 {
            self.value(hours)?
        } else {
            let hour = self.value(hours & !AFTERNOON)?;
            let half = if hours & AFTERNOON != 0 { 12 } else { 0 };
            (1..=12).contains(&hour).then_some(hour % 12 + half)?
        };
        let time = DateTime {
            year: u16::from(self.value(self.register(register::CENTURY))?) * 100
                + u16::from(self.value(self.register(register::YEAR))?),
            month: self.value(self.register(register::MONTH))?,
            day: self.value(self.register(register::DAY_OF_MONTH))?,
            hour,
            minute: self.value(self.register(register::MINUTES))?,
            second: self.value(self.register(register::SECONDS))?,
            day_of_week: 0,
        };
        time.to_seconds()
    }
}

/// Sets the registers by which PC firmware learns the size of memory: 15h base, 17h and 30h extended below 64 MiB in
/// KiB, 34h from 16 MiB to 4 GiB in units of 64 KiB, 5Bh from 4 GiB in units of 64 KiB.
fn set_memory_sizes(cmos: &mut [u8; CMOS_SIZE], memory: MemorySizes) {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let mut set = |index: usize, value: u64, length: usize| {
        let value = value.min((1 << (8 * length)) - 1);
        cmos[index..index + length].copy_from_slice(&value.to_le_bytes()[..length]);
    };
    let extended = memory.low.saturating_sub(MIB) / KIB;
    set(0x15, (memory.low / KIB).min(640), 2);
    set(0x17, extended, 2);
    set(0x30, extended, 2);
    set(0x34, memory.low.saturating_sub(16 * MIB) / (64 * KIB), 2);
    set(0x5b, memory.high / (64 * KIB), 3);
}

/// Offset 0 is the index port, which cannot be read; offset 1 the data port.
impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = if port == 1 { self.read_register(&state) } else { 0xff };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        for (byte, port) in data.iter().zip(offset..) {
            match port {
                0 => state.index = byte & INDEX_MASK,
                1 => self.write_register(&mut state, *byte),
                _ => {}
            }
        }
    }

    /// The battery keeps time and memory; the reset line clears the interrupt enables.
    fn reset(&self) {
        let mut state = self.lock();
        state.index = 0;
        state.cmos[usize::from(register::B)] &= !INTERRUPT_ENABLES;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::testing::FakeClock;

    /// 2024-02-29 23:59:58 UTC, a Thursday.
    const LEAP_DAY: u64 = 1_709_251_198;

    fn rtc(seconds: u64) -> (Rtc, Arc<FakeClock>) {
        let clock = Arc::new(FakeClock::default());
        clock.set(Duration::from_secs(seconds));
        (
            Rtc::new(
                clock.clone(),
                MemorySizes {
                    low: 3 << 30,
                    high: 5 << 30,
                },
            ),
            clock,
        )
    }

    fn read(rtc: &Rtc, index: u8) -> u8 {
        rtc.write(0, &[index]);
        let mut byte = [0];
        rtc.read(1, &mut byte);
        byte[0]
    }

    fn write(rtc: &Rtc, index: u8, value: u8) {
        rtc.write(0, &[index]);
        rtc.write(1, &[value]);
    }

    fn time(rtc: &Rtc) -> [u8; 8] {
        TIME_REGISTERS.map(|index| read(rtc, index))
    }

    #[test]
    fn shows_the_wall_clock_in_bcd_and_24_hours() {
        let (rtc, clock) = rtc(LEAP_DAY);
        assert_eq!(time(&rtc), [0x58, 0x59, 0x23, 5, 0x29, 0x02, 0x24, 0x20]);
        clock.set(Duration::from_secs(LEAP_DAY + 2));
        assert_eq!(time(&rtc), [0, 0, 0, 6, 1, 3, 0x24, 0x20]);
    }

    #[test]
    fn a_reset_keeps_time_mode_and_memory_and_clears_the_interrupt_enables() {
        let (rtc, _) = rtc(LEAP_DAY);
        write(&rtc, register::B, DATA_MODE_BINARY | HOURS_24 | INTERRUPT_ENABLES);
        write(&rtc, register::YEAR, 28);
        write(&rtc, 0x40, 0x5a);
        rtc.reset();
        let mut index = [0xff];
        rtc.read(1, &mut index);
        assert_eq!(index, [58], "the seconds are selected");
        assert_eq!(read(&rtc, register::B), DATA_MODE_BINARY | HOURS_24);
        assert_eq!((read(&rtc, register::YEAR), read(&rtc, 0x40)), (28, 0x5a));
    }

    #[test]
    fn binary_and_12_hour_modes() {
        let (rtc, clock) = rtc(LEAP_DAY);
        write(&rtc, register::B, DATA_MODE_BINARY);
        assert_eq!(time(&rtc), [58, 59, 0x0b | AFTERNOON, 5, 29, 2, 24, 20]);
        clock.set(Duration::from_secs(LEAP_DAY + 2));
        assert_eq!(read(&rtc, register::HOURS), 12, "midnight");
    }

    #[test]
    fn the_guest_sets_the_time_while_updates_are_stopped() {
        let (rtc, clock) = rtc(LEAP_DAY);
        write(&rtc, register::B, SET | HOURS_24);
        let wanted = [0x30, 0x15, 0x07, 1, 0x31, 0x12, 0x99, 0x19];
        for (index, value) in TIME_REGISTERS.into_iter().zip(wanted) {
            write(&rtc, index, value);
        }
        clock.set(Duration::from_secs(LEAP_DAY + 10));
        assert_eq!(time(&rtc), wanted, "stopped");
        write(&rtc, register::B, HOURS_24);
        clock.set(Duration::from_secs(LEAP_DAY + 15));
        assert_eq!(time(&rtc), [0x35, 0x15, 0x07, 6, 0x31, 0x12, 0x99, 0x19]);
    }

    #[test]
    fn setting_only_the_minutes_keeps_the_rest() {
        let (rtc, _) = rtc(LEAP_DAY);
        write(&rtc, register::B, SET | HOURS_24);
        write(&rtc, register::MINUTES, 0x10);
        write(&rtc, register::B, HOURS_24);
        assert_eq!(time(&rtc), [0x58, 0x10, 0x23, 5, 0x29, 0x02, 0x24, 0x20]);
    }

    #[test]
    fn a_date_that_does_not_exist_changes_nothing() {
        let (rtc, _) = rtc(LEAP_DAY);
        write(&rtc, register::MONTH, 0x13);
        write(&rtc, register::SECONDS, 0x6a);
        assert_eq!(time(&rtc), [0x58, 0x59, 0x23, 5, 0x29, 0x02, 0x24, 0x20]);
    }

    #[test]
    fn update_in_progress_precedes_each_second() {
        let (rtc, clock) = rtc(LEAP_DAY);
        assert_eq!(read(&rtc, register::A), A_DEFAULT);
        clock.set(Duration::from_millis(LEAP_DAY * 1000 + 998));
        assert_eq!(read(&rtc, register::A), A_DEFAULT | UIP);
        write(&rtc, register::B, SET | HOURS_24);
        assert_eq!(read(&rtc, register::A), A_DEFAULT, "never while stopped");
    }

    #[test]
    fn time_and_memory_are_valid_and_the_memory_size_is_told() {
        let (rtc, _) = rtc(LEAP_DAY);
        write(&rtc, register::D, 0);
        assert_eq!((read(&rtc, register::D), read(&rtc, register::C)), (0x80, 0));
        let word = |index| u16::from_le_bytes([read(&rtc, index), read(&rtc, index + 1)]);
        assert_eq!((word(0x15), word(0x17), word(0x30)), (640, 0xffff, 0xffff));
        assert_eq!(word(0x34), 0xbf00, "3 GiB less 16 MiB");
        assert_eq!((word(0x5b), read(&rtc, 0x5d)), (0x4000, 1), "5 GiB");
    }

    #[test]
    fn other_registers_are_memory() {
        let (rtc, _) = rtc(LEAP_DAY);
        write(&rtc, 0x0f, 0xfe);
        assert_eq!(read(&rtc, 0x8f), 0xfe, "bit 7 of the index does not count");
    }

    proptest! {
        /// Any time that the registers show is taken back as the same time, in each mode.
        #[test]
        fn encoding_and_decoding_are_inverse(seconds in 0..253_402_300_800i64, mode in 0..4u8) {
            let (rtc, _) = rtc(0);
            let mut state = rtc.lock();
            state.cmos[usize::from(register::B)] = mode << 1;
            state.encode(seconds);
            prop_assert_eq!(state.decode(), Some(seconds));
        }

        /// No sequence of accesses panics, whatever the time.
        #[test]
        fn hostile_accesses_are_harmless(
            seconds: u64,
            accesses in prop::collection::vec((0..4u64, 0..9usize, any::<u64>()), 1..60),
        ) {
            let (rtc, _) = rtc(seconds);
            for (offset, length, value) in accesses {
                let mut data = value.to_le_bytes()[..length].to_vec();
                rtc.write(offset, &data);
                rtc.read(offset, &mut data);
            }
        }
    }
}
