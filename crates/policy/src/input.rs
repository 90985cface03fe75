//! A question as policies see it: who, what, on what, and the attributes of each, still in borrowed words of ours.
//! It must not know Cedar's types: `render` makes those of it, and `replay` makes it of a record.

use std::borrow::Cow;

use attesta_model::{
    Action, Actor, Attested, Code, Denial, Entry, Fact, Facts, IdPattern, Instance, Node, Reason,
    Request, Selectors,
};
use attesta_spiffe::SpiffeId;

use crate::{
    About, Question, Want,
    attr::{Attr, Kind},
    reads::Reads,
};

/// One attribute's value.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    Long(i64),
    Flag(bool),
    Texts(Texts<'a>),
    Record(Bag<'a>),
}

/// A set of strings where it already stands: it is written out only for policies that read it.
#[derive(Clone, Debug)]
pub(crate) enum Texts<'a> {
    Facts(&'a Facts),
    Labels(&'a [(String, String)]),
    Selectors(&'a Selectors),
    Strings(&'a [String]),
    Owned(Vec<String>),
}

impl Texts<'_> {
    /// The strings policies see: `ns.key=value` for facts, `name=value` for labels, `type:value` for selectors.
    pub(crate) fn strings(&self) -> Vec<String> {
        match self {
            Self::Facts(facts) => facts
                .iter()
                .flat_map(|f| {
                    f.values()
                        .map(|v| format!("{}.{}={v}", f.namespace(), f.key()))
                })
                .collect(),
            Self::Labels(labels) => labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            Self::Selectors(selectors) => selectors.iter().map(str::to_owned).collect(),
            Self::Strings(strings) => strings.to_vec(),
            Self::Owned(strings) => strings.clone(),
        }
    }
}

/// Attributes with their values.
pub(crate) type Bag<'a> = Vec<(Attr, Value<'a>)>;

/// An entity.
#[derive(Clone, Debug)]
pub(crate) struct Thing<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: Cow<'a, str>,
    pub(crate) attrs: Bag<'a>,
}

/// A question as policies see it.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) action: Action,
    pub(crate) principal: Thing<'a>,
    /// An identity's entry, by its id.
    pub(crate) above: Option<Cow<'a, str>>,
    pub(crate) resource: Thing<'a>,
    pub(crate) context: Bag<'a>,
    /// What is not known. Always nothing for a question; a record may lack some.
    pub(crate) missing: Reads,
}

/// The kind of entity an action acts on.
pub(crate) fn acted_on(action: Action) -> Kind {
    match action {
        Action::IssueX509
        | Action::IssueJwt
        | Action::EntryCreate
        | Action::EntryUpdate
        | Action::EntryDelete => Kind::Entry,
        Action::AttestNode | Action::RenewNode => Kind::Node,
        Action::NodeBan
        | Action::NodeEvict
        | Action::TokenCreate
        | Action::InstanceEnded
        | Action::Read => Kind::Target,
        Action::AuthorityPrepare
        | Action::AuthorityActivate
        | Action::AuthorityRetire
        | Action::Forget
        | Action::ServerSvid => Kind::Server,
    }
}

/// The kinds of entities that can be the principal of an action.
pub(crate) fn askers(action: Action) -> &'static [Kind] {
    match action {
        Action::IssueX509 | Action::IssueJwt => &[Kind::Identity],
        // Reads are the guard's; no policy is asked, and the schema does not pretend that one is.
        Action::Read => &[],
        _ => &Kind::ACTORS,
    }
}

impl<'a> Input<'a> {
    /// A question as policies see it.
    ///
    /// # Errors
    /// A `Denial` with [`Code::Internal`] where action, subject and want do not go together: a fault of the caller's code.
    pub(crate) fn of(question: &'a Question<'a>) -> Result<Self, Denial> {
        let request = question.request;
        let action = request.action;
        let now = (Attr::NowS, Value::Long(request.at.as_second()));
        let (principal, above, resource, context) = match (&question.about, action) {
            (
                About::Issue {
                    entry,
                    id,
                    attested,
                    node,
                    by_entry,
                    want,
                },
                Action::IssueX509 | Action::IssueJwt,
            ) if matches!(
                (action, want),
                (Action::IssueX509, Want::X509 { .. }) | (Action::IssueJwt, Want::Jwt { .. })
            ) =>
            {
                let entry_id = entry.id().to_string();
                let principal = Thing {
                    kind: Kind::Identity,
                    id: id.as_str().into(),
                    attrs: entry_attrs(entry, Some(id)),
                };
                let resource = Thing {
                    kind: Kind::Entry,
                    id: entry_id.clone().into(),
                    attrs: entry_attrs(entry, None),
                };
                let mut context = issue_context(request, attested, *node, *by_entry, want);
                context.push(now);
                (principal, Some(entry_id.into()), resource, context)
            }
            (
                About::Node {
                    id,
                    attestor,
                    facts,
                    known,
                    want,
                },
                Action::AttestNode | Action::RenewNode,
            ) if !matches!(want, Want::Jwt { .. }) => {
                let resource = node_thing(
                    id,
                    attestor,
                    known.is_some(),
                    known.is_some_and(|n| n.banned),
                );
                let principal = match &request.actor {
                    // The node itself: one entity cannot have two sets of attributes.
                    Actor::Node { id: asker, .. } if asker == *id => resource.clone(),
                    actor => actor_thing(actor),
                };
                let context = vec![
                    now,
                    (Attr::Facts, Value::Texts(Texts::Facts(facts))),
                    (Attr::Attestor, Value::Text((*attestor).into())),
                    (Attr::TtlS, Value::Long(seconds(want.ttl()))),
                ];
                (principal, None, resource, context)
            }
            (
                About::Entry { entry, before },
                Action::EntryCreate | Action::EntryUpdate | Action::EntryDelete,
            ) => {
                let resource = Thing {
                    kind: Kind::Entry,
                    id: entry.id().to_string().into(),
                    attrs: entry_attrs(entry, None),
                };
                let mut context = vec![now];
                context.extend(before.map(|b| (Attr::Before, Value::Record(entry_attrs(b, None)))));
                (actor_thing(&request.actor), None, resource, context)
            }
            (
                About::Target(name),
                Action::NodeBan | Action::NodeEvict | Action::TokenCreate | Action::InstanceEnded,
            ) => (
                actor_thing(&request.actor),
                None,
                named(Kind::Target, name),
                vec![now],
            ),
            (
                About::System { id, want },
                Action::AuthorityPrepare
                | Action::AuthorityActivate
                | Action::AuthorityRetire
                | Action::Forget
                | Action::ServerSvid,
            ) if !matches!(want, Want::Jwt { .. }) => {
                let name = id.map_or("", |i| i.as_str());
                let context = vec![
                    now,
                    (Attr::TtlS, Value::Long(seconds(want.ttl()))),
                    (
                        Attr::DnsNames,
                        Value::Texts(Texts::Strings(dns_names(want))),
                    ),
                ];
                (
                    actor_thing(&request.actor),
                    None,
                    named(Kind::Server, name),
                    context,
                )
            }
            _ => {
                let message = format!(
                    "{} was asked about something it does not act on",
                    action.as_str()
                );
                return Err(Denial::new(Code::Internal, Reason::PolicyError, message));
            }
        };
        Ok(Self {
            action,
            principal,
            above,
            resource,
            context,
            missing: Reads::default(),
        })
    }
}

fn issue_context<'a>(
    request: &'a Request,
    attested: &'a Attested,
    node: Option<&'a Node>,
    by_entry: bool,
    want: &'a Want,
) -> Bag<'a> {
    // A node that is in no snapshot is still named by its certificate.
    let node_id = node.map(|n| &n.id).or(match &request.actor {
        Actor::Node { id, .. } => Some(id),
        _ => None,
    });
    let (audience, algorithm): (&[String], _) = match want {
        Want::Jwt {
            audience,
            algorithm,
            ..
        } => (audience, algorithm.jose()),
        Want::X509 { .. } | Want::Nothing => (&[], ""),
    };
    let mut context = Vec::with_capacity(16);
    context.extend([
        (Attr::Actor, Value::Text(actor_word(&request.actor).into())),
        (Attr::Facts, Value::Texts(Texts::Facts(&attested.facts))),
        (
            Attr::Node,
            Value::Text(node_id.map_or("", SpiffeId::as_str).into()),
        ),
        (
            Attr::Attestor,
            Value::Text(node.map_or("", |n| n.attestor.as_str()).into()),
        ),
        (
            Attr::NodeBanned,
            Value::Flag(node.is_some_and(|n| n.banned)),
        ),
        (Attr::ByEntry, Value::Flag(by_entry)),
        (
            Attr::Instance,
            Value::Text(instance_word(&attested.instance).into()),
        ),
        (Attr::TtlS, Value::Long(seconds(want.ttl()))),
        (
            Attr::DnsNames,
            Value::Texts(Texts::Strings(dns_names(want))),
        ),
        (Attr::Audience, Value::Texts(Texts::Strings(audience))),
        (Attr::Algorithm, Value::Text(algorithm.into())),
    ]);
    for (attr, key) in [(Attr::UnixUid, "uid"), (Attr::UnixGid, "gid")] {
        let value = attested
            .facts
            .find("unix", key)
            .and_then(Fact::single)
            .and_then(|v| v.parse().ok());
        context.extend(value.map(|v| (attr, Value::Long(v))));
    }
    context
}

/// An entry's attributes; an identity has its own id instead of the pattern.
fn entry_attrs<'a>(entry: &'a Entry, id: Option<&'a SpiffeId>) -> Bag<'a> {
    let (spiffe_id, path) = match (id, entry.spiffe_id()) {
        (Some(id), _) | (None, IdPattern::Exact(id)) => (id.as_str(), id.path()),
        (None, pattern @ IdPattern::Template(_)) => (pattern.as_str(), path_of(pattern.as_str())),
    };
    vec![
        (Attr::SpiffeId, Value::Text(spiffe_id.into())),
        (Attr::Path, Value::Text(path.into())),
        (Attr::Parent, Value::Text(parent_word(entry))),
        (Attr::Owner, Value::Text(entry.owner().into())),
        (Attr::Purpose, Value::Text(entry.purpose().into())),
        (Attr::Labels, Value::Texts(Texts::Labels(entry.labels()))),
        (
            Attr::Selectors,
            Value::Texts(Texts::Selectors(entry.selectors())),
        ),
        (Attr::Admin, Value::Flag(entry.admin())),
        (Attr::Downstream, Value::Flag(entry.downstream())),
        (
            Attr::Template,
            Value::Flag(matches!(entry.spiffe_id(), IdPattern::Template(_))),
        ),
        (
            Attr::ExpiresS,
            Value::Long(entry.expires_at().map_or(0, jiff::Timestamp::as_second)),
        ),
    ]
}

fn parent_word(entry: &Entry) -> Cow<'_, str> {
    match entry.parent() {
        attesta_model::Parent::Server => "server".into(),
        attesta_model::Parent::Id(id) => id.as_str().into(),
        issuer @ attesta_model::Parent::Issuer(_) => issuer.to_string().into(),
    }
}

/// The path of a SPIFFE ID or of a template.
pub(crate) fn path_of(text: &str) -> &str {
    let rest = text.strip_prefix("spiffe://").unwrap_or(text);
    rest.find('/')
        .and_then(|slash| rest.get(slash..))
        .unwrap_or("")
}

fn node_thing<'a>(id: &'a SpiffeId, attestor: &'a str, known: bool, banned: bool) -> Thing<'a> {
    let attrs = vec![
        (Attr::Id, Value::Text(id.as_str().into())),
        (Attr::Attestor, Value::Text(attestor.into())),
        (Attr::Known, Value::Flag(known)),
        (Attr::Banned, Value::Flag(banned)),
    ];
    Thing {
        kind: Kind::Node,
        id: id.as_str().into(),
        attrs,
    }
}

fn actor_thing(actor: &Actor) -> Thing<'_> {
    let text = |kind, attr, id: &'_ str| -> (Kind, String, Attr) { (kind, id.to_owned(), attr) };
    let (kind, id, attr) = match actor {
        // It came with a certificate of ours that is in force: known, and not banned.
        Actor::Node { id, .. } => return node_thing(id, attestor_of(id.path()), true, false),
        Actor::Local { uid, path, .. } => {
            let attrs = vec![
                (Attr::Uid, Value::Long(i64::from(*uid))),
                (Attr::Program, Value::Text(path.as_str().into())),
            ];
            return Thing {
                kind: Kind::Local,
                id: uid.to_string().into(),
                attrs,
            };
        }
        Actor::Admin(id) => text(Kind::Admin, Attr::Id, id.as_str()),
        Actor::System(task) => text(Kind::System, Attr::Task, task),
        Actor::Stranger(from) => text(Kind::Stranger, Attr::From, from),
    };
    Thing {
        kind,
        attrs: vec![(attr, Value::Text(id.clone().into()))],
        id: id.into(),
    }
}

/// The attestor's name in an agent's path: `/spire/agent/x509pop/abc`.
pub(crate) fn attestor_of(path: &str) -> &str {
    path.strip_prefix(attesta_model::attested::AGENT_PREFIX)
        .and_then(|rest| rest.split('/').next())
        .unwrap_or("")
}

pub(crate) fn named(kind: Kind, name: &str) -> Thing<'_> {
    Thing {
        kind,
        id: name.into(),
        attrs: vec![(Attr::Name, Value::Text(name.into()))],
    }
}

/// The kind of an actor in `context.actor` and in records.
fn actor_word(actor: &Actor) -> &'static str {
    match actor {
        Actor::System(_) => "system",
        Actor::Local { .. } => "local",
        Actor::Admin(_) => "admin",
        Actor::Node { .. } => "node",
        Actor::Stranger(_) => "stranger",
    }
}

fn instance_word(instance: &Instance) -> &'static str {
    match instance {
        Instance::Process { .. } => "process",
        Instance::Container(_) => "container",
        Instance::Node => "node",
    }
}

fn dns_names(want: &Want) -> &[String] {
    match want {
        Want::X509 { dns_names, .. } => dns_names,
        Want::Jwt { .. } | Want::Nothing => &[],
    }
}

fn seconds(ttl: std::time::Duration) -> i64 {
    i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)
}
