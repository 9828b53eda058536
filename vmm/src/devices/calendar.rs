//! Dates of the Gregorian calendar from seconds since 1970 and back.

const SECONDS_PER_DAY: u64 = 86_400;
/// Days in 400 years: the calendar repeats after them.
const DAYS_PER_ERA: u64 = 146_097;
/// 0000-03-01, from which days are counted here, is this many seconds before 1970-01-01.
const SECONDS_BEFORE_1970: i64 = 719_468 * 86_400;
/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;
/// Days before each month in a year that begins in March, so that the leap day comes last.
const DAYS_BEFORE_MONTH: [u64; 12] = [0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337];

/// A date and time of day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    /// 0 to 9999.
    pub(super) year: u16,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 0 to 23.
    pub(super) hour: u8,
    /// 0 to 59.
    pub(super) minute: u8,
    /// 0 to 59.
    pub(super) second: u8,
    /// 0 to 6, Sunday first.
    pub(super) day_of_week: u8,
}

impl DateTime {
    /// The date `seconds` after the beginning of 1970; times outside March 0000 to December 9999 are moved to the
    /// nearest one.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let seconds = seconds.clamp(-SECONDS_BEFORE_1970, LAST_SECOND) + SECONDS_BEFORE_1970;
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let (days, time) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
        let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
        // Take away the leap days that have passed, then every year has 365 days. The last day of an era and of a
        // group of four years is one too many, which the subtractions account for.
        let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / (DAYS_PER_ERA - 1);
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - days_in_years(year_of_era);
        let month = DAYS_BEFORE_MONTH.partition_point(|before| *before <= day_of_year) - 1;
        let next_year = month >= 10;
        Self {
            year: (era * 400 + year_of_era + u64::from(next_year)) as u16,
            month: if next_year { month - 9 } else { month + 3 } as u8,
            day: (day_of_year - DAYS_BEFORE_MONTH[month] + 1) as u8,
            hour: (time / 3600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
            // 0000-03-01 was a Wednesday.
            day_of_week: ((days + 3) % 7) as u8,
        }
    }

    /// Seconds since 1970; `None` if there is no such date or time. The day of the week is not looked at.
    pub(super) fn to_seconds(self) -> Option<i64> {
        let month_index = (usize::from(self.month) + 9) % 12;
        let year = u64::from(self.year).checked_sub(u64::from(month_index >= 10))?;
        let before = (year / 400) * DAYS_PER_ERA + days_in_years(year % 400) + DAYS_BEFORE_MONTH[month_index];
        let days = (before + u64::from(self.day)).checked_sub(1)?;
        let time = u64::from(self.hour) * 3600 + u64::from(self.minute) * 60 + u64::from(self.second);
        let seconds = i64::try_from(days * SECONDS_PER_DAY + time).ok()? - SECONDS_BEFORE_1970;
        // What does not come back the same was no date, such as 30 February.
        let back = Self::from_seconds(seconds);
        (Self {
            day_of_week: back.day_of_week,
            ..self
        } == back)
            .then_some(seconds)
    }
}

/// Days in that many years from the beginning of an era, 0 to 399.
fn days_in_years(years: u64) -> u64 {
    years * 365 + years / 4 - years / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    /// Counts days one by one, by the rule for leap years.
    #[test]
    fn agrees_with_counting_days() {
        let leap = |year: u16| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let mut days = 0;
        let mut day_of_week = 4;
        for year in 1970..2450 {
            for month in 1..=12 {
                let length = match month {
                    2 => 28 + u8::from(leap(year)),
                    4 | 6 | 9 | 11 => 30,
                    _ => 31,
                };
                for day in 1..=length {
                    let date = DateTime::from_seconds(days * DAY + 3_661);
                    assert_eq!(
                        date,
                        DateTime {
                            year,
                            month,
                            day,
                            hour: 1,
                            minute: 1,
                            second: 1,
                            day_of_week
                        }
                    );
                    assert_eq!(date.to_seconds(), Some(days * DAY + 3_661));
                    days += 1;
                    day_of_week = (day_of_week + 1) % 7;
                }
                let none = DateTime {
                    day: length + 1,
                    ..DateTime::from_seconds((days - 1) * DAY)
                };
                assert_eq!(none.to_seconds(), None);
            }
        }
    }

    #[test]
    fn times_far_away_are_moved_to_the_nearest_year() {
        assert_eq!(DateTime::from_seconds(i64::MAX).year, 9999);
        assert_eq!(DateTime::from_seconds(i64::MIN).year, 0);
    }
}
