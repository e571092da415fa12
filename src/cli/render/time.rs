//! Ages and instants, as kubectl writes them.

use jiff::Timestamp;

/// The time since `then`, in at most two units: `42s`, `5m12s`, `3h20m`, `2d4h`, `40d`.
pub(in crate::cli) fn age(now: Timestamp, then: Timestamp) -> String {
    span(now.as_second() - then.as_second())
}

/// Seconds in at most two units (apimachinery's `HumanDuration`).
pub(in crate::cli) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    }
}

/// How long something took: `0.12s`, `3.4s`, `2m5s`.
pub(in crate::cli) fn took(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{}.{:02}s", millis / 1000, millis % 1000 / 10),
        10_000..60_000 => format!("{}.{}s", millis / 1000, millis % 1000 / 100),
        _ => span(i64::try_from(millis / 1000).unwrap_or(i64::MAX)),
    }
}

/// RFC 3339 to the second.
pub(in crate::cli) fn instant(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (312, "5m12s"),
            (300, "5m"),
            (3600, "60m"),
            (12_000, "3h20m"),
            (100_000, "27h"),
            (187_200, "2d4h"),
            (3_456_000, "40d"),
            (86_400 * 800, "2y70d"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(
            [took(3), took(120), took(9999), took(12_340), took(125_000)],
            ["0.00s", "0.12s", "9.99s", "12.3s", "2m5s"]
        );
    }
}
