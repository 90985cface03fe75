//! What a person wrote of an entry, by flags or in a file: only what was said, over what is there.
//!
//! Pure: the present is an argument.

use std::{collections::BTreeMap, time::Duration};

use attesta_model::{Selector, Template};
use attesta_spiffe::SpiffeId;
use attesta_wire::{
    fact, id,
    proto::{attesta::admin::v1 as api, spire::api::types},
};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::ask::values::{self, Expiry};

/// The flags of one entry.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "entry", multiple = true)]
pub(super) struct Flags {
    /// The identity, or a template over facts such as spiffe://example.org/users/{unix.user}
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Who vouches: a node, or another entry's SPIFFE ID
    #[arg(long, value_name = "ID")]
    parent_id: Option<String>,
    /// What must be found of the workload; may be given more than once
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<String>,
    /// Who answers for it
    #[arg(long)]
    owner: Option<String>,
    /// What it is there for
    #[arg(long)]
    purpose: Option<String>,
    /// When it ends: 90d, a time as 2026-01-02T15:04:05Z, or never
    #[arg(long, value_name = "WHEN")]
    expires: Option<Expiry>,
    /// Lifetime of its X.509-SVIDs, such as 10s or 1h; 0s is the server's default
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    x509_svid_ttl: Option<Duration>,
    /// Lifetime of its JWT-SVIDs
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    jwt_svid_ttl: Option<Duration>,
    /// A DNS name of its certificates; may be given more than once
    #[arg(long, value_name = "NAME")]
    dns_name: Vec<String>,
    /// Tells the workload which identity is for what
    #[arg(long)]
    hint: Option<String>,
    /// A label; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = optional_label)]
    label: Vec<Option<(String, String)>>,
    /// Each instance has a credential of its own, or one is fetched ahead for the whole node
    #[arg(long, value_enum)]
    sharing: Option<Sharing>,
    /// The identity may administer the server
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    grant_admin: Option<bool>,
    /// The identity may have an authority of its own signed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    downstream: Option<bool>,
    /// The highest is a workload's default identity; among equals the oldest entry
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// The entry's id; chosen by the server when it is created without
    #[arg(long, value_name = "ENTRY_ID")]
    entry_id: Option<String>,
    /// A trust domain whose bundle the workload gets; may be given more than once
    #[arg(long, value_name = "TRUST_DOMAIN")]
    federates_with: Vec<String>,
}

/// Who holds what an entry gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sharing {
    /// Each instance its own.
    Instance,
    /// One for the whole node.
    Node,
}

/// `key=value`; an empty text stands for no label at all.
fn optional_label(text: &str) -> Result<Option<(String, String)>, String> {
    if text.is_empty() {
        Ok(None)
    } else {
        values::label(text).map(Some)
    }
}

/// What was said of an entry; nothing where nothing was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    #[serde(alias = "id")]
    entry_id: Option<String>,
    spiffe_id: Option<String>,
    parent_id: Option<String>,
    issuer: Option<String>,
    #[serde(alias = "selector")]
    selectors: Option<Vec<String>>,
    x509_svid_ttl: Option<Ttl>,
    jwt_svid_ttl: Option<Ttl>,
    #[serde(alias = "dns_name")]
    dns_names: Option<Vec<String>>,
    federates_with: Option<Vec<String>>,
    hint: Option<String>,
    owner: Option<String>,
    purpose: Option<String>,
    #[serde(alias = "label")]
    labels: Option<BTreeMap<String, String>>,
    priority: Option<i32>,
    sharing: Option<Sharing>,
    #[serde(alias = "grant_admin")]
    admin: Option<bool>,
    downstream: Option<bool>,
    store_svid: Option<bool>,
    #[serde(alias = "expires", default, deserialize_with = "expiry")]
    expires_at: Option<Expiry>,
    // The server's own; there when a listing is read back.
    #[serde(rename = "revision")]
    _revision: Option<IgnoredAny>,
    #[serde(rename = "created_at")]
    _created_at: Option<IgnoredAny>,
}

/// A lifetime in a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Ttl {
    Seconds(u32),
    Text(String),
}

fn expiry<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Expiry>, D::Error> {
    // null is what a listing has for an entry without an end.
    match Option::<String>::deserialize(deserializer)? {
        None => Ok(Some(Expiry::Never)),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// Reads a file: a list, or what `entry list --output json` writes.
///
/// # Errors
/// What is wrong, with line and column.
pub(super) fn many(bytes: &[u8]) -> Result<Vec<Draft>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Listing {
        entries: Vec<Draft>,
    }
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    let read = match first {
        Some(b'{') => serde_json::from_slice(bytes).map(|l: Listing| l.entries),
        _ => serde_json::from_slice(bytes),
    };
    read.map_err(|e| {
        format!("{e}; a list of entries is expected: [{{\"spiffe_id\": …, \"selectors\": […]}}, …]")
    })
}

impl From<Flags> for Draft {
    fn from(f: Flags) -> Self {
        // A list that was not given stays as it is; an empty value empties it.
        let list = |l: Vec<String>| {
            (!l.is_empty()).then(|| l.into_iter().filter(|s| !s.is_empty()).collect())
        };
        let ttl = |d: Option<Duration>| {
            d.map(|d| Ttl::Seconds(u32::try_from(d.as_secs()).unwrap_or(u32::MAX)))
        };
        Self {
            entry_id: f.entry_id,
            spiffe_id: f.spiffe_id,
            parent_id: f.parent_id,
            issuer: None,
            selectors: list(f.selector),
            x509_svid_ttl: ttl(f.x509_svid_ttl),
            jwt_svid_ttl: ttl(f.jwt_svid_ttl),
            dns_names: list(f.dns_name),
            federates_with: list(f.federates_with),
            hint: f.hint,
            owner: f.owner,
            purpose: f.purpose,
            labels: (!f.label.is_empty()).then(|| f.label.into_iter().flatten().collect()),
            priority: f.priority,
            sharing: f.sharing,
            admin: f.grant_admin,
            downstream: f.downstream,
            store_svid: None,
            expires_at: f.expires,
            _revision: None,
            _created_at: None,
        }
    }
}

impl Draft {
    /// The entry it is about.
    pub(super) fn id(&self) -> Option<&str> {
        self.entry_id.as_deref().filter(|i| !i.is_empty())
    }

    /// Whether nobody was named to vouch.
    pub(super) fn has_no_parent(&self) -> bool {
        self.parent_id.as_deref().unwrap_or_default().is_empty()
            && self.issuer.as_deref().unwrap_or_default().is_empty()
    }

    /// Puts what was said over an entry.
    ///
    /// # Errors
    /// The field that does not parse, and why. What the server alone can know, the server says.
    pub(super) fn onto(self, entry: &mut api::Entry, now: Timestamp) -> Result<(), String> {
        let parent = self.parent_id.filter(|p| !p.is_empty());
        if let Some(parent) = &parent {
            set_parent(entry, parent)?;
        }
        let base = entry.base.get_or_insert_default();
        let extras = entry.extras.get_or_insert_default();
        put(&mut base.id, self.entry_id);
        if let Some(text) = self.spiffe_id {
            if Template::looks_like(&text) {
                Template::parse(&text).map_err(|e| format!("spiffe_id {text:?}: {e}"))?;
                base.spiffe_id = None;
                extras.spiffe_id_template = text;
            } else {
                base.spiffe_id = Some(wire_id("spiffe_id", &text)?);
                extras.spiffe_id_template.clear();
            }
        }
        if let Some(issuer) = self.issuer.filter(|i| !i.is_empty()) {
            if parent.is_some() {
                return Err("parent_id and issuer: an entry has one of them".to_owned());
            }
            base.parent_id = None;
            extras.issuer = issuer;
        }
        if let Some(selectors) = self.selectors {
            base.selectors = selectors
                .iter()
                .map(|s| selector(s))
                .collect::<Result<_, _>>()?;
        }
        if let Some(ttl) = self.x509_svid_ttl {
            base.x509_svid_ttl = ttl.seconds("x509_svid_ttl")?;
        }
        if let Some(ttl) = self.jwt_svid_ttl {
            base.jwt_svid_ttl = ttl.seconds("jwt_svid_ttl")?;
        }
        match self.expires_at {
            None => {}
            Some(Expiry::Never) => base.expires_at = 0,
            Some(Expiry::At(at)) => {
                let at = at.ahead_of(now).ok_or(
                    "expires_at lies beyond all time; leave it out for an entry without an end",
                )?;
                // 0 on the wire means never.
                base.expires_at = at.as_second().max(1);
            }
        }
        put(&mut base.dns_names, self.dns_names);
        put(&mut base.federates_with, self.federates_with);
        put(&mut base.hint, self.hint);
        put(&mut base.admin, self.admin);
        put(&mut base.downstream, self.downstream);
        put(&mut base.store_svid, self.store_svid);
        put(&mut extras.owner, self.owner);
        put(&mut extras.purpose, self.purpose);
        put(&mut extras.labels, self.labels);
        put(&mut extras.priority, self.priority);
        put(
            &mut extras.node_shared,
            self.sharing.map(|s| s == Sharing::Node),
        );
        Ok(())
    }
}

fn put<T>(field: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *field = said;
    }
}

/// Says who vouches.
///
/// # Errors
/// A parent that is no SPIFFE ID.
pub(super) fn set_parent(entry: &mut api::Entry, parent: &str) -> Result<(), String> {
    entry.base.get_or_insert_default().parent_id = Some(wire_id("parent_id", parent)?);
    entry.extras.get_or_insert_default().issuer.clear();
    Ok(())
}

fn wire_id(field: &str, text: &str) -> Result<types::Spiffeid, String> {
    SpiffeId::parse(text)
        .map(|i| id::to_wire(&i))
        .map_err(|e| format!("{field} {text:?}: {e}"))
}

fn selector(text: &str) -> Result<types::Selector, String> {
    Selector::parse(text)
        .map(|s| fact::selector_to_wire(s.as_str()))
        .map_err(|e| format!("selector {text:?}: {e}"))
}

impl Ttl {
    fn seconds(&self, field: &str) -> Result<i32, String> {
        let seconds = match self {
            Self::Seconds(n) => u64::from(*n),
            Self::Text(text) => values::duration(text)
                .map_err(|e| format!("{field}: {e}"))?
                .as_secs(),
        };
        i32::try_from(seconds)
            .map_err(|_| format!("{field} {seconds} s is longer than the wire can say"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> api::Entry {
        api::Entry {
            base: Some(types::Entry::default()),
            extras: Some(api::Extras::default()),
        }
    }

    fn drafted(json: &str) -> Result<api::Entry, String> {
        let mut entry = empty();
        let draft = many(json.as_bytes())?.remove(0);
        draft.onto(&mut entry, Timestamp::from_second(1000).unwrap())?;
        Ok(entry)
    }

    #[test]
    fn files_say_what_is_wrong() {
        for (json, expect) in [
            (r#"[{"spiffe_id":"x"}]"#, "spiffe_id \"x\""),
            (
                r#"[{"spiffe_id":"spiffe://td/{unix}"}]"#,
                "spiffe_id \"spiffe://td/{unix}\"",
            ),
            (r#"[{"selectors":["unix"]}]"#, "selector \"unix\""),
            (
                r#"[{"x509_svid_ttl":"10"}]"#,
                "x509_svid_ttl: \"10\" is no duration",
            ),
            (r#"[{"x509_svid_ttl":4294967295}]"#, "longer than"),
            (r#"[{"expires":"soon"}]"#, "neither a duration"),
            (r#"[{"sharing":"all"}]"#, "unknown variant"),
            (
                r#"[{"parent_id":"spiffe://td/a","issuer":"github"}]"#,
                "one of them",
            ),
            (r#"[{"ttl":1}]"#, "unknown field `ttl`"),
            (r#"[{"selectors":[],"selector":[]}]"#, "duplicate field"),
            (
                r#"{"spiffe_id":"spiffe://td/a"}"#,
                "unknown field `spiffe_id`",
            ),
            ("", "a list of entries is expected"),
        ] {
            let error = drafted(json).unwrap_err();
            assert!(error.contains(expect), "{json}: {error}");
        }
    }

    #[test]
    fn a_file_says_all_that_flags_say() {
        let entry = drafted(
            r#"{"entries":[{"entry_id":"e","spiffe_id":"spiffe://td/u/{unix.user}","parent_id":"spiffe://td/n","selectors":["unix:uid:1","k8s:sa:a:b"],
            "x509_svid_ttl":"1m","jwt_svid_ttl":30,"dns_names":["a.b"],"hint":"h","owner":"o","purpose":"p","labels":{"k":"v"},"priority":-2,
            "sharing":"node","admin":true,"downstream":false,"expires_at":"1h","revision":7,"created_at":"2026-01-01T00:00:00Z"}]}"#,
        )
        .unwrap();
        let (base, extras) = (entry.base.unwrap(), entry.extras.unwrap());
        assert_eq!(
            (
                base.id.as_str(),
                base.spiffe_id,
                extras.spiffe_id_template.as_str()
            ),
            ("e", None, "spiffe://td/u/{unix.user}")
        );
        assert_eq!(
            base.selectors[1],
            types::Selector {
                r#type: "k8s".to_owned(),
                value: "sa:a:b".to_owned()
            }
        );
        assert_eq!(
            (base.x509_svid_ttl, base.jwt_svid_ttl, base.expires_at),
            (60, 30, 4600)
        );
        assert_eq!(
            (
                extras.priority,
                extras.node_shared,
                base.admin,
                base.revision_number
            ),
            (-2, true, true, 0)
        );
        assert_eq!(extras.labels["k"], "v");
    }

    #[test]
    fn only_what_is_said_changes() {
        let mut entry = empty();
        let now = Timestamp::from_second(1000).unwrap();
        let first = Flags {
            spiffe_id: Some("spiffe://td/u/{unix.user}".to_owned()),
            selector: vec!["unix:uid:1".to_owned()],
            label: vec![Some(("k".to_owned(), "v".to_owned()))],
            dns_name: vec!["a.b".to_owned()],
            expires: Some("1h".parse().unwrap()),
            owner: Some("ada".to_owned()),
            grant_admin: Some(true),
            ..Flags::default()
        };
        Draft::from(first).onto(&mut entry, now).unwrap();
        let before = entry.clone();
        Draft::from(Flags::default()).onto(&mut entry, now).unwrap();
        assert_eq!(entry, before);
        let second = Flags {
            spiffe_id: Some("spiffe://td/a".to_owned()),
            dns_name: vec![String::new()],
            label: vec![None],
            expires: Some(Expiry::Never),
            grant_admin: Some(false),
            ..Flags::default()
        };
        Draft::from(second).onto(&mut entry, now).unwrap();
        let (base, extras) = (entry.base.unwrap(), entry.extras.unwrap());
        assert_eq!(
            (
                base.spiffe_id.map(|i| i.path),
                extras.spiffe_id_template.as_str()
            ),
            (Some("/a".to_owned()), "")
        );
        assert_eq!(
            (
                base.dns_names.len(),
                extras.labels.len(),
                base.expires_at,
                base.admin
            ),
            (0, 0, 0, false)
        );
        assert_eq!((base.selectors.len(), extras.owner.as_str()), (1, "ada"));
    }
}
