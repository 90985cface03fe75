//! Kills a process that writes, at random moments, and looks at what it left: everything that it was told is there,
//! nothing is half, and numbers have no gaps. This is about the process; that a receipt outlives the machine is a
//! matter of fsync, which the conformance of backends and a forgetful one in the unit tests are about.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that is two processes: it reads the environment and the clock, and stops at the first failure"
)]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use attesta_model::{
    Action, Actor, Change, CorrelationId, DecisionId, Entry, EntryId, EntrySpec, Object, Once,
    OnceHolder, OnceKey, Outcome, Parent, Plan, Record, Request,
};
use attesta_runtime::Clock;
use attesta_spiffe::TrustDomain;
use attesta_store::{
    Ledger, LedgerOptions, Order, RecordQuery, Sqlite, Used, WriterName, once_key,
};
use jiff::Timestamp;

const DIR: &str = "ATTESTA_TEST_KILL_DIR";
const KILLS: u32 = 25;

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn open(dir: &Path) -> Ledger {
    let sqlite = Sqlite::open(&dir.join("attesta.db")).unwrap();
    let records = sqlite.records();
    Ledger::open(
        Box::new(sqlite),
        records,
        &td(),
        Clock::system(),
        LedgerOptions::new([1; 16]),
    )
    .unwrap()
    .ledger
}

fn record(name: &str) -> Record {
    let request = Request {
        actor: Actor::System("test"),
        action: Action::EntryCreate,
        at: Timestamp::now(),
        decision: DecisionId([0; 16]),
        correlation: CorrelationId::parse(name).unwrap(),
    };
    Record::new(&request, Outcome::Noted)
}

fn once(name: &str) -> Once {
    Once::Fresh {
        key: OnceKey::new("test", name),
        expires_at: Timestamp::MAX,
    }
}

/// The process that is killed: four callers put entries with evidence, and say what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is started by the other test, and killed"]
async fn writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let ledger = open(Path::new(&dir));
    let life = ledger.snapshot().revision();
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for i in 0.. {
                    let name = format!("e{life}-{caller}-{i}");
                    let command = name.clone();
                    let done = ledger.commit(None, move |_, used| {
                        assert_eq!(used, Used::No);
                        let spec = EntrySpec {
                            spiffe_id: format!("spiffe://example.org/{command}"),
                            parent: Some(Parent::Server),
                            selectors: vec!["t:x".into()],
                            ..EntrySpec::default()
                        };
                        let entry =
                            Entry::new(spec, EntryId::parse(&command).unwrap(), &td()).unwrap();
                        let plan = Plan::answer(())
                            .change(Change::Put(Object::Entry(Arc::new(entry))))
                            .record(record(&command));
                        Ok(plan.once(once(&command), OnceHolder([1; 32])))
                    });
                    let done = done.await.unwrap();
                    let seq = done.receipts.first().unwrap().position().seq();
                    println!("\nack {name} {} {seq}", done.revision);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(String, u64, u64)> = Vec::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..KILLS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let lines = acks(dir.path().to_owned(), Duration::from_millis(random >> 57));
        acknowledged.extend(lines);
        look(dir.path(), &acknowledged).await;
    }
    assert!(
        acknowledged.len() > 100,
        "only {} were acknowledged",
        acknowledged.len()
    );
}

/// Runs the writer until it has acknowledged something, and then for `more`.
fn acks(dir: PathBuf, more: Duration) -> Vec<(String, u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "writes_until_it_is_killed",
        ])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut found = Vec::new();
    let mut parse = |line: &str| {
        let mut words = line.strip_prefix("ack ")?.split(' ');
        let ack = (
            words.next()?.to_owned(),
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
        );
        found.push(ack);
        Some(())
    };
    while parse(&lines.next().unwrap().unwrap()).is_none() {}
    let until = Instant::now() + more;
    while Instant::now() < until {
        parse(&lines.next().unwrap().unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for line in lines {
        // The last line may be cut: then it was not acknowledged to anyone.
        parse(&line.unwrap());
    }
    found
}

async fn look(dir: &Path, acknowledged: &[(String, u64, u64)]) {
    let ledger = open(dir);
    let snapshot = ledger.snapshot();
    let entries: BTreeSet<String> = snapshot
        .entries_after(None)
        .map(|e| e.id().to_string())
        .collect();
    let mut records = Vec::new();
    let mut after = None;
    loop {
        let q = RecordQuery {
            order: Order::Written(WriterName::local()),
            limit: 1000,
            after,
            ..RecordQuery::default()
        };
        let page = ledger.query(q).await.unwrap();
        records.extend(page.records.iter().map(|r| {
            let body: serde_json::Value = serde_json::from_slice(&r.body).unwrap();
            (
                r.position.seq(),
                body.get("correlation")
                    .unwrap()
                    .as_str()
                    .unwrap()
                    .to_owned(),
            )
        }));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    // Each commit puts one entry with one record, so any half one would show.
    let count = records.len() as u64;
    assert_eq!(snapshot.revision().0, count);
    assert!(
        records.iter().map(|r| r.0).eq(1..=count),
        "numbers have gaps"
    );
    assert_eq!(
        records.iter().map(|r| r.1.clone()).collect::<BTreeSet<_>>(),
        entries
    );
    for (name, revision, seq) in acknowledged {
        assert!(
            entries.contains(name),
            "{name} was acknowledged and is lost"
        );
        assert!(*revision <= count);
        assert_eq!(
            records.get(usize::try_from(*seq).unwrap() - 1),
            Some(&(*seq, name.clone()))
        );
    }
    if let Some((name, ..)) = acknowledged.last() {
        let asked = Some((once_key(&once(name)), OnceHolder([2; 32])));
        let used = ledger
            .commit(asked, |_, used| Ok(Plan::answer(used)))
            .await
            .unwrap()
            .value;
        assert!(
            matches!(used, Used::ByAnother { .. }),
            "evidence was forgotten"
        );
    }
    ledger.close().await;
}
