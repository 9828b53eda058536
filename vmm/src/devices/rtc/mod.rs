//! The real-time clock and CMOS memory: Motorola MC146818A (data sheet: "address map", "registers", "update cycle"),
//! reached through an index port and a data port.
//!
//! Talks to the guest's clock and its interrupt line. Nothing ticks: the time registers and the due interrupts are
//! computed when the guest reads them, or by the timer ([`RtcTimer`]) while an interrupt is enabled. The only time kept
//! is the difference from the guest's wall clock. It must not know KVM.

mod causes;
#[cfg(test)]
mod tests;
mod timer;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, Timelike};

use self::causes::{Alarm, Causes};
pub use self::timer::{RtcTimer, TIMER_THREAD};
use super::Clock;
use crate::bus::BusDevice;
use crate::irq::InterruptLine;

/// Input of the interrupt controllers.
pub(crate) const RTC_IRQ: u32 = 8;
/// First port: index, then data.
pub(crate) const RTC_BASE: u64 = 0x70;
/// Number of ports.
pub(crate) const RTC_LENGTH: u64 = 2;

/// Register of the century; the fixed ACPI table names it.
pub(crate) const CENTURY_REGISTER: u8 = register::CENTURY;

/// Bytes of CMOS memory, the clock's registers included.
const CMOS_SIZE: usize = 128;
/// Index port: the selected register; bit 7 masks the NMI, which this PC does not have.
const INDEX_MASK: u8 = 0x7f;

/// Registers of the clock.
mod register {
    pub(super) const SECONDS: u8 = 0x00;
    pub(super) const SECONDS_ALARM: u8 = 0x01;
    pub(super) const MINUTES: u8 = 0x02;
    pub(super) const MINUTES_ALARM: u8 = 0x03;
    pub(super) const HOURS: u8 = 0x04;
    pub(super) const HOURS_ALARM: u8 = 0x05;
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

/// The times that the registers can hold, in seconds since 1970: the years 0 to 9999.
const YEARS: std::ops::Range<i64> = -62_167_219_200..253_402_300_800;

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
/// Register A: the divider chain is held in reset (DV2 and DV1).
const DIVIDER_RESET: u8 = 0b110 << 4;
/// Register A: rate of the periodic interrupt.
const RATE_SELECT: u8 = 0b1111;
/// An alarm register from here on stands for every value.
const ANY_VALUE: u8 = 0b11 << 6;
/// Register A: 32.768 kHz time base, 1.024 kHz periodic rate, as PC firmware sets it.
const A_DEFAULT: u8 = 0x26;
/// Register B: updates are stopped so that software can set the time.
const SET: u8 = 1 << 7;
/// Registers B and C: the periodic interrupt is enabled (PIE), a period has passed (PF).
const PERIODIC: u8 = 1 << 6;
/// Registers B and C: the alarm interrupt is enabled (AIE), the alarm's time has come (AF).
const ALARM: u8 = 1 << 5;
/// Registers B and C: the update-ended interrupt is enabled (UIE), the time has been updated (UF).
const UPDATE_ENDED: u8 = 1 << 4;
/// The three causes of an interrupt; each has the same bit as its enable.
const CAUSES: u8 = PERIODIC | ALARM | UPDATE_ENDED;
/// Register B: the square wave, on a pin that leads nowhere here.
const SQUARE_WAVE: u8 = 1 << 3;
/// Register C: an enabled cause is there (IRQF).
const INTERRUPT_REQUEST: u8 = 1 << 7;
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
    /// What of register C has come about.
    causes: Causes,
}

/// The real-time clock.
pub struct Rtc {
    clock: Arc<dyn Clock>,
    line: Arc<dyn InterruptLine>,
    state: Mutex<RtcState>,
    /// Told when the time of the next interrupt may have changed.
    changed: Condvar,
}

impl Rtc {
    /// A clock that shows `clock`'s wall time in UTC, in BCD and 24-hour mode. It raises interrupts on `line` for as long as
    /// an [`RtcTimer`] looks after it.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, line: Arc<dyn InterruptLine>, memory: MemorySizes) -> Self {
        let mut cmos = [0; CMOS_SIZE];
        cmos[usize::from(register::A)] = A_DEFAULT;
        cmos[usize::from(register::B)] = HOURS_24;
        set_memory_sizes(&mut cmos, memory);
        let causes = Causes::new(clock.elapsed(), seconds(clock.wall()));
        Self {
            clock,
            line,
            state: Mutex::new(RtcState {
                index: 0,
                cmos,
                offset: 0,
                causes,
            }),
            changed: Condvar::new(),
        }
    }

    /// Raises what is due, as an [`RtcTimer`] does. Gives how long it is until the next interrupt; `None`: there is none
    /// unless the guest enables one.
    pub fn interrupt_if_due(&self) -> Option<Duration> {
        self.tick(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, RtcState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since 1970 that the clock shows.
    fn now(&self, state: &RtcState) -> i64 {
        self.wall_seconds().saturating_add(state.offset)
    }

    fn wall_seconds(&self) -> i64 {
        seconds(self.clock.wall())
    }

    /// Notes what has become due, and raises the line for a cause that is enabled. The line of an ISA interrupt counts by
    /// its edges: each cause makes a new one, so that a guest which has lost one gets the next.
    fn catch_up(&self, state: &mut RtcState) {
        let new = state.catch_up(self.clock.elapsed(), self.now(state));
        if new & state.register(register::B) & CAUSES != 0 {
            self.line.set_level(false);
            self.line.set_level(true);
        }
    }

    /// Raises what is due; gives how long it is until the next enabled cause, `None` if there is none.
    fn tick(&self, state: &mut RtcState) -> Option<Duration> {
        self.catch_up(state);
        let enabled = state.register(register::B) & CAUSES;
        let period = state.period().filter(|_| enabled & PERIODIC != 0);
        let periodic = period.map(|period| state.causes.until_period(self.clock.elapsed(), period));
        let into_second = Duration::from_nanos(self.clock.wall().subsec_nanos().into());
        let seconds = if !state.updates() {
            None
        } else if enabled & UPDATE_ENDED != 0 {
            Some(1)
        } else if enabled & ALARM != 0 {
            state.alarm().and_then(|alarm| alarm.seconds_until(self.now(state)))
        } else {
            None
        };
        let update = seconds.map(|seconds| Duration::from_secs(seconds.into()).saturating_sub(into_second));
        periodic.into_iter().chain(update).min()
    }

    /// Register C; reading it clears all causes and releases the line.
    fn take_causes(&self, state: &mut RtcState) -> u8 {
        self.catch_up(state);
        let causes = state.causes.take();
        self.line.set_level(false);
        let request = causes & state.register(register::B) & CAUSES != 0;
        causes | if request { INTERRUPT_REQUEST } else { 0 }
    }

    fn read_register(&self, state: &mut RtcState) -> u8 {
        let stopped = state.register(register::B) & SET != 0;
        match state.index {
            register::A => {
                let into_second = Duration::from_nanos(self.clock.wall().subsec_nanos().into());
                let updating = !stopped && into_second + UPDATE_TIME >= Duration::from_secs(1);
                state.register(register::A) | if updating { UIP } else { 0 }
            }
            register::C => self.take_causes(state),
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
        // What has become due by now did so by the registers as they were.
        self.catch_up(state);
        let index = state.index;
        let stopped = state.register(register::B) & SET != 0;
        match index {
            register::A => {
                state.cmos[usize::from(index)] = value & !UIP;
                state.causes.restart_period(self.clock.elapsed());
            }
            register::B => self.write_control(state, value),
            register::C | register::D => {}
            _ if !stopped && TIME_REGISTERS.contains(&index) => {
                state.encode(self.now(state));
                state.cmos[usize::from(index)] = value;
                self.set_time(state);
            }
            _ => state.cmos[usize::from(index)] = value,
        }
        self.changed.notify_all();
    }

    fn write_control(&self, state: &mut RtcState, value: u8) {
        let old = state.register(register::B);
        let (stopped, stops) = (old & SET != 0, value & SET != 0);
        // The time is encoded in the mode that was in force while it ran, and decoded in the new one, which is how a guest
        // sets the mode together with the time.
        if !stopped && stops {
            state.encode(self.now(state));
        }
        // SET going high clears UIE.
        let cleared = if stops { UPDATE_ENDED } else { 0 };
        state.cmos[usize::from(register::B)] = value & !cleared;
        if stopped && !stops {
            self.set_time(state);
        }
        // A cause that is there already interrupts as soon as it is enabled, and no longer once it is not.
        let pending = |control: u8| state.causes.pending() & control & CAUSES != 0;
        match (pending(old), pending(state.register(register::B))) {
            (false, true) => self.line.set_level(true),
            (true, false) => self.line.set_level(false),
            _ => {}
        }
    }

    /// Sets the clock from the time registers; a date that does not exist changes nothing.
    fn set_time(&self, state: &mut RtcState) {
        if let Some(seconds) = state.decode() {
            state.offset = seconds.saturating_sub(self.wall_seconds());
            state.causes.restart_seconds(seconds);
        } else {
            tracing::debug!("the guest set the real-time clock to a time that does not exist");
        }
    }
}

/// Whole seconds, as the clock counts them.
fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

impl RtcState {
    /// Whether the time goes on: updates are not stopped, and the divider chain is not held in reset (DV2 and DV1).
    fn updates(&self) -> bool {
        self.register(register::B) & SET == 0 && self.divides()
    }

    fn divides(&self) -> bool {
        self.register(register::A) & DIVIDER_RESET != DIVIDER_RESET
    }

    /// The period of the periodic interrupt; `None` if it is off.
    fn period(&self) -> Option<Duration> {
        let selected = self.register(register::A) & RATE_SELECT;
        causes::period(selected).filter(|_| self.divides())
    }

    /// The time of the alarm; `None` if it names no time, so that it never comes.
    fn alarm(&self) -> Option<Alarm> {
        let field = |index: u8, value: &dyn Fn(u8) -> Option<u8>| match self.register(index) {
            any if any >= ANY_VALUE => Some(None),
            number => value(number).map(Some),
        };
        Some(Alarm {
            second: field(register::SECONDS_ALARM, &|number| self.value(number))?,
            minute: field(register::MINUTES_ALARM, &|number| self.value(number))?,
            hour: field(register::HOURS_ALARM, &|number| self.hour(number))?,
        })
    }

    /// Notes the causes that have come about until `elapsed`, when the clock shows `now`; gives those that did so now.
    fn catch_up(&mut self, elapsed: Duration, now: i64) -> u8 {
        let mut new = match self.period() {
            Some(period) if self.causes.pass_periods(elapsed, period) => PERIODIC,
            _ => 0,
        };
        let before = self.causes.pass_seconds(now);
        if self.updates() && before < now {
            new |= UPDATE_ENDED;
            let until = self.alarm().and_then(|alarm| alarm.seconds_until(before));
            if until.is_some_and(|seconds| i64::from(seconds) <= now.saturating_sub(before)) {
                new |= ALARM;
            }
        }
        self.causes.add(new);
        new
    }

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

    /// The hour, 0 to 23, that an hours register stands for; `None` if it is none.
    fn hour(&self, number: u8) -> Option<u8> {
        if self.register(register::B) & HOURS_24 != 0 {
            return self.value(number);
        }
        let hour = self.value(number & !AFTERNOON)?;
        let half = if number & AFTERNOON != 0 { 12 } else { 0 };
        (1..=12).contains(&hour).then_some(hour % 12 + half)
    }

    /// Fills the time registers.
    fn encode(&mut self, seconds: i64) {
        // In range, so that the default is not taken.
        let time = DateTime::from_timestamp(seconds.clamp(YEARS.start, YEARS.end - 1), 0).unwrap_or_default();
        let (hour, year) = (time.hour() as u8, time.year().unsigned_abs());
        let hours = if self.register(register::B) & HOURS_24 != 0 {
            self.number(hour)
        } else {
            let afternoon = if hour >= 12 { AFTERNOON } else { 0 };
            self.number((hour + 11) % 12 + 1) | afternoon
        };
        let values = [
            self.number(time.second() as u8),
            self.number(time.minute() as u8),
            hours,
            // Sunday is 1; a number below ten is the same in BCD.
            time.weekday().number_from_sunday() as u8,
            self.number(time.day() as u8),
            self.number(time.month() as u8),
            self.number((year % 100) as u8),
            self.number((year / 100) as u8),
        ];
        for (index, value) in TIME_REGISTERS.into_iter().zip(values) {
            self.cmos[usize::from(index)] = value;
        }
    }

    /// Seconds since 1970 that the time registers stand for. The day of the week is not looked at.
    fn decode(&self) -> Option<i64> {
        let value = |index| self.value(self.register(index)).map(u32::from);
        let year = i32::try_from(value(register::CENTURY)? * 100 + value(register::YEAR)?).ok()?;
        let date = NaiveDate::from_ymd_opt(year, value(register::MONTH)?, value(register::DAY_OF_MONTH)?)?;
        let hour = self.hour(self.register(register::HOURS))?;
        let time = date.and_hms_opt(hour.into(), value(register::MINUTES)?, value(register::SECONDS)?)?;
        Some(time.and_utc().timestamp()).filter(|seconds| YEARS.contains(seconds))
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
        let mut state = self.lock();
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = if port == 1 {
                self.read_register(&mut state)
            } else {
                0xff
            };
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

    /// The battery keeps time and memory; the reset line clears the interrupts' causes and enables.
    fn reset(&self) {
        let mut state = self.lock();
        state.index = 0;
        self.catch_up(&mut state);
        state.causes.take();
        state.cmos[usize::from(register::B)] &= !(CAUSES | SQUARE_WAVE);
        self.line.set_level(false);
    }
}
