//! Dates and times as MS-DOS wrote them: FAT's and exFAT's.

/// The number of nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;

/// Returns the nanoseconds since 1970 of a date and a time; `hundredths` is added, in units of 10 ms. None if there is no date,
/// or no such date. Source: Microsoft's FAT specification 1.03, "Date and Time Formats".
pub(crate) fn nanoseconds(date: u16, time: u16, hundredths: u8) -> Option<i64> {
    let (year, month, day) = (1980 + i64::from(date >> 9), i64::from(date >> 5 & 15), i64::from(date & 31));
    let (hour, minute, second) = (i64::from(time >> 11), i64::from(time >> 5 & 63), i64::from(time & 31) * 2);
    if !(1..=12).contains(&month) || day == 0 || hour > 23 || minute > 59 || second > 59 || hundredths > 199 {
        return None;
    }
    let seconds = (days(year, month, day) * 24 + hour) * 3600 + minute * 60 + second;
    Some(seconds * SECOND + i64::from(hundredths) * SECOND / 100)
}

/// Returns the number of days from 1970-01-01 to a date of the Gregorian calendar.
pub(crate) fn days(year: i64, month: i64, day: i64) -> i64 {
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let leap = leaps(year) - leaps(year - 1);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let of_year = before[usize::try_from(month - 1).unwrap_or(0)] + if month > 2 { leap } else { 0 };
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969) + of_year + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_1970() {
        // As `date -u -d '1980-01-01' +%s` and so on.
        assert_eq!(nanoseconds(0x21, 0, 0), Some(315_532_800 * SECOND));
        assert_eq!(
            nanoseconds(20 << 9 | 2 << 5 | 29, 12 << 11 | 34 << 5 | 28, 150),
            Some(951_827_697_500_000_000)
        );
        assert_eq!(nanoseconds(45 << 9 | 3 << 5 | 1, 0, 0), Some(1_740_787_200 * SECOND));
        assert_eq!(
            nanoseconds(127 << 9 | 12 << 5 | 31, 23 << 11 | 59 << 5 | 29, 199).map(|n| n / SECOND),
            Some(4_354_819_199)
        );
        assert_eq!(nanoseconds(0, 0, 0), None);
        assert_eq!(nanoseconds(13 << 5 | 1, 0, 0), None);
    }
}
