//! Names of what the ledger holds: the ledger itself, its writers, and the place of one record.

use std::{fmt, sync::Arc};

/// A ledger's own name, drawn once when it is made and kept for ever. A receipt carries it, so that a receipt of one
/// ledger is worth nothing to an authority that was built with another.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LedgerId(pub [u8; 16]);

impl LedgerId {
    /// Parses what [`fmt::Display`] writes: 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who appends records. Each writer counts its own, gap-free; a count common to several servers would become visible
/// out of order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterName(Arc<str>);

impl WriterName {
    /// A writer's name: 1 to 32 of `a-z 0-9 -`.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            return Err("a writer's name is 1 to 32 of a-z 0-9 -");
        }
        Ok(Self(name.into()))
    }

    /// The one writer of a ledger that one process owns.
    #[must_use]
    pub fn local() -> Self {
        Self("local".into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WriterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a record stands: the writer, and the record's number among that writer's, from 1, without gaps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    writer: WriterName,
    seq: u64,
}

impl Position {
    /// A place.
    #[must_use]
    pub fn new(writer: WriterName, seq: u64) -> Self {
        Self { writer, seq }
    }

    /// Parses what [`fmt::Display`] writes: `writer:number`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (writer, seq) = text.split_once(':')?;
        Some(Self {
            writer: WriterName::parse(writer).ok()?,
            seq: seq.parse().ok()?,
        })
    }

    /// Who wrote it.
    #[must_use]
    pub fn writer(&self) -> &WriterName {
        &self.writer
    }

    /// Its number among that writer's.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The place `n` after this one.
    #[must_use]
    pub(crate) fn plus(&self, n: usize) -> Self {
        Self {
            writer: self.writer.clone(),
            seq: self.seq.saturating_add(n as u64),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.writer, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round() {
        let position = Position::new(WriterName::local(), 42);
        assert_eq!(position.to_string(), "local:42");
        assert_eq!(Position::parse("local:42"), Some(position));
        for bad in ["", "local", ":1", "Local:1", "local:-1", "local:x", "a b:1"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
        let id = LedgerId([7; 16]);
        assert_eq!(LedgerId::parse(&id.to_string()), Some(id));
        assert_eq!(LedgerId::parse("07"), None);
    }
}
