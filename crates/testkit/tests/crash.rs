//! What a crash leaves: at each place, in each flow, the disk as it is at that moment becomes another server's disk.
//! No credential without its record; no acknowledged change that is gone; nothing half.
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by stopping"
)]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use attesta_store::{Failpoints, RecordQuery, Sqlite};
use attesta_testkit::{Options, World, csr};
use attesta_wire::proto::spire::api::server::{
    agent::v1::{AgentX509svidParams, RenewAgentRequest, agent_client::AgentClient},
    svid::v1::{BatchNewX509svidRequest, NewX509svidParams, svid_client::SvidClient},
};

const PLACES: [&str; 4] = ["before_commit", "after_fsync", "after_sign", "before_send"];

/// Copies the database as a crash would leave it: the files as they are, whatever was not synced included or not.
fn image(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["attesta.db", "attesta.db-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

struct Camera {
    wanted: Arc<AtomicBool>,
    to: PathBuf,
}

impl Camera {
    /// Takes the next picture of `place`.
    fn failpoints(place: &str, from: &Path, to: &Path) -> (Self, Failpoints) {
        let wanted = Arc::new(AtomicBool::new(false));
        let mut points = Failpoints::none();
        for nth in 1..500 {
            let (wanted, from, to) = (Arc::clone(&wanted), from.to_owned(), to.to_owned());
            points = points.arm(place, nth, move || {
                if wanted.swap(false, Ordering::SeqCst) {
                    image(&from, &to);
                }
            });
        }
        (
            Self {
                wanted,
                to: to.to_owned(),
            },
            points,
        )
    }

    fn ready(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    fn taken(&self) -> PathBuf {
        assert!(
            !self.wanted.load(Ordering::SeqCst),
            "the place was not passed"
        );
        self.to.clone()
    }
}

async fn world(dir: &Path, failpoints: Failpoints) -> World {
    let sqlite = Sqlite::open(&dir.join("attesta.db")).unwrap();
    let records = sqlite.records();
    World::with(Options {
        backend: Some((Box::new(sqlite), records)),
        failpoints,
        ..Options::default()
    })
    .await
    .unwrap()
}

async fn has_record(world: &World, name: &str) -> bool {
    let query = RecordQuery {
        name: Some(name.to_owned()),
        ..RecordQuery::default()
    };
    !world
        .started
        .ledger
        .query(query)
        .await
        .unwrap()
        .records
        .is_empty()
}

fn serial(world: &World, certificate: &[u8]) -> String {
    let chain = [attesta_tls::CertificateDer::from(certificate.to_vec())];
    attesta_spiffe::verify_chain(&chain, &world.started.bundle.load(), world.clock.now())
        .unwrap()
        .serial_hex()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_in_every_flow_leaves_a_whole_ledger() {
    for place in PLACES {
        for flow in ["attest", "renew", "issue", "entry"] {
            let dir = tempfile::tempdir().unwrap();
            let (live, crashed) = (dir.path().join("live"), dir.path().join("crashed"));
            std::fs::create_dir_all(&live).unwrap();
            let (camera, failpoints) = Camera::failpoints(place, &live, &crashed);
            let before = world(&live, failpoints).await;
            let node = before.join().await.unwrap();
            let first = before
                .entry(&node.id, "/first", &["unix:uid:1"])
                .await
                .unwrap();
            let token = before.token(600).await.unwrap();
            let (_, request) = csr().unwrap();
            if place == "after_sign" && flow == "entry" {
                // Nothing is signed for an entry.
                before.stop().await;
                continue;
            }
            camera.ready();
            // What the client holds when all is done; the picture was taken on the way.
            let (credential, entry) = match flow {
                "attest" => (
                    Some(
                        before
                            .attest("join_token", token.as_bytes(), &request)
                            .await
                            .unwrap()
                            .unwrap()
                            .cert_chain,
                    ),
                    None,
                ),
                "renew" => {
                    let request = RenewAgentRequest {
                        params: Some(AgentX509svidParams { csr: request }),
                    };
                    (
                        Some(
                            AgentClient::new(node.channel.clone())
                                .renew_agent(request)
                                .await
                                .unwrap()
                                .into_inner()
                                .svid
                                .unwrap()
                                .cert_chain,
                        ),
                        None,
                    )
                }
                "issue" => {
                    let request = BatchNewX509svidRequest {
                        params: vec![NewX509svidParams {
                            entry_id: first.clone(),
                            csr: request,
                        }],
                    };
                    let results = SvidClient::new(node.channel.clone())
                        .batch_new_x509svid(request)
                        .await
                        .unwrap()
                        .into_inner()
                        .results;
                    (
                        Some(results.into_iter().next().unwrap().svid.unwrap().cert_chain),
                        None,
                    )
                }
                _ => (
                    None,
                    Some(
                        before
                            .entry(&node.id, "/second", &["unix:uid:2"])
                            .await
                            .unwrap(),
                    ),
                ),
            };
            let disk = camera.taken();
            let name = credential.map(|chain| serial(&before, chain.first().unwrap()));
            assert!(match &name {
                Some(n) => has_record(&before, n).await,
                None => true,
            });
            before.stop().await;

            let after = world(&disk, Failpoints::none()).await;
            let durable = place != "before_commit";
            if let Some(name) = name {
                assert_eq!(
                    has_record(&after, &name).await,
                    durable,
                    "{flow} at {place}: the credential's record"
                );
            }
            let snapshot = after.started.snapshot.load();
            let id = |text: &str| attesta_model::EntryId::parse(text).unwrap();
            assert!(
                snapshot.entry(&id(&first)).is_some(),
                "{flow} at {place}: what was acknowledged before is there"
            );
            assert!(snapshot.node(&node.id).is_some());
            if let Some(entry) = entry {
                assert_eq!(
                    snapshot.entry(&id(&entry)).is_some(),
                    durable,
                    "{flow} at {place}"
                );
            }
            if flow == "attest" {
                let joined = after
                    .id(&format!("/spire/agent/join_token/{token}"))
                    .unwrap();
                assert_eq!(
                    snapshot.node(&joined).is_some(),
                    durable,
                    "{flow} at {place}: node and record are one"
                );
                // A lost answer locks nobody out: another key is refused, and the token is spent only with the node.
                let (_, other) = csr().unwrap();
                let again = after
                    .attest("join_token", token.as_bytes(), &other)
                    .await
                    .unwrap();
                assert_eq!(again.is_ok(), !durable, "{flow} at {place}: {again:?}");
            }
            // Records of each writer are gap-free.
            let query = RecordQuery {
                order: attesta_store::Order::Written(attesta_store::WriterName::local()),
                limit: 1000,
                ..RecordQuery::default()
            };
            let page = after.started.ledger.query(query).await.unwrap();
            for (i, record) in page.records.iter().enumerate() {
                assert_eq!(record.position.seq(), i as u64 + 1, "{flow} at {place}");
            }
            after.stop().await;
        }
    }
}

/// The same trust domain after a restart: same keys, same entries; another key-encryption key stops the start and makes
/// no new authorities.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_the_same_trust_domain_and_a_wrong_key_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path(), Failpoints::none()).await;
    let node = first.join().await.unwrap();
    let entry = first
        .entry(&node.id, "/web", &["unix:uid:1"])
        .await
        .unwrap();
    let bundle = first.started.bundle.load().to_json();
    first.stop().await;
    let again = world(dir.path(), Failpoints::none()).await;
    assert_eq!(again.started.bundle.load().to_json(), bundle);
    let channel = again
        .with_certificate(&node.certificate, &node.key)
        .await
        .unwrap();
    let (_, request) = csr().unwrap();
    let ask = BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id: entry,
            csr: request,
        }],
    };
    let results = SvidClient::new(channel)
        .batch_new_x509svid(ask)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results.first().unwrap().status.as_ref().unwrap().code, 0);
    again.stop().await;
    let sqlite = Sqlite::open(&dir.path().join("attesta.db")).unwrap();
    let records = sqlite.records();
    let wrong = World::with(Options {
        backend: Some((Box::new(sqlite), records)),
        kek: [8; 32],
        ..Options::default()
    })
    .await;
    let Err(e) = wrong else {
        panic!("opened with the wrong key")
    };
    assert!(format!("{e:#}").contains("key-encryption key"), "{e:#}");
    let right = world(dir.path(), Failpoints::none()).await;
    assert_eq!(
        right.started.bundle.load().to_json(),
        bundle,
        "nothing was replaced"
    );
    right.stop().await;
}
