//! Each flow on the real server with a hand-turned clock, and each failure of it.
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by stopping"
)]

use std::time::Duration;

use attesta_spiffe::{UnverifiedJwt, verify_chain};
use attesta_testkit::{NodeClient, Options, World, csr};
use attesta_tls::CertificateDer;
use attesta_wire::{
    fact::facts_to_wire,
    proto::{
        attesta::{
            agent::v1 as link,
            agent::v1::{
                IssueRequest, Wanted, WatchRequest, agent_link_client::AgentLinkClient, outcome,
                wanted,
            },
            types::v1 as shared,
        },
        spire::api::server::{
            agent::v1::{
                AgentX509svidParams, DeleteAgentRequest, RenewAgentRequest,
                agent_client::AgentClient,
            },
            entry::v1::{
                BatchDeleteEntryRequest, GetAuthorizedEntriesRequest, entry_client::EntryClient,
            },
            svid::v1::{
                BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
                svid_client::SvidClient,
            },
        },
    },
    status,
};
use serde_json::Value;

fn json(records: &[String]) -> Vec<Value> {
    records
        .iter()
        .map(|r| serde_json::from_str(r).unwrap())
        .collect()
}

fn process(pid: u32) -> shared::Instance {
    shared::Instance {
        kind: Some(shared::instance::Kind::Process(shared::Process {
            boot_id: "b0".into(),
            pid,
            start_time: 7,
        })),
    }
}

fn facts(values: &[(&str, &str)]) -> Vec<shared::Fact> {
    let facts = values
        .iter()
        .map(|(key, value)| attesta_model::Fact::new("unix", key, [value]).unwrap());
    facts_to_wire(&attesta_model::Facts::new(facts).unwrap())
}

fn want(entry: &str, of: &[(&str, &str)], pid: u32, csr: Vec<u8>) -> Wanted {
    Wanted {
        entry_id: entry.into(),
        facts: facts(of),
        instance: Some(process(pid)),
        what: Some(wanted::What::Csr(csr)),
        correlation_id: "c1".into(),
    }
}

async fn issue(
    node: &NodeClient,
    wanted: Vec<Wanted>,
) -> Result<link::IssueResponse, tonic::Status> {
    AgentLinkClient::new(node.channel.clone())
        .issue(IssueRequest { wanted })
        .await
        .map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_attested_identified_decided_recorded_and_issued() {
    let world = World::start().await.unwrap();
    let node = world.join().await.unwrap();
    let other = world.join().await.unwrap();
    let entry = world
        .entry(&node.id, "/web", &["unix:uid:1000", "unix:path:/bin/web"])
        .await
        .unwrap();
    let foreign = world
        .entry(&other.id, "/db", &["unix:uid:1000"])
        .await
        .unwrap();
    let me = [("uid", "1000"), ("path", "/bin/web")];
    let (_, request) = csr().unwrap();
    let mut forged = request.clone();
    *forged.last_mut().unwrap() ^= 1;
    let answer = issue(
        &node,
        vec![
            want(&entry, &me, 1, request.clone()),
            want(&foreign, &me, 1, request.clone()),
            want(
                &entry,
                &[("uid", "1000"), ("path", "/bin/evil")],
                2,
                request.clone(),
            ),
            want(&entry, &me, 1, forged),
            want("no/id", &me, 1, request.clone()),
            Wanted {
                what: Some(wanted::What::Jwt(link::JwtWanted {
                    audience: vec!["db".into()],
                })),
                ..want(&entry, &me, 1, vec![])
            },
        ],
    )
    .await
    .unwrap();
    let codes: Vec<i32> = answer
        .outcomes
        .iter()
        .map(|o| o.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [0, 5, 7, 3, 3, 0], "{:?}", answer.outcomes);
    assert!(
        answer.outcomes[2]
            .status
            .as_ref()
            .unwrap()
            .message
            .contains("unix:path:/bin/web"),
        "names the missing selector"
    );
    let Some(outcome::Credential::X509(svid)) = &answer.outcomes[0].credential else {
        panic!("no certificate")
    };
    let Some(outcome::Credential::Jwt(jwt)) = &answer.outcomes[5].credential else {
        panic!("no token")
    };
    let bundle = world.started.bundle.load();
    let chain: Vec<CertificateDer<'_>> = svid
        .cert_chain
        .iter()
        .map(|c| CertificateDer::from(c.clone()))
        .collect();
    let verified = verify_chain(&chain, &bundle, world.clock.now()).unwrap();
    assert_eq!(verified.id().as_str(), "spiffe://example.org/web");
    let token = UnverifiedJwt::parse(&jwt.token)
        .unwrap()
        .verify(&bundle, &["db"], world.clock.now())
        .unwrap();
    assert_eq!(token.id().as_str(), "spiffe://example.org/web");
    assert!(token.claims().contains_key("jti"));

    let records = json(&world.records().await.unwrap());
    let of = |name: &str| {
        records
            .iter()
            .find(|r| r["credential"] == name)
            .unwrap_or_else(|| panic!("no record of {name}"))
    };
    let record = of(verified.serial_hex());
    assert_eq!(record["action"], "issue_x509");
    assert_eq!(record["instance"], "process:b0:1:7");
    assert_eq!(record["facts"]["unix.uid"][0], "1000");
    assert_eq!(record["actor"]["id"], node.id.as_str());
    assert_eq!(record["correlation"], "c1");
    assert_eq!(record["entry"], entry.as_str());
    assert!(record["policies"][0].is_string() && record["policy_digest"].is_string());
    assert_eq!(
        of(token.claims()["jti"].as_str().unwrap())["audience"][0],
        "db"
    );
    let refusal = records
        .iter()
        .find(|r| r["outcome"] == "denied" && r["instance"] == "process:b0:2:7")
        .expect("the impostor's refusal");
    assert_eq!(refusal["denial"]["attribute"], "unix:path:/bin/web");
    assert!(!answer.outcomes[2].decision_id.is_empty());
    assert_eq!(refusal["decision"], answer.outcomes[2].decision_id.as_str());
    // Each permitted decision can be made again from its record alone.
    let policies = attesta_policy::Policies::default_set().unwrap();
    let mut replayed = 0;
    for line in world
        .records()
        .await
        .unwrap()
        .iter()
        .filter(|r| r.contains("\"outcome\":\"permitted\""))
    {
        match policies.replay(line.as_bytes()) {
            Ok(same) => assert!(same, "{line}"),
            Err(e) => panic!("{e}: {line}"),
        }
        replayed += 1;
    }
    assert!(replayed > 8, "{replayed}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_good_once_and_its_own_caller_is_answered_again() {
    let world = World::start().await.unwrap();
    let token = world.token(60).await.unwrap();
    let (_, mine) = csr().unwrap();
    let (_, theirs) = csr().unwrap();
    // Two at once with different keys: exactly one wins.
    let (a, b) = tokio::join!(
        world.attest("join_token", token.as_bytes(), &mine),
        world.attest("join_token", token.as_bytes(), &theirs)
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(u8::from(a.is_ok()) + u8::from(b.is_ok()), 1, "{a:?} {b:?}");
    let (winner, loser) = if a.is_ok() {
        (mine, theirs)
    } else {
        (theirs, mine)
    };
    // The answer was lost: the same key is answered again for five minutes, another never.
    world
        .attest("join_token", token.as_bytes(), &winner)
        .await
        .unwrap()
        .expect("a retry");
    let refused = world
        .attest("join_token", token.as_bytes(), &loser)
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        refused
            .message()
            .contains("does not exist or has already been used"),
        "{refused:?}"
    );
    world.hand.advance(Duration::from_secs(301));
    world
        .attest("join_token", token.as_bytes(), &winner)
        .await
        .unwrap()
        .unwrap_err();
    // Expired, unknown, and of another kind.
    let late = world.token(10).await.unwrap();
    world.hand.advance(Duration::from_secs(11));
    let status = world
        .attest("join_token", late.as_bytes(), &winner)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(status.message(), "join token expired");
    world
        .attest("join_token", b"never-made", &winner)
        .await
        .unwrap()
        .unwrap_err();
    let status = world
        .attest("tpm", b"", &winner)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    let records = world.records().await.unwrap();
    assert!(records.iter().any(|r| r.contains("\"retry\":true")));
    assert!(
        !records.iter().any(|r| r.contains(&late)),
        "the log never holds a token that was not used up"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_banned_or_evicted_certificate_is_refused_with_spires_reason() {
    let world = World::start().await.unwrap();
    let node = world.join().await.unwrap();
    let mut client = AgentClient::new(node.channel.clone());
    world.hand.advance(Duration::from_secs(60));
    let (key, request) = csr().unwrap();
    let renew = |csr: Vec<u8>| RenewAgentRequest {
        params: Some(AgentX509svidParams { csr }),
    };
    let renewed = client
        .renew_agent(renew(request))
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    let newer = world
        .with_certificate(&renewed.cert_chain[0], &key)
        .await
        .unwrap();
    // Renewal retires nothing: the answer could have been lost.
    let list = GetAuthorizedEntriesRequest { output_mask: None };
    EntryClient::new(node.channel.clone())
        .get_authorized_entries(list)
        .await
        .unwrap();
    EntryClient::new(newer.clone())
        .get_authorized_entries(list)
        .await
        .unwrap();
    let mut watch = AgentLinkClient::new(newer.clone())
        .watch(WatchRequest { since: 0 })
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().expect("the full set");
    let mut admin = AgentClient::new(world.admin().await.unwrap());
    admin
        .delete_agent(DeleteAgentRequest {
            id: Some(attesta_wire::id::to_wire(&node.id)),
        })
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(2), watch.message())
        .await
        .expect("the stream ends")
        .unwrap_err();
    assert_eq!(
        status::agent_reason(&ended),
        Some(attesta_model::Reason::NotAttested)
    );
    let refused = EntryClient::new(newer)
        .get_authorized_entries(list)
        .await
        .unwrap_err();
    assert_eq!(
        status::agent_reason(&refused),
        Some(attesta_model::Reason::NotAttested)
    );
    assert!(
        refused
            .message()
            .starts_with("authorization denied for method ")
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_pushed_to_whom_they_concern() {
    let world = World::start().await.unwrap();
    let (a, b) = (world.join().await.unwrap(), world.join().await.unwrap());
    let mut watches = Vec::new();
    for node in [&a, &b] {
        let mut watch = AgentLinkClient::new(node.channel.clone())
            .watch(WatchRequest { since: 0 })
            .await
            .unwrap()
            .into_inner();
        let first = watch.message().await.unwrap().unwrap();
        assert!(first.full && first.bundle.is_some() && first.put.is_empty());
        watches.push(watch);
    }
    let entry = world.entry(&a.id, "/web", &["unix:uid:1"]).await.unwrap();
    let update = tokio::time::timeout(Duration::from_secs(1), watches[0].message())
        .await
        .expect("pushed")
        .unwrap()
        .unwrap();
    assert_eq!(update.put[0].entry.as_ref().unwrap().id, entry);
    assert!(!update.full);
    // An entry below an entry.
    let web = world.id("/web").unwrap();
    let nested = world
        .entry(&web, "/web/child", &["unix:uid:2"])
        .await
        .unwrap();
    let update = tokio::time::timeout(Duration::from_secs(1), watches[0].message())
        .await
        .expect("pushed")
        .unwrap()
        .unwrap();
    assert_eq!(update.put[0].entry.as_ref().unwrap().id, nested);
    EntryClient::new(world.admin().await.unwrap())
        .batch_delete_entry(BatchDeleteEntryRequest {
            ids: vec![entry.clone()],
        })
        .await
        .unwrap();
    let update = tokio::time::timeout(Duration::from_secs(1), watches[0].message())
        .await
        .expect("pushed")
        .unwrap()
        .unwrap();
    let mut removed = update.removed;
    removed.sort();
    let mut both = vec![entry, nested];
    both.sort();
    assert_eq!(removed, both, "what hung below goes with it");
    assert!(
        tokio::time::timeout(Duration::from_millis(200), watches[1].message())
            .await
            .is_err(),
        "the other node sleeps"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrustworthy_clock_signs_nothing() {
    let world = World::start().await.unwrap();
    let node = world.join().await.unwrap();
    let entry = world
        .entry(&node.id, "/web", &["unix:uid:1"])
        .await
        .unwrap();
    let (_, request) = csr().unwrap();
    let right = world.clock.now();
    let ask = || vec![want(&entry, &[("uid", "1")], 1, request.clone())];
    for seconds in [-86_400, 30 * 86_400] {
        world
            .hand
            .set(jiff::Timestamp::from_second(right.as_second() + seconds).unwrap());
        let refused = issue(&node, ask()).await.unwrap_err();
        // Set forward, the certificate has ended as well; either way nothing is signed.
        assert!(
            matches!(
                refused.code(),
                tonic::Code::Unavailable | tonic::Code::PermissionDenied
            ),
            "{refused:?}"
        );
        let token = world.token(60).await.unwrap();
        let status = world.attest("join_token", token.as_bytes(), &request).await;
        if let Ok(answer) = status {
            assert!(answer.unwrap_err().message().contains("clock"));
        }
        world.hand.set(right);
        assert_eq!(
            issue(&node, ask()).await.unwrap().outcomes[0]
                .status
                .as_ref()
                .unwrap()
                .code,
            0
        );
    }
    world.stop().await;
}

/// 30 days in steps of an hour: authorities turn over, and whoever has read the bundle within the propagation time
/// accepts everything that is signed (C125).
#[tokio::test(flavor = "multi_thread")]
async fn thirty_days_of_authority_turnover_leave_no_verifier_behind() {
    let world = World::start().await.unwrap();
    let mut node = world.join().await.unwrap();
    let entry = world
        .entry(&node.id, "/web", &["unix:uid:1"])
        .await
        .unwrap();
    let (mut roots, mut stale) = (
        std::collections::BTreeSet::new(),
        world.started.bundle.load(),
    );
    for step in 0..30 * 24 {
        let now = world.clock.now();
        let (_, request) = csr().unwrap();
        let wanted = |what| Wanted {
            what: Some(what),
            ..want(&entry, &[("uid", "1")], 1, vec![])
        };
        let answer = issue(
            &node,
            vec![
                wanted(wanted::What::Csr(request)),
                wanted(wanted::What::Jwt(link::JwtWanted {
                    audience: vec!["a".into()],
                })),
            ],
        )
        .await;
        let answer = answer.unwrap_or_else(|e| panic!("step {step}: {e}"));
        let Some(outcome::Credential::X509(svid)) = &answer.outcomes[0].credential else {
            panic!("step {step}: {answer:?}")
        };
        let Some(outcome::Credential::Jwt(jwt)) = &answer.outcomes[1].credential else {
            panic!("step {step}: {answer:?}")
        };
        let chain: Vec<CertificateDer<'_>> = svid
            .cert_chain
            .iter()
            .map(|c| CertificateDer::from(c.clone()))
            .collect();
        verify_chain(&chain, &stale, now)
            .unwrap_or_else(|e| panic!("step {step}: a bundle of an hour ago refuses: {e}"));
        UnverifiedJwt::parse(&jwt.token)
            .unwrap()
            .verify(&stale, &["a"], now)
            .unwrap_or_else(|e| panic!("step {step}: {e}"));
        stale = world.started.bundle.load();
        roots.extend(stale.x509_authorities().iter().map(|a| a.der().to_vec()));
        assert!(stale.x509_authorities().len() <= 5, "old authorities go");
        // Half of the node's hour would do; its certificate is renewed each time.
        {
            let (key, csr) = csr().unwrap();
            let request = RenewAgentRequest {
                params: Some(AgentX509svidParams { csr }),
            };
            let svid = AgentClient::new(node.channel.clone())
                .renew_agent(request)
                .await
                .unwrap()
                .into_inner()
                .svid
                .unwrap();
            let channel = world
                .with_certificate(&svid.cert_chain[0], &key)
                .await
                .unwrap();
            node = NodeClient {
                channel,
                key,
                ..node
            };
        }
        // An hour in small turns, so that the tasks on the clock get theirs.
        for _ in 0..11 {
            world.hand.advance(Duration::from_secs(300));
            world.settle().await.unwrap();
        }
    }
    assert!(roots.len() >= 29, "{} roots in 30 days", roots.len());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spires_own_calls_issue_for_the_node_as_a_whole() {
    let world = World::with(Options {
        jwt_keys: vec![attesta_model::KeyAlgorithm::Rsa2048],
        ..Options::default()
    })
    .await
    .unwrap();
    let node = world.join().await.unwrap();
    let entry = world
        .entry(&node.id, "/web", &["unix:uid:1"])
        .await
        .unwrap();
    let (_, request) = csr().unwrap();
    let mut svid = SvidClient::new(node.channel.clone());
    let params = |id: &str| NewX509svidParams {
        entry_id: id.into(),
        csr: request.clone(),
    };
    let results = svid
        .batch_new_x509svid(BatchNewX509svidRequest {
            params: vec![params(&entry), params("unknown")],
        })
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<i32> = results
        .iter()
        .map(|r| r.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [0, 5]);
    assert!(
        results[1]
            .status
            .as_ref()
            .unwrap()
            .message
            .contains("entry not found or not authorized")
    );
    let status = svid
        .new_jwtsvid(NewJwtsvidRequest {
            entry_id: entry.clone(),
            audience: vec![],
        })
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            tonic::Code::InvalidArgument,
            "at least one audience is required (attribute audience)"
        )
    );
    let token = svid
        .new_jwtsvid(NewJwtsvidRequest {
            entry_id: entry,
            audience: vec!["x".into()],
        })
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    UnverifiedJwt::parse(&token.token)
        .unwrap()
        .verify(&world.started.bundle.load(), &["x"], world.clock.now())
        .unwrap();
    let records = json(&world.records().await.unwrap());
    assert!(
        records.iter().any(|r| r["by_entry"] == true
            && r["instance"] == "node"
            && r["action"] == "issue_x509")
    );
    world.stop().await;
}
