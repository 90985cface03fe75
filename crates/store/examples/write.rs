//! Prints what the ledger does on this machine: records a second by group size, entries a second, and the load of many.
//!
//! `cargo run --release -p attesta-store --example write -- [entries] [directory]` (1,000,000; the temporary directory).
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "an example prints, takes arguments, measures with the real clock and stops at the first failure"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use attesta_model::{
    Action, Actor, Change, CorrelationId, CredentialId, DecisionId, Entry, EntryId, EntrySpec,
    Fact, Facts, Instance, Object, Outcome, Parent, Plan, Record, Request, request::serial_at,
};
use attesta_runtime::Clock;
use attesta_spiffe::TrustDomain;
use attesta_store::{Ledger, LedgerOptions, Sqlite};
use jiff::Timestamp;

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn open(path: &Path) -> Ledger {
    let sqlite = Sqlite::open(path).unwrap();
    let records = sqlite.records();
    let options = LedgerOptions {
        deadline: Duration::from_secs(60),
        ..LedgerOptions::new([1; 16])
    };
    Ledger::open(Box::new(sqlite), records, &td(), Clock::system(), options)
        .unwrap()
        .ledger
}

/// A record as an issuance makes it.
fn record(n: u64) -> Record {
    let at = Timestamp::from_millisecond(1_764_000_000_000 + (n / 20).cast_signed()).unwrap();
    let mut random = [0; 10];
    for (to, from) in random
        .iter_mut()
        .zip(n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
    {
        *to = from;
    }
    let serial = serial_at(at, random);
    let request = Request {
        actor: Actor::Node {
            id: td()
                .with_path("/spire/agent/x509pop/0123456789abcdef")
                .unwrap(),
            serial: "0193".to_owned(),
        },
        action: Action::IssueX509,
        at,
        decision: DecisionId(serial),
        correlation: CorrelationId::parse(&format!("c{n:016}")).unwrap(),
    };
    let mut record = Record::new(
        &request,
        Outcome::Permitted {
            policy_digest: "ab".repeat(32),
            policies: vec!["issue".to_owned()],
        },
    );
    record.subject = Some(
        td().with_path(&format!("/ns/prod/sa/workload-{}", n % 1000))
            .unwrap(),
    );
    record.instance = Some(
        Instance::process(
            "6f1c2e9a-0000-4000-8000-000000000000",
            (n % 1000) as u32 + 1,
            n % 1000,
        )
        .unwrap()
        .key(),
    );
    record.facts = Facts::new([
        Fact::new("unix", "uid", ["1000"]).unwrap(),
        Fact::new("unix", "path", ["/usr/bin/workload"]).unwrap(),
    ])
    .unwrap();
    record.credential = Some(CredentialId::from_serial(&serial));
    record.expires_at = Some(at);
    record.digest = Some([7; 32]);
    record
}

fn entry(n: u64) -> Change {
    let id = EntryId::parse(&uuid(n)).unwrap();
    let spec = EntrySpec {
        spiffe_id: format!("spiffe://example.org/ns/prod/sa/workload-{n}"),
        parent: Some(Parent::Id(
            td().with_path(&format!("/spire/agent/x509pop/node-{}", n / 20))
                .unwrap(),
        )),
        selectors: vec![
            format!("unix:uid:{}", 1000 + n % 20),
            "unix:path:/usr/bin/workload".to_owned(),
        ],
        ..EntrySpec::default()
    };
    Change::Put(Object::Entry(Arc::new(
        Entry::new(spec, id, &td()).unwrap(),
    )))
}

/// Ids begin with time, so they come in order.
fn uuid(n: u64) -> String {
    format!(
        "0193{:04x}-{:04x}-7000-8000-{:012x}",
        n >> 16,
        n & 0xffff,
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16
    )
}

/// CPU of this process so far, user and system, in milliseconds.
fn cpu() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |i: usize| fields.get(i).unwrap().parse::<u64>().unwrap();
    (ticks(11) + ticks(12)) * 10
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

fn row(what: &str, count: u64, started: Instant, cpu_before: u64) {
    let seconds = started.elapsed().as_secs_f64();
    let per = (cpu() - cpu_before) as f64 * 1000.0 / count as f64;
    println!(
        "{what:42} {:>9.0} /s  {per:>6.1} CPU-us each  ({count} in {seconds:.2} s)",
        count as f64 / seconds
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1);
    if std::env::args().nth(1).as_deref() == Some("load") {
        return load(Path::new(&args.nth(1).unwrap())).await;
    }
    let entries: u64 = args.next().map_or(1_000_000, |n| n.parse().unwrap());
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = parent.join(format!("attesta-write-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let path = dir.join("attesta.db");
    let ledger = open(&path);

    let mut n = 0;
    for (tasks, batch) in [(1, 1), (1, 50), (50, 1), (200, 1), (800, 1), (8, 100)] {
        let (started, before) = (Instant::now(), cpu());
        let total: u64 = if tasks * batch == 1 { 2_000 } else { 60_000 };
        let each = total / (tasks * batch);
        let handles: Vec<_> = (0..tasks)
            .map(|t| {
                let ledger = ledger.clone();
                let first = n + t * each * batch;
                tokio::spawn(async move {
                    for i in 0..each {
                        let records = (0..batch).map(|b| record(first + i * batch + b)).collect();
                        drop(ledger.append(records).await.unwrap());
                    }
                })
            })
            .collect();
        for handle in handles {
            handle.await.unwrap();
        }
        n += total;
        row(
            &format!("records: {tasks} callers of {batch}"),
            tasks * each * batch,
            started,
            before,
        );
    }

    for (tasks, batch, total) in [(1, 1, 2_000), (50, 1, 20_000), (2, 500, entries)] {
        let (started, before) = (Instant::now(), cpu());
        let each = total / (tasks * batch);
        let handles: Vec<_> = (0..tasks)
            .map(|t| {
                let ledger = ledger.clone();
                let base = if total == entries { 0 } else { entries };
                tokio::spawn(async move {
                    for i in 0..each {
                        let first = base + (i * tasks + t) * batch;
                        let changes: Vec<Change> = (0..batch).map(|b| entry(first + b)).collect();
                        let line = record(first);
                        let done = ledger
                            .commit(None, move |_, _| {
                                Ok(Plan {
                                    changes: changes.clone(),
                                    ..Plan::answer(())
                                }
                                .record(line.clone()))
                            })
                            .await;
                        drop(done.unwrap());
                    }
                })
            })
            .collect();
        for handle in handles {
            handle.await.unwrap();
        }
        row(
            &format!("entries: {tasks} callers of {batch}"),
            tasks * each * batch,
            started,
            before,
        );
    }

    let (started, before) = (Instant::now(), cpu());
    for i in 0..1_000 {
        let line = record(i);
        drop(
            ledger
                .commit(None, move |_, _| {
                    Ok(Plan::answer(()).change(entry(i)).record(line.clone()))
                })
                .await
                .unwrap(),
        );
    }
    row("one commit of one entry, among all", 1_000, started, before);
    ledger.close().await;

    // In a process of its own: memory that was used before would be counted.
    let program = std::env::current_exe().unwrap();
    let status = std::process::Command::new(program)
        .arg("load")
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    fs::remove_dir_all(&dir).unwrap();
}

async fn load(path: &Path) {
    let bodies: Vec<_> = (0..100_000)
        .map(|n| match entry(n) {
            Change::Put(object) => (object.key(), object.to_body()),
            Change::Delete(key) => (key, Vec::new()),
        })
        .collect();
    let (started, before) = (Instant::now(), cpu());
    for (key, body) in &bodies {
        drop(Object::from_body(key.kind(), &key.to_string(), body, &td()).unwrap());
    }
    row("decode alone", bodies.len() as u64, started, before);
    drop(bodies);

    let (started, before, memory) = (Instant::now(), cpu(), resident());
    let ledger = open(path);
    let count = ledger.snapshot().entry_count() as u64;
    row("load", count, started, before);
    println!(
        "resident: {memory} MiB before the load, {} MiB after; file {} MiB",
        resident(),
        fs::metadata(path).unwrap().len() >> 20
    );
    ledger.close().await;
}
