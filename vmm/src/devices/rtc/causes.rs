//! When the clock's three interrupts are due: periodic, alarm, update ended (MC146818A, "interrupts").
//!
//! Plain arithmetic on times that the caller gives. It must not know registers or the interrupt line.

use std::time::Duration;

/// Seconds of a day.
const DAY: u32 = 86_400;

/// The period that the rate select bits of register A ask for with the 32.768 kHz time base; `None`: no interrupt. The
/// two highest rates of the table are those of a faster time base; with this one they are two of the slower ones.
pub(super) fn period(rate_select: u8) -> Option<Duration> {
    let shift = match rate_select & 0xf {
        0 => return None,
        1 => 7,
        2 => 8,
        select => select - 1,
    };
    Some(Duration::from_nanos((1_000_000_000u64 << shift) / 32_768))
}

/// A time of the day; `None` in a field: every value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) second: Option<u8>,
    pub(super) minute: Option<u8>,
    pub(super) hour: Option<u8>,
}

impl Alarm {
    /// How many seconds after `time` (seconds since 1970) it comes, 1 to 86,400; `None`: never, since there is no such time.
    pub(super) fn seconds_until(self, time: i64) -> Option<u32> {
        let first = time.rem_euclid(i64::from(DAY)) as u32 + 1;
        let is = |field: Option<u8>, value: u32| field.is_none_or(|field| u32::from(field) == value);
        let mut at = first;
        while at < first + DAY {
            let (hour, minute, second) = (at / 3600 % 24, at / 60 % 60, at % 60);
            if !is(self.hour, hour) {
                at = (at / 3600 + 1) * 3600;
            } else if !is(self.minute, minute) {
                at = (at / 60 + 1) * 60;
            } else if !is(self.second, second) {
                at += 1;
            } else {
                return Some(at - first + 1);
            }
        }
        None
    }
}

/// What has come about and was not read yet, and up to when that has been looked at.
#[derive(Debug, Clone)]
pub(super) struct Causes {
    /// Bits of register C.
    pending: u8,
    /// Guest time at which the current period began.
    period_began: Duration,
    /// The second that the clock showed when it was last looked at.
    second: i64,
}

impl Causes {
    pub(super) fn new(elapsed: Duration, second: i64) -> Self {
        Self {
            pending: 0,
            period_began: elapsed,
            second,
        }
    }

    pub(super) fn pending(&self) -> u8 {
        self.pending
    }

    pub(super) fn add(&mut self, causes: u8) {
        self.pending |= causes;
    }

    /// Clears all and gives what there was.
    pub(super) fn take(&mut self) -> u8 {
        std::mem::take(&mut self.pending)
    }

    /// A new period begins at `elapsed`.
    pub(super) fn restart_period(&mut self, elapsed: Duration) {
        self.period_began = elapsed;
    }

    /// The clock was set to `second`: what it skipped did not pass.
    pub(super) fn restart_seconds(&mut self, second: i64) {
        self.second = second;
    }

    /// Goes on to the period in which `elapsed` lies; says whether one has ended.
    pub(super) fn pass_periods(&mut self, elapsed: Duration, period: Duration) -> bool {
        let since = elapsed.saturating_sub(self.period_began);
        let Some(begun) = since.as_nanos().checked_rem(period.as_nanos()) else {
            return false;
        };
        // Less than a period, which is half a second at most.
        self.period_began = elapsed.saturating_sub(Duration::from_nanos(begun as u64));
        since >= period
    }

    /// How long from `elapsed` until the current period ends.
    pub(super) fn until_period(&self, elapsed: Duration, period: Duration) -> Duration {
        (self.period_began + period).saturating_sub(elapsed)
    }

    /// Goes on to the second `now`; gives the one up to which it had been looked at.
    pub(super) fn pass_seconds(&mut self, now: i64) -> i64 {
        std::mem::replace(&mut self.second, now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_those_of_the_data_sheet() {
        // Table 5 of the data sheet, 32.768 kHz: microseconds, rounded down.
        let expected = [
            None,
            Some(3906),
            Some(7812),
            Some(122),
            Some(244),
            Some(488),
            Some(976),
            Some(1953),
            Some(3906),
            Some(7812),
            Some(15_625),
            Some(31_250),
            Some(62_500),
            Some(125_000),
            Some(250_000),
            Some(500_000),
        ];
        let rates = (0..16).map(|select| period(select).map(|period| period.as_micros()));
        assert!(rates.eq(expected));
    }

    fn field(limit: u8) -> impl Strategy<Value = Option<u8>> {
        prop_oneof![Just(None), (0..limit).prop_map(Some)]
    }

    proptest! {
        /// The alarm comes at the first second whose time of day is its own, found by looking at each.
        #[test]
        fn an_alarm_comes_at_the_first_second_that_matches(
            time in -100_000i64..200_000_000_000,
            second in field(62),
            minute in field(62),
            hour in field(26),
        ) {
            let alarm = Alarm { second, minute, hour };
            let matches = |at: i64| {
                let of_day = at.rem_euclid(86_400);
                second.is_none_or(|second| i64::from(second) == of_day % 60)
                    && minute.is_none_or(|minute| i64::from(minute) == of_day / 60 % 60)
                    && hour.is_none_or(|hour| i64::from(hour) == of_day / 3600)
            };
            let found = (1..=86_400u32).find(|ahead| matches(time + i64::from(*ahead)));
            prop_assert_eq!(alarm.seconds_until(time), found);
        }

        /// Looking more often or less often, no period is lost or counted twice.
        #[test]
        fn a_period_ends_once(steps in prop::collection::vec(1u64..40_000_000, 1..60), select in 1u8..16) {
            let period = period(select).unwrap();
            let mut causes = Causes::new(Duration::from_secs(7), 0);
            let (mut now, mut last) = (Duration::from_secs(7), 0);
            for step in steps {
                now += Duration::from_nanos(step);
                let ended = now.saturating_sub(Duration::from_secs(7)).as_nanos() / period.as_nanos();
                prop_assert_eq!(causes.pass_periods(now, period), ended > last);
                let until = causes.until_period(now, period);
                prop_assert!(until > Duration::ZERO && until <= period);
                last = ended;
            }
        }
    }
}
