//! Decisions as tables, faults of policies, the documents' examples, replay. `differential` has the
//! slices.

mod differential;
mod faults;
mod replay;

use std::time::Duration;

use attesta_model::{
    Action, Actor, Attested, Code, CorrelationId, DecisionId, Denial, Entry, EntryId, EntrySpec,
    Fact, Facts, Instance, KeyAlgorithm, Node, Outcome, Parent, Reason, Request,
};
use attesta_spiffe::{SpiffeId, TrustDomain};
use cedar_policy::Schema;
use jiff::Timestamp;

use crate::{
    About, Permit, Policies, Question, Want,
    attr::{Attr, Attrs},
    input::Input,
    policies::SCHEMA,
};

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

pub(crate) fn at() -> Timestamp {
    Timestamp::from_millisecond(1_764_000_000_001).unwrap()
}

/// Everything a question may borrow.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) entry: Entry,
    pub(crate) attested: Attested,
    pub(crate) id: SpiffeId,
}

pub(crate) fn facts(all: &[(&str, &str, &str)]) -> Facts {
    Facts::new(
        all.iter()
            .map(|(ns, key, value)| Fact::new(ns, key, [value]).unwrap()),
    )
    .unwrap()
}

pub(crate) fn entry(name: &str, change: impl FnOnce(&mut EntrySpec)) -> Entry {
    let mut spec = EntrySpec {
        spiffe_id: "spiffe://example.org/web".into(),
        parent: Some(Parent::Id(id("/spire/agent/x509pop/a"))),
        selectors: vec!["unix:uid:1000".into()],
        owner: "team-a".into(),
        labels: vec![("env".into(), "prod".into())],
        ..EntrySpec::default()
    };
    change(&mut spec);
    Entry::new(
        spec,
        EntryId::parse(name).unwrap(),
        &TrustDomain::parse("example.org").unwrap(),
    )
    .unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        let node_id = id("/spire/agent/x509pop/a");
        let proven = facts(&[
            ("unix", "uid", "1000"),
            ("unix", "gid", "1000"),
            ("unix", "path", "/usr/bin/web"),
        ]);
        Self {
            node: Node {
                id: node_id.clone(),
                attestor: "x509pop".into(),
                facts: facts(&[("x509pop", "subject:cn", "a")]),
                valid_from: at(),
                banned: false,
                can_reattest: true,
                created_at: at(),
                serial: "00".into(),
                expires_at: at(),
            },
            entry: entry("e1", |_| ()),
            attested: Attested::new(
                Parent::Id(node_id),
                proven,
                Instance::process("b0", 7, 9).unwrap(),
                None,
            ),
            id: id("/web"),
        }
    }

    pub(crate) fn issue(&self, want: Want) -> About<'_> {
        About::Issue {
            entry: &self.entry,
            id: &self.id,
            attested: &self.attested,
            node: Some(&self.node),
            by_entry: false,
            want,
        }
    }

    pub(crate) fn attest(&self) -> About<'_> {
        About::Node {
            id: &self.node.id,
            attestor: "x509pop",
            facts: &self.node.facts,
            known: Some(&self.node),
            want: x509(),
        }
    }
}

pub(crate) fn x509() -> Want {
    Want::X509 {
        ttl: Duration::from_secs(3600),
        dns_names: vec!["web.example.org".into()],
    }
}

pub(crate) fn jwt() -> Want {
    Want::Jwt {
        audience: vec!["db".into()],
        ttl: Duration::from_secs(300),
        algorithm: KeyAlgorithm::EcP256,
    }
}

pub(crate) fn request(actor: Actor, action: Action) -> Request {
    Request {
        actor,
        action,
        at: at(),
        decision: DecisionId([7; 16]),
        correlation: CorrelationId::parse("c").unwrap(),
    }
}

pub(crate) fn agent() -> Actor {
    Actor::Node {
        id: id("/spire/agent/x509pop/a"),
        serial: "01".into(),
    }
}

pub(crate) fn local() -> Actor {
    Actor::Local {
        uid: 0,
        pid: 1,
        path: "/usr/bin/attesta".into(),
    }
}

/// The actions policies are asked about.
pub(crate) fn asked() -> impl Iterator<Item = Action> {
    Action::ALL.into_iter().filter(|a| *a != Action::Read)
}

pub(crate) fn actors() -> [Actor; 5] {
    [
        agent(),
        local(),
        Actor::Admin(id("/ops")),
        Actor::System("rotate"),
        Actor::Stranger("192.0.2.1".into()),
    ]
}

/// What each action is about in this world.
pub(crate) fn about(world: &World, action: Action) -> About<'_> {
    match action {
        Action::IssueX509 => world.issue(x509()),
        Action::IssueJwt => world.issue(jwt()),
        Action::AttestNode | Action::RenewNode => world.attest(),
        Action::EntryCreate | Action::EntryDelete => About::Entry {
            entry: &world.entry,
            before: None,
        },
        Action::EntryUpdate => About::Entry {
            entry: &world.entry,
            before: Some(&world.entry),
        },
        Action::NodeBan
        | Action::NodeEvict
        | Action::TokenCreate
        | Action::InstanceEnded
        | Action::Read => About::Target("t"),
        Action::AuthorityPrepare
        | Action::AuthorityActivate
        | Action::AuthorityRetire
        | Action::Forget
        | Action::ServerSvid => About::System {
            id: Some(&world.id),
            want: x509(),
        },
    }
}

fn decide(set: &Policies, world: &World, actor: Actor, action: Action) -> Result<Permit, Denial> {
    let request = request(actor, action);
    set.decide(&Question {
        request: &request,
        about: about(world, action),
    })
}

fn with(extra: &str) -> Policies {
    Policies::parse(&[("default.cedar", Policies::DEFAULT), ("extra.cedar", extra)]).unwrap()
}

#[test]
fn each_role_may_do_what_the_default_says_and_nothing_else() {
    use Action as A;
    let admin: &[A] = &[
        A::EntryCreate,
        A::EntryUpdate,
        A::EntryDelete,
        A::NodeBan,
        A::NodeEvict,
        A::TokenCreate,
    ];
    let may: [&[A]; 5] = [
        &[
            A::AttestNode,
            A::RenewNode,
            A::IssueX509,
            A::IssueJwt,
            A::InstanceEnded,
        ],
        admin,
        admin,
        &[
            A::AuthorityPrepare,
            A::AuthorityActivate,
            A::AuthorityRetire,
            A::Forget,
            A::ServerSvid,
        ],
        &[A::AttestNode],
    ];
    let set = Policies::default_set().unwrap();
    let world = World::new();
    for (actor, may) in actors().into_iter().zip(may) {
        for action in asked() {
            match decide(&set, &world, actor.clone(), action) {
                Ok(permit) => {
                    assert!(may.contains(&action), "{actor} {action:?} is permitted");
                    assert_eq!((permit.action(), permit.at()), (action, at()));
                    let Outcome::Permitted {
                        policy_digest,
                        policies,
                    } = permit.outcome()
                    else {
                        panic!()
                    };
                    assert_eq!(
                        (policy_digest.as_str(), policies.len()),
                        (set.digest(), 1),
                        "{policies:?}"
                    );
                }
                Err(denial) => {
                    assert!(!may.contains(&action), "{actor} {action:?}: {denial}");
                    assert_eq!(
                        (denial.code, denial.reason),
                        (Code::PermissionDenied, Reason::Policy)
                    );
                    assert_eq!(
                        (denial.rule, denial.decision),
                        (None, Some(DecisionId([7; 16])))
                    );
                    assert!(
                        denial
                            .message
                            .starts_with(&format!("no policy permits {}", action.as_str())),
                        "{}",
                        denial.message
                    );
                }
            }
        }
    }
}

#[test]
fn a_permit_carries_what_was_asked() {
    let set = Policies::default_set().unwrap();
    let world = World::new();
    let permit = decide(&set, &world, agent(), Action::IssueJwt).unwrap();
    assert_eq!(permit.subject(), Some(&world.id));
    assert_eq!(permit.want(), &jwt());
    let spent = permit.spend();
    assert_eq!(
        (spent.action, spent.subject, spent.want, spent.at),
        (Action::IssueJwt, Some(world.id.clone()), jwt(), at())
    );
}

#[test]
fn the_default_forbids_what_it_names() {
    let set = Policies::default_set().unwrap();
    let check = |world: &World, action, rule: &str| {
        let denial = decide(&set, world, agent(), action).unwrap_err();
        assert_eq!(
            (denial.code, denial.reason, denial.rule.as_deref()),
            (Code::PermissionDenied, Reason::Policy, Some(rule))
        );
        assert!(
            denial.message.contains(rule) && denial.message.contains(action.as_str()),
            "{}",
            denial.message
        );
    };
    for path in ["/spire", "/spire/server", "/spire/agent/x/y"] {
        let mut world = World::new();
        world.id = id(path);
        check(&world, Action::IssueX509, "agents-are-not-workloads");
        check(&world, Action::IssueJwt, "agents-are-not-workloads");
    }
    for path in ["/spireless", "/a/spire/b"] {
        let mut world = World::new();
        world.id = id(path);
        assert!(
            decide(&set, &world, agent(), Action::IssueX509).is_ok(),
            "{path}"
        );
    }
    let mut world = World::new();
    world.node.banned = true;
    check(&world, Action::IssueX509, "banned-nodes-vouch-for-nobody");
    check(&world, Action::RenewNode, "banned-nodes-stay-out");
    check(&world, Action::AttestNode, "banned-nodes-stay-out");
    // Another node's renewal.
    let mut world = World::new();
    world.node.id = id("/spire/agent/x509pop/b");
    assert_eq!(
        decide(&set, &world, agent(), Action::RenewNode)
            .unwrap_err()
            .rule,
        None
    );
}

#[test]
fn a_forbid_of_the_users_own() {
    let set = with(
        r#"@id("no-root-in-prod")
        forbid (principal, action == Attesta::Action::"issue_x509", resource)
        when { principal.labels.contains("env=prod") && context.facts.contains("unix.uid=0") };"#,
    );
    let mut world = World::new();
    assert!(decide(&set, &world, agent(), Action::IssueX509).is_ok());
    world.attested = Attested::new(
        Parent::Server,
        facts(&[("unix", "uid", "0")]),
        Instance::Node,
        None,
    );
    let denial = decide(&set, &world, agent(), Action::IssueX509).unwrap_err();
    assert_eq!(denial.rule.as_deref(), Some("no-root-in-prod"));
    assert!(
        decide(&set, &world, agent(), Action::IssueJwt).is_ok(),
        "another action"
    );
    world.entry = entry("e1", |s| s.labels.clear());
    assert!(decide(&set, &world, agent(), Action::IssueX509).is_ok());
}

#[test]
fn a_policy_that_fails_refuses() {
    // Cedar would skip this forbid and permit.
    let set = with(
        r#"@id("overflows") forbid (principal, action == Attesta::Action::"issue_x509", resource)
        when { context.now_s * 9223372036854775807 > 1 };"#,
    );
    let denial = decide(&set, &World::new(), agent(), Action::IssueX509).unwrap_err();
    assert_eq!(
        (denial.code, denial.reason),
        (Code::PermissionDenied, Reason::PolicyError)
    );
    assert_eq!(
        (denial.rule.as_deref(), denial.decision),
        (Some("overflows"), Some(DecisionId([7; 16])))
    );
    // And so does a permit that fails beside one that does not.
    let set = with(
        r#"@id("overflows") permit (principal, action == Attesta::Action::"issue_x509", resource)
        when { context.now_s * 9223372036854775807 > 1 };"#,
    );
    assert_eq!(
        decide(&set, &World::new(), agent(), Action::IssueX509)
            .unwrap_err()
            .reason,
        Reason::PolicyError
    );
    // Validation lets no such policy through; were one there, the attribute would be named.
    let text = r#"@id("gap") forbid (principal, action, resource) when { context.unix_uid == 0 };"#;
    let set = Policies::unchecked(&[("default.cedar", Policies::DEFAULT), ("x", text)]).unwrap();
    let denial = decide(&set, &World::new(), local(), Action::EntryCreate).unwrap_err();
    assert_eq!(
        (
            denial.reason,
            denial.rule.as_deref(),
            denial.attribute.as_deref()
        ),
        (Reason::PolicyError, Some("gap"), Some("unix_uid"))
    );
}

#[test]
fn a_question_that_does_not_fit_its_action_is_refused() {
    let set = Policies::default_set().unwrap();
    let world = World::new();
    for (action, about) in [
        (Action::IssueX509, world.issue(jwt())),
        (Action::IssueJwt, world.issue(x509())),
        (Action::IssueX509, world.issue(Want::Nothing)),
        (Action::EntryCreate, About::Target("x")),
        (Action::Read, About::Target("x")),
        (
            Action::NodeBan,
            About::System {
                id: None,
                want: Want::Nothing,
            },
        ),
        (
            Action::ServerSvid,
            About::System {
                id: None,
                want: jwt(),
            },
        ),
    ] {
        let request = request(local(), action);
        assert_eq!(
            set.decide(&Question {
                request: &request,
                about
            })
            .unwrap_err()
            .code,
            Code::Internal
        );
    }
}

#[test]
fn the_digest_is_that_of_the_policies() {
    let (a, b) = (
        r#"@id("a") permit (principal, action, resource);"#,
        r#"@id("b") forbid (principal, action, resource);"#,
    );
    let digest = |texts: &[(&str, &str)]| Policies::parse(texts).unwrap().digest().to_owned();
    let both = digest(&[("x", a), ("y", b)]);
    assert_eq!(both.len(), 64);
    assert_eq!(both, digest(&[("z", &format!("// hello\n{b}\n\n{a}"))]));
    assert_ne!(both, digest(&[("x", a)]));
    assert_ne!(
        both,
        digest(&[("x", a), ("y", &b.replace("forbid", "permit"))])
    );
    let set = Policies::parse(&[("x", b), ("y", a)]).unwrap();
    assert_eq!(set.list().collect::<Vec<_>>(), [("a", a), ("b", b)]);
}

#[test]
fn every_input_is_what_the_schema_says() {
    let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).unwrap();
    assert_eq!(warnings.count(), 0);
    let set = Policies::default_set().unwrap();
    let mut world = World::new();
    for template in [false, true] {
        if template {
            world.entry = entry("e2", |s| {
                s.spiffe_id = "spiffe://example.org/u/{unix.uid}".into()
            });
        }
        for actor in actors() {
            for action in asked() {
                let request = request(actor.clone(), action);
                let question = Question {
                    request: &request,
                    about: about(&world, action),
                };
                // Panics where Cedar finds an attribute too many, too few, or of another type.
                set.evaluate_whole(&Input::of(&question).unwrap(), Some(&schema));
            }
        }
    }
    for attr in Attr::ALL {
        assert!(
            SCHEMA.contains(&format!("{}: ", attr.name()))
                || SCHEMA.contains(&format!("{}?: ", attr.name())),
            "{attr:?}"
        );
        assert_eq!(Attr::by_name(attr.name()), Some(attr));
    }
    assert_eq!(Attrs::of(&Attr::ALL).names().count(), Attr::ALL.len());
}

#[test]
fn the_documents_examples_hold() {
    let doc = include_str!("../../../docs/policy.md");
    let blocks: Vec<&str> = doc
        .split("```cedar\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 3);
    for name in Attr::ALL {
        assert!(
            doc.contains(&format!("`{}`", name.name())),
            "{} is not in the document",
            name.name()
        );
    }
    for action in asked() {
        assert!(
            doc.contains(&format!("`{}`", action.as_str())),
            "{action:?} is not in the document"
        );
    }

    // 1: no root in production.
    let set = with(blocks[0]);
    let mut world = World::new();
    assert!(decide(&set, &world, agent(), Action::IssueX509).is_ok());
    world.attested = Attested::new(
        Parent::Server,
        facts(&[("unix", "uid", "0")]),
        Instance::Node,
        None,
    );
    let denial = decide(&set, &world, agent(), Action::IssueX509).unwrap_err();
    assert_eq!(denial.rule.as_deref(), Some("no-root-in-production"));

    // 2: tokens for the payment service are short and go to one team.
    let set = with(blocks[1]);
    let mut world = World::new();
    let ask = |world: &World, audience: &str, secs| {
        let request = request(agent(), Action::IssueJwt);
        let want = Want::Jwt {
            audience: vec![audience.into()],
            ttl: Duration::from_secs(secs),
            algorithm: KeyAlgorithm::EcP256,
        };
        set.decide(&Question {
            request: &request,
            about: world.issue(want),
        })
        .map_err(|d| d.rule)
    };
    assert!(ask(&world, "db", 3600).is_ok());
    assert!(ask(&world, "payments", 300).is_err());
    world.entry = entry("e1", |s| s.owner = "payments-team".into());
    assert!(ask(&world, "payments", 300).is_ok());
    assert_eq!(
        ask(&world, "payments", 301).unwrap_err().as_deref(),
        Some("payment-tokens-are-few-and-short")
    );

    // 3: who may give admin rights.
    let set = with(blocks[2]);
    let mut world = World::new();
    assert!(decide(&set, &world, Actor::Admin(id("/ops")), Action::EntryCreate).is_ok());
    world.entry = entry("e1", |s| s.admin = true);
    let denial = decide(&set, &world, Actor::Admin(id("/ops")), Action::EntryCreate).unwrap_err();
    assert_eq!(denial.rule.as_deref(), Some("only-root-makes-admins"));
    assert!(decide(&set, &world, local(), Action::EntryCreate).is_ok());
    let operator = Actor::Local {
        uid: 1000,
        pid: 1,
        path: "/bin/x".into(),
    };
    assert!(decide(&set, &world, operator, Action::EntryUpdate).is_err());
}
