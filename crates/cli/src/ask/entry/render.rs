//! An entry for people, and for programs: the keys are those of the flags, and stable.
//!
//! Pure.

use std::time::Duration;

use attesta_wire::{id, proto::attesta::admin::v1 as api};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::output::{Block, moment, span, unix_time};

/// The SPIFFE ID or the template; empty where there is neither.
pub(super) fn spiffe_id(entry: &api::Entry) -> String {
    match entry.base.as_ref().and_then(|b| b.spiffe_id.as_ref()) {
        Some(id) => id::text(id),
        None => entry
            .extras
            .as_ref()
            .map(|e| e.spiffe_id_template.clone())
            .unwrap_or_default(),
    }
}

/// The selectors as `type:value`.
pub(super) fn selectors(entry: &api::Entry) -> Vec<String> {
    let selectors = entry
        .base
        .as_ref()
        .map(|b| b.selectors.as_slice())
        .unwrap_or_default();
    selectors
        .iter()
        .map(|s| format!("{}:{}", s.r#type, s.value))
        .collect()
}

/// The entry as JSON. Lifetimes are seconds, 0 the server's default; times are RFC 3339, null where there is none.
pub(super) fn json(entry: &api::Entry) -> Value {
    let base = entry.base.clone().unwrap_or_default();
    let extras = entry.extras.clone().unwrap_or_default();
    let mut value = json!({
        "entry_id": base.id,
        "spiffe_id": spiffe_id(entry),
        "parent_id": base.parent_id.as_ref().map(id::text),
        "selectors": selectors(entry),
        "x509_svid_ttl": base.x509_svid_ttl,
        "jwt_svid_ttl": base.jwt_svid_ttl,
        "dns_names": base.dns_names,
        "federates_with": base.federates_with,
        "hint": base.hint,
        "owner": extras.owner,
        "purpose": extras.purpose,
        "labels": extras.labels,
        "priority": extras.priority,
        "sharing": if extras.node_shared { "node" } else { "instance" },
        "admin": base.admin,
        "downstream": base.downstream,
        "store_svid": base.store_svid,
        "expires_at": unix_time(base.expires_at).map(|t| t.to_string()),
        "created_at": unix_time(base.created_at).map(|t| t.to_string()),
        "revision": base.revision_number,
    });
    if let Some(map) = value.as_object_mut().filter(|_| !extras.issuer.is_empty()) {
        map.insert("issuer".to_owned(), Value::String(extras.issuer));
    }
    value
}

/// The entry as lines; what is not set is left out.
pub(super) fn block(entry: &api::Entry, now: Timestamp) -> Block {
    let base = entry.base.clone().unwrap_or_default();
    let extras = entry.extras.clone().unwrap_or_default();
    let ttl = |seconds: i32| match u64::try_from(seconds) {
        Ok(0) | Err(_) => "default".to_owned(),
        Ok(n) => span(Duration::from_secs(n)),
    };
    let mut b = Block::default();
    b.line("Entry ID", &base.id)
        .line("SPIFFE ID", spiffe_id(entry))
        .some(
            "Parent ID",
            base.parent_id.as_ref().map(id::text).unwrap_or_default(),
        )
        .some("Issuer", &extras.issuer);
    for selector in selectors(entry) {
        b.line("Selector", selector);
    }
    b.line("X509-SVID TTL", ttl(base.x509_svid_ttl))
        .line("JWT-SVID TTL", ttl(base.jwt_svid_ttl));
    for name in &base.dns_names {
        b.line("DNS name", name);
    }
    for domain in &base.federates_with {
        b.line("FederatesWith", domain);
    }
    b.some("Hint", &base.hint)
        .some("Owner", &extras.owner)
        .some("Purpose", &extras.purpose);
    for (key, value) in &extras.labels {
        b.line("Label", format!("{key}={value}"));
    }
    if extras.priority != 0 {
        b.line("Priority", extras.priority.to_string());
    }
    for (name, set) in [
        ("Admin", base.admin),
        ("Downstream", base.downstream),
        ("StoreSvid", base.store_svid),
        ("Shared by node", extras.node_shared),
    ] {
        b.some(name, if set { "true" } else { "" });
    }
    b.some(
        "Expiration time",
        unix_time(base.expires_at)
            .map(|t| moment(t, now))
            .unwrap_or_default(),
    );
    b.line("Revision", base.revision_number.to_string());
    b
}

#[cfg(test)]
mod tests {
    use super::{super::draft, *};

    #[test]
    fn what_is_listed_can_be_read_back() {
        let source = r#"[{"entry_id":"e1","spiffe_id":"spiffe://td/a","parent_id":"spiffe://td/n","selectors":["unix:uid:1"],"x509_svid_ttl":60,
            "jwt_svid_ttl":0,"dns_names":["a.b"],"federates_with":[],"hint":"h","owner":"o","purpose":"p","labels":{"k":"v"},"priority":3,"sharing":"node",
            "admin":false,"downstream":true,"store_svid":false,"expires_at":"2030-01-01T00:00:00Z"}]"#;
        let now = Timestamp::UNIX_EPOCH;
        let mut first = api::Entry::default();
        draft::many(source.as_bytes())
            .unwrap()
            .remove(0)
            .onto(&mut first, now)
            .unwrap();
        let listing = json!({ "entries": [json(&first)] }).to_string();
        let mut second = api::Entry::default();
        draft::many(listing.as_bytes())
            .unwrap()
            .remove(0)
            .onto(&mut second, now)
            .unwrap();
        assert_eq!(first, second);
        let text = block(&first, now).to_string();
        for line in [
            "SPIFFE ID        : spiffe://td/a\n",
            "Selector         : unix:uid:1\n",
            "X509-SVID TTL    : 1m\n",
            "Label            : k=v\n",
            "Downstream       : true\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("Admin"), "{text}");
    }
}
