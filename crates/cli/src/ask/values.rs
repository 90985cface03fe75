//! What flags and files say in words: durations, times, labels.
//!
//! Pure: the present is an argument.

use std::{str::FromStr, time::Duration};

use jiff::Timestamp;

/// Parses a duration such as `10s`, `1h30m` or `90d`; units are s, m, h, d and w, the larger first.
///
/// # Errors
/// A sentence that says what is allowed.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write it as 10s, 1h30m or 90d");
    let mut total = 0u64;
    let mut last = u64::MAX;
    let mut digits = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(wrong()),
        };
        // A unit twice, or a smaller one first, is a slip of the pen.
        if unit >= last {
            return Err(wrong());
        }
        last = unit;
        let n: u64 = digits.parse().map_err(|_| wrong())?;
        total = n
            .checked_mul(unit)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(wrong)?;
        digits.clear();
    }
    if !digits.is_empty() || last == u64::MAX {
        return Err(wrong());
    }
    Ok(Duration::from_secs(total))
}

/// A point in time, absolute or by its distance from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// That far from now.
    Span(Duration),
    /// Then.
    At(Timestamp),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        duration(text).map(Self::Span).map_err(|_| {
            format!("{text:?} is neither a duration (90d, 1h30m) nor a time (2026-01-02T15:04:05Z)")
        })
    }
}

impl Moment {
    /// The point in time, where a distance lies in the future. Nothing when that is beyond all time.
    pub(crate) fn ahead_of(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::Span(span) => now.checked_add(span).ok(),
        }
    }

    /// The point in time, where a distance lies in the past.
    pub(crate) fn behind(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Span(span) => now.checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

/// When an entry ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// By itself, never.
    Never,
    /// Then.
    At(Moment),
}

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Never);
        }
        text.parse()
            .map(Self::At)
            .map_err(|e| format!("{e}, nor \"never\""))
    }
}

/// Parses `key=value`.
///
/// # Errors
/// A sentence that says what is allowed.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label; write it as key=value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expect) in [
            ("10s", Some(10)),
            ("0s", Some(0)),
            ("5m", Some(300)),
            ("1h30m", Some(5400)),
            ("90d", Some(7_776_000)),
            ("2w", Some(1_209_600)),
            ("1d2h3m4s", Some(93_784)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5h", None),
            ("1h 30m", None),
            ("30m1h", None),
            ("1h1h", None),
            ("1h30", None),
            ("1y", None),
            ("99999999999999999999s", None),
            ("18446744073709551615w", None),
        ] {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), expect, "{text}");
        }
    }

    #[test]
    fn moments() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ahead = |text: &str| {
            text.parse::<Moment>()
                .ok()
                .and_then(|m| m.ahead_of(now))
                .map(Timestamp::as_second)
        };
        assert_eq!(ahead("1h"), Some(1_003_600));
        assert_eq!(ahead("1970-01-02T00:00:00Z"), Some(86_400));
        assert_eq!(ahead("1970-01-02T01:00:00+01:00"), Some(86_400));
        assert_eq!(ahead("yesterday"), None);
        assert_eq!(ahead("1000000000w"), None, "beyond all time");
        assert_eq!(
            "1h".parse::<Moment>().unwrap().behind(now).as_second(),
            996_400
        );
        assert!(
            "10000w"
                .parse::<Moment>()
                .unwrap()
                .behind(Timestamp::UNIX_EPOCH)
                .as_second()
                <= 0
        );
        assert_eq!("never".parse(), Ok(Expiry::Never));
        assert!("nie".parse::<Expiry>().is_err());
    }

    #[test]
    fn labels() {
        let pair = |k: &str, v: &str| Some((k.to_owned(), v.to_owned()));
        for (text, expect) in [
            ("team=pay", pair("team", "pay")),
            ("a=", pair("a", "")),
            ("a=b=c", pair("a", "b=c")),
            ("=x", None),
            ("x", None),
        ] {
            assert_eq!(label(text).ok(), expect, "{text}");
        }
    }
}
