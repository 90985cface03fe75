//! A fact: one proven thing, typed. A selector: that fact as SPIRE writes it, `type:value`.
//!
//! Templates and policy read facts; entries match by selectors.

use std::{fmt, sync::Arc};

use crate::{limits, text};

/// One proven thing: `unix` / `uid` / `1000`. A fact with several values (supplementary groups) matches by each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    namespace: Arc<str>,
    key: Arc<str>,
    values: Arc<[Arc<str>]>,
}

/// Why something is no fact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// The namespace or key is empty or has a character outside `[a-z0-9_.-]` (keys also `:`).
    #[error("fact {0:?} has a name outside the alphabet a-z 0-9 _ . - :")]
    Name(String),
    /// There are too many values, or none.
    #[error(
        "fact {name} has {count} values; allowed are 1 to {}",
        limits::FACT_VALUES
    )]
    Count {
        /// `namespace.key`
        name: String,
        /// How many came.
        count: usize,
    },
    /// A value is empty, too long, or carries a control character.
    #[error(
        "fact {name} has a value that is empty, longer than {} bytes or carries a control character",
        limits::FACT_VALUE_BYTES
    )]
    Value {
        /// `namespace.key`
        name: String,
    },
    /// More facts than one attestation may have.
    #[error("{0} facts; at most {max} are allowed", max = limits::FACTS)]
    TooMany(usize),
    /// The same name twice.
    #[error("fact {0} is named twice")]
    Twice(String),
}

impl Fact {
    /// Builds a fact. Values are sorted and deduplicated.
    ///
    /// # Errors
    /// [`FactError`] names what is outside the bounds of [`limits`].
    pub fn new<V: AsRef<str>>(
        namespace: &str,
        key: &str,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Self, FactError> {
        let name = || text::bounded(&format!("{namespace}.{key}"), 128);
        let plain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
        if namespace.is_empty()
            || !namespace.chars().all(plain)
            || key.is_empty()
            || !key.chars().all(|c| plain(c) || c == ':')
        {
            return Err(FactError::Name(name()));
        }
        let mut kept: Vec<Arc<str>> = Vec::new();
        for value in values {
            let value = value.as_ref();
            if value.is_empty()
                || value.len() > limits::FACT_VALUE_BYTES
                || value.chars().any(char::is_control)
            {
                return Err(FactError::Value { name: name() });
            }
            kept.push(value.into());
        }
        kept.sort_unstable();
        kept.dedup();
        if kept.is_empty() || kept.len() > limits::FACT_VALUES {
            return Err(FactError::Count {
                name: name(),
                count: kept.len(),
            });
        }
        Ok(Self {
            namespace: namespace.into(),
            key: key.into(),
            values: kept.into(),
        })
    }

    /// The attestor's name, SPIRE's selector type: `unix`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What the value says: `uid`.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The values, sorted, at least one.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &str> {
        self.values.iter().map(AsRef::as_ref)
    }

    /// The value, where there is exactly one.
    #[must_use]
    pub fn single(&self) -> Option<&str> {
        match self.values.as_ref() {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// The facts of one attestation, sorted by name, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts(Arc<[Fact]>);

impl Facts {
    /// Collects facts.
    ///
    /// # Errors
    /// Too many, or one name twice.
    pub fn new(facts: impl IntoIterator<Item = Fact>) -> Result<Self, FactError> {
        let mut all: Vec<Fact> = facts.into_iter().collect();
        if all.len() > limits::FACTS {
            return Err(FactError::TooMany(all.len()));
        }
        all.sort_unstable();
        for pair in all.windows(2) {
            if let [a, b] = pair
                && a.namespace == b.namespace
                && a.key == b.key
            {
                return Err(FactError::Twice(format!("{}.{}", a.namespace, a.key)));
            }
        }
        Ok(Self(all.into()))
    }

    /// The facts, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Fact> {
        self.0.iter()
    }

    /// One fact by its name.
    #[must_use]
    pub fn find(&self, namespace: &str, key: &str) -> Option<&Fact> {
        self.0
            .binary_search_by(|f| (f.namespace(), f.key()).cmp(&(namespace, key)))
            .ok()
            .and_then(|i| self.0.get(i))
    }

    /// Every selector these facts render to.
    #[must_use]
    pub fn selectors(&self) -> SelectorSet {
        let mut all: Vec<Box<str>> = self
            .0
            .iter()
            .flat_map(|f| {
                f.values()
                    .map(|v| format!("{}:{}:{v}", f.namespace(), f.key()).into_boxed_str())
            })
            .collect();
        all.sort_unstable();
        SelectorSet(all.into())
    }

    /// One line per value in a fixed order: what a digest of the facts is made over.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for fact in self.iter() {
            for value in fact.values() {
                for part in [fact.namespace(), fact.key(), value] {
                    out.extend_from_slice(part.as_bytes());
                    out.push(0);
                }
            }
        }
        out
    }
}

/// The selectors of a caller, sorted, for matching against entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectorSet(Arc<[Box<str>]>);

impl SelectorSet {
    /// From rendered `type:value` strings.
    #[must_use]
    pub fn new(selectors: impl IntoIterator<Item = String>) -> Self {
        let mut all: Vec<Box<str>> = selectors.into_iter().map(String::into_boxed_str).collect();
        all.sort_unstable();
        all.dedup();
        Self(all.into())
    }

    /// Whether this selector is there.
    #[must_use]
    pub fn contains(&self, selector: &str) -> bool {
        self.0
            .binary_search_by(|s| s.as_ref().cmp(selector))
            .is_ok()
    }

    /// The selectors, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }
}

/// One selector as SPIRE writes it: a type without a colon and a value, `unix:uid:1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector<'a> {
    text: &'a str,
    colon: usize,
}

impl<'a> Selector<'a> {
    /// Parses `type:value`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        if text.len() > limits::SELECTOR_BYTES {
            return Err("is longer than 2048 bytes");
        }
        if text.chars().any(char::is_control) {
            return Err("carries a control character");
        }
        match text.find(':') {
            None => Err("has no colon; a selector is type:value, as unix:uid:1000"),
            Some(0) => Err("has an empty type; a selector is type:value, as unix:uid:1000"),
            Some(colon) if colon + 1 == text.len() => {
                Err("has an empty value; a selector is type:value, as unix:uid:1000")
            }
            Some(colon) => Ok(Self { text, colon }),
        }
    }

    /// The part before the first colon.
    #[must_use]
    pub fn kind(&self) -> &'a str {
        self.text.get(..self.colon).unwrap_or_default()
    }

    /// The part after the first colon.
    #[must_use]
    pub fn value(&self) -> &'a str {
        self.text.get(self.colon + 1..).unwrap_or_default()
    }

    /// The whole.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.text
    }
}

impl fmt::Display for Selector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_render_as_spire_selectors() {
        let facts = Facts::new([
            Fact::new("unix", "uid", ["1000"]).unwrap(),
            Fact::new("unix", "supplementary_gid", ["20", "4"]).unwrap(),
            Fact::new("x509pop", "subject:cn", ["node-1"]).unwrap(),
        ])
        .unwrap();
        let all = facts.selectors();
        assert_eq!(
            all.iter().collect::<Vec<_>>(),
            [
                "unix:supplementary_gid:20",
                "unix:supplementary_gid:4",
                "unix:uid:1000",
                "x509pop:subject:cn:node-1"
            ]
        );
        assert!(all.contains("unix:uid:1000"));
        assert!(!all.contains("unix:uid:100"));
        assert_eq!(
            facts.find("unix", "uid").and_then(Fact::single),
            Some("1000")
        );
        assert_eq!(
            facts
                .find("unix", "supplementary_gid")
                .and_then(Fact::single),
            None
        );
    }

    #[test]
    fn what_is_no_fact() {
        for (ns, key, value) in [
            ("Unix", "uid", "1"),
            ("", "uid", "1"),
            ("unix", "", "1"),
            ("unix", "uid", ""),
            ("unix", "uid", "a\nb"),
            ("un ix", "uid", "1"),
        ] {
            assert!(Fact::new(ns, key, [value]).is_err(), "{ns} {key} {value:?}");
        }
        assert!(Fact::new("unix", "uid", Vec::<String>::new()).is_err());
        let twice = [
            Fact::new("unix", "uid", ["1"]).unwrap(),
            Fact::new("unix", "uid", ["2"]).unwrap(),
        ];
        assert!(matches!(Facts::new(twice), Err(FactError::Twice(_))));
    }

    #[test]
    fn selectors_parse_as_spire_does() {
        let s = Selector::parse("unix:path:/usr/bin/a:b").unwrap();
        assert_eq!((s.kind(), s.value()), ("unix", "path:/usr/bin/a:b"));
        for bad in ["", "unix", ":x", "unix:", "a:b\nc"] {
            assert!(Selector::parse(bad).is_err(), "{bad:?}");
        }
    }
}
