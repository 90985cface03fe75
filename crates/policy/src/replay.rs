//! A decision again, from its record. What the record does not carry is named, never guessed.
//!
//! Beside the fields of `model::Record`, a record may have `"inputs"`: an object of what policies could read and no other
//! field says ([`Question::inputs`] makes it). Without it, decisions replay as far as policies read only the rest.

use std::{borrow::Cow, collections::BTreeMap};

use attesta_model::Action;
use serde_json::{Map, Value as Json};

use crate::{
    Policies, PolicyError, Question,
    attr::{Attr, Attrs, Kind},
    input::{Bag, Input, Texts, Thing, Value, acted_on, attestor_of, path_of},
    reads::Reads,
};

impl Question<'_> {
    /// What policies could read that `model::Record` has no field for: `context`, `resource` and, for the variables
    /// that have any, their attributes by the schema's names. Keys are sorted, numbers are integers. A record that keeps
    /// it as `"inputs"` can be replayed whole.
    #[must_use]
    pub fn inputs(&self) -> Json {
        let Ok(input) = Input::of(self) else {
            return Json::Null;
        };
        let carried = carried(input.action);
        let mut inputs = Map::new();
        for (variable, bag, carried) in [
            ("context", &input.context, carried.context),
            ("principal", &input.principal.attrs, carried.principal),
            ("resource", &input.resource.attrs, carried.resource),
        ] {
            // An identity's attributes are its entry's, but for the id.
            if variable == "principal" && input.principal.kind == Kind::Identity {
                continue;
            }
            let fields = to_json(bag, carried);
            if !fields.is_empty() {
                inputs.insert(variable.to_owned(), Json::Object(fields));
            }
        }
        Json::Object(inputs)
    }
}

impl Policies {
    /// Decides again what a record says was decided: whether the verdict is the same under *this* set. The set's digest
    /// is not compared, so that a set can be tried on old records before it is used; compare it with the record's
    /// `policy_digest` to prove a decision.
    ///
    /// # Errors
    /// [`PolicyError::Record`] for bytes that are no record, [`PolicyError::NotDecided`] for one that policy did not
    /// decide, [`PolicyError::Incomplete`] where a policy reads what the record does not carry.
    pub fn replay(&self, record_json: &[u8]) -> Result<bool, PolicyError> {
        let record: Json =
            serde_json::from_slice(record_json).map_err(|e| PolicyError::Record(e.to_string()))?;
        let record = Recorded(
            record
                .as_object()
                .ok_or_else(|| PolicyError::Record("not an object".to_owned()))?,
        );
        let permitted = record.verdict()?;
        let input = record.input()?;
        let verdict = self.evaluate(&input);
        let lacking = verdict.reads.both(&input.missing);
        if lacking != Reads::default() {
            return Err(PolicyError::Incomplete(lacking.names()));
        }
        Ok(verdict.permitted() == permitted)
    }
}

/// What a record's other fields say of a decision.
fn carried(action: Action) -> Reads {
    let of = |attrs: &[Attr]| Attrs::of(attrs);
    let mut reads = Reads::default();
    reads.context.add(Attr::NowS.bit());
    match action {
        Action::IssueX509 | Action::IssueJwt => {
            reads.context.add(of(&[
                Attr::Actor,
                Attr::Facts,
                Attr::UnixUid,
                Attr::UnixGid,
                Attr::ByEntry,
                Attr::Instance,
                Attr::Audience,
            ]));
        }
        Action::AttestNode | Action::RenewNode => {
            reads.context.add(Attr::Facts.bit());
            reads.resource.add(Attr::Id.bit());
        }
        _ => {}
    }
    if !matches!(action, Action::IssueX509 | Action::IssueJwt) {
        reads.principal.add(of(&[
            Attr::Id,
            Attr::Attestor,
            Attr::Known,
            Attr::Banned,
            Attr::Uid,
            Attr::Program,
            Attr::Task,
            Attr::From,
        ]));
    }
    reads
}

fn to_json(bag: &Bag<'_>, carried: Attrs) -> Map<String, Json> {
    // Through a sorted map: whether serde_json's own keeps order is not ours to say.
    let sorted: BTreeMap<&str, Json> = bag
        .iter()
        .filter(|(attr, _)| !carried.has(*attr))
        .map(|(attr, value)| (attr.name(), value_json(value)))
        .collect();
    sorted
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn value_json(value: &Value<'_>) -> Json {
    match value {
        Value::Text(text) => Json::from(text.as_ref()),
        Value::Long(long) => Json::from(*long),
        Value::Flag(flag) => Json::from(*flag),
        Value::Texts(texts) => Json::from(texts.strings()),
        Value::Record(bag) => Json::Object(to_json(bag, Attrs::default())),
    }
}

/// The attributes `inputs` gives one variable. What has another shape than ours is left out, and so is missing.
fn from_json(fields: Option<&Json>) -> Bag<'_> {
    let Some(fields) = fields.and_then(Json::as_object) else {
        return Vec::new();
    };
    fields
        .iter()
        .filter_map(|(name, value)| Some((Attr::by_name(name)?, from_value(value)?)))
        .collect()
}

fn from_value(value: &Json) -> Option<Value<'_>> {
    match value {
        Json::String(text) => Some(Value::Text(text.as_str().into())),
        Json::Number(number) => number.as_i64().map(Value::Long),
        Json::Bool(flag) => Some(Value::Flag(*flag)),
        Json::Array(items) => {
            let strings = items
                .iter()
                .map(|i| i.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()?;
            Some(Value::Texts(Texts::Owned(strings)))
        }
        Json::Object(_) => Some(Value::Record(from_json(Some(value)))),
        Json::Null => None,
    }
}

/// A record's JSON, read field by field.
struct Recorded<'r>(&'r Map<String, Json>);

impl<'r> Recorded<'r> {
    fn text(&self, key: &str) -> Option<&'r str> {
        self.0.get(key).and_then(Json::as_str)
    }

    fn need(&self, key: &str) -> Result<&'r str, PolicyError> {
        self.text(key)
            .ok_or_else(|| PolicyError::Record(format!("has no {key}")))
    }

    /// Whether it was permitted.
    fn verdict(&self) -> Result<bool, PolicyError> {
        match self.need("outcome")? {
            "permitted" => Ok(true),
            "denied" => match self
                .0
                .get("denial")
                .and_then(|d| d.get("reason"))
                .and_then(Json::as_str)
            {
                Some("policy" | "policy_error") => Ok(false),
                reason => Err(PolicyError::NotDecided(format!(
                    "refused for {}",
                    reason.unwrap_or("no reason")
                ))),
            },
            other => Err(PolicyError::NotDecided(other.to_owned())),
        }
    }

    fn input(&self) -> Result<Input<'r>, PolicyError> {
        let word = self.need("action")?;
        let action = Action::ALL
            .into_iter()
            .find(|a| a.as_str() == word)
            .ok_or_else(|| PolicyError::Record(format!("action {word:?} is unknown")))?;
        if action == Action::Read {
            return Err(PolicyError::NotDecided(
                "reads are allowed by the door".to_owned(),
            ));
        }
        let at_ms = self
            .0
            .get("at")
            .and_then(Json::as_i64)
            .ok_or_else(|| PolicyError::Record("has no at".to_owned()))?;
        let at = jiff::Timestamp::from_millisecond(at_ms)
            .map_err(|e| PolicyError::Record(e.to_string()))?;
        let inputs = self.0.get("inputs");
        let mut context = from_json(inputs.and_then(|i| i.get("context")));
        let given = from_json(inputs.and_then(|i| i.get("resource")));
        context.push((Attr::NowS, Value::Long(at.as_second())));
        let mut missing = Reads::default();
        let (principal, above, resource) = match acted_on(action) {
            Kind::Entry if matches!(action, Action::IssueX509 | Action::IssueJwt) => {
                let subject = self.need("subject")?;
                let entry = self.need("entry")?;
                let mut identity = given.clone();
                identity.retain(|(attr, _)| !matches!(attr, Attr::SpiffeId | Attr::Path));
                identity.push((Attr::SpiffeId, Value::Text(subject.into())));
                identity.push((Attr::Path, Value::Text(path_of(subject).into())));
                missing.context.add(self.issued(&mut context)?);
                let principal = Thing {
                    kind: Kind::Identity,
                    id: subject.into(),
                    attrs: identity,
                };
                (
                    principal,
                    Some(entry.into()),
                    Thing {
                        kind: Kind::Entry,
                        id: entry.into(),
                        attrs: given,
                    },
                )
            }
            Kind::Entry => (
                self.asker()?,
                None,
                Thing {
                    kind: Kind::Entry,
                    id: self.need("entry")?.into(),
                    attrs: given,
                },
            ),
            Kind::Node => {
                let id = self.need("subject")?;
                let mut attrs = given;
                attrs.push((Attr::Id, Value::Text(id.into())));
                missing.context.add(self.facts(&mut context, false));
                let resource = Thing {
                    kind: Kind::Node,
                    id: id.into(),
                    attrs,
                };
                let asker = self.asker()?;
                let same = asker.kind == Kind::Node && asker.id == resource.id;
                (if same { resource.clone() } else { asker }, None, resource)
            }
            kind => {
                // The target's name; a record without `inputs` has it where it is a SPIFFE ID.
                let name = given.iter().find_map(|(attr, value)| match (attr, value) {
                    (Attr::Name, Value::Text(name)) => Some(name.clone()),
                    _ => None,
                });
                let name = name.or_else(|| self.text("subject").map(Cow::Borrowed));
                let name =
                    name.ok_or_else(|| PolicyError::Incomplete(vec!["resource.name".to_owned()]))?;
                (
                    self.asker()?,
                    None,
                    Thing {
                        kind,
                        id: name.clone(),
                        attrs: vec![(Attr::Name, Value::Text(name))],
                    },
                )
            }
        };
        missing.principal.add(lacking(&principal));
        missing.resource.add(lacking(&resource));
        missing.context.add(context_lacking(action, &context));
        Ok(Input {
            action,
            principal,
            above,
            resource,
            context,
            missing,
        })
    }

    /// The context of an issuance, as far as fields carry it.
    fn issued(&self, context: &mut Bag<'r>) -> Result<Attrs, PolicyError> {
        let actor = self.actor()?;
        let kind = actor.get("kind").and_then(Json::as_str).unwrap_or_default();
        context.push((Attr::Actor, Value::Text(kind.into())));
        if kind == "node"
            && !context.iter().any(|(attr, _)| *attr == Attr::Node)
            && let Some(id) = actor.get("id").and_then(Json::as_str)
        {
            context.push((Attr::Node, Value::Text(id.into())));
        }
        let by_entry = self
            .0
            .get("by_entry")
            .and_then(Json::as_bool)
            .unwrap_or(false);
        context.push((Attr::ByEntry, Value::Flag(by_entry)));
        let instance = self
            .text("instance")
            .map_or("", |key| key.split(':').next().unwrap_or_default());
        context.push((Attr::Instance, Value::Text(instance.into())));
        let audience: Vec<String> = match self.0.get("audience").and_then(Json::as_array) {
            Some(all) => all
                .iter()
                .filter_map(|a| a.as_str().map(str::to_owned))
                .collect(),
            None => Vec::new(),
        };
        let mut missing = self.facts(context, true);
        if audience.iter().any(|a| was_altered(a)) {
            missing.add(Attr::Audience.bit());
        }
        context.push((Attr::Audience, Value::Texts(Texts::Owned(audience))));
        Ok(missing)
    }

    /// The facts, and the numbers among them; what was made printable in the record is not what policy saw.
    fn facts(&self, context: &mut Bag<'r>, numbers: bool) -> Attrs {
        let mut missing = Attrs::default();
        let mut strings = Vec::new();
        let empty = Map::new();
        let facts = self
            .0
            .get("facts")
            .and_then(Json::as_object)
            .unwrap_or(&empty);
        for (name, values) in facts {
            for value in values
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Json::as_str)
            {
                if was_altered(value) {
                    missing.add(Attr::Facts.bit());
                }
                strings.push(format!("{name}={value}"));
            }
        }
        for (attr, name) in [(Attr::UnixUid, "unix.uid"), (Attr::UnixGid, "unix.gid")] {
            let values = facts.get(name).and_then(Json::as_array).filter(|_| numbers);
            if let Some([Json::String(one)]) = values.map(Vec::as_slice)
                && let Ok(number) = one.parse()
            {
                context.push((attr, Value::Long(number)));
            }
        }
        context.push((Attr::Facts, Value::Texts(Texts::Owned(strings))));
        missing
    }

    fn actor(&self) -> Result<&'r Map<String, Json>, PolicyError> {
        self.0
            .get("actor")
            .and_then(Json::as_object)
            .ok_or_else(|| PolicyError::Record("has no actor".to_owned()))
    }

    /// Whoever asked, as an entity.
    fn asker(&self) -> Result<Thing<'r>, PolicyError> {
        let actor = self.actor()?;
        let text = |key: &str| {
            actor
                .get(key)
                .and_then(Json::as_str)
                .ok_or_else(|| PolicyError::Record(format!("has no actor.{key}")))
        };
        let one = |kind, attr, id: &'r str| Thing {
            kind,
            id: id.into(),
            attrs: vec![(attr, Value::Text(id.into()))],
        };
        Ok(match text("kind")? {
            "system" => one(Kind::System, Attr::Task, text("task")?),
            "admin" => one(Kind::Admin, Attr::Id, text("id")?),
            "stranger" => one(Kind::Stranger, Attr::From, text("from")?),
            "local" => {
                let uid = actor.get("uid").and_then(Json::as_i64);
                let uid = uid.ok_or_else(|| PolicyError::Record("has no actor.uid".to_owned()))?;
                let mut attrs = vec![(Attr::Uid, Value::Long(uid))];
                attrs.extend(
                    text("path")
                        .ok()
                        .filter(|p| !was_altered(p))
                        .map(|p| (Attr::Program, Value::Text(p.into()))),
                );
                Thing {
                    kind: Kind::Local,
                    id: uid.to_string().into(),
                    attrs,
                }
            }
            "node" => {
                let id = text("id")?;
                let attrs = vec![
                    (Attr::Id, Value::Text(id.into())),
                    (Attr::Attestor, Value::Text(attestor_of(path_of(id)).into())),
                    (Attr::Known, Value::Flag(true)),
                    (Attr::Banned, Value::Flag(false)),
                ];
                Thing {
                    kind: Kind::Node,
                    id: id.into(),
                    attrs,
                }
            }
            other => {
                return Err(PolicyError::Record(format!(
                    "actor kind {other:?} is unknown"
                )));
            }
        })
    }
}

/// Whether a text was shortened or escaped on its way into the record.
fn was_altered(text: &str) -> bool {
    text.ends_with('\u{2026}') || text.contains("\\u{")
}

/// What an entity of this kind should have and has not.
fn lacking(thing: &Thing<'_>) -> Attrs {
    let all: &[Attr] = match thing.kind {
        Kind::Identity | Kind::Entry => &Attr::OF_ENTRY,
        Kind::Node => &[Attr::Id, Attr::Attestor, Attr::Known, Attr::Banned],
        Kind::Admin => &[Attr::Id],
        Kind::Local => &[Attr::Uid, Attr::Program],
        Kind::System => &[Attr::Task],
        Kind::Stranger => &[Attr::From],
        Kind::Target | Kind::Server => &[Attr::Name],
    };
    without(all, &thing.attrs)
}

fn context_lacking(action: Action, context: &Bag<'_>) -> Attrs {
    let all: &[Attr] = match action {
        Action::IssueX509 | Action::IssueJwt => &[
            Attr::NowS,
            Attr::Actor,
            Attr::Facts,
            Attr::Node,
            Attr::Attestor,
            Attr::NodeBanned,
            Attr::ByEntry,
            Attr::Instance,
            Attr::TtlS,
            Attr::DnsNames,
            Attr::Audience,
            Attr::Algorithm,
        ],
        Action::AttestNode | Action::RenewNode => {
            &[Attr::NowS, Attr::Facts, Attr::Attestor, Attr::TtlS]
        }
        Action::EntryUpdate => &[Attr::NowS, Attr::Before],
        Action::AuthorityPrepare
        | Action::AuthorityActivate
        | Action::AuthorityRetire
        | Action::Forget
        | Action::ServerSvid => &[Attr::NowS, Attr::TtlS, Attr::DnsNames],
        _ => &[Attr::NowS],
    };
    without(all, context)
}

fn without(all: &[Attr], bag: &Bag<'_>) -> Attrs {
    let left: Vec<Attr> = all
        .iter()
        .copied()
        .filter(|a| !bag.iter().any(|(b, _)| a == b))
        .collect();
    Attrs::of(&left)
}
