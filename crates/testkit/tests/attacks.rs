//! Attacks and bad input inside one process: what a node, an administrator's script or a full disk can try, and what each
//! gets. Attacks that need another user or another program run against the binary (`attesta-cli`, `tests/attacks.rs`).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says what went wrong by stopping"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use attesta_spiffe::verify_chain;
use attesta_store::{
    Appended, Backend, BackendError, Batch, Fault, Loaded, Memory, Pruned, RecordRow, Retention,
    Row, Since, Use,
};
use attesta_testkit::{AgentWorld, NodeClient, Options, World, csr, workload};
use attesta_tls::CertificateDer;
use attesta_wire::proto::{
    attesta::{
        admin::v1::{self as admin, admin_client::AdminClient},
        agent::v1::{
            self as link, IssueRequest, Wanted, agent_link_client::AgentLinkClient, outcome, wanted,
        },
        types::v1 as shared,
    },
    spire::api::{
        server::{
            agent::v1::{self as agent, agent_client::AgentClient},
            entry::v1::{self as entry, entry_client::EntryClient},
            svid::v1::{self as svid, svid_client::SvidClient},
        },
        types,
    },
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client},
};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::Value;
use tonic::{Code, Status, Streaming, transport::Channel};

const INVALID: i32 = Code::InvalidArgument as i32;

fn json(records: &[String]) -> Vec<Value> {
    records
        .iter()
        .map(|r| serde_json::from_str(r).unwrap())
        .collect()
}

fn fact(key: &str, values: &[&str]) -> shared::Fact {
    shared::Fact {
        namespace: "unix".into(),
        key: key.into(),
        values: values.iter().map(ToString::to_string).collect(),
    }
}

/// What a node asks for a workload of uid 1000.
fn want(entry: &str, facts: Vec<shared::Fact>, what: wanted::What) -> Wanted {
    Wanted {
        entry_id: entry.into(),
        facts,
        instance: Some(shared::Instance {
            kind: Some(shared::instance::Kind::Process(shared::Process {
                boot_id: "b0".into(),
                pid: 7,
                start_time: 7,
            })),
        }),
        what: Some(what),
        correlation_id: String::new(),
    }
}

fn uid() -> Vec<shared::Fact> {
    vec![fact("uid", &["1000"])]
}

async fn issue(node: &NodeClient, wanted: Vec<Wanted>) -> Result<Vec<link::Outcome>, Status> {
    AgentLinkClient::new(node.channel.clone())
        .issue(IssueRequest { wanted })
        .await
        .map(|answer| answer.into_inner().outcomes)
}

/// The id in a certificate that this world's bundle verifies, and its serial.
fn verified(world: &World, certificate: &[u8]) -> (String, String) {
    let chain = [CertificateDer::from(certificate.to_vec())];
    let svid = verify_chain(&chain, &world.started.bundle.load(), world.clock.now()).unwrap();
    (svid.id().to_string(), svid.serial_hex().to_owned())
}

fn certificate(outcome: &link::Outcome) -> Option<&[u8]> {
    match &outcome.credential {
        Some(outcome::Credential::X509(svid)) => svid.cert_chain.first().map(Vec::as_slice),
        _ => None,
    }
}

/// No byte of it can break a line or command a terminal.
fn is_tame(text: &str) -> bool {
    !text.chars().any(attesta_model::text::is_unsafe)
}

/// What is wrong with the refusal of a malformed field: it must be InvalidArgument, name the field and show the value,
/// and be fit to print.
fn amiss(field: &str, value: &str, code: i32, message: &str) -> Option<String> {
    let right =
        code == INVALID && message.contains(field) && message.contains(value) && is_tame(message);
    (!right).then(|| format!("{field} {value:?}: {code} {message:?}"))
}

fn all_right(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![tag];
    match u8::try_from(body.len()) {
        Ok(short) if short < 128 => out.push(short),
        Ok(one) => out.extend([0x81, one]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        }
    }
    out.extend(body);
    out
}

/// A request that is well formed and whose RSA key has this many bytes; its signature is noise.
fn rsa(bytes: usize) -> Vec<u8> {
    let noise = vec![0xA5; bytes];
    let algorithm = |last: u8| {
        let oid = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, last];
        tlv(0x30, &[&tlv(6, &[&oid]), &tlv(5, &[])])
    };
    let number = tlv(2, &[&[0], &noise]);
    let key = tlv(0x30, &[&number, &tlv(2, &[&[1, 0, 1]])]);
    let spki = tlv(0x30, &[&algorithm(1), &tlv(3, &[&[0], &key])]);
    let info = tlv(
        0x30,
        &[&tlv(2, &[&[0]]), &tlv(0x30, &[]), &spki, &tlv(0xA0, &[])],
    );
    tlv(0x30, &[&info, &algorithm(11), &tlv(3, &[&[0], &noise])])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_nothing_by_another_nodes_entry() {
    let world = World::start().await.unwrap();
    let (mine, theirs) = (world.join().await.unwrap(), world.join().await.unwrap());
    let entry = world
        .entry(&theirs.id, "/db", &["unix:uid:1000"])
        .await
        .unwrap();
    let (_, request) = csr().unwrap();
    // By facts that fit it, by the entry alone, as a token, and by renewing under the other's name.
    let by_facts = issue(
        &mine,
        vec![want(&entry, uid(), wanted::What::Csr(request.clone()))],
    )
    .await
    .unwrap();
    assert_eq!(by_facts[0].status.as_ref().unwrap().code, 5);
    assert!(by_facts[0].credential.is_none());
    let mut spire = SvidClient::new(mine.channel.clone());
    let params = svid::NewX509svidParams {
        entry_id: entry.clone(),
        csr: request,
    };
    let by_entry = spire
        .batch_new_x509svid(svid::BatchNewX509svidRequest {
            params: vec![params],
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(by_entry.results[0].status.as_ref().unwrap().code, 5);
    assert!(by_entry.results[0].svid.is_none());
    let token = spire
        .new_jwtsvid(svid::NewJwtsvidRequest {
            entry_id: entry.clone(),
            audience: vec!["db".into()],
        })
        .await
        .unwrap_err();
    assert_eq!(token.code(), Code::NotFound);
    // A node learns nothing of what it may not have: the sentence is the one for an entry that is not there.
    let absent = issue(
        &mine,
        vec![want("absent", uid(), wanted::What::Csr(csr().unwrap().1))],
    )
    .await
    .unwrap();
    let sentence = |o: &link::Outcome, id: &str| {
        let message = &o.status.as_ref().unwrap().message;
        message.replace(id, "ID")
    };
    assert_eq!(
        sentence(&by_facts[0], &entry),
        sentence(&absent[0], "absent")
    );
    // An instance that was never this node's cannot be ended by it.
    let answer = issue(
        &theirs,
        vec![want(&entry, uid(), wanted::What::Csr(csr().unwrap().1))],
    )
    .await
    .unwrap();
    let (_, serial) = verified(&world, certificate(&answer[0]).unwrap());
    let ending = link::Ending {
        instance: want("", vec![], wanted::What::Csr(vec![])).instance,
        at: 0,
        credential_ids: vec![serial],
    };
    let statuses = AgentLinkClient::new(mine.channel.clone())
        .ended(link::EndedRequest {
            endings: vec![ending],
        })
        .await
        .unwrap()
        .into_inner()
        .statuses;
    assert_eq!(statuses[0].code, Code::NotFound as i32);
    let issued = json(&world.records().await.unwrap());
    assert!(
        !issued.iter().any(|r| r["outcome"] == "permitted"
            && r["actor"]["id"] == mine.id.as_str()
            && (r["action"] == "issue_x509"
                || r["action"] == "issue_jwt"
                || r["action"] == "instance_ended")),
        "nothing was permitted to the node that asked"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_more_than_the_entry_gives_is_not_heard() {
    let world = World::start().await.unwrap();
    let node = world.join().await.unwrap();
    let entry = world
        .entry(&node.id, "/web", &["unix:uid:1000"])
        .await
        .unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["db.example.org".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(SanType::URI("spiffe://example.org/db".try_into().unwrap()));
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "admin");
    let forged = params.serialize_request(&key).unwrap().der().to_vec();
    let answer = issue(
        &node,
        vec![want(&entry, uid(), wanted::What::Csr(forged.clone()))],
    )
    .await
    .unwrap();
    let der = certificate(&answer[0]).expect("issued for the key alone");
    assert_eq!(verified(&world, der).0, "spiffe://example.org/web");
    for stolen in ["example.org/db", "db.example.org", "admin"] {
        assert!(
            !der.windows(stolen.len()).any(|w| w == stolen.as_bytes()),
            "{stolen} came from the request"
        );
    }
    // A node's own certificate as well: whatever it writes into its request, it is who it is.
    let renewed = AgentClient::new(node.channel.clone())
        .renew_agent(agent::RenewAgentRequest {
            params: Some(agent::AgentX509svidParams { csr: forged }),
        })
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    assert_eq!(verified(&world, &renewed.cert_chain[0]).0, node.id.as_str());

    let mut flipped = csr().unwrap().1;
    *flipped.last_mut().unwrap() ^= 1;
    let refused = [
        ("RSA-8192", rsa(1024), "unsupported kind"),
        ("RSA-1024", rsa(128), "unsupported kind"),
        ("RSA-2048, not signed", rsa(256), "invalid CSR signature"),
        ("1 MiB", vec![0x30; 1 << 20], "longer than 8192 bytes"),
        ("another signature", flipped, "invalid CSR signature"),
        ("nothing", Vec::new(), "CSR"),
        ("no DER", b"please".to_vec(), "malformed CSR"),
    ];
    let before = world.records().await.unwrap().len();
    for (what, request, expect) in refused {
        let answer = issue(
            &node,
            vec![want(&entry, uid(), wanted::What::Csr(request.clone()))],
        )
        .await
        .unwrap();
        let status = answer[0].status.clone().unwrap();
        assert_eq!(status.code, INVALID, "{what}: {status:?}");
        assert!(status.message.contains(expect), "{what}: {status:?}");
        let status = AgentClient::new(node.channel.clone())
            .renew_agent(agent::RenewAgentRequest {
                params: Some(agent::AgentX509svidParams {
                    csr: request.clone(),
                }),
            })
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        let token = world.token(60).await.unwrap();
        let refused = world
            .attest("join_token", token.as_bytes(), &request)
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
        // A refused request has not used the token up.
        world
            .attest("join_token", token.as_bytes(), &csr().unwrap().1)
            .await
            .unwrap()
            .expect(what);
    }
    let records = world.records().await.unwrap();
    assert!(
        !json(records.get(before..).unwrap())
            .iter()
            .any(|r| r["action"] == "issue_x509" && r["outcome"] == "permitted"),
        "nothing was issued"
    );
    world.stop().await;
}

fn plain_entry(world: &World, parent: &attesta_spiffe::SpiffeId) -> types::Entry {
    types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: world.trust_domain.to_string(),
            path: "/good".into(),
        }),
        parent_id: Some(attesta_wire::id::to_wire(parent)),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Default::default()
    }
}

fn spiffe(domain: &str, path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid {
        trust_domain: domain.into(),
        path: path.into(),
    })
}

/// One malformed entry: the field, a piece of its value as it may be printed, and what makes it so.
type Bad = (
    &'static str,
    &'static str,
    Box<dyn Fn(&mut types::Entry) + Send + Sync>,
);

fn bad_entries() -> Vec<Bad> {
    let mut all: Vec<Bad> = Vec::new();
    let mut add = |field, value, change: Box<dyn Fn(&mut types::Entry) + Send + Sync>| {
        all.push((field, value, change));
    };
    for (path, shown) in [
        ("/..", "/.."),
        ("/a/../b", "/a/../b"),
        ("/.", "/."),
        ("/a//b", "/a//b"),
        ("/a/", "/a/"),
        ("/%2e%2e", "/%2e%2e"),
        ("/a%00", "/a%00"),
        ("/\u{fc}n\u{ef}", "/\u{fc}n\u{ef}"),
        ("/\u{1b}[31mred", "[31mred"),
        ("/a\nb", "/a"),
        ("/\u{202e}live", "live"),
        ("/a b", "/a b"),
        ("/a?x=1", "/a?x=1"),
        ("/a#x", "/a#x"),
        ("", "example.org"),
    ] {
        add(
            "spiffe_id",
            shown,
            Box::new(move |e| e.spiffe_id = spiffe("example.org", path)),
        );
        add(
            "parent_id",
            shown,
            Box::new(move |e| {
                // The bare trust domain has no workloads below it.
                e.parent_id = spiffe("example.org", path);
            }),
        );
    }
    for (domain, shown) in [
        ("", "spiffe://"),
        ("other.org", "other.org"),
        ("EXAMPLE.ORG", "EXAMPLE.ORG"),
        ("example.org:443", "example.org:443"),
        ("user@example.org", "user@example.org"),
    ] {
        add(
            "spiffe_id",
            shown,
            Box::new(move |e| e.spiffe_id = spiffe(domain, "/b")),
        );
    }
    for path in ["/spire/agent/me", "/spire/server", "/spire"] {
        add(
            "spiffe_id",
            path,
            Box::new(move |e| e.spiffe_id = spiffe("example.org", path)),
        );
    }
    add("spiffe_id", "missing", Box::new(|e| e.spiffe_id = None));
    add(
        "spiffe_id",
        "{unix.user}",
        Box::new(|e| e.spiffe_id = spiffe("example.org", "/u/{unix.user}")),
    );
    add("parent_id", "missing", Box::new(|e| e.parent_id = None));
    add(
        "selectors",
        "at least one",
        Box::new(|e| e.selectors.clear()),
    );
    for (kind, value, shown) in [
        ("", "x", ":x"),
        ("unix", "", "unix:"),
        ("a:b", "c", "a:b:c"),
        ("unix", "a\nuid:0", "unix:a"),
        ("unix", "\u{1b}[2J", "[2J"),
    ] {
        add(
            "selectors",
            shown,
            Box::new(move |e| {
                e.selectors = vec![types::Selector {
                    r#type: kind.into(),
                    value: value.into(),
                }];
            }),
        );
    }
    add(
        "selectors",
        "65",
        Box::new(|e| {
            e.selectors = (0..65)
                .map(|i| types::Selector {
                    r#type: "unix".into(),
                    value: format!("uid:{i}"),
                })
                .collect();
        }),
    );
    add("x509_svid_ttl", "-1", Box::new(|e| e.x509_svid_ttl = -1));
    add(
        "x509_svid_ttl",
        "2147483647",
        Box::new(|e| e.x509_svid_ttl = i32::MAX),
    );
    add("jwt_svid_ttl", "-5", Box::new(|e| e.jwt_svid_ttl = -5));
    add("expires_at", "-9", Box::new(|e| e.expires_at = -9));
    add(
        "expires_at",
        "9223372036854775807",
        Box::new(|e| e.expires_at = i64::MAX),
    );
    for (name, shown) in [
        ("..", ".."),
        ("a b", "a b"),
        ("-x", "-x"),
        ("b\u{fc}ro.example", "ro.example"),
        ("*.*.example", "*.*.example"),
        ("a.example\u{1b}[0m", "a.example"),
        ("", "dns_names"),
        ("a%2eexample", "a%2eexample"),
    ] {
        add(
            "dns_names",
            shown,
            Box::new(move |e| e.dns_names = vec![name.into()]),
        );
    }
    add(
        "hint",
        "[31m",
        Box::new(|e| e.hint = "\u{1b}[31mbig".into()),
    );
    add("hint", "xxxx", Box::new(|e| e.hint = "x".repeat(1025)));
    add("id", "a/b", Box::new(|e| e.id = "a/b".into()));
    add("id", "[2J", Box::new(|e| e.id = "\u{1b}[2J".into()));
    add("id", "xxxx", Box::new(|e| e.id = "x".repeat(256)));
    add("id", "..%2f", Box::new(|e| e.id = "..%2f".into()));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_field_of_an_entry_is_named_with_its_value_and_nothing_is_half_applied() {
    let world = World::start().await.unwrap();
    let node = world.join().await.unwrap();
    let mut client = EntryClient::new(world.admin().await.unwrap());
    let good = |path: &str| {
        let mut e = plain_entry(&world, &node.id);
        e.spiffe_id = spiffe("example.org", path);
        e
    };
    // One batch: every bad one between good ones. Each is answered in its place, and the good ones are there.
    let bad = bad_entries();
    let mut entries = Vec::new();
    for (i, (_, _, change)) in bad.iter().enumerate() {
        entries.push(good(&format!("/good/{i}")));
        let mut e = good(&format!("/bad/{i}"));
        change(&mut e);
        entries.push(e);
    }
    let results = client
        .batch_create_entry(entry::BatchCreateEntryRequest {
            entries,
            output_mask: None,
        })
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results.len(), 2 * bad.len());
    let mut ids = Vec::new();
    let mut wrong = Vec::new();
    for (pair, (field, value, _)) in results.chunks(2).zip(&bad) {
        assert_eq!(pair[0].status.as_ref().unwrap().code, 0, "{pair:?}");
        ids.push(pair[0].entry.as_ref().unwrap().id.clone());
        let status = pair[1].status.as_ref().unwrap();
        wrong.extend(amiss(field, value, status.code, &status.message));
    }
    all_right(wrong);
    let list = || entry::ListEntriesRequest::default();
    let all = client.list_entries(list()).await.unwrap().into_inner();
    assert_eq!(all.entries.len(), bad.len());

    // The same as updates: the entries stay as they are, beside one that changes.
    let mut updates = Vec::new();
    let updatable: Vec<&Bad> = bad.iter().filter(|(field, ..)| *field != "id").collect();
    for (id, (_, _, change)) in ids.iter().zip(&updatable) {
        let mut e = plain_entry(&world, &node.id);
        change(&mut e);
        e.id.clone_from(id);
        updates.push(e);
    }
    let mut renamed = good("/renamed");
    renamed.id = ids.last().unwrap().clone();
    updates.push(renamed);
    let results = client
        .batch_update_entry(entry::BatchUpdateEntryRequest {
            entries: updates,
            input_mask: None,
            output_mask: None,
        })
        .await
        .unwrap()
        .into_inner()
        .results;
    let (changed, refused) = results.split_last().unwrap();
    assert_eq!(changed.status.as_ref().unwrap().code, 0, "{changed:?}");
    let mut wrong = Vec::new();
    for (result, (field, value, _)) in refused.iter().zip(&updatable) {
        let status = result.status.as_ref().unwrap();
        wrong.extend(amiss(field, value, status.code, &status.message));
    }
    all_right(wrong);
    let after = client.list_entries(list()).await.unwrap().into_inner();
    for (before, after) in all.entries.iter().zip(&after.entries) {
        if before.id == *ids.last().unwrap() {
            assert_eq!(after.spiffe_id.as_ref().unwrap().path, "/renamed");
        } else {
            assert_eq!(before, after);
        }
    }
    // Deletes: malformed, missing, unknown, twice.
    let results = client
        .batch_delete_entry(entry::BatchDeleteEntryRequest {
            ids: vec![
                String::new(),
                "a/\u{1b}b".into(),
                "unknown".into(),
                ids[0].clone(),
                ids[0].clone(),
            ],
        })
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<i32> = results
        .iter()
        .map(|r| r.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [3, 3, 5, 0, 5]);
    assert!(is_tame(&results[1].status.as_ref().unwrap().message));
    // Twice in one batch, and what is there already: the second is told which.
    let results = client
        .batch_create_entry(entry::BatchCreateEntryRequest {
            entries: vec![good("/twin"), good("/twin"), good("/good/1")],
            output_mask: None,
        })
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<i32> = results
        .iter()
        .map(|r| r.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [0, 6, 6]);
    // Over the bound of a call nothing is done at all.
    let status = client
        .batch_delete_entry(entry::BatchDeleteEntryRequest {
            ids: vec![ids[1].clone(); 1001],
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("1001"), "{status:?}");
    for line in world.records().await.unwrap() {
        assert!(is_tame(&line), "{line}");
    }
    world.stop().await;
}

/// A path has no place in a trust domain, nor a piece of the trust domain in a path.
#[tokio::test(flavor = "multi_thread")]

async fn trust_domain_and_path_are_checked_apart() {
    let world = World::start().await.unwrap();
    let node = world.join().await.unwrap();
    let mut client = EntryClient::new(world.admin().await.unwrap());
    let mut wrong = Vec::new();
    for (domain, path, value) in [
        ("example.org/a", "/b", "example.org/a"),
        ("example.or", "g/b", "g/b"),
    ] {
        let mut e = plain_entry(&world, &node.id);
        e.spiffe_id = spiffe(domain, path);
        let results = client
            .batch_create_entry(entry::BatchCreateEntryRequest {
                entries: vec![e],
                output_mask: None,
            })
            .await
            .unwrap()
            .into_inner()
            .results;
        let status = results[0].status.as_ref().unwrap();
        wrong.extend(amiss("spiffe_id", value, status.code, &status.message));
    }
    all_right(wrong);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ours_adds_to_an_entry_is_checked_as_well() {
    let world = World::start().await.unwrap();
    let node = world.join().await.unwrap();
    let mut client = AdminClient::new(world.admin().await.unwrap());
    let label = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    let template = |text: &str| admin::Extras {
        spiffe_id_template: text.into(),
        ..Default::default()
    };
    let extras: Vec<(&str, &str, admin::Extras)> = vec![
        (
            "owner",
            "[5m",
            admin::Extras {
                owner: "\u{1b}[5mme".into(),
                ..Default::default()
            },
        ),
        (
            "owner",
            "live",
            admin::Extras {
                owner: "\u{202e}live".into(),
                ..Default::default()
            },
        ),
        (
            "purpose",
            "a",
            admin::Extras {
                purpose: "a\r\nb".into(),
                ..Default::default()
            },
        ),
        (
            "labels",
            "a b",
            admin::Extras {
                labels: label("a b", "x"),
                ..Default::default()
            },
        ),
        (
            "labels",
            "[1m",
            admin::Extras {
                labels: label("a", "\u{1b}[1m"),
                ..Default::default()
            },
        ),
        (
            "labels",
            "33",
            admin::Extras {
                labels: (0..33).map(|i| (format!("l{i}"), "x".into())).collect(),
                ..Default::default()
            },
        ),
        (
            "issuer",
            "a b",
            admin::Extras {
                issuer: "a b\u{7}".into(),
                ..Default::default()
            },
        ),
        (
            "spiffe_id",
            "{unix}",
            template("spiffe://example.org/u/{unix}"),
        ),
        (
            "spiffe_id",
            "{unix.user",
            template("spiffe://example.org/u/{unix.user"),
        ),
        (
            "spiffe_id",
            "{a.b}{c.d}",
            template("spiffe://example.org/u/{a.b}{c.d}"),
        ),
        (
            "spiffe_id",
            "{a.b}/x",
            template("spiffe://example.org/{a.b}/x"),
        ),
        (
            "spiffe_id",
            "/spire/",
            template("spiffe://example.org/spire/{a.b}"),
        ),
        (
            "spiffe_id",
            "/../",
            template("spiffe://example.org/a/../{a.b}"),
        ),
        (
            "spiffe_id",
            "other.org",
            template("spiffe://other.org/a/{a.b}"),
        ),
        (
            "spiffe_id",
            "%2e",
            template("spiffe://example.org/%2e/{a.b}"),
        ),
    ];
    let mut entries: Vec<admin::Entry> = extras
        .iter()
        .map(|(_, _, extras)| {
            let mut base = plain_entry(&world, &node.id);
            if !extras.spiffe_id_template.is_empty() {
                base.spiffe_id = None;
            }
            admin::Entry {
                base: Some(base),
                extras: Some(extras.clone()),
            }
        })
        .collect();
    entries.push(admin::Entry::default());
    let results = client
        .create_entries(admin::CreateEntriesRequest { entries })
        .await
        .unwrap()
        .into_inner()
        .results;
    let mut wrong = Vec::new();
    for (result, (field, value)) in results.iter().zip(
        extras
            .iter()
            .map(|(field, value, _)| (*field, *value))
            .chain([("base", "missing")]),
    ) {
        let status = result.status.as_ref().unwrap();
        wrong.extend(amiss(field, value, status.code, &status.message));
    }
    all_right(wrong);
    let left = client
        .list_entries(admin::ListEntriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(left.entries.is_empty());
    world.stop().await;
}

/// Field and value of a malformed request, and the call's answer.
type Refused = (&'static str, &'static str, Status);

async fn malformed_calls(admin: &Channel) -> Vec<Refused> {
    let mut entries = EntryClient::new(admin.clone());
    let mut agents = AgentClient::new(admin.clone());
    let mut ours = AdminClient::new(admin.clone());
    let mut out: Vec<Refused> = Vec::new();
    macro_rules! refused {
        ($field:expr, $value:expr, $call:expr) => {
            out.push((
                $field,
                $value,
                $call
                    .await
                    .map(|_| ())
                    .err()
                    .unwrap_or_else(|| Status::ok(stringify!($call))),
            ))
        };
    }
    let page = |token: &str, size: i32| entry::ListEntriesRequest {
        page_token: token.into(),
        page_size: size,
        ..Default::default()
    };
    refused!("page_token", "a/b", entries.list_entries(page("a/b", 1)));
    refused!(
        "page_token",
        "[2J",
        entries.list_entries(page("\u{1b}[2J", 1))
    );
    refused!("page_size", "-1", entries.list_entries(page("", -1)));
    let filter = |filter| entry::ListEntriesRequest {
        filter: Some(filter),
        ..Default::default()
    };
    let by = entry::list_entries_request::Filter::default;
    refused!(
        "SPIFFE ID filter",
        "/a/../b",
        entries.list_entries(filter(entry::list_entries_request::Filter {
            by_spiffe_id: spiffe("example.org", "/a/../b"),
            ..by()
        }))
    );
    refused!(
        "parent ID filter",
        "%41",
        entries.list_entries(filter(entry::list_entries_request::Filter {
            by_parent_id: spiffe("example.org", "/%41"),
            ..by()
        }))
    );
    let selectors = |how: i32, value: &str| types::SelectorMatch {
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: value.into(),
        }],
        r#match: how,
    };
    refused!(
        "selectors filter",
        "99",
        entries.list_entries(filter(entry::list_entries_request::Filter {
            by_selectors: Some(selectors(99, "uid:1")),
            ..by()
        }))
    );
    refused!(
        "selectors filter",
        "[0m",
        entries.list_entries(filter(entry::list_entries_request::Filter {
            by_selectors: Some(selectors(0, "\u{1b}[0m")),
            ..by()
        }))
    );
    refused!(
        "federates with filter",
        "A B",
        entries.list_entries(filter(entry::list_entries_request::Filter {
            by_federates_with: Some(types::FederatesWithMatch {
                trust_domains: vec!["A B".into()],
                r#match: 0,
            }),
            ..by()
        }))
    );
    let get = |id: &str| entry::GetEntryRequest {
        id: id.into(),
        output_mask: None,
    };
    refused!("ID", "missing", entries.get_entry(get("")));
    refused!("id", "../x", entries.get_entry(get("../x")));

    let nodes = |token: &str, size: i32, before: &str| agent::ListAgentsRequest {
        page_token: token.into(),
        page_size: size,
        filter: Some(agent::list_agents_request::Filter {
            by_expires_before: before.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    refused!(
        "page_token",
        "nonsense",
        agents.list_agents(nodes("nonsense", 1, ""))
    );
    refused!("page_size", "-7", agents.list_agents(nodes("", -7, "")));
    refused!(
        "by_expires_before",
        "yesterday",
        agents.list_agents(nodes("", 1, "yesterday"))
    );
    let id = spiffe("example.org", "/a/..");
    refused!(
        "id",
        "missing",
        agents.get_agent(agent::GetAgentRequest::default())
    );
    refused!(
        "id",
        "/a/..",
        agents.get_agent(agent::GetAgentRequest {
            id: id.clone(),
            output_mask: None
        })
    );
    refused!(
        "id",
        "/a/..",
        agents.ban_agent(agent::BanAgentRequest { id: id.clone() })
    );
    refused!(
        "id",
        "/a/..",
        agents.delete_agent(agent::DeleteAgentRequest { id: id.clone() })
    );
    let token = |ttl: i32, token: &str, agent_id| agent::CreateJoinTokenRequest {
        ttl,
        token: token.into(),
        agent_id,
    };
    refused!("ttl", "-3", agents.create_join_token(token(-3, "", None)));
    refused!(
        "ttl",
        "required",
        agents.create_join_token(token(0, "", None))
    );
    refused!(
        "ttl",
        "2147483647",
        agents.create_join_token(token(i32::MAX, "", None))
    );
    // A token's own text is a secret and stays out of the refusal.
    refused!(
        "token",
        "A-Z",
        agents.create_join_token(token(60, "../x", None))
    );
    refused!(
        "token",
        "A-Z",
        agents.create_join_token(token(60, "\u{1b}[2J", None))
    );
    refused!(
        "token",
        "255",
        agents.create_join_token(token(60, &"x".repeat(256), None))
    );
    refused!(
        "agent_id",
        "/a/..",
        agents.create_join_token(token(60, "", id.clone()))
    );

    let list = || admin::ListEntriesRequest::default();
    refused!(
        "page_token",
        "a/b",
        ours.list_entries(admin::ListEntriesRequest {
            page_token: "a/b".into(),
            ..list()
        })
    );
    refused!(
        "page_size",
        "-1",
        ours.list_entries(admin::ListEntriesRequest {
            page_size: -1,
            ..list()
        })
    );
    refused!(
        "parent_id",
        "http://x",
        ours.list_entries(admin::ListEntriesRequest {
            parent_id: "http://x".into(),
            ..list()
        })
    );
    refused!(
        "ids",
        "a b",
        ours.list_entries(admin::ListEntriesRequest {
            ids: vec!["a b".into()],
            ..list()
        })
    );
    let records = || admin::ListRecordsRequest::default();
    refused!(
        "page_token",
        "x-y",
        ours.list_records(admin::ListRecordsRequest {
            page_token: "x-y".into(),
            ..records()
        })
    );
    refused!(
        "page_size",
        "-2",
        ours.list_records(admin::ListRecordsRequest {
            page_size: -2,
            ..records()
        })
    );
    refused!(
        "since_ms",
        "9223372036854775807",
        ours.list_records(admin::ListRecordsRequest {
            since_ms: i64::MAX,
            ..records()
        })
    );
    refused!(
        "after.writer",
        "a b",
        ours.tail_records(admin::TailRecordsRequest {
            after: vec![admin::Cursor {
                writer: "a b".into(),
                seq: 1
            }],
            ..Default::default()
        })
    );
    refused!(
        "what",
        "give",
        ours.explain(admin::ExplainRequest { what: None })
    );
    let observed = |node: &str| admin::ExplainRequest {
        what: Some(admin::explain_request::What::Observed(admin::Observed {
            node: node.into(),
            facts: vec![],
        })),
    };
    refused!("node", "not-an-id", ours.explain(observed("not-an-id")));
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_request_is_named_with_its_value() {
    let world = World::start().await.unwrap();
    let mut wrong = Vec::new();
    for (field, value, status) in malformed_calls(&world.admin().await.unwrap()).await {
        wrong.extend(amiss(field, value, status.code() as i32, status.message()));
    }
    all_right(wrong);

    let node = world.join().await.unwrap();
    let entry = world
        .entry(&node.id, "/web", &["unix:uid:1000"])
        .await
        .unwrap();
    let request = || wanted::What::Csr(csr().unwrap().1);
    let jwt = |audience: &[&str]| {
        wanted::What::Jwt(link::JwtWanted {
            audience: audience.iter().map(ToString::to_string).collect(),
        })
    };
    let process = |boot: &str, pid: u32| {
        Some(shared::Instance {
            kind: Some(shared::instance::Kind::Process(shared::Process {
                boot_id: boot.into(),
                pid,
                start_time: 1,
            })),
        })
    };
    let long = "x".repeat(1025);
    let many: Vec<String> = (0..17).map(|i| format!("a{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let base = || want(&entry, uid(), request());
    let cases: Vec<(&str, &str, Wanted)> = vec![
        ("entry_id", "a/b", want("a/b", uid(), request())),
        ("entry_id", "[2J", want("\u{1b}[2J", uid(), request())),
        (
            "facts",
            "unix.",
            want(&entry, vec![fact("", &["x"])], request()),
        ),
        (
            "facts",
            "unix.uid",
            want(&entry, vec![fact("uid", &[])], request()),
        ),
        (
            "facts",
            "unix.uid",
            want(
                &entry,
                vec![fact("uid", &["1"]), fact("uid", &["1000"])],
                request(),
            ),
        ),
        (
            "facts",
            "unix.path",
            want(&entry, vec![fact("path", &["/a\nunix:uid:0"])], request()),
        ),
        (
            "facts",
            "unix.path",
            want(&entry, vec![fact("path", &[&long])], request()),
        ),
        (
            "instance",
            "missing",
            Wanted {
                instance: None,
                ..base()
            },
        ),
        (
            "instance.process",
            "boot_id",
            Wanted {
                instance: process("../x", 1),
                ..base()
            },
        ),
        (
            "instance.process",
            "pid",
            Wanted {
                instance: process("b0", 0),
                ..base()
            },
        ),
        (
            "instance.container",
            "a/b",
            Wanted {
                instance: Some(shared::Instance {
                    kind: Some(shared::instance::Kind::Container(shared::Container {
                        id: "a/b".into(),
                    })),
                }),
                ..base()
            },
        ),
        (
            "correlation_id",
            "a b",
            Wanted {
                correlation_id: "a b".into(),
                ..base()
            },
        ),
        (
            "what",
            "neither",
            Wanted {
                what: None,
                ..base()
            },
        ),
        ("audience", "at least one", want(&entry, uid(), jwt(&[]))),
        ("audience", "1 to 1024", want(&entry, uid(), jwt(&[""]))),
        (
            "audience",
            "[31m",
            want(&entry, uid(), jwt(&["\u{1b}[31m"])),
        ),
        ("audience", "xxx", want(&entry, uid(), jwt(&[&long]))),
        ("audience", "at most 16", want(&entry, uid(), jwt(&many))),
    ];
    // All in one call, with a good one last: each is answered in its place.
    let mut asks: Vec<Wanted> = cases.iter().map(|(_, _, w)| w.clone()).collect();
    asks.push(base());
    let outcomes = issue(&node, asks).await.unwrap();
    let (good, bad) = outcomes.split_last().unwrap();
    assert!(certificate(good).is_some(), "{good:?}");
    let mut wrong = Vec::new();
    for (outcome, (field, value, _)) in bad.iter().zip(&cases) {
        let status = outcome.status.as_ref().unwrap();
        wrong.extend(amiss(field, value, status.code, &status.message));
        assert!(outcome.credential.is_none());
    }
    all_right(wrong);
    let status = issue(&node, vec![base(); 501]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("501"), "{status:?}");

    let mut spire = SvidClient::new(node.channel.clone());
    let params = |id: &str| svid::NewX509svidParams {
        entry_id: id.into(),
        csr: csr().unwrap().1,
    };
    let results = spire
        .batch_new_x509svid(svid::BatchNewX509svidRequest {
            params: vec![params(""), params("a/b"), params(&entry)],
        })
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<i32> = results
        .iter()
        .map(|r| r.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [3, 3, 0], "{results:?}");
    let status = spire
        .batch_new_x509svid(svid::BatchNewX509svidRequest { params: vec![] })
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "missing parameters")
    );
    let mut agents = AgentClient::new(node.channel.clone());
    let status = agents
        .post_status(agent::PostStatusRequest {
            agent_version: "x".repeat(256),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = agents
        .renew_agent(agent::RenewAgentRequest { params: None })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for line in world.records().await.unwrap() {
        assert!(is_tame(&line), "{line}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_fed_with_hostile_facts_refuses_and_never_repairs() {
    let world = World::start().await.unwrap();
    let node = world.join().await.unwrap();
    let mut client = AdminClient::new(world.admin().await.unwrap());
    let mut base = plain_entry(&world, &node.id);
    base.spiffe_id = None;
    base.selectors = vec![types::Selector {
        r#type: "unix".into(),
        value: "uid:1000".into(),
    }];
    let made = client
        .create_entries(admin::CreateEntriesRequest {
            entries: vec![admin::Entry {
                base: Some(base),
                extras: Some(admin::Extras {
                    spiffe_id_template: "spiffe://example.org/u/{unix.user}".into(),
                    ..Default::default()
                }),
            }],
        })
        .await
        .unwrap()
        .into_inner()
        .results;
    let entry = made[0].entry.as_ref().unwrap().base.as_ref().unwrap();
    // Someone else's name, plain, is there to be reached for.
    world
        .entry(&node.id, "/admin", &["unix:uid:0"])
        .await
        .unwrap();
    let ask = |user: &[&str]| {
        let facts = vec![fact("uid", &["1000"]), fact("user", user)];
        want(&entry.id, facts, wanted::What::Csr(csr().unwrap().1))
    };
    let good = issue(&node, vec![ask(&["eve"])]).await.unwrap();
    assert_eq!(
        verified(&world, certificate(&good[0]).unwrap()).0,
        "spiffe://example.org/u/eve"
    );
    let long = "x".repeat(1000);
    let several: [&[&str]; 13] = [
        &[".."],
        &["."],
        &["../../admin"],
        &["a/b"],
        &["/"],
        &["a%2f..%2fadmin"],
        &["\u{fc}ser"],
        &["a b"],
        &["{unix.uid}"],
        &["a?b#c"],
        &["\u{202e}eve"],
        &["eve", "mallory"],
        // Segments may be long, ids may not (2048 bytes); this one is within, and plain.
        &[&long],
    ];
    for user in several {
        let answer = issue(&node, vec![ask(user)]).await.unwrap();
        if user == [long.as_str()] {
            assert!(certificate(&answer[0]).is_some());
            continue;
        }
        let status = answer[0].status.as_ref().unwrap();
        assert_eq!(
            status.code,
            Code::PermissionDenied as i32,
            "{user:?}: {status:?}"
        );
        assert!(
            status.message.contains("unix.user"),
            "{user:?}: {}",
            status.message
        );
        assert!(is_tame(&status.message), "{user:?}: {}", status.message);
        assert!(certificate(&answer[0]).is_none());
        // The next one is not folded into it.
        world.hand.advance(Duration::from_secs(61));
    }
    // Without the fact at all.
    let answer = issue(
        &node,
        vec![want(&entry.id, uid(), wanted::What::Csr(csr().unwrap().1))],
    )
    .await
    .unwrap();
    assert!(
        answer[0]
            .status
            .as_ref()
            .unwrap()
            .message
            .contains("which was not attested")
    );
    let records = world.records().await.unwrap();
    let subjects: std::collections::BTreeSet<String> = json(&records)
        .iter()
        .filter(|r| r["action"] == "issue_x509" && r["outcome"] == "permitted")
        .filter_map(|r| r["subject"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    assert!(
        subjects
            .iter()
            .all(|s| s.starts_with("spiffe://example.org/u/")),
        "{subjects:?}"
    );
    // What a fact may carry and a terminal may not stands in the record as an escape.
    for line in &records {
        assert!(is_tame(line), "{line}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_forbids_is_named_and_equal_refusals_are_one_record() {
    let policy = r#"@id("no-night-jobs")
forbid (principal is Attesta::Identity, action == Attesta::Action::"issue_x509", resource)
when { principal.path == "/night" };
@id("no-admins-by-entry")
forbid (principal, action == Attesta::Action::"entry_create", resource)
when { resource.admin };"#;
    let world = World::with(Options {
        policies: vec![("site.cedar".to_owned(), policy.to_owned())],
        ..Options::default()
    })
    .await
    .unwrap();
    let node = world.join().await.unwrap();
    let night = world
        .entry(&node.id, "/night", &["unix:uid:1000"])
        .await
        .unwrap();
    let day = world
        .entry(&node.id, "/day", &["unix:uid:1000"])
        .await
        .unwrap();
    let (_, request) = csr().unwrap();
    let ask = |entry: &str| want(entry, uid(), wanted::What::Csr(request.clone()));
    let answer = issue(&node, vec![ask(&night), ask(&day)]).await.unwrap();
    let status = answer[0].status.as_ref().unwrap();
    assert_eq!(status.code, Code::PermissionDenied as i32);
    assert!(status.message.contains("no-night-jobs"), "{status:?}");
    assert!(certificate(&answer[1]).is_some(), "the other is served");
    let of_night = |records: &[String]| -> Vec<Value> {
        json(records)
            .into_iter()
            .filter(|r| r["outcome"] == "denied" && r["entry"] == night.as_str())
            .collect()
    };
    let refused = of_night(&world.records().await.unwrap());
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0]["denial"]["rule"], "no-night-jobs");
    assert_eq!(refused[0]["decision"], answer[0].decision_id.as_str());
    // A node that asks without end writes one line a minute, which counts, and each answer names a line that is there.
    for _ in 0..200 {
        let again = issue(&node, vec![ask(&night)]).await.unwrap();
        assert_eq!(again[0].decision_id, answer[0].decision_id);
    }
    assert_eq!(of_night(&world.records().await.unwrap()).len(), 1);
    world.hand.advance(Duration::from_secs(61));
    issue(&node, vec![ask(&night)]).await.unwrap();
    let refused = of_night(&world.records().await.unwrap());
    assert_eq!(refused.len(), 2);
    assert_eq!(refused[1]["count"], 201, "{}", refused[1]);
    // A stranger's are folded by where it comes from, whatever it shows.
    let before = world.records().await.unwrap().len();
    for i in 0..100 {
        world
            .attest("join_token", format!("guess-{i}").as_bytes(), &request)
            .await
            .unwrap()
            .unwrap_err();
    }
    let more = world.records().await.unwrap().len() - before;
    assert!(more <= 2, "100 guesses wrote {more} records");

    // An item that policy forbids is refused in its place; its neighbours are made.
    let mut entries = vec![plain_entry(&world, &node.id); 3];
    for (i, e) in entries.iter_mut().enumerate() {
        e.spiffe_id = spiffe("example.org", &format!("/n{i}"));
        e.admin = i == 1;
    }
    let results = EntryClient::new(world.admin().await.unwrap())
        .batch_create_entry(entry::BatchCreateEntryRequest {
            entries,
            output_mask: None,
        })
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<i32> = results
        .iter()
        .map(|r| r.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [0, 7, 0], "{results:?}");
    assert!(
        results[1]
            .status
            .as_ref()
            .unwrap()
            .message
            .contains("no-admins-by-entry")
    );
    world.stop().await;
}

/// A backend whose disk is full for as many appends as it is told.
struct Full {
    inner: Memory,
    left: Arc<AtomicU32>,
}

impl Backend for Full {
    fn load(&mut self, each: &mut dyn FnMut(Row<'_>)) -> Result<Loaded, BackendError> {
        self.inner.load(each)
    }

    fn used(&mut self, key: &attesta_model::OnceKey) -> Result<Option<Use>, BackendError> {
        self.inner.used(key)
    }

    fn append(&mut self, batch: &Batch) -> Result<Appended, BackendError> {
        let failing = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if failing.is_ok() {
            return Err(BackendError {
                place: "/var/lib/attesta/attesta.db".into(),
                fault: Fault::Full,
            });
        }
        self.inner.append(batch)
    }

    fn since(&mut self, revision: attesta_model::Revision) -> Result<Since, BackendError> {
        self.inner.since(revision)
    }

    fn prune(
        &mut self,
        limits: &Retention,
        now: jiff::Timestamp,
        note: &mut dyn FnMut(&Pruned) -> Arc<RecordRow>,
    ) -> Result<Pruned, BackendError> {
        self.inner.prune(limits, now, note)
    }
}

fn me() -> String {
    use std::os::unix::fs::MetadataExt;
    format!(
        "unix:uid:{}",
        std::fs::metadata("/proc/self").unwrap().uid()
    )
}

/// Real time, while the world's clock stands.
async fn rest(w: &AgentWorld, milliseconds: u64) {
    let never = std::future::pending::<()>();
    w.world
        .clock
        .timeout(Duration::from_millis(milliseconds), never)
        .await
        .unwrap_err();
}

type Workload = spiffe_workload_api_client::SpiffeWorkloadApiClient<Channel>;

/// Opens a stream and waits for its first message.
async fn opened(
    w: &AgentWorld,
    client: &mut Workload,
) -> (Streaming<X509svidResponse>, X509svidResponse) {
    for _ in 0..500 {
        let answer = match client.fetch_x509svid(workload(X509svidRequest {})).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                match stream.message().await {
                    Ok(Some(first)) => return (stream, first),
                    Ok(None) => Status::unknown("the stream ended"),
                    Err(status) => status,
                }
            }
            Err(status) => status,
        };
        assert_eq!(answer.code(), Code::PermissionDenied, "{answer:?}");
        rest(w, 10).await;
    }
    panic!("no identity in 5 s");
}

fn serial(w: &AgentWorld, answer: &X509svidResponse) -> String {
    verified(&w.world, &answer.svids[0].x509_svid).1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_what_is_new_serves_what_is_held_and_heals_by_itself() {
    let left = Arc::new(AtomicU32::new(0));
    let memory = Memory::new();
    let records = memory.records();
    let full = Full {
        inner: memory,
        left: Arc::clone(&left),
    };
    let w = AgentWorld::with(
        Options {
            backend: Some((Box::new(full), records)),
            ..Options::default()
        },
        |_| (),
    )
    .await
    .unwrap();
    let node = w.world.join().await.unwrap();
    let remote = w
        .world
        .entry(&node.id, "/remote", &["unix:uid:1000"])
        .await
        .unwrap();
    w.world.entry(&w.node, "/web", &[&me()]).await.unwrap();
    let mut client = w.connect().await.unwrap();
    let (mut stream, first) = opened(&w, &mut client).await;
    let held = serial(&w, &first);
    let mut status = AdminClient::new(w.world.admin().await.unwrap());
    let healthy = async |status: &mut AdminClient<Channel>| {
        status
            .get_status(admin::GetStatusRequest {})
            .await
            .unwrap()
            .into_inner()
    };
    let before = healthy(&mut status).await;
    assert!(before.ready && before.trouble.is_empty(), "{before:?}");
    let written = w.world.records().await.unwrap().len();

    left.store(u32::MAX, Ordering::SeqCst);
    // Nothing new: no credential, no change, no node; and each is told why.
    let refused = issue(
        &node,
        vec![want(&remote, uid(), wanted::What::Csr(csr().unwrap().1))],
    )
    .await
    .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let refused = w
        .world
        .entry(&node.id, "/new", &["unix:uid:1"])
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("no space left"), "{refused}");
    let refused = w.world.token(60).await.unwrap_err().to_string();
    assert!(refused.contains("no space left"), "{refused}");
    let renewed = AgentClient::new(node.channel.clone())
        .renew_agent(agent::RenewAgentRequest {
            params: Some(agent::AgentX509svidParams {
                csr: csr().unwrap().1,
            }),
        })
        .await
        .unwrap_err();
    assert_eq!(renewed.code(), Code::Unavailable);
    // It says so.
    let ill = healthy(&mut status).await;
    assert!(
        !ill.ready && ill.trouble.contains("no space left"),
        "{ill:?}"
    );
    assert_eq!(ill.revision, before.revision, "nothing is half applied");
    assert_eq!(w.world.records().await.unwrap().len(), written);

    // For most of its life what is held is served, also to who asks anew, and nobody's stream breaks.
    for _ in 0..9 {
        w.world.hand.advance(Duration::from_secs(300));
        rest(&w, 30).await;
        let mut another = w.connect().await.unwrap();
        let (_, answer) = opened(&w, &mut another).await;
        assert_eq!(serial(&w, &answer), held);
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(50), stream.message())
            .await
            .is_err(),
        "the stream stays open, and there is nothing to say on it"
    );
    assert_eq!(
        w.world.records().await.unwrap().len(),
        written,
        "nothing was written"
    );

    // Space again: nobody has to do anything.
    left.store(0, Ordering::SeqCst);
    let mut next = None;
    for _ in 0..20 {
        w.world.hand.advance(Duration::from_secs(20));
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(200), stream.message()).await
        {
            next = Some(answer.unwrap().unwrap());
            break;
        }
    }
    let next = serial(&w, &next.expect("renewed within minutes"));
    assert_ne!(next, held);
    let well = healthy(&mut status).await;
    assert!(well.ready && well.trouble.is_empty(), "{well:?}");
    w.world
        .entry(&node.id, "/new", &["unix:uid:1"])
        .await
        .unwrap();
    let all = w.world.records().await.unwrap();
    for name in [&held, &next] {
        assert_eq!(
            json(&all)
                .iter()
                .filter(|r| r["credential"] == name.as_str())
                .count(),
            1,
            "{name} has its record"
        );
    }
    w.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_is_one_refusal() {
    let left = Arc::new(AtomicU32::new(0));
    let memory = Memory::new();
    let records = memory.records();
    let full = Full {
        inner: memory,
        left: Arc::clone(&left),
    };
    let world = World::with(Options {
        backend: Some((Box::new(full), records)),
        ..Options::default()
    })
    .await
    .unwrap();
    let node = world.join().await.unwrap();
    let entry = world
        .entry(&node.id, "/web", &["unix:uid:1000"])
        .await
        .unwrap();
    let token = world.token(60).await.unwrap();
    let (_, request) = csr().unwrap();
    // The token is not used up by an attestation that could not be written down.
    left.store(1, Ordering::SeqCst);
    let refused = world
        .attest("join_token", token.as_bytes(), &request)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    world
        .attest("join_token", token.as_bytes(), &csr().unwrap().1)
        .await
        .unwrap()
        .expect("the next try joins");
    let ask = || want(&entry, uid(), wanted::What::Csr(request.clone()));
    left.store(3, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(
            issue(&node, vec![ask()]).await.unwrap_err().code(),
            Code::Unavailable
        );
    }
    let answer = issue(&node, vec![ask()]).await.unwrap();
    let (_, serial) = verified(&world, certificate(&answer[0]).unwrap());
    let permitted: Vec<Value> = json(&world.records().await.unwrap())
        .into_iter()
        .filter(|r| r["action"] == "issue_x509" && r["outcome"] == "permitted")
        .collect();
    assert_eq!(permitted.len(), 1);
    assert_eq!(permitted[0]["credential"], serial.as_str());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    let w = AgentWorld::start().await.unwrap();
    for i in 0..20 {
        w.world
            .entry(&w.node, &format!("/web/{i}"), &[&me()])
            .await
            .unwrap();
    }
    let mut lazy = w.connect().await.unwrap();
    let (mut asleep, first) = opened(&w, &mut lazy).await;
    // These share one connection, whose window they fill: they hold up each other, and nobody else.
    let mut crowd = w.connect().await.unwrap();
    let mut heap = Vec::new();
    for _ in 0..50 {
        heap.push(
            crowd
                .fetch_x509svid(workload(X509svidRequest {}))
                .await
                .unwrap(),
        );
    }
    // And one that connects, says hello and never reads at all.
    let mut mute = tokio::net::UnixStream::connect(&w.socket).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut mute, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut prompt = w.connect().await.unwrap();
    let (mut awake, _) = opened(&w, &mut prompt).await;
    for _ in 0..6 {
        loop {
            w.world.hand.advance(Duration::from_secs(300));
            if let Ok(answer) =
                tokio::time::timeout(Duration::from_millis(150), awake.message()).await
            {
                answer.unwrap().expect("the stream stays");
                break;
            }
        }
        let mut fresh = w.connect().await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), opened(&w, &mut fresh))
            .await
            .expect("a newcomer is served at once");
    }
    // Who wakes up gets what fitted into its window, then the newest, and not everything that was between.
    let (mut last, mut read, mut quiet) = (first.clone(), 0, 0);
    loop {
        let next = tokio::time::timeout(Duration::from_millis(500), asleep.message()).await;
        if let Ok(answer) = next {
            last = answer.unwrap().expect("the stream stays");
            read += 1;
        } else if last == opened(&w, &mut prompt).await.1 {
            break;
        } else {
            quiet += 1;
            assert!(quiet < 10, "the newest does not come");
        }
        assert!(read < 20, "it is led through the past");
    }
    assert_ne!(first, last);
    drop((heap, mute));
    w.stop().await;
}
