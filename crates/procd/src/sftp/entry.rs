//! A line about a file, as people and older clients read it.
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// What is older shows its year in place of the time of day.
const RECENT_S: i64 = 182 * 86_400;

/// As `ls -ln` shows it.
pub fn line(name: &[u8], m: &Metadata) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    let mut line = format!("{} {:>4} {:<8} {:<8} {:>8} {} ", permissions(m.mode()), m.nlink(), m.uid(), m.gid(), m.size(), date(m.mtime(), now)).into_bytes();
    line.extend_from_slice(name);
    line
}

fn permissions(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// UTC. The calendar is that of the Gregorian years, counted from the first of March.
fn date(at: i64, now: i64) -> String {
    let (days, seconds) = (at.div_euclid(86_400), at.rem_euclid(86_400));
    let since = days + 719_468;
    let (era, day_of_era) = (since.div_euclid(146_097), since.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    let name = MONTHS.get(month as usize).copied().unwrap_or("???");
    if (now - RECENT_S..=now + 3600).contains(&at) {
        format!("{name} {day:>2} {:02}:{:02}", seconds / 3600, seconds / 60 % 60)
    } else {
        format!("{name} {day:>2}  {year}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_permissions() {
        assert_eq!(date(0, 0), "Jan  1 00:00");
        assert_eq!(date(951_827_696, 2_000_000_000), "Feb 29  2000");
        assert_eq!(date(1_709_210_096, 1_709_210_096), "Feb 29 12:34");
        assert_eq!(date(-1, 2_000_000_000), "Dec 31  1969");
        assert_eq!(date(4_107_542_400, 0), "Mar  1  2100");
        assert_eq!(permissions(0o100_644), "-rw-r--r--");
        assert_eq!(permissions(0o041_777), "drwxrwxrwt");
        assert_eq!(permissions(0o104_711), "-rws--x--x");
        assert_eq!(permissions(0o102_600), "-rw---S---");
    }
}
