//! SPIFFE IDs and trust domain names: parsed once, valid ever after.
//!
//! Knows the grammar of the SPIFFE-ID standard and nothing of who uses the names: no reserved
//! paths, no templates, no lookups.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The longest SPIFFE ID in bytes, scheme included (SPIFFE-ID 2.3, C016 and C017).
pub const MAX_ID_BYTES: usize = 2048;

/// The longest trust domain name in bytes (SPIFFE-ID 2.3, C018).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a string is not a SPIFFE ID, a trust domain name or a path segment.
///
/// `at` is a byte offset into the part that the variant names. The text never repeats the input,
/// save for one escaped character.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("a SPIFFE ID must not be empty")]
    Empty,
    /// The whole is longer than [`MAX_ID_BYTES`].
    #[error("a SPIFFE ID has at most {MAX_ID_BYTES} bytes, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It does not start with `spiffe://` (C001).
    #[error("a SPIFFE ID starts with spiffe://")]
    Scheme,
    /// Nothing stands between `spiffe://` and the path (C002).
    #[error("the trust domain name must not be empty")]
    TrustDomainEmpty,
    /// The name is longer than [`MAX_TRUST_DOMAIN_BYTES`] (C018).
    #[error("a trust domain name has at most {MAX_TRUST_DOMAIN_BYTES} bytes, this one has {len}")]
    TrustDomainTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character outside `a-z 0-9 . - _` (C003 to C009): queries, ports, userinfo, percent
    /// signs and upper case end here.
    #[error(
        "the trust domain name has '{}' at byte {at}, allowed are a-z 0-9 . - _",
        .found.escape_debug()
    )]
    TrustDomainChar {
        /// The character.
        found: char,
        /// Its byte offset in the name.
        at: usize,
    },
    /// A path was asked for that does not start with `/`.
    #[error("a path starts with /")]
    PathStart,
    /// The path ends in `/` (C014).
    #[error("the path must not end in /")]
    TrailingSlash,
    /// Two slashes in a row (C013).
    #[error("the path has an empty segment at byte {at}")]
    EmptySegment {
        /// Where the segment would start, as byte offset in the path.
        at: usize,
    },
    /// A segment is `.` or `..` (C013).
    #[error("the path has a . or .. segment at byte {at}")]
    DotSegment {
        /// Where the segment starts, as byte offset in the path (or 0 for a lone segment).
        at: usize,
    },
    /// A character outside `a-z A-Z 0-9 . - _` (C003, C004, C012, C015).
    #[error(
        "the path has '{}' at byte {at}, allowed are a-z A-Z 0-9 . - _",
        .found.escape_debug()
    )]
    PathChar {
        /// The character.
        found: char,
        /// Its byte offset in the path (or in the lone segment).
        at: usize,
    },
}

/// A trust domain name, such as `example.org` (SPIFFE-ID 2.1).
///
/// Compared byte by byte; whether it looks like a DNS name or an address changes nothing (C011).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name.
    ///
    /// # Errors
    /// The `TrustDomain...` variants of [`IdError`].
    pub fn parse(name: &str) -> Result<Self, IdError> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// Parses a bare name, or the ID of a trust domain (`spiffe://example.org`, no path).
    ///
    /// # Errors
    /// As [`TrustDomain::parse`]; an ID with a path is refused at the slash.
    pub fn from_name_or_id(s: &str) -> Result<Self, IdError> {
        Self::parse(strip_scheme(s).unwrap_or(s))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of the domain itself, `spiffe://` and the name, without a path (C020).
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        // INVARIANT: a checked name is at most 255 bytes, so the ID cannot be too long.
        SpiffeId(format!("{SCHEME}{}", self.0).into())
    }

    /// The ID with this path, which starts with `/` and has at least one segment.
    ///
    /// # Errors
    /// The path variants of [`IdError`], and [`IdError::TooLong`] for the whole.
    pub fn with_path(&self, path: &str) -> Result<SpiffeId, IdError> {
        if !path.starts_with('/') {
            return Err(IdError::PathStart);
        }
        let len = SCHEME.len() + self.0.len() + path.len();
        if len > MAX_ID_BYTES {
            return Err(IdError::TooLong { len });
        }
        check_path(path)?;
        Ok(SpiffeId(format!("{SCHEME}{}{path}", self.0).into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::parse(s)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A SPIFFE ID: `spiffe://`, a trust domain name, and a path that may be empty.
///
/// Sixteen bytes and one shared allocation; equality and order are those of the URI, in which
/// the scheme is always lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(Arc<str>);

impl SpiffeId {
    /// Parses a URI. The scheme may be in any case (RFC 3986 3.1) and is kept in lower case;
    /// nothing else is repaired.
    ///
    /// # Errors
    /// Every variant of [`IdError`] but [`IdError::PathStart`].
    pub fn parse(s: &str) -> Result<Self, IdError> {
        if s.is_empty() {
            return Err(IdError::Empty);
        }
        if s.len() > MAX_ID_BYTES {
            return Err(IdError::TooLong { len: s.len() });
        }
        let rest = strip_scheme(s).ok_or(IdError::Scheme)?;
        let (name, path) = split_path(rest);
        check_trust_domain(name)?;
        check_path(path)?;
        if s.starts_with(SCHEME) {
            return Ok(Self(s.into()));
        }
        Ok(Self(format!("{SCHEME}{rest}").into()))
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain it belongs to; allocates, see [`SpiffeId::trust_domain_name`].
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_name().into())
    }

    /// The name of the trust domain it belongs to.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        self.parts().0
    }

    /// The path with its leading slash; empty for the ID of a trust domain.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts().1
    }

    /// Whether it belongs to `domain`.
    #[must_use]
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain_name() == domain.as_str()
    }

    /// Whether it names something inside the trust domain, and not the domain itself.
    #[must_use]
    pub fn has_path(&self) -> bool {
        !self.path().is_empty()
    }

    // INVARIANT: the URI starts with `spiffe://` in lower case, so the default is never taken.
    fn parts(&self) -> (&str, &str) {
        split_path(self.0.strip_prefix(SCHEME).unwrap_or_default())
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.0)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::parse(s)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Checks one path segment: not empty, not `.` or `..`, only `a-z A-Z 0-9 . - _`
/// (SPIFFE-ID 2.2, C012 to C015).
///
/// # Errors
/// [`IdError::EmptySegment`], [`IdError::DotSegment`] or [`IdError::PathChar`], with offsets
/// inside the segment.
pub fn check_segment(segment: &str) -> Result<(), IdError> {
    check_segment_at(segment, 0)
}

fn check_segment_at(segment: &str, start: usize) -> Result<(), IdError> {
    match segment {
        "" => return Err(IdError::EmptySegment { at: start }),
        "." | ".." => return Err(IdError::DotSegment { at: start }),
        _ => {}
    }
    match segment.char_indices().find(|(_, c)| !is_path_char(*c)) {
        None => Ok(()),
        Some((at, found)) => Err(IdError::PathChar {
            found,
            at: start + at,
        }),
    }
}

fn check_path(path: &str) -> Result<(), IdError> {
    let Some(inner) = path.strip_prefix('/') else {
        // `split_path` and `with_path` hand over only "" or a string that starts with a slash.
        return Ok(());
    };
    if path.ends_with('/') {
        return Err(IdError::TrailingSlash);
    }
    let mut start = 1;
    for segment in inner.split('/') {
        check_segment_at(segment, start)?;
        start += segment.len() + 1;
    }
    Ok(())
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::TrustDomainEmpty);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(IdError::TrustDomainTooLong { len: name.len() });
    }
    match name.char_indices().find(|(_, c)| !is_domain_char(*c)) {
        None => Ok(()),
        Some((at, found)) => Err(IdError::TrustDomainChar { found, at }),
    }
}

const fn is_domain_char(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')
}

const fn is_path_char(c: char) -> bool {
    matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_')
}

fn strip_scheme(s: &str) -> Option<&str> {
    let head = s.get(..SCHEME.len())?;
    if head.eq_ignore_ascii_case(SCHEME) {
        s.get(SCHEME.len()..)
    } else {
        None
    }
}

/// Splits in front of the first slash.
fn split_path(rest: &str) -> (&str, &str) {
    rest.find('/')
        .and_then(|at| rest.split_at_checked(at))
        .unwrap_or((rest, ""))
}

#[cfg(test)]
mod tests;
