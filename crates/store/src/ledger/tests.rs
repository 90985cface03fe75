//! The ledger over each backend, and over backends that fail, forget and compete.

mod faulty;
mod once;
mod servers;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use attesta_model::{
    Action, Actor, AuthorityKey, AuthorityState, Change, CorrelationId, DecisionId, Entry, EntryId,
    EntrySpec, JoinToken, KeyAlgorithm, KeyId, KeyKind, Object, ObjectKey, Outcome, Parent,
    Request, Sealed, TokenHash,
};

use super::*;
use crate::{Memory, Order, Sqlite, WriterName, failpoints};
use faulty::Faulty;

const START: i64 = 1_764_000_000;

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn entry(name: &str, selectors: &[&str]) -> Change {
    let spec = EntrySpec {
        spiffe_id: format!("spiffe://example.org/{name}"),
        parent: Some(Parent::Id(td().with_path("/spire/agent/t/a").unwrap())),
        selectors: selectors.iter().map(ToString::to_string).collect(),
        created_at: at(0),
        ..EntrySpec::default()
    };
    Change::Put(Object::Entry(Arc::new(
        Entry::new(spec, EntryId::parse(name).unwrap(), &td()).unwrap(),
    )))
}

fn token(hash: TokenHash, expires: i64) -> Change {
    Change::Put(Object::Token(Arc::new(JoinToken {
        hash,
        expires_at: at(expires),
    })))
}

fn authority(id: &str) -> Change {
    Change::Put(Object::Authority(Arc::new(AuthorityKey {
        id: KeyId::parse(id).unwrap(),
        kind: KeyKind::Jwt,
        algorithm: KeyAlgorithm::EcP256,
        state: AuthorityState::Prepared,
        certificate: None,
        public_key: vec![1],
        sealed: Sealed(vec![2]),
        not_before: at(0),
        not_after: at(9),
        published_at: at(0),
        tainted: false,
    })))
}

/// A record that is found by its correlation id.
fn record(name: &str) -> Record {
    let request = Request {
        actor: Actor::System("test"),
        action: Action::EntryCreate,
        at: at(0),
        decision: DecisionId([1; 16]),
        correlation: CorrelationId::parse(name).unwrap(),
    };
    let mut record = Record::new(&request, Outcome::Noted);
    record.digest = Some([u8::try_from(name.len()).unwrap(); 32]);
    record
}

fn options() -> LedgerOptions {
    LedgerOptions::new([9; 16])
}

fn clock() -> Clock {
    Clock::manual(at(0)).0
}

fn over(memory: &Memory, options: LedgerOptions) -> Ledger {
    let twin = memory.beside(WriterName::local());
    Ledger::open(Box::new(twin), memory.records(), &td(), clock(), options)
        .unwrap()
        .ledger
}

fn on_disk(path: &Path, options: LedgerOptions) -> Opened {
    let sqlite = Sqlite::open(path).unwrap();
    let records = sqlite.records();
    Ledger::open(Box::new(sqlite), records, &td(), clock(), options).unwrap()
}

/// Puts one entry, with its record.
async fn create(ledger: &Ledger, name: &str) -> Result<Committed<String>, Denial> {
    let name = name.to_owned();
    ledger
        .commit(None, move |_, _| {
            Ok(Plan::answer(name.clone())
                .change(entry(&name, &["unix:uid:1"]))
                .record(record(&name)))
        })
        .await
}

fn ids(ledger: &Ledger) -> Vec<String> {
    ledger
        .snapshot()
        .entries_after(None)
        .map(|e| e.id().to_string())
        .collect()
}

async fn correlations(ledger: &Ledger) -> Vec<String> {
    let q = RecordQuery {
        order: Order::Written(WriterName::local()),
        limit: 1000,
        ..RecordQuery::default()
    };
    let page = ledger.query(q).await.unwrap();
    page.records
        .iter()
        .map(|r| {
            serde_json::from_slice::<serde_json::Value>(&r.body).unwrap()["correlation"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[tokio::test]
async fn what_is_answered_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("attesta.db");
    let Opened {
        ledger,
        newest_record,
    } = on_disk(&path, options());
    assert_eq!((ledger.id(), newest_record), (LedgerId([9; 16]), None));
    let done = create(&ledger, "a").await.unwrap();
    assert_eq!((done.value.as_str(), done.revision), ("a", Revision(1)));
    let receipt = &done.receipts[0];
    assert_eq!(
        (
            receipt.ledger(),
            receipt.position().to_string(),
            receipt.digest()
        ),
        (ledger.id(), "local:1".into(), Some([1; 32]))
    );
    let both = ledger
        .commit(None, |_, _| {
            Ok(Plan::answer(())
                .change(authority("k"))
                .change(entry("b", &["unix:uid:2"]))
                .record(record("r"))
                .record(record("rr")))
        })
        .await
        .unwrap();
    assert_eq!(both.revision, Revision(2), "one commit is one revision");
    assert_eq!(
        both.receipts
            .iter()
            .map(|r| (r.position().seq(), r.digest()))
            .collect::<Vec<_>>(),
        [(2, Some([1; 32])), (3, Some([2; 32]))]
    );
    let issued = ledger.append(vec![record("i")]).await.unwrap();
    assert_eq!(
        (issued[0].position().seq(), ledger.snapshot().revision()),
        (4, Revision(2))
    );
    create(&ledger, "c").await.unwrap();
    ledger
        .commit(None, |_, _| {
            Ok(Plan::answer(()).change(Change::Delete(ObjectKey::Entry(
                EntryId::parse("a").unwrap(),
            ))))
        })
        .await
        .unwrap();
    let before = ledger.snapshot();
    ledger.close().await;

    let Opened {
        ledger,
        newest_record,
    } = on_disk(&path, LedgerOptions::new([1; 16]));
    let after = ledger.snapshot();
    assert_eq!(
        (ledger.id(), newest_record),
        (LedgerId([9; 16]), Some(at(0))),
        "its name stays"
    );
    assert_eq!(
        (after.revision(), after.bundle_revision()),
        (before.revision(), before.bundle_revision())
    );
    assert_eq!(
        (after.revision(), after.bundle_revision()),
        (Revision(4), Revision(2))
    );
    assert_eq!(
        after.entries_after(None).collect::<Vec<_>>(),
        before.entries_after(None).collect::<Vec<_>>()
    );
    assert_eq!(
        after.authorities().collect::<Vec<_>>(),
        before.authorities().collect::<Vec<_>>()
    );
    assert_eq!(correlations(&ledger).await, ["a", "r", "rr", "i", "c"]);
    assert_eq!(
        ledger.tail().load().as_ref().as_ref().map(Position::seq),
        Some(5)
    );
    ledger.close().await;

    let sqlite = Sqlite::open(&path).unwrap();
    let records = sqlite.records();
    let other = TrustDomain::parse("other.org").unwrap();
    let message = Ledger::open(Box::new(sqlite), records, &other, clock(), options())
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("attesta.db")
            && message.contains("\"example.org\"")
            && message.contains("\"other.org\""),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_leave_no_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { ledger, .. } = on_disk(&dir.path().join("attesta.db"), options());
    let tasks: Vec<_> = (0..32)
        .map(|t| {
            let ledger = ledger.clone();
            async move {
                let mut got = Vec::new();
                for i in 0..20 {
                    let done = create(&ledger, &format!("e{t}-{i}")).await.unwrap();
                    got.push((
                        Some(done.revision.0),
                        done.receipts[0].position().seq(),
                        done.value,
                    ));
                    let name = format!("i{t}-{i}");
                    let receipts = ledger.append(vec![record(&name)]).await.unwrap();
                    got.push((None, receipts[0].position().seq(), name));
                }
                got
            }
        })
        .collect();
    #[expect(
        clippy::disallowed_methods,
        reason = "a test of the ledger needs threads and no named tasks"
    )]
    let handles: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut got = Vec::new();
    for handle in handles {
        got.extend(handle.await.unwrap());
    }
    let revisions: BTreeSet<u64> = got.iter().filter_map(|g| g.0).collect();
    assert_eq!(revisions, (1..=640).collect());
    got.sort_by_key(|g| g.1);
    assert_eq!(
        got.iter().map(|g| g.1).collect::<Vec<_>>(),
        (1..=1280).collect::<Vec<_>>()
    );
    let mut written = Vec::new();
    let mut after = None;
    loop {
        let q = RecordQuery {
            order: Order::Written(WriterName::local()),
            limit: 1000,
            after,
            ..RecordQuery::default()
        };
        let page = ledger.query(q).await.unwrap();
        written.extend(page.records.iter().map(|r| {
            let body: serde_json::Value = serde_json::from_slice(&r.body).unwrap();
            (
                r.position.seq(),
                body["correlation"].as_str().unwrap().to_owned(),
            )
        }));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(
        written,
        got.into_iter().map(|g| (g.1, g.2)).collect::<Vec<_>>(),
        "each receipt's record is where it says"
    );
    assert_eq!(ledger.snapshot().entry_count(), 640);
}

/// Holds the writer inside a command until it is told to go on, so that what comes meanwhile becomes one group.
struct Held {
    go: mpsc::SyncSender<()>,
    end: oneshot::Receiver<()>,
}

async fn hold(ledger: &Ledger) -> Held {
    let (go, wait) = mpsc::sync_channel::<()>(1);
    let (entered, inside) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    let ledger = ledger.clone();
    let mut entered = Some(entered);
    #[expect(
        clippy::disallowed_methods,
        reason = "a test of the ledger needs threads and no named tasks"
    )]
    tokio::spawn(async move {
        let held = ledger.commit(None, move |_, _| {
            if let Some(entered) = entered.take() {
                entered.send(()).unwrap();
                wait.recv().unwrap();
            }
            Ok(Plan::answer(()))
        });
        held.await.unwrap();
        ended.send(()).unwrap();
    });
    inside.await.unwrap();
    Held { go, end }
}

impl Held {
    async fn release(self) {
        self.go.send(()).unwrap();
        self.end.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_command_leaves_nothing_and_its_neighbours_go_on() {
    let ledger = over(&Memory::new(), options());
    let held = hold(&ledger).await;
    let denied = ledger.commit(None, |s, _| {
        assert!(
            s.entry(&EntryId::parse("a").unwrap()).is_some(),
            "it sees what the one before it did"
        );
        Err::<Plan<()>, _>(Denial::not_found("no"))
    });
    let (a, denied, b, ()) =
        tokio::join!(biased; create(&ledger, "a"), denied, create(&ledger, "b"), held.release());
    assert_eq!(
        (
            a.unwrap().revision,
            denied.unwrap_err().message,
            b.unwrap().revision
        ),
        (Revision(1), "no".to_owned(), Revision(2))
    );
    assert_eq!(ids(&ledger), ["a", "b"]);
    assert_eq!(correlations(&ledger).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_group_leaves_nothing_and_says_why_and_passes() {
    let memory = Memory::new();
    let (faulty, switch) = Faulty::over(memory.beside(WriterName::local()));
    let ledger = Ledger::open(
        Box::new(faulty),
        memory.records(),
        &td(),
        clock(),
        options(),
    )
    .unwrap()
    .ledger;
    create(&ledger, "before").await.unwrap();
    switch.full(true);
    let held = hold(&ledger).await;
    let many = |_: &Snapshot, _: Used| {
        let plan = Plan::answer(()).record(record("many"));
        Ok((0..20).fold(plan, |plan, i| {
            plan.change(entry(&format!("n{i}"), &["t:often"]))
        }))
    };
    let denied = ledger.commit(None, |_, _| {
        Err::<Plan<()>, _>(Denial::not_found("decided on what is not there"))
    });
    let (a, denied, c, ()) = tokio::join!(biased; ledger.commit(None, many), denied, ledger.append(vec![record("c")]), held.release());
    for denial in [a.unwrap_err(), denied.unwrap_err(), c.unwrap_err()] {
        assert_eq!(
            (denial.code, denial.reason),
            (Code::Unavailable, Reason::Ledger)
        );
        assert!(
            denial.to_string().contains("no space left")
                && denial.to_string().contains("free some space"),
            "{denial}"
        );
    }
    assert!(ledger.healthy().unwrap().message.contains("no space left"));
    assert_eq!(
        (ids(&ledger), ledger.snapshot().revision()),
        (vec!["before".to_owned()], Revision(1))
    );
    switch.full(false);
    create(&ledger, "after").await.unwrap();
    assert_eq!(ledger.healthy(), None);
    assert_eq!(correlations(&ledger).await, ["before", "after"]);
    // What was counted for the lost entries was taken back: `t:often` is the rarer of the two.
    ledger
        .commit(None, |_, _| {
            Ok(Plan::answer(()).change(entry("filed", &["unix:uid:1", "t:often"])))
        })
        .await
        .unwrap();
    assert_eq!(
        ledger
            .snapshot()
            .entry(&EntryId::parse("filed").unwrap())
            .unwrap()
            .filed(),
        "t:often"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_defect_in_a_command_makes_later_ones_unavailable_and_hangs_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("attesta.db");
    let Opened { ledger, .. } = on_disk(&path, options());
    let held = hold(&ledger).await;
    let panics = ledger.commit(None, |_, _| -> Result<Plan<()>, Denial> {
        panic!("a defect")
    });
    let (a, waits, _) =
        tokio::join!(biased; panics, create(&ledger, "a"), async { held.go.send(()).unwrap() });
    for denial in [
        a.unwrap_err(),
        waits.unwrap_err(),
        create(&ledger, "b").await.unwrap_err(),
    ] {
        assert_eq!(
            (denial.code, denial.reason),
            (Code::Unavailable, Reason::Ledger)
        );
    }
    assert!(ledger.healthy().unwrap().message.contains("defect"));
    assert!(ids(&ledger).is_empty());
    ledger.close().await;
    Sqlite::open(&path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waited_too_long_is_not_run() {
    let memory = Memory::new();
    let (clock, hand) = Clock::manual(at(0));
    let ledger = Ledger::open(
        Box::new(memory.beside(WriterName::local())),
        memory.records(),
        &td(),
        clock,
        options(),
    )
    .unwrap()
    .ledger;
    let held = hold(&ledger).await;
    let late = ledger.commit(None, |_, _| -> Result<Plan<()>, Denial> {
        panic!("it must not run")
    });
    let (late, ()) = tokio::join!(biased; late, async {
        hand.advance(Duration::from_secs(6));
        held.release().await;
    });
    assert_eq!(late.unwrap_err().reason, Reason::Overloaded);
    create(&ledger, "a").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_queue_and_a_closed_ledger_answer() {
    let ledger = over(
        &Memory::new(),
        LedgerOptions {
            queue: 1,
            deadline: Duration::from_millis(50),
            ..options()
        },
    );
    let held = hold(&ledger).await;
    let (waits, full, ()) = tokio::join!(biased; create(&ledger, "a"), create(&ledger, "b"), async {
        ledger.0.clock.timeout(Duration::from_millis(70), std::future::pending::<()>()).await.unwrap_err();
        held.release().await;
    });
    waits.unwrap();
    assert_eq!(full.unwrap_err().reason, Reason::Overloaded);

    let held = hold(&ledger).await;
    let (waits, ()) = tokio::join!(biased; create(&ledger, "c"), async {
        let (_, ()) = tokio::join!(biased; ledger.clone().close(), held.release());
    });
    waits.unwrap();
    assert_eq!(ids(&ledger), ["a", "c"], "what waited was done");
    let denial = create(&ledger, "d").await.unwrap_err();
    assert_eq!(
        (denial.code, denial.message.as_str()),
        (Code::Unavailable, "the ledger is closed")
    );
    ledger.close().await;
}

#[tokio::test]
async fn publication_comes_before_the_answer_and_says_whom_it_concerns() {
    let (send, seen) = mpsc::sync_channel(16);
    let on_commit = Box::new(move |s: &Arc<Snapshot>, t: &Touched| {
        send.send((s.revision(), t.clone())).unwrap()
    });
    let ledger = over(
        &Memory::new(),
        LedgerOptions {
            on_commit,
            ..options()
        },
    );
    let (live, tail) = (ledger.live(), ledger.tail());
    create(&ledger, "a").await.unwrap();
    assert_eq!((live.version(), ids(&ledger)), (1, vec!["a".to_owned()]));
    assert_eq!(
        (tail.changed(0).await, tail.load().as_ref().clone()),
        (1, Some(Position::new(WriterName::local(), 1)))
    );
    ledger.append(vec![record("b")]).await.unwrap();
    ledger
        .commit(None, |_, _| Ok(Plan::answer(())))
        .await
        .unwrap();
    assert_eq!(
        (live.version(), tail.version()),
        (1, 2),
        "records alone publish no snapshot, an answer alone nothing"
    );
    let (revision, touched) = seen.recv().unwrap();
    assert_eq!(
        (revision, touched.parents.len(), touched.bundle),
        (Revision(1), 1, false)
    );
    assert!(seen.try_recv().is_err());
}

/// A receipt is worth what its backend's promise is: one that answers before it has synchronised loses what was
/// acknowledged, and the same check finds it out.
#[tokio::test]
async fn what_a_receipt_is_worth() {
    for honest in [true, false] {
        let (disk, switch) = Faulty::over(Memory::new());
        switch.honest(honest);
        let ledger = Ledger::open(Box::new(disk), switch.records(), &td(), clock(), options())
            .unwrap()
            .ledger;
        let receipts = ledger.append(vec![record("a"), record("b")]).await.unwrap();
        create(&ledger, "c").await.unwrap();
        let image = switch.crash();
        let ledger = over(&image, options());
        let written = correlations(&ledger).await;
        let kept = receipts
            .iter()
            .all(|r| u64::try_from(written.len()).unwrap() >= r.position().seq());
        assert_eq!((kept, ids(&ledger).len()), (honest, usize::from(honest)));
    }
}

/// The files as a kill would leave them at each failpoint: before, nothing of the command; after, all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_a_failpoint_leaves_all_or_nothing() {
    for (point, expect) in [
        (failpoints::BEFORE_COMMIT, vec!["a"]),
        (failpoints::AFTER_FSYNC, vec!["a", "b"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let image = tempfile::tempdir().unwrap();
        let hit = Arc::new(AtomicU64::new(0));
        let (from, to, count) = (
            dir.path().to_owned(),
            image.path().to_owned(),
            Arc::clone(&hit),
        );
        let failpoints = Failpoints::none().arm(point, 2, move || {
            count.fetch_add(1, Ordering::AcqRel);
            for name in ["attesta.db", "attesta.db-wal"] {
                std::fs::copy(from.join(name), to.join(name)).unwrap();
            }
        });
        let Opened { ledger, .. } = on_disk(
            &dir.path().join("attesta.db"),
            LedgerOptions {
                failpoints,
                ..options()
            },
        );
        create(&ledger, "a").await.unwrap();
        create(&ledger, "b").await.unwrap();
        create(&ledger, "c").await.unwrap();
        assert_eq!(hit.load(Ordering::Acquire), 1, "{point} was not hit");
        let Opened { ledger, .. } = on_disk(&image.path().join("attesta.db"), options());
        assert_eq!(ids(&ledger), expect, "{point}");
        assert_eq!(correlations(&ledger).await, expect, "{point}");
        assert_eq!(ledger.snapshot().revision(), Revision(expect.len() as u64));
        create(&ledger, "next").await.unwrap();
    }
}

#[tokio::test]
async fn pruning_writes_its_own_record() {
    let ledger = over(&Memory::new(), options());
    ledger
        .append((0..10).map(|i| record(&format!("r{i}"))).collect())
        .await
        .unwrap();
    let limits = Retention {
        bytes: Some(1),
        ..Retention::default()
    };
    let pruned = ledger
        .prune(limits, |p| {
            record(&format!(
                "pruned-{}-{}",
                p.records[0].first, p.records[0].last
            ))
        })
        .await
        .unwrap();
    assert_eq!(pruned.note.as_ref().map(Position::seq), Some(11));
    assert_eq!(correlations(&ledger).await, ["r9", "pruned-1-9"]);
    assert_eq!(
        ledger.tail().load().as_ref().as_ref().map(Position::seq),
        Some(11)
    );
}
