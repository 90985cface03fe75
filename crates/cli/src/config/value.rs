//! What a key may hold: its kinds, each with its check, its words for people, and the checked value.
//!
//! Must not know which keys there are.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use attesta_model::KeyAlgorithm;
use attesta_spiffe::{SpiffeId, TrustDomain};
use toml::de::DeValue;

/// Longest list in a file.
const LIST: usize = 1024;

/// What a key may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// The name of a trust domain.
    TrustDomain,
    /// A list of SPIFFE IDs.
    SpiffeIds,
    /// A path; a relative one is relative to the file's directory.
    Path,
    /// A list of paths.
    Paths,
    /// `IP:PORT` to listen on.
    Address,
    /// `HOST:PORT` to connect to.
    HostPort,
    /// A length of time between these.
    Duration(Duration, Duration),
    /// A size in bytes, up to this.
    Size(u64),
    /// A whole number between these.
    Count(u64, u64),
    /// `true` or `false`.
    Bool,
    /// One of these kinds of keys.
    Key(&'static [KeyAlgorithm]),
    /// A list of some of these kinds of keys.
    Keys(&'static [KeyAlgorithm]),
}

/// What a key holds, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    TrustDomain(TrustDomain),
    SpiffeIds(Vec<SpiffeId>),
    Path(PathBuf),
    Paths(Vec<PathBuf>),
    Address(SocketAddr),
    Text(String),
    Duration(Duration),
    Number(u64),
    Bool(bool),
    Keys(Vec<KeyAlgorithm>),
}

impl Kind {
    /// What is allowed, for messages and the reference.
    pub(crate) fn allowed(self) -> String {
        let words = |keys: &[KeyAlgorithm]| {
            keys.iter()
                .map(|k| format!("\"{}\"", k.as_str()))
                .collect::<Vec<_>>()
                .join(", ")
        };
        match self {
            Self::TrustDomain => {
                "the name of a trust domain, such as \"example.org\" (a-z 0-9 . - _)".to_owned()
            }
            Self::SpiffeIds => {
                "a list of SPIFFE IDs, such as [\"spiffe://example.org/admin\"]".to_owned()
            }
            Self::Path => {
                "a path, such as \"ca.pem\"; a relative one is relative to this file".to_owned()
            }
            Self::Paths => {
                "a list of paths, such as [\"ca.pem\"]; relative ones are relative to this file"
                    .to_owned()
            }
            Self::Address => {
                "an address to listen on, such as \"0.0.0.0:8081\" or \"[::1]:0\"".to_owned()
            }
            Self::HostPort => "a host and a port, such as \"attesta.example.org:8081\"".to_owned(),
            Self::Duration(min, max) => format!(
                "a length of time from \"{}\" to \"{}\", such as \"90s\", \"10m\" or \"1h30m\"",
                show(min),
                show(max)
            ),
            Self::Size(max) => format!(
                "a size of at most \"{}MiB\", such as \"512MiB\", or a number of bytes",
                max >> 20
            ),
            Self::Count(min, max) => format!("a whole number from {min} to {max}"),
            Self::Bool => "true or false".to_owned(),
            Self::Key(keys) => format!("one of {}", words(keys)),
            Self::Keys(keys) => format!("a list of {}", words(keys)),
        }
    }

    /// The value, checked. `base` is the directory of the file.
    ///
    /// # Errors
    /// What is wrong, where [`Kind::allowed`] does not say it all.
    pub(crate) fn check(self, value: &DeValue<'_>, base: &Path) -> Result<Value, Option<String>> {
        let wrong = None;
        let text = || value.as_str().ok_or(None);
        Ok(match self {
            Self::TrustDomain => {
                Value::TrustDomain(TrustDomain::parse(text()?).map_err(|e| Some(e.to_string()))?)
            }
            Self::SpiffeIds => {
                let parse =
                    |text: &str| SpiffeId::parse(text).map_err(|e| format!("{text:?}: {e}"));
                Value::SpiffeIds(
                    list(value)?
                        .into_iter()
                        .map(parse)
                        .collect::<Result<_, _>>()
                        .map_err(Some)?,
                )
            }
            Self::Path => Value::Path(path(text()?, base).ok_or(wrong)?),
            Self::Paths => Value::Paths(
                list(value)?
                    .into_iter()
                    .map(|p| path(p, base))
                    .collect::<Option<_>>()
                    .ok_or(wrong)?,
            ),
            Self::Address => Value::Address(text()?.parse().map_err(|_| wrong)?),
            Self::HostPort => Value::Text(host_port(text()?).ok_or(wrong)?),
            Self::Duration(min, max) => {
                let length = duration(text()?).ok_or(wrong)?;
                (min <= length && length <= max)
                    .then_some(Value::Duration(length))
                    .ok_or(None)?
            }
            Self::Size(max) => {
                let size = match value.as_integer() {
                    Some(_) => integer(value).ok_or(None)?,
                    None => size(text()?).ok_or(None)?,
                };
                (size <= max).then_some(Value::Number(size)).ok_or(None)?
            }
            Self::Count(min, max) => integer(value)
                .filter(|n| (min..=max).contains(n))
                .map(Value::Number)
                .ok_or(None)?,
            Self::Bool => Value::Bool(value.as_bool().ok_or(None)?),
            Self::Key(allowed) => Value::Keys(vec![key(text()?, allowed)?]),
            Self::Keys(allowed) => {
                let keys = list(value)?
                    .into_iter()
                    .map(|word| key(word, allowed))
                    .collect::<Result<Vec<_>, _>>()?;
                if keys.is_empty() {
                    return Err(Some("the list is empty".to_owned()));
                }
                if keys
                    .iter()
                    .enumerate()
                    .any(|(at, k)| keys.iter().skip(at + 1).any(|other| other == k))
                {
                    return Err(Some("one is there twice".to_owned()));
                }
                Value::Keys(keys)
            }
        })
    }
}

fn key(word: &str, allowed: &[KeyAlgorithm]) -> Result<KeyAlgorithm, Option<String>> {
    KeyAlgorithm::parse(word)
        .filter(|k| allowed.contains(k))
        .ok_or(None)
}

fn list<'v>(value: &'v DeValue<'_>) -> Result<Vec<&'v str>, Option<String>> {
    let items = value.as_array().ok_or(None)?;
    if items.len() > LIST {
        return Err(Some(format!(
            "the list has {} items; at most {LIST} are allowed",
            items.len()
        )));
    }
    items
        .iter()
        .map(|item| item.get_ref().as_str().ok_or(None))
        .collect()
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn path(text: &str, base: &Path) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| base.join(text))
}

/// `host:port`, where an IPv6 host stands in brackets.
pub(crate) fn host_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    (good && port != 0).then(|| text.to_owned())
}

/// A length of time: numbers with units, largest first: `1d`, `10m`, `1h30m`, `500ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut rest = text;
    let mut total: u64 = 0;
    let mut next = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail.len()
            - tail
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (unit, tail) = tail.split_at_checked(letters)?;
        let at = UNITS.iter().position(|(name, _)| *name == unit)?;
        // Each unit once and in order: `1s1h` is a slip of the pen.
        if at < next {
            return None;
        }
        next = at + 1;
        let (_, millis) = UNITS.get(at)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*millis)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// The shortest way to write a length of time.
pub(crate) fn show(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{}ms", length.as_millis()),
        s if s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

fn size(text: &str) -> Option<u64> {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text.strip_suffix(digits)?.parse().ok()?;
    let shift = match digits.trim_start() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, seconds) in [
            ("10s", Some(10)),
            ("1h30m", Some(5400)),
            ("90d", Some(7_776_000)),
            ("0s", Some(0)),
            ("1d2h3m4s", Some(93_784)),
        ] {
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        for text in [
            "",
            "10",
            "s",
            "10 s",
            "1.5h",
            "-1s",
            "1s1h",
            "1h1h",
            "1w",
            "99999999999999999999d",
            "1h\u{e9}",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
        for text in ["10s", "1h", "90m", "2d", "500ms"] {
            assert_eq!(show(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn hosts_and_sizes() {
        for text in [
            "localhost:1",
            "a.b-c.example:8081",
            "10.0.0.1:8081",
            "[::1]:8081",
        ] {
            assert_eq!(host_port(text).as_deref(), Some(text));
        }
        for text in [
            "",
            "localhost",
            ":1",
            "a:0",
            "a:65536",
            "::1:80",
            "a b:1",
            "https://a:1",
            "[::1:1",
        ] {
            assert_eq!(host_port(text), None, "{text}");
        }
        for (text, bytes) in [
            ("1KiB", Some(1024)),
            ("512MiB", Some(512 << 20)),
            ("2 GiB", Some(2 << 30)),
            ("5", None),
            ("5MB", None),
            ("MiB", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
