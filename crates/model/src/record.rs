//! One line of the audit log. The model builds the body; the store seals it with its position.
//!
//! Bytes: JSON with a fixed key order, version first, integers only; free text is bounded and cannot break a line.

use attesta_spiffe::SpiffeId;
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    Action, Actor, Attested, CorrelationId, CredentialId, DecisionId, Denial, EntryId, Facts,
    InstanceKey, KeyId, ObjectKey, Request, text,
};

/// The version of every record written today.
pub const VERSION: u32 = 1;

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Allowed, by these policies of the set with this digest.
    Permitted {
        /// SHA-256 of the policy set, hex.
        policy_digest: String,
        /// The policies that allowed it.
        policies: Vec<String>,
    },
    /// Refused.
    Denied(Box<Denial>),
    /// Not a decision: something that happened.
    Noted,
}

/// A record's body, before it is written. Fields that do not apply stay empty.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who asked.
    pub actor: Actor,
    /// What for.
    pub action: Action,
    /// When.
    pub at: Timestamp,
    /// The decision's name.
    pub decision: DecisionId,
    /// What it belongs to.
    pub correlation: CorrelationId,
    /// How it ended.
    pub outcome: Outcome,
    /// The SPIFFE ID it is about.
    pub subject: Option<SpiffeId>,
    /// The entry by which.
    pub entry: Option<EntryId>,
    /// Whether the caller named the entry instead of showing facts.
    pub by_entry: bool,
    /// Who vouched.
    pub parent: Option<String>,
    /// What the policies were asked beside the facts, so that the decision can be replayed; written as it is.
    pub inputs: Option<serde_json::Value>,
    /// The instance a credential is bound to.
    pub instance: Option<InstanceKey>,
    /// What was proven.
    pub facts: Facts,
    /// The credential.
    pub credential: Option<CredentialId>,
    /// When the credential ends.
    pub expires_at: Option<Timestamp>,
    /// For whom a token is.
    pub audience: Vec<String>,
    /// SHA-256 of the bytes that will be signed.
    pub digest: Option<[u8; 32]>,
    /// The key that will sign them.
    pub key: Option<KeyId>,
    /// The objects that changed with it, each with whether it was put or deleted.
    pub changes: Vec<(ObjectKey, bool)>,
    /// The revision of the snapshot it was decided on.
    pub revision: u64,
    /// A sentence for the reader.
    pub note: String,
    /// The same evidence, shown again by the same key after a lost answer.
    pub retry: bool,
    /// How many equal ones this stands for; 1 but for folded refusals.
    pub count: u32,
}

/// What records can be found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordIndex {
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// The action's word.
    pub kind: &'static str,
    /// The SPIFFE ID it is about.
    pub subject: Option<String>,
    /// The instance.
    pub instance: Option<String>,
    /// The credential's id, or else the decision's.
    pub name: String,
    /// The correlation id.
    pub correlation: String,
}

impl Record {
    /// A record of a request's outcome.
    #[must_use]
    pub fn new(request: &Request, outcome: Outcome) -> Self {
        Self {
            actor: request.actor.clone(),
            action: request.action,
            at: request.at,
            decision: request.decision,
            correlation: request.correlation.clone(),
            outcome,
            subject: None,
            entry: None,
            by_entry: false,
            parent: None,
            inputs: None,
            instance: None,
            facts: Facts::default(),
            credential: None,
            expires_at: None,
            audience: Vec::new(),
            digest: None,
            key: None,
            changes: Vec::new(),
            revision: 0,
            note: String::new(),
            retry: false,
            count: 1,
        }
    }

    /// A refusal's record; the denial carries the decision's id from here on.
    #[must_use]
    pub fn denied(request: &Request, denial: &Denial) -> Self {
        Self::new(
            request,
            Outcome::Denied(Box::new(denial.clone().with_decision(request.decision))),
        )
    }

    /// Adds who was attested.
    #[must_use]
    pub fn about(mut self, attested: &Attested) -> Self {
        self.parent = Some(attested.parent.to_string());
        self.instance = Some(attested.instance.key());
        self.facts = attested.facts.clone();
        self
    }

    /// What it can be found by.
    #[must_use]
    pub fn index(&self) -> RecordIndex {
        RecordIndex {
            at_ms: self.at.as_millisecond(),
            kind: self.action.as_str(),
            subject: self.subject.as_ref().map(ToString::to_string),
            instance: self.instance.as_ref().map(ToString::to_string),
            name: self
                .credential
                .as_ref()
                .map_or_else(|| self.decision.to_string(), ToString::to_string),
            correlation: self.correlation.to_string(),
        }
    }

    /// Its bytes: one line without a line feed.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(768);
        let mut serializer = serde_json::Serializer::new(&mut out);
        // Maps with string keys, strings and integers into memory: no failing case.
        if self.write(&mut serializer).is_err() {
            out.clear();
        }
        out
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut m = serializer.serialize_map(None)?;
        m.serialize_entry("v", &VERSION)?;
        m.serialize_entry("action", self.action.as_str())?;
        m.serialize_entry("actor", &ActorJson(&self.actor))?;
        m.serialize_entry("at", &self.at.as_millisecond())?;
        if !self.audience.is_empty() {
            m.serialize_entry(
                "audience",
                &self
                    .audience
                    .iter()
                    .map(|a| text::printable(a))
                    .collect::<Vec<_>>(),
            )?;
        }
        if self.by_entry {
            m.serialize_entry("by_entry", &true)?;
        }
        if !self.changes.is_empty() {
            let list: Vec<String> = self
                .changes
                .iter()
                .map(|(key, put)| {
                    format!(
                        "{} {} {key}",
                        if *put { "put" } else { "delete" },
                        key.kind().as_str()
                    )
                })
                .collect();
            m.serialize_entry("changes", &list)?;
        }
        m.serialize_entry("correlation", self.correlation.as_str())?;
        if self.count != 1 {
            m.serialize_entry("count", &self.count)?;
        }
        if let Some(credential) = &self.credential {
            m.serialize_entry("credential", credential.as_str())?;
        }
        m.serialize_entry("decision", &self.decision.to_string())?;
        if let Outcome::Denied(denial) = &self.outcome {
            m.serialize_entry("denial", &DenialJson(denial))?;
        }
        if let Some(digest) = &self.digest {
            m.serialize_entry("digest", &hex::encode(digest))?;
        }
        if let Some(entry) = &self.entry {
            m.serialize_entry("entry", &entry.to_string())?;
        }
        if let Some(at) = self.expires_at {
            m.serialize_entry("expires_at", &at.as_millisecond())?;
        }
        if self.facts.iter().len() > 0 {
            m.serialize_entry("facts", &FactsJson(&self.facts))?;
        }
        if let Some(inputs) = &self.inputs {
            m.serialize_entry("inputs", inputs)?;
        }
        if let Some(instance) = &self.instance {
            m.serialize_entry("instance", instance.as_str())?;
        }
        if let Some(key) = &self.key {
            m.serialize_entry("key", key.as_str())?;
        }
        if !self.note.is_empty() {
            m.serialize_entry("note", &text::printable(&self.note))?;
        }
        m.serialize_entry(
            "outcome",
            match self.outcome {
                Outcome::Permitted { .. } => "permitted",
                Outcome::Denied(_) => "denied",
                Outcome::Noted => "noted",
            },
        )?;
        if let Some(parent) = &self.parent {
            m.serialize_entry("parent", parent)?;
        }
        if let Outcome::Permitted {
            policy_digest,
            policies,
        } = &self.outcome
        {
            m.serialize_entry("policies", policies)?;
            m.serialize_entry("policy_digest", policy_digest)?;
        }
        if self.retry {
            m.serialize_entry("retry", &true)?;
        }
        m.serialize_entry("revision", &self.revision)?;
        if let Some(subject) = &self.subject {
            m.serialize_entry("subject", subject.as_str())?;
        }
        m.end()
    }
}

struct ActorJson<'a>(&'a Actor);

impl Serialize for ActorJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut m = serializer.serialize_map(None)?;
        match self.0 {
            Actor::System(task) => {
                m.serialize_entry("kind", "system")?;
                m.serialize_entry("task", task)?;
            }
            Actor::Local { uid, pid, path } => {
                m.serialize_entry("kind", "local")?;
                m.serialize_entry("path", &text::printable(path))?;
                m.serialize_entry("pid", pid)?;
                m.serialize_entry("uid", uid)?;
            }
            Actor::Admin(id) => {
                m.serialize_entry("id", id.as_str())?;
                m.serialize_entry("kind", "admin")?;
            }
            Actor::Node { id, serial } => {
                m.serialize_entry("id", id.as_str())?;
                m.serialize_entry("kind", "node")?;
                m.serialize_entry("serial", serial)?;
            }
            Actor::Stranger(from) => {
                m.serialize_entry("from", &text::printable(from))?;
                m.serialize_entry("kind", "stranger")?;
            }
        }
        m.end()
    }
}

struct FactsJson<'a>(&'a Facts);

impl Serialize for FactsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|f| {
            (
                format!("{}.{}", f.namespace(), f.key()),
                f.values().map(text::printable).collect::<Vec<_>>(),
            )
        }))
    }
}

struct DenialJson<'a>(&'a Denial);

impl Serialize for DenialJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let d = self.0;
        let mut m = serializer.serialize_map(None)?;
        if let Some(attribute) = &d.attribute {
            m.serialize_entry("attribute", &text::printable(attribute))?;
        }
        if let Some(hint) = &d.hint {
            m.serialize_entry("hint", &text::printable(hint))?;
        }
        m.serialize_entry("message", &text::printable(&d.message))?;
        m.serialize_entry("reason", d.reason.as_str())?;
        if let Some(rule) = &d.rule {
            m.serialize_entry("rule", &text::printable(rule))?;
        }
        m.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Fact, Instance, Parent, Reason};

    #[test]
    fn a_record_is_one_line_with_sorted_keys() {
        let request = Request {
            actor: Actor::Local {
                uid: 0,
                pid: 7,
                path: "/bin/\u{1b}[31mevil\n".into(),
            },
            action: Action::IssueX509,
            at: Timestamp::from_millisecond(1_764_000_000_001).unwrap(),
            decision: DecisionId([1; 16]),
            correlation: CorrelationId::parse("c1").unwrap(),
        };
        let facts = Facts::new([
            Fact::new("unix", "uid", ["1"]).unwrap(),
            Fact::new("unix", "gid", ["2"]).unwrap(),
        ])
        .unwrap();
        let attested = Attested::new(Parent::Server, facts, Instance::Node, None);
        let record = Record::denied(
            &request,
            &Denial::new(Code::PermissionDenied, Reason::Policy, "no\nway"),
        )
        .about(&attested);
        let text = String::from_utf8(record.to_json()).unwrap();
        assert!(!text.contains(['\n', '\u{1b}']));
        assert!(
            text.starts_with("{\"v\":1,\"action\":\"issue_x509\","),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["facts"]["unix.uid"][0], "1");
        assert_eq!(value["denial"]["reason"], "policy");
        let keys = text.match_indices("\",\"").count();
        assert!(keys > 3);
        assert_eq!(record.index().name, "01".repeat(16));
    }
}
