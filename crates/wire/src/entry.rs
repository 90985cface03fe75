//! Entries on the wire: SPIRE's message, ours around it, and the masks.

use std::{sync::Arc, time::Duration};

use attesta_model::{Entry, EntryId, EntrySpec, FieldError, IdPattern, IssuerId, Parent, Sharing};
use attesta_spiffe::TrustDomain;
use jiff::Timestamp;

use crate::{
    fact, id,
    proto::{
        attesta::{admin::v1 as admin, agent::v1 as agent},
        spire::api::types,
    },
};

/// Everything: what a nil output mask means.
pub const EVERYTHING: types::EntryMask = types::EntryMask {
    spiffe_id: true,
    parent_id: true,
    selectors: true,
    x509_svid_ttl: true,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: true,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// Whether SPIRE's Entry API may show this entry: not what it could not write back (DESIGN section 9).
#[must_use]
pub fn is_spires(entry: &Entry) -> bool {
    matches!(entry.spiffe_id(), IdPattern::Exact(_)) && !matches!(entry.parent(), Parent::Issuer(_))
}

fn seconds(d: Duration) -> i32 {
    i32::try_from(d.as_secs()).unwrap_or(i32::MAX)
}

/// An entry as SPIRE writes it, reduced to the mask. The id is always there.
#[must_use]
pub fn to_wire(
    e: &Entry,
    trust_domain: &TrustDomain,
    mask: Option<&types::EntryMask>,
) -> types::Entry {
    let m = mask.unwrap_or(&EVERYTHING);
    let mut out = types::Entry {
        id: e.id().to_string(),
        ..Default::default()
    };
    if m.spiffe_id {
        out.spiffe_id = e.spiffe_id().exact().map(id::to_wire);
    }
    if m.parent_id {
        out.parent_id = e.parent().to_id(trust_domain).as_ref().map(id::to_wire);
    }
    if m.selectors {
        out.selectors = e.selectors().iter().map(fact::selector_to_wire).collect();
    }
    if m.x509_svid_ttl {
        out.x509_svid_ttl = seconds(e.x509_svid_ttl());
    }
    if m.federates_with {
        out.federates_with = e
            .federates_with()
            .iter()
            .map(|t| t.as_str().to_owned())
            .collect();
    }
    if m.admin {
        out.admin = e.admin();
    }
    if m.downstream {
        out.downstream = e.downstream();
    }
    if m.expires_at {
        out.expires_at = e.expires_at().map_or(0, Timestamp::as_second);
    }
    if m.dns_names {
        out.dns_names = e.dns_names().to_vec();
    }
    if m.revision_number {
        out.revision_number = i64::try_from(e.revision()).unwrap_or(i64::MAX);
    }
    if m.store_svid {
        out.store_svid = e.store_svid();
    }
    if m.jwt_svid_ttl {
        out.jwt_svid_ttl = seconds(e.jwt_svid_ttl());
    }
    if m.hint {
        out.hint = e.hint().to_owned();
    }
    if m.created_at {
        out.created_at = e.created_at().as_second();
    }
    if m.additional_attributes && (e.disable_x509_svid_prefetch() || e.jwt_svid_include_jti()) {
        out.additional_attributes = Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: e.disable_x509_svid_prefetch(),
            jwt_svid_include_jti: e.jwt_svid_include_jti(),
        });
    }
    out
}

fn ttl(field: &'static str, value: i32) -> Result<Duration, FieldError> {
    u64::try_from(value)
        .map(Duration::from_secs)
        .map_err(|_| FieldError::new(field, value.to_string(), "is negative"))
}

fn time(field: &'static str, value: i64) -> Result<Option<Timestamp>, FieldError> {
    match value {
        0 => Ok(None),
        s if s < 0 => Err(FieldError::new(field, s.to_string(), "is negative")),
        s => Timestamp::from_second(s)
            .map(Some)
            .map_err(|e| FieldError::new(field, s.to_string(), e)),
    }
}

/// The fields of an entry from SPIRE's wire, for `Entry::new` to check.
///
/// # Errors
/// Names the field that is malformed.
pub fn from_wire(e: &types::Entry) -> Result<EntrySpec, FieldError> {
    let parent = match &e.parent_id {
        None => None,
        some => Some(Parent::from_id(&id::from_wire("parent_id", some.as_ref())?)),
    };
    let attributes = e.additional_attributes.unwrap_or_default();
    Ok(EntrySpec {
        id: if e.id.is_empty() {
            None
        } else {
            Some(EntryId::parse(&e.id).map_err(|why| FieldError::new("id", &e.id, why))?)
        },
        spiffe_id: match &e.spiffe_id {
            None => String::new(),
            some => id::from_wire("spiffe_id", some.as_ref())?.to_string(),
        },
        parent,
        selectors: e
            .selectors
            .iter()
            .map(|s| fact::selector_from_wire("selectors", s))
            .collect::<Result<_, _>>()?,
        x509_svid_ttl: ttl("x509_svid_ttl", e.x509_svid_ttl)?,
        jwt_svid_ttl: ttl("jwt_svid_ttl", e.jwt_svid_ttl)?,
        federates_with: e.federates_with.clone(),
        admin: e.admin,
        downstream: e.downstream,
        expires_at: time("expires_at", e.expires_at)?,
        dns_names: e.dns_names.clone(),
        store_svid: e.store_svid,
        hint: e.hint.clone(),
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        ..EntrySpec::default()
    })
}

/// What an update through SPIRE's API changes: the masked fields of `change` over `old`.
#[must_use]
pub fn masked(old: EntrySpec, change: EntrySpec, mask: Option<&types::EntryMask>) -> EntrySpec {
    let m = mask.unwrap_or(&EVERYTHING);
    let mut out = old;
    macro_rules! take { ($($bit:ident => $($field:ident),+);+ $(;)?) => { $(if m.$bit { $(out.$field = change.$field;)+ })+ } }
    take! {
        spiffe_id => spiffe_id;
        parent_id => parent;
        selectors => selectors;
        x509_svid_ttl => x509_svid_ttl;
        federates_with => federates_with;
        admin => admin;
        downstream => downstream;
        expires_at => expires_at;
        dns_names => dns_names;
        store_svid => store_svid;
        jwt_svid_ttl => jwt_svid_ttl;
        hint => hint;
        additional_attributes => disable_x509_svid_prefetch, jwt_svid_include_jti;
    }
    out
}

/// An entry as our admin API writes it.
#[must_use]
pub fn to_admin(e: &Entry, trust_domain: &TrustDomain) -> admin::Entry {
    let extras = admin::Extras {
        spiffe_id_template: e
            .spiffe_id()
            .exact()
            .map_or_else(|| e.spiffe_id().as_str().to_owned(), |_| String::new()),
        owner: e.owner().to_owned(),
        purpose: e.purpose().to_owned(),
        labels: e.labels().iter().cloned().collect(),
        priority: e.priority(),
        node_shared: e.sharing() == Sharing::Node,
        issuer: if let Parent::Issuer(i) = e.parent() {
            i.as_str().to_owned()
        } else {
            String::new()
        },
    };
    admin::Entry {
        base: Some(to_wire(e, trust_domain, None)),
        extras: Some(extras),
    }
}

/// The fields of an entry from our admin API.
///
/// # Errors
/// Names the field that is malformed.
pub fn from_admin(e: &admin::Entry) -> Result<EntrySpec, FieldError> {
    let base = e
        .base
        .as_ref()
        .ok_or_else(|| FieldError::new("base", "", "is missing"))?;
    let mut spec = from_wire(base)?;
    let Some(extras) = &e.extras else {
        return Ok(spec);
    };
    if !extras.spiffe_id_template.is_empty() {
        if !spec.spiffe_id.is_empty() {
            return Err(FieldError::new(
                "spiffe_id_template",
                &extras.spiffe_id_template,
                "stands beside a spiffe_id; give one of them",
            ));
        }
        spec.spiffe_id.clone_from(&extras.spiffe_id_template);
    }
    if !extras.issuer.is_empty() {
        spec.parent = Some(Parent::Issuer(
            IssuerId::parse(&extras.issuer)
                .map_err(|why| FieldError::new("issuer", &extras.issuer, why))?,
        ));
    }
    spec.owner.clone_from(&extras.owner);
    spec.purpose.clone_from(&extras.purpose);
    spec.labels = extras
        .labels
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    spec.priority = extras.priority;
    spec.sharing = if extras.node_shared {
        Sharing::Node
    } else {
        Sharing::Instance
    };
    Ok(spec)
}

/// An entry as it is pushed to an agent.
#[must_use]
pub fn to_agent(e: &Entry, trust_domain: &TrustDomain) -> agent::AuthorizedEntry {
    agent::AuthorizedEntry {
        entry: Some(to_wire(e, trust_domain, None)),
        spiffe_id_template: e
            .spiffe_id()
            .exact()
            .map_or_else(|| e.spiffe_id().as_str().to_owned(), |_| String::new()),
        node_shared: e.sharing() == Sharing::Node,
        priority: e.priority(),
    }
}

/// An entry as an agent receives it.
///
/// # Errors
/// Names the field that is malformed.
pub fn from_agent(
    e: &agent::AuthorizedEntry,
    trust_domain: &TrustDomain,
) -> Result<Arc<Entry>, FieldError> {
    let base = e
        .entry
        .as_ref()
        .ok_or_else(|| FieldError::new("entry", "", "is missing"))?;
    let mut spec = from_wire(base)?;
    if !e.spiffe_id_template.is_empty() {
        spec.spiffe_id.clone_from(&e.spiffe_id_template);
    }
    spec.priority = e.priority;
    spec.sharing = if e.node_shared {
        Sharing::Node
    } else {
        Sharing::Instance
    };
    received(spec, base, trust_domain)
}

/// An entry as an agent receives it from SPIRE's own API. What the mask left out is nothing to an agent.
///
/// # Errors
/// Names the field that is malformed.
pub fn from_server(e: &types::Entry, trust_domain: &TrustDomain) -> Result<Arc<Entry>, FieldError> {
    let mut spec = from_wire(e)?;
    spec.parent.get_or_insert(Parent::Server);
    received(spec, e, trust_domain)
}

fn received(
    mut spec: EntrySpec,
    base: &types::Entry,
    trust_domain: &TrustDomain,
) -> Result<Arc<Entry>, FieldError> {
    spec.revision = u64::try_from(base.revision_number).unwrap_or(0);
    spec.created_at = time("created_at", base.created_at)?.unwrap_or_default();
    let id = spec
        .id
        .clone()
        .ok_or_else(|| FieldError::new("id", "", "is missing"))?;
    // No filing: an agent's entries are few.
    Entry::new(spec, id, trust_domain).map(Arc::new)
}

/// The digest of an agent's full set, by which drift is detected: over `id NUL revision NUL` in the order of ids.
#[must_use]
pub fn canonical<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> Vec<u8> {
    let mut all: Vec<(String, u64)> = entries
        .map(|e| (e.id().to_string(), e.revision()))
        .collect();
    all.sort_unstable();
    all.dedup();
    let mut out = Vec::with_capacity(all.len() * 48);
    for (id, revision) in all {
        out.extend_from_slice(id.as_bytes());
        out.push(0);
        out.extend_from_slice(revision.to_string().as_bytes());
        out.push(0);
    }
    out
}
