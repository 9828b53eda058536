use proptest::prelude::*;

use super::*;
use crate::devices::testing::{FakeClock, LineProbe};

/// 2024-02-29 23:59:58 UTC, a Thursday.
const LEAP_DAY: u64 = 1_709_251_198;

fn rtc(seconds: u64) -> (Rtc, Arc<FakeClock>) {
    let (rtc, clock, _) = with_line(seconds);
    (rtc, clock)
}

fn with_line(seconds: u64) -> (Rtc, Arc<FakeClock>, Arc<LineProbe>) {
    let (clock, line) = (Arc::new(FakeClock::default()), Arc::new(LineProbe::default()));
    clock.set(Duration::from_secs(seconds));
    let memory = MemorySizes {
        low: 3 << 30,
        high: 5 << 30,
    };
    (Rtc::new(clock.clone(), line.clone(), memory), clock, line)
}

/// What the timer's thread does when the clock shows `time`.
fn tick(rtc: &Rtc, clock: &FakeClock, time: Duration) -> Option<Duration> {
    clock.set(time);
    rtc.interrupt_if_due()
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
    write(&rtc, register::B, DATA_MODE_BINARY | HOURS_24 | CAUSES | SQUARE_WAVE);
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

#[test]
fn each_period_has_an_edge_also_if_the_one_before_was_not_seen() {
    let (rtc, clock, line) = with_line(LEAP_DAY);
    let began = Duration::from_secs(LEAP_DAY);
    let period = Duration::from_nanos(1_000_000_000 / 1024);
    assert_eq!(tick(&rtc, &clock, began), None, "nothing is enabled");
    write(&rtc, register::B, HOURS_24 | PERIODIC);
    assert_eq!(tick(&rtc, &clock, began), Some(period));
    for (number, late) in (1..).zip([0, 300, 900, 10]) {
        let late = Duration::from_micros(late);
        assert_eq!(
            tick(&rtc, &clock, began + period * number + late),
            Some(period.saturating_sub(late))
        );
        assert_eq!((line.pulses(), line.level()), (number as usize, true));
    }
    assert_eq!(read(&rtc, register::C), INTERRUPT_REQUEST | PERIODIC);
    assert!(!line.level());
    assert_eq!(read(&rtc, register::C), 0);
    write(&rtc, register::A, 0x20);
    assert_eq!(tick(&rtc, &clock, began + period * 50), None, "rate 0");
    assert_eq!(line.pulses(), 4);
}

#[test]
fn causes_come_about_unasked_and_interrupt_when_they_are_enabled() {
    let (rtc, clock, line) = with_line(LEAP_DAY + 100);
    clock.set(Duration::from_secs(LEAP_DAY + 102));
    assert_eq!(read(&rtc, register::C), PERIODIC | UPDATE_ENDED, "no request");
    clock.set(Duration::from_secs(LEAP_DAY + 103));
    write(&rtc, register::B, HOURS_24 | UPDATE_ENDED);
    assert_eq!((line.pulses(), line.level()), (1, true), "it was there already");
    write(&rtc, register::B, HOURS_24);
    assert!(!line.level(), "no longer enabled");
    assert_eq!(read(&rtc, register::C), PERIODIC | UPDATE_ENDED);
}

#[test]
fn an_update_interrupts_once_a_second_but_not_while_updates_are_stopped() {
    let (rtc, clock, line) = with_line(LEAP_DAY);
    let second = |number, millis| Duration::from_millis((LEAP_DAY + number) * 1000 + millis);
    write(&rtc, register::B, HOURS_24 | UPDATE_ENDED);
    assert_eq!(tick(&rtc, &clock, second(0, 400)), Some(Duration::from_millis(600)));
    assert_eq!(tick(&rtc, &clock, second(1, 0)), Some(Duration::from_secs(1)));
    assert_eq!(read(&rtc, register::C) & !PERIODIC, INTERRUPT_REQUEST | UPDATE_ENDED);
    assert_eq!(line.pulses(), 1);
    write(&rtc, register::B, HOURS_24 | UPDATE_ENDED | SET);
    assert_eq!(read(&rtc, register::B), HOURS_24 | SET, "SET clears UIE");
    assert_eq!(tick(&rtc, &clock, second(5, 0)), None);
    assert_eq!(read(&rtc, register::C) & !PERIODIC, 0);
    write(&rtc, register::A, 0x76);
    write(&rtc, register::B, HOURS_24 | UPDATE_ENDED);
    assert_eq!(
        tick(&rtc, &clock, second(9, 0)),
        None,
        "the divider chain is held in reset"
    );
    assert_eq!(line.pulses(), 1);
}

#[test]
fn an_alarm_comes_at_its_time_of_day() {
    // 23:59:58.
    let (rtc, clock, line) = with_line(LEAP_DAY);
    for (index, value) in [
        (register::SECONDS_ALARM, 0x01),
        (register::MINUTES_ALARM, 0xff),
        (register::HOURS_ALARM, 0x00),
    ] {
        write(&rtc, index, value);
    }
    write(&rtc, register::B, HOURS_24 | ALARM);
    let second = |number| Duration::from_secs(LEAP_DAY + number);
    assert_eq!(tick(&rtc, &clock, second(1)), Some(Duration::from_secs(2)));
    assert_eq!(line.pulses(), 0);
    assert_eq!(tick(&rtc, &clock, second(3)), Some(Duration::from_secs(60)), "00:00:01");
    assert_eq!(line.pulses(), 1);
    assert_eq!(
        read(&rtc, register::C) & !PERIODIC,
        INTERRUPT_REQUEST | ALARM | UPDATE_ENDED
    );
    // The clock is set beyond the next one: what was skipped did not pass.
    write(&rtc, register::MINUTES, 0x30);
    assert_eq!(tick(&rtc, &clock, second(4)), Some(Duration::from_secs(59)));
    write(&rtc, register::SECONDS_ALARM, 0x6a);
    assert_eq!(tick(&rtc, &clock, second(5)), None, "there is no such second");
    assert_eq!(line.pulses(), 1);
}

#[test]
fn a_reset_clears_causes_and_releases_the_line() {
    let (rtc, clock, line) = with_line(LEAP_DAY);
    write(&rtc, register::B, HOURS_24 | CAUSES);
    tick(&rtc, &clock, Duration::from_secs(LEAP_DAY + 1));
    assert!(line.level());
    rtc.reset();
    assert!(!line.level());
    assert_eq!((read(&rtc, register::C), read(&rtc, register::B)), (0, HOURS_24));
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
