//! Microseconds of one thread per decision: `cargo run --release -p attesta-policy --example decide`.
//!
//! The goals: 12 with the default policies, 20 with 100 in the set.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a bench prints, reads the clock, and stops at the first fault"
)]

use std::{fmt::Write as _, hint::black_box, time::Duration, time::Instant};

use attesta_model::{
    Action, Actor, Attested, CorrelationId, DecisionId, Entry, EntryId, EntrySpec, Fact, Facts,
    Instance, KeyAlgorithm, Node, Parent, Request,
};
use attesta_policy::{About, Policies, Question, Want};
use attesta_spiffe::{SpiffeId, TrustDomain};
use jiff::Timestamp;

const ROUNDS: u32 = 20_000;

fn main() {
    let domain = TrustDomain::parse("example.org").unwrap();
    let at = Timestamp::from_second(1_764_000_000).unwrap();
    let node_id = SpiffeId::parse("spiffe://example.org/spire/agent/x509pop/a").unwrap();
    let id = SpiffeId::parse("spiffe://example.org/payments/api").unwrap();
    let facts: Vec<Fact> = (0..10)
        .map(|i| Fact::new("unix", &format!("key{i}"), [format!("value{i}")]).unwrap())
        .collect();
    let facts = Facts::new(
        facts
            .into_iter()
            .chain([Fact::new("unix", "uid", ["1000"]).unwrap()]),
    )
    .unwrap();
    let node = Node {
        id: node_id.clone(),
        attestor: "x509pop".into(),
        facts: Facts::default(),
        valid_from: at,
        banned: false,
        can_reattest: true,
        created_at: at,
        serial: "00".into(),
        expires_at: at,
    };
    let spec = EntrySpec {
        spiffe_id: id.to_string(),
        parent: Some(Parent::Id(node_id.clone())),
        selectors: vec!["unix:uid:1000".into()],
        owner: "payments".into(),
        labels: vec![("env".into(), "prod".into())],
        ..EntrySpec::default()
    };
    let entry = Entry::new(
        spec,
        EntryId::parse("0192f0c1-7b1a-7000-8000-000000000001").unwrap(),
        &domain,
    )
    .unwrap();
    let attested = Attested::new(Parent::Id(node_id.clone()), facts, Instance::Node, None);
    let want = |action| match action {
        Action::IssueJwt => Want::Jwt {
            audience: vec!["db".into()],
            ttl: Duration::from_secs(300),
            algorithm: KeyAlgorithm::EcP256,
        },
        _ => Want::X509 {
            ttl: Duration::from_secs(3600),
            dns_names: Vec::new(),
        },
    };

    let others = |from: usize, to: usize| {
        (from..to).fold(String::new(), |mut text, i| {
            let scope = format!("principal == Attesta::Identity::\"spiffe://example.org/other/{i}\"");
            writeln!(text, "@id(\"other-{i}\") forbid ({scope}, action, resource) when {{ context.now_s < 0 }};").unwrap();
            text
        })
    };
    let own = r#"
        @id("own-1") forbid (principal == Attesta::Identity::"spiffe://example.org/payments/api", action, resource)
        when { context.actor == "admin" };
        @id("own-2") forbid (principal, action == Attesta::Action::"issue_x509", resource)
        when { principal.labels.contains("env=prod") && context.facts.contains("unix.uid=0") };"#;
    let general = (0..90).fold(String::new(), |mut text, i| {
        writeln!(text, "@id(\"g-{i}\") forbid (principal is Attesta::Identity, action, resource) when {{ context.now_s < {i} }};")
            .unwrap();
        text
    });
    let sets = [
        ("defaults", String::new()),
        ("100: 88 others', 2 own", format!("{}{own}", others(0, 88))),
        (
            "1000: 988 others', 2 own",
            format!("{}{own}", others(0, 988)),
        ),
        ("100: 90 for every workload", general),
    ];
    println!(
        "{:<30} {:>8} {:>12} {:>10}",
        "set", "policies", "action", "us/decision"
    );
    for (name, text) in sets {
        let set = Policies::parse(&[("default", Policies::DEFAULT), (name, &text)]).unwrap();
        for action in [
            Action::IssueX509,
            Action::IssueJwt,
            Action::RenewNode,
            Action::EntryCreate,
        ] {
            let actor = match action {
                Action::EntryCreate => Actor::Local {
                    uid: 0,
                    pid: 1,
                    path: "/usr/bin/attesta".into(),
                },
                _ => Actor::Node {
                    id: node_id.clone(),
                    serial: "00".into(),
                },
            };
            let correlation = CorrelationId::parse("bench").unwrap();
            let request = Request {
                actor,
                action,
                at,
                decision: DecisionId([0; 16]),
                correlation,
            };
            let about = || match action {
                Action::RenewNode => About::Node {
                    id: &node_id,
                    attestor: "x509pop",
                    facts: &node.facts,
                    known: Some(&node),
                    want: want(action),
                },
                Action::EntryCreate => About::Entry {
                    entry: &entry,
                    before: None,
                },
                _ => About::Issue {
                    entry: &entry,
                    id: &id,
                    attested: &attested,
                    node: Some(&node),
                    by_entry: false,
                    want: want(action),
                },
            };
            let mut runs: Vec<f64> = (0..5)
                .map(|_| {
                    let start = Instant::now();
                    for _ in 0..ROUNDS {
                        let question = Question {
                            request: &request,
                            about: about(),
                        };
                        drop(black_box(set.decide(black_box(&question)).unwrap()));
                    }
                    start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
                })
                .collect();
            runs.sort_by(f64::total_cmp);
            let median = runs.get(2).copied().unwrap_or_default();
            println!(
                "{name:<30} {:>8} {:>12} {median:>10.2}",
                set.list().len(),
                action.as_str()
            );
        }
    }
}
