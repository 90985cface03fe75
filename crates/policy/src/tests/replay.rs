//! Decisions again from their records, and what a record may lack.

use attesta_model::{Action, Actor, Attested, Denial, Instance, Outcome, Parent, Record};

use super::{World, about, actors, agent, asked, facts, local, request, with};
use crate::{About, Permit, Policies, PolicyError, Question, Want};

/// A record with its `inputs`, as the server is to write it.
fn record(question: &Question<'_>, verdict: &Result<Permit, Denial>, inputs: bool) -> Vec<u8> {
    let mut record = match verdict {
        Ok(permit) => Record::new(question.request, permit.outcome()),
        Err(denial) => Record::denied(question.request, denial),
    };
    match &question.about {
        About::Issue {
            entry,
            id,
            attested,
            by_entry,
            want,
            ..
        } => {
            record = record.about(attested);
            record.subject = Some((*id).clone());
            record.entry = Some(entry.id().clone());
            record.by_entry = *by_entry;
            if let Want::Jwt { audience, .. } = want {
                record.audience.clone_from(audience);
            }
        }
        About::Node { id, facts, .. } => {
            record.subject = Some((*id).clone());
            record.facts = (*facts).clone();
        }
        About::Entry { entry, .. } => record.entry = Some(entry.id().clone()),
        About::Target(_) | About::System { .. } => {}
    }
    let mut json: serde_json::Value = serde_json::from_slice(&record.to_json()).unwrap();
    if inputs {
        json["inputs"] = question.inputs();
    }
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn decisions_replay_from_their_records() {
    let set = with(
        r#"@id("no-root") forbid (principal, action == Attesta::Action::"issue_x509", resource)
             when { context has unix_uid && context.unix_uid == 0 && principal.owner == "team-a" };
           @id("owner-stays") forbid (principal, action == Attesta::Action::"entry_update", resource)
             when { context has before && context.before.owner != resource.owner };"#,
    );
    let other = Policies::parse(&[("none", "")]).unwrap();
    let mut root = World::new();
    root.attested = Attested::new(
        Parent::Server,
        facts(&[("unix", "uid", "0")]),
        Instance::Node,
        None,
    );
    for world in [World::new(), root] {
        for actor in actors() {
            for action in asked() {
                let request = request(actor.clone(), action);
                let question = Question {
                    request: &request,
                    about: about(&world, action),
                };
                let verdict = set.decide(&question);
                let bytes = record(&question, &verdict, true);
                assert_eq!(
                    set.replay(&bytes),
                    Ok(true),
                    "{}",
                    String::from_utf8_lossy(&bytes)
                );
                assert_eq!(
                    other.replay(&bytes),
                    Ok(verdict.is_err()),
                    "{actor} {action:?}"
                );
            }
        }
    }
}

#[test]
fn what_a_record_lacks_is_named() {
    let set = Policies::default_set().unwrap();
    let world = World::new();
    let check = |action, actor, expect: Result<bool, Vec<&str>>| {
        let request = request(actor, action);
        let question = Question {
            request: &request,
            about: about(&world, action),
        };
        let bytes = record(&question, &set.decide(&question), false);
        let got = set.replay(&bytes).map_err(|e| match e {
            PolicyError::Incomplete(names) => names,
            other => panic!("{other}"),
        });
        assert_eq!(
            got,
            expect.map_err(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>()),
            "{action:?}"
        );
    };
    check(Action::IssueX509, agent(), Err(vec!["context.node_banned"]));
    check(
        Action::AttestNode,
        Actor::Stranger("x".into()),
        Err(vec!["resource.banned"]),
    );
    check(Action::EntryCreate, local(), Ok(true));
    check(Action::EntryCreate, agent(), Ok(true));
    check(Action::NodeBan, local(), Err(vec!["resource.name"]));
    let request = request(agent(), Action::IssueX509);
    let noted = Record::new(&request, Outcome::Noted).to_json();
    assert!(matches!(
        set.replay(&noted),
        Err(PolicyError::NotDecided(_))
    ));
    let refused = Record::denied(&request, &Denial::not_found("x")).to_json();
    assert!(matches!(
        set.replay(&refused),
        Err(PolicyError::NotDecided(_))
    ));
    for bytes in [
        &b""[..],
        b"[]",
        b"{}",
        br#"{"outcome":"permitted"}"#,
        br#"{"outcome":"permitted","action":"x","at":1}"#,
    ] {
        assert!(
            matches!(set.replay(bytes), Err(PolicyError::Record(_))),
            "{bytes:?}"
        );
    }
}
