//! Slices and what they leave unbuilt change no verdict: over generated policies, valid or not, and generated requests,
//! a decision is that of the whole set with everything built.

use attesta_model::Actor;
use proptest::prelude::*;

use super::{World, about, actors, asked, entry, facts, id};
use crate::{Policies, Question, input::Input};

const PRINCIPALS: [&str; 16] = [
    "principal",
    "principal",
    "principal is Attesta::Identity",
    "principal is Attesta::Node",
    "principal is Attesta::Local",
    "principal is Attesta::Robot",
    r#"principal == Attesta::Identity::"spiffe://example.org/web""#,
    r#"principal == Attesta::Identity::"spiffe://example.org/db""#,
    r#"principal in Attesta::Identity::"spiffe://example.org/web""#,
    r#"principal in Attesta::Entry::"e1""#,
    r#"principal is Attesta::Identity in Attesta::Entry::"e2""#,
    r#"principal is Attesta::Node in Attesta::Entry::"e2""#,
    r#"principal == Attesta::Local::"0""#,
    r#"principal == Attesta::Node::"spiffe://example.org/spire/agent/x509pop/a""#,
    r#"principal in Attesta::Node::"spiffe://example.org/spire/agent/x509pop/a""#,
    r#"principal in Attesta::Entry::"none""#,
];

const ACTIONS: [&str; 8] = [
    "action",
    "action",
    r#"action == Attesta::Action::"issue_x509""#,
    r#"action in Attesta::Action::"issue_x509""#,
    r#"action in [Attesta::Action::"issue_x509", Attesta::Action::"issue_jwt"]"#,
    r#"action in [Attesta::Action::"entry_create", Attesta::Action::"entry_update"]"#,
    r#"action in [Attesta::Action::"renew_node", Attesta::Action::"node_ban"]"#,
    "action in []",
];

const RESOURCES: [&str; 10] = [
    "resource",
    "resource",
    "resource is Attesta::Entry",
    "resource is Attesta::Target",
    r#"resource == Attesta::Entry::"e1""#,
    r#"resource in Attesta::Entry::"e2""#,
    r#"resource == Attesta::Target::"t""#,
    r#"resource is Attesta::Entry in Attesta::Entry::"e1""#,
    r#"resource == Attesta::Node::"spiffe://example.org/spire/agent/x509pop/a""#,
    r#"resource in Attesta::Server::"spiffe://example.org/web""#,
];

// Some err on some requests; that must be the same too.
const CONDITIONS: [&str; 22] = [
    "",
    "",
    r#"when { context.actor == "node" }"#,
    r#"when { context["actor"] == "node" }"#,
    r#"when { context has actor && context.actor != "node" }"#,
    r#"when { context.facts.contains("unix.uid=0") }"#,
    "when { context has unix_uid && context.unix_uid == 0 }",
    "when { context.unix_uid == 1000 }",
    r#"when { principal.labels.contains("env=prod") }"#,
    r#"when { resource.owner == "team-a" } unless { principal has owner }"#,
    r#"when { resource has owner && resource.path like "/w*" }"#,
    r#"when { (if context.now_s > 1 then principal else resource).owner == "team-a" }"#,
    r#"when { context has before && context.before.owner == "team-a" }"#,
    r#"when { context has before.owner }"#,
    r#"when { context == {"now_s": 1764000000} }"#,
    r#"when { {"x": context}.x.now_s == 1764000000 }"#,
    r#"when { {"x": principal}.x.owner == "team-a" }"#,
    r#"when { principal in Attesta::Entry::"e1" }"#,
    r#"when { principal is Attesta::Identity in Attesta::Entry::"e2" }"#,
    r#"when { principal in [Attesta::Entry::"e1", resource] }"#,
    "when { principal == resource || resource in principal }",
    r#"when { Attesta::Entry::"e1".owner == "team-a" }"#,
];

fn policy() -> impl Strategy<Value = String> {
    let pick = |n: usize| 0..n;
    (
        any::<bool>(),
        pick(PRINCIPALS.len()),
        pick(ACTIONS.len()),
        pick(RESOURCES.len()),
        pick(CONDITIONS.len()),
    )
        .prop_map(|(permit, p, a, r, c)| {
            let effect = if permit { "permit" } else { "forbid" };
            format!(
                "{effect} ({}, {}, {}) {};",
                PRINCIPALS[p], ACTIONS[a], RESOURCES[r], CONDITIONS[c]
            )
        })
}

fn actor() -> impl Strategy<Value = Actor> {
    proptest::sample::select(actors().to_vec())
}

fn world() -> impl Strategy<Value = World> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(root, second, bare, banned)| {
            let mut world = World::new();
            let uid = if root { "0" } else { "1000" };
            let parent = world.attested.parent.clone();
            let instance = world.attested.instance.clone();
            world.attested = attesta_model::Attested::new(
                parent,
                facts(&[("unix", "uid", uid)]),
                instance,
                None,
            );
            world.entry = entry(if second { "e2" } else { "e1" }, |s| {
                if bare {
                    s.owner.clear();
                    s.labels.clear();
                }
            });
            world.id = if second { id("/db") } else { id("/web") };
            world.node.banned = banned;
            world
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slices_say_what_the_whole_says(
        policies in proptest::collection::vec(policy(), 0..10),
        world in world(),
        actor in actor(),
    ) {
        let text: String = policies.iter().enumerate().map(|(i, p)| format!("@id(\"p{i}\") {p}\n")).collect();
        let set = Policies::unchecked(&[("generated", &text)]).unwrap();
        for action in asked() {
            let request = super::request(actor.clone(), action);
            let question = Question { request: &request, about: about(&world, action) };
            let input = Input::of(&question).unwrap();
            let (sliced, whole) = (set.evaluate(&input), set.evaluate_whole(&input, None));
            prop_assert_eq!(sliced.permitted(), whole.permitted(), "{}", text);
            prop_assert_eq!(&sliced.forbids, &whole.forbids, "{}", text);
            let failed = |v: &crate::policies::Verdict| v.errors.iter().map(|(id, ..)| id.clone()).collect::<Vec<_>>();
            prop_assert_eq!(failed(&sliced), failed(&whole), "{}", text);
            if whole.permitted() {
                prop_assert_eq!(&sliced.permits, &whole.permits, "{}", text);
            }
        }
    }
}
