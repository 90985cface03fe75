//! An entry: *whoever `parent` vouches for with these selectors is this SPIFFE ID, and may have these credentials.*
//!
//! SPIRE's registration entry and a token exchange's trust rule are this one type.

use std::{cmp::Ordering, fmt, sync::Arc, time::Duration};

use attesta_spiffe::{SpiffeId, TrustDomain};
use jiff::Timestamp;

use crate::{Denial, Facts, Parent, SelectorSet, Template, fact::Selector, limits, text};

/// An entry's name: a UUID of ours, or what a caller chose (1 to 255 of `-._A-Za-z0-9`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryId {
    /// UUIDv7, so that ids sort by creation.
    Uuid([u8; 16]),
    /// A caller's own.
    Named(Arc<str>),
}

impl EntryId {
    /// Parses an id as it stands on the wire.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is empty");
        }
        if text.len() > limits::ENTRY_ID_BYTES {
            return Err("is longer than 255 bytes");
        }
        if !text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
        {
            return Err("may have only A-Z a-z 0-9 - . _");
        }
        // Only the canonical spelling becomes bytes, so that what is shown is what was written.
        match uuid::Uuid::try_parse(text) {
            Ok(u) if u.hyphenated().to_string() == text => Ok(Self::Uuid(u.into_bytes())),
            _ => Ok(Self::Named(text.into())),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(bytes) => uuid::Uuid::from_bytes(*bytes).hyphenated().fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id an entry gives: one, or one per set of facts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdPattern {
    /// Always this.
    Exact(SpiffeId),
    /// Whatever the template says of the facts.
    Template(Arc<Template>),
}

impl IdPattern {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(id) => id.as_str(),
            Self::Template(t) => t.as_str(),
        }
    }

    /// The one id, where there is one.
    #[must_use]
    pub fn exact(&self) -> Option<&SpiffeId> {
        match self {
            Self::Exact(id) => Some(id),
            Self::Template(_) => None,
        }
    }

    /// The id for these facts.
    ///
    /// # Errors
    /// The template's refusal.
    pub fn expand(&self, facts: &Facts) -> Result<SpiffeId, Denial> {
        match self {
            Self::Exact(id) => Ok(id.clone()),
            Self::Template(t) => t.expand(facts),
        }
    }
}

/// Selectors in canonical order, in one allocation: a million entries are held in memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selectors(Box<str>);

impl Selectors {
    fn new(selectors: &[String]) -> Result<Self, FieldError> {
        if selectors.is_empty() {
            return Err(FieldError::new(
                "selectors",
                "",
                "at least one selector is needed",
            ));
        }
        if selectors.len() > limits::ENTRY_SELECTORS {
            return Err(FieldError::new(
                "selectors",
                selectors.len().to_string(),
                "at most 64 selectors are allowed",
            ));
        }
        let mut all: Vec<&str> = Vec::with_capacity(selectors.len());
        for s in selectors {
            all.push(
                Selector::parse(s)
                    .map_err(|why| FieldError::new("selectors", s, why))?
                    .as_str(),
            );
        }
        all.sort_unstable();
        all.dedup();
        // INVARIANT: a selector has no control character, so the line feed separates.
        Ok(Self(all.join("\n").into_boxed_str()))
    }

    /// The selectors, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split('\n')
    }

    /// Whether all of them are among the caller's.
    #[must_use]
    pub fn all_in(&self, have: &SelectorSet) -> bool {
        self.iter().all(|s| have.contains(s))
    }

    fn nth(&self, n: u8) -> &str {
        self.iter().nth(usize::from(n)).unwrap_or_default()
    }
}

/// Who holds what an entry gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sharing {
    /// Each instance a credential of its own.
    #[default]
    Instance,
    /// One for all instances of the node, fetched ahead, as SPIRE does: for what must start while every server is away.
    Node,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} {why}")]
pub struct FieldError {
    /// The field, by its name in SPIRE's API.
    pub field: &'static str,
    /// The value, bounded and printable.
    pub value: String,
    /// What is wrong and what is allowed.
    pub why: String,
}

impl FieldError {
    /// A field's fault; the value is bounded here.
    #[must_use]
    pub fn new(field: &'static str, value: impl AsRef<str>, why: impl fmt::Display) -> Self {
        Self {
            field,
            value: text::bounded(value.as_ref(), 256),
            why: why.to_string(),
        }
    }
}

/// An entry's fields, unchecked: what a door fills in and [`Entry::new`] checks.
#[derive(Clone, Debug, Default)]
#[expect(
    missing_docs,
    reason = "each field is documented at the entry's accessor of the same name"
)]
pub struct EntrySpec {
    pub id: Option<EntryId>,
    pub spiffe_id: String,
    pub parent: Option<Parent>,
    pub selectors: Vec<String>,
    pub x509_svid_ttl: Duration,
    pub jwt_svid_ttl: Duration,
    pub federates_with: Vec<String>,
    pub admin: bool,
    pub downstream: bool,
    pub expires_at: Option<Timestamp>,
    pub dns_names: Vec<String>,
    pub revision: u64,
    pub created_at: Timestamp,
    pub store_svid: bool,
    pub hint: String,
    pub disable_x509_svid_prefetch: bool,
    pub jwt_svid_include_jti: bool,
    pub owner: String,
    pub purpose: String,
    pub labels: Vec<(String, String)>,
    pub priority: i32,
    pub sharing: Sharing,
}

/// See the module. Every field is checked; there is no other constructor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    id: EntryId,
    spiffe_id: IdPattern,
    parent: Parent,
    selectors: Selectors,
    revision: u64,
    created_at: i64,
    expires_at: Option<i64>,
    x509_svid_ttl: u32,
    jwt_svid_ttl: u32,
    flags: u8,
    filed: u8,
    more: Option<Box<More>>,
}

/// What most entries have not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    federates_with: Vec<TrustDomain>,
    dns_names: Vec<String>,
    hint: String,
    owner: String,
    purpose: String,
    labels: Vec<(String, String)>,
    priority: i32,
}

const ADMIN: u8 = 1;
const DOWNSTREAM: u8 = 2;
const STORE: u8 = 4;
const NODE_SHARED: u8 = 8;
const NO_PREFETCH: u8 = 16;
const JTI: u8 = 32;

impl Entry {
    /// Checks every field of an entry for this trust domain.
    ///
    /// # Errors
    /// The first field that is wrong, with its value and what is allowed.
    pub fn new(
        spec: EntrySpec,
        id: EntryId,
        trust_domain: &TrustDomain,
    ) -> Result<Self, FieldError> {
        let spiffe_id = check_spiffe_id(&spec.spiffe_id, trust_domain)?;
        let parent = spec
            .parent
            .ok_or_else(|| FieldError::new("parent_id", "", "is missing"))?;
        check_parent(&parent, trust_domain)?;
        if matches!(spiffe_id, IdPattern::Template(_)) && (spec.admin || spec.downstream) {
            return Err(FieldError::new(
                "spiffe_id",
                &spec.spiffe_id,
                "is a template; an entry with admin or downstream rights needs a plain SPIFFE ID",
            ));
        }
        if spec.sharing == Sharing::Node && matches!(spiffe_id, IdPattern::Template(_)) {
            return Err(FieldError::new(
                "spiffe_id",
                &spec.spiffe_id,
                "is a template over facts of an instance; sharing = \"node\" needs a plain SPIFFE ID",
            ));
        }
        let selectors = Selectors::new(&spec.selectors)?;
        let more = More {
            federates_with: check_federates_with(&spec.federates_with, trust_domain)?,
            dns_names: check_dns_names(&spec.dns_names)?,
            hint: check_text("hint", &spec.hint, limits::HINT_BYTES)?,
            owner: check_text("owner", &spec.owner, limits::LABEL_BYTES)?,
            purpose: check_text("purpose", &spec.purpose, limits::LABEL_BYTES)?,
            labels: check_labels(&spec.labels)?,
            priority: spec.priority,
        };
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        Ok(Self {
            id,
            spiffe_id,
            parent,
            selectors,
            revision: spec.revision,
            created_at: spec.created_at.as_second(),
            expires_at: spec.expires_at.map(Timestamp::as_second),
            x509_svid_ttl: check_ttl("x509_svid_ttl", spec.x509_svid_ttl)?,
            jwt_svid_ttl: check_ttl("jwt_svid_ttl", spec.jwt_svid_ttl)?,
            flags: flag(spec.admin, ADMIN)
                | flag(spec.downstream, DOWNSTREAM)
                | flag(spec.store_svid, STORE)
                | flag(spec.sharing == Sharing::Node, NODE_SHARED)
                | flag(spec.disable_x509_svid_prefetch, NO_PREFETCH)
                | flag(spec.jwt_svid_include_jti, JTI),
            filed: 0,
            more: (more != More::default()).then(|| Box::new(more)),
        })
    }

    /// The fields again, to change some and check anew.
    #[must_use]
    pub fn spec(&self) -> EntrySpec {
        let more = self.more.as_deref().cloned().unwrap_or_default();
        EntrySpec {
            id: Some(self.id.clone()),
            spiffe_id: self.spiffe_id.as_str().to_owned(),
            parent: Some(self.parent.clone()),
            selectors: self.selectors.iter().map(str::to_owned).collect(),
            x509_svid_ttl: self.x509_svid_ttl(),
            jwt_svid_ttl: self.jwt_svid_ttl(),
            federates_with: more
                .federates_with
                .iter()
                .map(|t| t.as_str().to_owned())
                .collect(),
            admin: self.admin(),
            downstream: self.downstream(),
            expires_at: self.expires_at(),
            dns_names: more.dns_names,
            revision: self.revision,
            created_at: self.created_at(),
            store_svid: self.store_svid(),
            hint: more.hint,
            disable_x509_svid_prefetch: self.disable_x509_svid_prefetch(),
            jwt_svid_include_jti: self.jwt_svid_include_jti(),
            owner: more.owner,
            purpose: more.purpose,
            labels: more.labels,
            priority: more.priority,
            sharing: self.sharing(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &EntryId {
        &self.id
    }

    /// The SPIFFE ID it gives: own trust domain, with a path, not under `/spire`.
    #[must_use]
    pub fn spiffe_id(&self) -> &IdPattern {
        &self.spiffe_id
    }

    /// Who must vouch.
    #[must_use]
    pub fn parent(&self) -> &Parent {
        &self.parent
    }

    /// What must be proven, all of it.
    #[must_use]
    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// Lifetime of X.509-SVIDs; zero is the default.
    #[must_use]
    pub fn x509_svid_ttl(&self) -> Duration {
        Duration::from_secs(self.x509_svid_ttl.into())
    }

    /// Lifetime of JWT-SVIDs; zero is the default.
    #[must_use]
    pub fn jwt_svid_ttl(&self) -> Duration {
        Duration::from_secs(self.jwt_svid_ttl.into())
    }

    /// Foreign trust domains whose bundles its workloads get.
    #[must_use]
    pub fn federates_with(&self) -> &[TrustDomain] {
        self.more.as_ref().map_or(&[], |m| &m.federates_with)
    }

    /// Whether its SPIFFE ID may administer this server.
    #[must_use]
    pub fn admin(&self) -> bool {
        self.flags & ADMIN != 0
    }

    /// Whether its SPIFFE ID may have an intermediate authority.
    #[must_use]
    pub fn downstream(&self) -> bool {
        self.flags & DOWNSTREAM != 0
    }

    /// When it stops to give anything.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at.and_then(|s| Timestamp::from_second(s).ok())
    }

    /// Whether it has stopped.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now.as_second())
    }

    /// DNS names of its X.509-SVIDs, in the order written; the first is the common name.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        self.more.as_ref().map_or(&[], |m| &m.dns_names)
    }

    /// Counts its updates, from 0 (SPIRE's `revision_number`).
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// When it was made; to the second.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        Timestamp::from_second(self.created_at).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// SPIRE's `store_svid`: for SVID stores only.
    #[must_use]
    pub fn store_svid(&self) -> bool {
        self.flags & STORE != 0
    }

    /// Tells a workload with several identities which is which; at most 1024 bytes.
    #[must_use]
    pub fn hint(&self) -> &str {
        self.more.as_ref().map_or("", |m| &m.hint)
    }

    /// SPIRE's `disable_x509_svid_prefetch`.
    #[must_use]
    pub fn disable_x509_svid_prefetch(&self) -> bool {
        self.flags & NO_PREFETCH != 0
    }

    /// SPIRE's `jwt_svid_include_jti`. (Every token of ours has one.) Tokens of such an entry are never served twice.
    #[must_use]
    pub fn jwt_svid_include_jti(&self) -> bool {
        self.flags & JTI != 0
    }

    /// Who answers for it.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.more.as_ref().map_or("", |m| &m.owner)
    }

    /// What it is for.
    #[must_use]
    pub fn purpose(&self) -> &str {
        self.more.as_ref().map_or("", |m| &m.purpose)
    }

    /// Free labels, sorted by name.
    #[must_use]
    pub fn labels(&self) -> &[(String, String)] {
        self.more.as_ref().map_or(&[], |m| &m.labels)
    }

    /// Higher comes first where a workload has several identities.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.more.as_ref().map_or(0, |m| m.priority)
    }

    /// Who holds what it gives.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        if self.flags & NODE_SHARED != 0 {
            Sharing::Node
        } else {
            Sharing::Instance
        }
    }

    /// The one selector under which it is found.
    #[must_use]
    pub fn filed(&self) -> &str {
        self.selectors.nth(self.filed)
    }

    /// The entry filed under the selector for which `count` is least; stored, and never recomputed for a delete.
    #[must_use]
    pub fn filed_by(mut self, count: impl Fn(&str) -> u32) -> Self {
        let rarest = self
            .selectors
            .iter()
            .enumerate()
            .min_by_key(|(_, s)| count(s))
            .map_or(0, |(i, _)| i);
        self.filed = u8::try_from(rarest).unwrap_or(0);
        self
    }

    /// The order in which a workload's identities are listed: priority, then creation, then id. The first is the default.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        other
            .priority()
            .cmp(&self.priority())
            .then_with(|| self.created_at.cmp(&other.created_at))
            .then_with(|| self.id.cmp(&other.id))
    }
}

fn check_spiffe_id(written: &str, trust_domain: &TrustDomain) -> Result<IdPattern, FieldError> {
    let bad = |why: &dyn fmt::Display| FieldError::new("spiffe_id", written, why);
    if written.is_empty() {
        return Err(bad(&"is missing"));
    }
    if Template::looks_like(written) {
        let template = Template::parse(written).map_err(|e| bad(&e))?;
        if template.trust_domain() != trust_domain {
            return Err(bad(&format!("is not in trust domain {trust_domain}")));
        }
        return Ok(IdPattern::Template(Arc::new(template)));
    }
    let id = SpiffeId::parse(written).map_err(|e| bad(&e))?;
    check_member(&id, trust_domain).map_err(|why| bad(&why))?;
    if is_reserved(&id) {
        return Err(bad(&"is under /spire, which is reserved"));
    }
    Ok(IdPattern::Exact(id))
}

fn check_member(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), String> {
    if !id.is_member_of(trust_domain) {
        return Err(format!("is not in trust domain {trust_domain}"));
    }
    if !id.has_path() {
        return Err("has no path; the bare trust domain names the authority itself".to_owned());
    }
    Ok(())
}

/// Whether an id lies in the space reserved for servers and agents.
#[must_use]
pub fn is_reserved(id: &SpiffeId) -> bool {
    id.path() == "/spire" || id.path().starts_with("/spire/")
}

fn check_parent(parent: &Parent, trust_domain: &TrustDomain) -> Result<(), FieldError> {
    match parent {
        Parent::Server | Parent::Issuer(_) => Ok(()),
        Parent::Id(id) => check_member(id, trust_domain)
            .map_err(|why| FieldError::new("parent_id", id.as_str(), why)),
    }
}

fn check_ttl(field: &'static str, ttl: Duration) -> Result<u32, FieldError> {
    if ttl > limits::TTL_MAX {
        return Err(FieldError::new(
            field,
            ttl.as_secs().to_string(),
            "is longer than a year",
        ));
    }
    u32::try_from(ttl.as_secs())
        .map_err(|_| FieldError::new(field, ttl.as_secs().to_string(), "is too long"))
}

fn check_text(field: &'static str, value: &str, bound: usize) -> Result<String, FieldError> {
    if value.len() > bound {
        return Err(FieldError::new(
            field,
            value,
            format!("is longer than {bound} bytes"),
        ));
    }
    if value.chars().any(text::is_unsafe) {
        return Err(FieldError::new(field, value, "carries a control character"));
    }
    Ok(value.to_owned())
}

fn check_labels(labels: &[(String, String)]) -> Result<Vec<(String, String)>, FieldError> {
    if labels.len() > limits::LABELS {
        return Err(FieldError::new(
            "labels",
            labels.len().to_string(),
            "at most 32 labels are allowed",
        ));
    }
    let mut all = Vec::with_capacity(labels.len());
    for (name, value) in labels {
        if name.is_empty()
            || !name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        {
            return Err(FieldError::new(
                "labels",
                name,
                "a label's name is of A-Z a-z 0-9 - _ . /",
            ));
        }
        all.push((
            check_text("labels", name, limits::LABEL_BYTES)?,
            check_text("labels", value, limits::LABEL_BYTES)?,
        ));
    }
    all.sort();
    for pair in all.windows(2) {
        if let [a, b] = pair
            && a.0 == b.0
        {
            return Err(FieldError::new("labels", &a.0, "is named twice"));
        }
    }
    Ok(all)
}

fn check_federates_with(
    names: &[String],
    own: &TrustDomain,
) -> Result<Vec<TrustDomain>, FieldError> {
    if names.len() > limits::FEDERATES_WITH {
        return Err(FieldError::new(
            "federates_with",
            names.len().to_string(),
            "at most 64 trust domains are allowed",
        ));
    }
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let td = TrustDomain::from_name_or_id(name)
            .map_err(|e| FieldError::new("federates_with", name, e))?;
        if td == *own {
            return Err(FieldError::new(
                "federates_with",
                name,
                "is the server's own trust domain",
            ));
        }
        all.push(td);
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// Names as RFC 1123 hosts, lower or upper case; one leading `*` label is allowed and must not cover a listed name.
fn check_dns_names(names: &[String]) -> Result<Vec<String>, FieldError> {
    if names.len() > limits::DNS_NAMES {
        return Err(FieldError::new(
            "dns_names",
            names.len().to_string(),
            "at most 64 DNS names are allowed",
        ));
    }
    for (i, name) in names.iter().enumerate() {
        let bad = |why: &str| FieldError::new("dns_names", name, why);
        let plain = name.strip_prefix("*.").unwrap_or(name);
        if name.len() > 253 || plain.is_empty() {
            return Err(bad("must be 1 to 253 bytes"));
        }
        for label in plain.split('.') {
            if label.is_empty()
                || label.len() > 63
                || label.starts_with('-')
                || label.ends_with('-')
                || !label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            {
                return Err(bad(
                    "has a label that is not 1 to 63 letters, digits and inner dashes",
                ));
            }
        }
        if names.iter().take(i).any(|n| n.eq_ignore_ascii_case(name)) {
            return Err(bad("is listed twice"));
        }
        if let Some(wild) = name.strip_prefix("*.")
            && names.iter().any(|n| {
                n.split_once('.')
                    .is_some_and(|(head, tail)| head != "*" && tail.eq_ignore_ascii_case(wild))
            })
        {
            return Err(bad("covers another listed name"));
        }
    }
    Ok(names.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn td() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn spec() -> EntrySpec {
        EntrySpec {
            spiffe_id: "spiffe://example.org/web".into(),
            parent: Some(Parent::Id(
                SpiffeId::parse("spiffe://example.org/spire/agent/local/a").unwrap(),
            )),
            selectors: vec!["unix:uid:1000".into()],
            ..EntrySpec::default()
        }
    }

    fn check(change: impl FnOnce(&mut EntrySpec), expect: Result<(), &str>) {
        let mut s = spec();
        change(&mut s);
        match (Entry::new(s, EntryId::parse("a").unwrap(), &td()), expect) {
            (Ok(e), Ok(())) => assert_eq!(
                Entry::new(e.spec(), e.id().clone(), &td()).as_ref(),
                Ok(&e),
                "spec and back"
            ),
            (Err(e), Err(field)) => assert_eq!(e.field, field, "{e}"),
            (got, expect) => panic!("{got:?} is not {expect:?}"),
        }
    }

    #[test]
    fn fields_are_checked_as_spire_checks_them() {
        check(|_| (), Ok(()));
        for bad in [
            "",
            "spiffe://other.org/x",
            "spiffe://example.org",
            "spiffe://example.org/spire/x",
            "spiffe://example.org/a//b",
            "https://example.org/x",
            "spiffe://example.org/é",
        ] {
            check(|s| s.spiffe_id = bad.into(), Err("spiffe_id"));
        }
        check(
            |s| s.spiffe_id = "spiffe://example.org/u/{unix.uid}".into(),
            Ok(()),
        );
        check(
            |s| {
                s.spiffe_id = "spiffe://example.org/u/{unix.uid}".into();
                s.admin = true;
            },
            Err("spiffe_id"),
        );
        check(
            |s| {
                s.spiffe_id = "spiffe://example.org/u/{unix.uid}".into();
                s.sharing = Sharing::Node;
            },
            Err("spiffe_id"),
        );
        check(|s| s.parent = None, Err("parent_id"));
        check(|s| s.parent = Some(Parent::Server), Ok(()));
        check(
            |s| s.parent = Some(Parent::Id(SpiffeId::parse("spiffe://other.org/x").unwrap())),
            Err("parent_id"),
        );
        // The controller-manager's probe has an id equal to its parent.
        check(
            |s| {
                s.spiffe_id = "spiffe://example.org/x".into();
                s.parent = Some(Parent::Id(
                    SpiffeId::parse("spiffe://example.org/x").unwrap(),
                ));
            },
            Ok(()),
        );
        check(|s| s.selectors.clear(), Err("selectors"));
        check(|s| s.selectors = vec!["nocolon".into()], Err("selectors"));
        check(
            |s| s.selectors = (0..65).map(|i| format!("a:{i}")).collect(),
            Err("selectors"),
        );
        check(
            |s| s.x509_svid_ttl = Duration::from_secs(u64::MAX),
            Err("x509_svid_ttl"),
        );
        check(
            |s| s.federates_with = vec!["example.org".into()],
            Err("federates_with"),
        );
        check(
            |s| s.federates_with = vec!["Bad".into()],
            Err("federates_with"),
        );
        check(|s| s.federates_with = vec!["b.org".into()], Ok(()));
        check(|s| s.hint = "x".repeat(1025), Err("hint"));
        check(|s| s.hint = "a\u{1b}[0m".into(), Err("hint"));
        check(
            |s| s.labels = vec![("a".into(), "b".into()), ("a".into(), "c".into())],
            Err("labels"),
        );
        for (names, ok) in [
            (vec!["a.example.org", "*.b.org"], true),
            (vec!["*.b.org", "a.b.org"], false),
            (vec!["a.b.org", "a.b.org"], false),
            (vec!["-a.org"], false),
            (vec!["*"], false),
            (vec!["a.*.org"], false),
            (vec![""], false),
        ] {
            check(
                |s| s.dns_names = names.iter().map(ToString::to_string).collect(),
                if ok { Ok(()) } else { Err("dns_names") },
            );
        }
    }

    #[test]
    fn ids_keep_their_spelling() {
        for text in [
            "0192f0c1-7b1a-7000-8000-000000000001",
            "0192F0C1-7B1A-7000-8000-000000000001",
            "a.b_c-D",
            "0192f0c17b1a70008000000000000001",
        ] {
            assert_eq!(EntryId::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "a/b", "a b", &"x".repeat(256)] {
            assert!(EntryId::parse(bad).is_err());
        }
    }
}
