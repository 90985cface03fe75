//! One conformance suite over all backends: what the ledger relies on.

use std::{cell::Cell, sync::Arc, time::Duration};

use attesta_model::{Kind, OnceHolder, OnceKey, RecordIndex, Revision};
use jiff::Timestamp;

use super::*;
use crate::{Cursor, Memory, Order, Sqlite, StoredRecord};

/// A backend with what the suite needs beside the trait.
struct Made {
    backend: Box<dyn Backend>,
    records: OpenRecords,
    _dir: Option<tempfile::TempDir>,
}

fn memory() -> Made {
    let memory = Memory::new();
    Made {
        records: memory.records(),
        backend: Box::new(memory),
        _dir: None,
    }
}

fn sqlite() -> Made {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(&dir.path().join("attesta.db")).unwrap();
    Made {
        records: sqlite.records(),
        backend: Box::new(sqlite),
        _dir: Some(dir),
    }
}

#[test]
fn memory_conforms() {
    conformance(memory);
}

#[test]
fn sqlite_conforms() {
    conformance(sqlite);
}

fn conformance(make: impl Fn() -> Made) {
    begins_once(make());
    changes_need_the_head(make());
    a_refused_batch_leaves_nothing(make());
    what_changed_since(make());
    positions_have_no_gaps(make());
    records_are_found(make());
    pages_meet(make());
    old_records_go_and_it_is_said(make());
    too_many_bytes_go(make());
    used_keys_outlive_their_evidence(make());
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_764_000_000 + second).unwrap()
}

fn record(second: i64, name: &str, subject: Option<&str>, bytes: usize) -> Arc<RecordRow> {
    Arc::new(RecordRow {
        index: RecordIndex {
            at_ms: at(second).as_millisecond(),
            kind: if name.starts_with('j') {
                "issue_jwt"
            } else {
                "issue_x509"
            },
            subject: subject.map(str::to_owned),
            instance: subject.map(|s| format!("process:{s}")),
            name: name.to_owned(),
            correlation: format!("c-{name}"),
        },
        body: format!("{{\"name\":\"{name}\",\"pad\":\"{}\"}}", "x".repeat(bytes)).into_bytes(),
    })
}

fn put(key: &str, revision: u64, body: Option<&str>) -> ChangedRow {
    ChangedRow {
        kind: Kind::Entry,
        key: key.to_owned(),
        revision: Revision(revision),
        body: body.map(|b| b.as_bytes().to_vec()),
    }
}

fn change(base: u64, rows: Vec<ChangedRow>) -> Batch {
    let revision = rows.last().map_or(Revision(base), |r| r.revision);
    Batch {
        base: Revision(base),
        head: Head {
            revision,
            bundle_revision: Revision(base / 2),
        },
        changes: rows,
        ..Batch::default()
    }
}

fn lines(records: Vec<Arc<RecordRow>>) -> Batch {
    Batch {
        records,
        ..Batch::default()
    }
}

fn used(key: &str, expires: i64, used_at: i64, holder: u8) -> OnceRow {
    OnceRow {
        key: OnceKey::new("t", key),
        expires_at: at(expires),
        holder: OnceHolder([holder; 32]),
        at: at(used_at),
        record: 0,
    }
}

fn all(made: &mut Made) -> (Loaded, Vec<(Kind, String, String)>) {
    let mut rows = Vec::new();
    let loaded = made
        .backend
        .load(&mut |row| {
            rows.push((
                row.kind,
                row.key.to_owned(),
                String::from_utf8(row.body.to_vec()).unwrap(),
            ));
        })
        .unwrap();
    rows.sort();
    (loaded, rows)
}

fn query(made: &Made, q: RecordQuery) -> RecordPage {
    (made.records)().unwrap().query(&q).unwrap()
}

fn names(records: &[StoredRecord]) -> Vec<String> {
    records
        .iter()
        .map(|r| {
            serde_json::from_slice::<serde_json::Value>(&r.body).unwrap()["name"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

fn begins_once(mut made: Made) {
    let (loaded, rows) = all(&mut made);
    assert!(
        loaded.header.is_none()
            && rows.is_empty()
            && loaded.newest_record.is_none()
            && loaded.last.is_none()
    );
    assert_eq!(loaded.head, Head::default());
    let header = Header {
        id: LedgerId([3; 16]),
        trust_domain: "example.org".into(),
        format: FORMAT,
        created_at: at(0),
    };
    let batch = Batch {
        header: Some(header.clone()),
        ..Batch::default()
    };
    assert_eq!(made.backend.append(&batch).unwrap(), Appended::Done(None));
    let other = Batch {
        header: Some(Header {
            trust_domain: "other.org".into(),
            ..header.clone()
        }),
        ..Batch::default()
    };
    assert_eq!(
        made.backend.append(&other).unwrap(),
        Appended::Conflict(Head::default())
    );
    assert_eq!(all(&mut made).0.header, Some(header));
}

fn changes_need_the_head(mut made: Made) {
    let b = change(
        0,
        vec![
            put("a", 1, Some("1")),
            put("b", 2, Some("2")),
            put("a", 3, Some("3")),
        ],
    );
    assert_eq!(made.backend.append(&b).unwrap(), Appended::Done(None));
    let head = Head {
        revision: Revision(3),
        bundle_revision: Revision(0),
    };
    for base in [0, 2, 4] {
        assert_eq!(
            made.backend
                .append(&change(base, vec![put("c", base + 1, Some("c"))]))
                .unwrap(),
            Appended::Conflict(head)
        );
    }
    assert_eq!(
        made.backend
            .append(&change(3, vec![put("b", 4, None)]))
            .unwrap(),
        Appended::Done(None)
    );
    let (loaded, rows) = all(&mut made);
    assert_eq!(
        loaded.head,
        Head {
            revision: Revision(4),
            bundle_revision: Revision(1)
        }
    );
    assert_eq!(rows, [(Kind::Entry, "a".to_owned(), "3".to_owned())]);
    // Records alone take no head lock: their base is not looked at.
    assert!(matches!(
        made.backend
            .append(&lines(vec![record(0, "r", None, 0)]))
            .unwrap(),
        Appended::Done(Some(_))
    ));
}

fn a_refused_batch_leaves_nothing(mut made: Made) {
    let first = Batch {
        once: vec![used("k", 10, 1, 7)],
        records: vec![record(1, "first", None, 0)],
        ..Batch::default()
    };
    let Appended::Done(Some(position)) = made.backend.append(&first).unwrap() else {
        panic!("not done")
    };
    let expect = Use {
        holder: OnceHolder([7; 32]),
        at: at(1),
        position: position.clone(),
    };
    assert_eq!(
        made.backend.used(&OnceKey::new("t", "k")).unwrap(),
        Some(expect)
    );
    assert_eq!(made.backend.used(&OnceKey::new("u", "k")).unwrap(), None);

    let mut again = change(0, vec![put("a", 1, Some("1"))]);
    again.records = vec![record(2, "again", None, 0)];
    again.once = vec![used("new", 10, 2, 8), used("k", 10, 2, 8)];
    assert_eq!(
        made.backend.append(&again).unwrap(),
        Appended::Used(OnceKey::new("t", "k"))
    );
    again.once = vec![used("twice", 10, 2, 8), used("twice", 10, 2, 8)];
    assert_eq!(
        made.backend.append(&again).unwrap(),
        Appended::Used(OnceKey::new("t", "twice"))
    );
    again.once = vec![used("new", 10, 2, 8)];
    again.base = Revision(9);
    assert!(matches!(
        made.backend.append(&again).unwrap(),
        Appended::Conflict(_)
    ));

    let (loaded, rows) = all(&mut made);
    assert!(rows.is_empty() && loaded.head == Head::default() && loaded.last == Some(position));
    assert_eq!(made.backend.used(&OnceKey::new("t", "new")).unwrap(), None);
    assert_eq!(
        names(&query(&made, RecordQuery::default()).records),
        ["first"]
    );
}

fn what_changed_since(mut made: Made) {
    made.backend
        .append(&change(
            0,
            vec![put("a", 1, Some("1")), put("b", 2, Some("2"))],
        ))
        .unwrap();
    made.backend
        .append(&change(2, vec![put("a", 3, None), put("c", 4, Some("4"))]))
        .unwrap();
    let head = Head {
        revision: Revision(4),
        bundle_revision: Revision(1),
    };
    let expect = |rows| Since::Changes { rows, head };
    assert_eq!(made.backend.since(Revision(4)).unwrap(), expect(vec![]));
    assert_eq!(
        made.backend.since(Revision(2)).unwrap(),
        expect(vec![put("a", 3, None), put("c", 4, Some("4"))])
    );
    assert_eq!(
        made.backend.since(Revision(0)).unwrap(),
        expect(vec![
            put("b", 2, Some("2")),
            put("a", 3, None),
            put("c", 4, Some("4"))
        ])
    );

    let limits = Retention {
        revisions: Some(1),
        ..Retention::default()
    };
    let note = &mut |_: &Pruned| panic!("no records go");
    assert_eq!(
        made.backend.prune(&limits, at(0), note).unwrap(),
        Pruned {
            tombstones: 1,
            ..Pruned::default()
        }
    );
    assert_eq!(made.backend.since(Revision(2)).unwrap(), Since::Reload);
    assert_eq!(
        made.backend.since(Revision(3)).unwrap(),
        expect(vec![put("c", 4, Some("4"))])
    );
    assert_eq!(all(&mut made).1.len(), 2);
}

fn positions_have_no_gaps(mut made: Made) {
    let mut next = 1;
    for n in [1, 3, 2] {
        let batch = lines((0..n).map(|i| record(i, "r", None, 0)).collect());
        let Appended::Done(Some(first)) = made.backend.append(&batch).unwrap() else {
            panic!("not done")
        };
        assert_eq!(first.seq(), next);
        next += n.unsigned_abs();
    }
    let (loaded, _) = all(&mut made);
    assert_eq!(loaded.last.map(|p| p.seq()), Some(6));
    assert_eq!(loaded.newest_record, Some(at(2)), "by time, not by place");
}

fn records_are_found(mut made: Made) {
    let records = vec![
        record(1, "x1", Some("spiffe://example.org/a"), 0),
        record(2, "j2", Some("spiffe://example.org/b"), 0),
        record(3, "x3", None, 0),
        record(3, "j4", Some("spiffe://example.org/a"), 0),
    ];
    made.backend.append(&lines(records)).unwrap();
    let q = RecordQuery::default;
    let some = |s: &str| Some(s.to_owned());
    let check = |q: RecordQuery, expect: &[&str]| {
        let page = query(&made, q.clone());
        assert_eq!(names(&page.records), expect, "{q:?}");
        assert_eq!(page.next, None);
    };
    check(q(), &["j4", "x3", "j2", "x1"]);
    check(
        RecordQuery {
            order: Order::Oldest,
            ..q()
        },
        &["x1", "j2", "x3", "j4"],
    );
    check(
        RecordQuery {
            order: Order::Written(WriterName::local()),
            ..q()
        },
        &["x1", "j2", "x3", "j4"],
    );
    check(
        RecordQuery {
            order: Order::Written(WriterName::parse("other").unwrap()),
            ..q()
        },
        &[],
    );
    check(
        RecordQuery {
            subject: some("spiffe://example.org/a"),
            ..q()
        },
        &["j4", "x1"],
    );
    check(
        RecordQuery {
            subject: some("spiffe://example.org/a' OR 1"),
            ..q()
        },
        &[],
    );
    check(
        RecordQuery {
            instance: some("process:spiffe://example.org/b"),
            ..q()
        },
        &["j2"],
    );
    check(
        RecordQuery {
            name: some("x3"),
            ..q()
        },
        &["x3"],
    );
    check(
        RecordQuery {
            correlation: some("c-j2"),
            ..q()
        },
        &["j2"],
    );
    check(
        RecordQuery {
            kind: some("issue_jwt"),
            ..q()
        },
        &["j4", "j2"],
    );
    check(
        RecordQuery {
            from: Some(at(2)),
            until: Some(at(3)),
            ..q()
        },
        &["j2"],
    );
    check(
        RecordQuery {
            subject: some("spiffe://example.org/a"),
            from: Some(at(2)),
            kind: some("issue_jwt"),
            ..q()
        },
        &["j4"],
    );
    let one = query(
        &made,
        RecordQuery {
            name: some("x1"),
            ..q()
        },
    )
    .records
    .remove(0);
    assert_eq!(
        (one.position.to_string(), one.at, one.kind.as_str()),
        ("local:1".to_owned(), at(1), "issue_x509")
    );
    assert_eq!(one.body, record(1, "x1", None, 0).body, "as it was written");
}

fn pages_meet(mut made: Made) {
    // Many at one moment: time alone is no cursor.
    made.backend
        .append(&lines(
            (0..25)
                .map(|i| record(i / 10, &format!("r{i:02}"), Some("s"), 0))
                .collect(),
        ))
        .unwrap();
    let expect: Vec<String> = (0..25).map(|i| format!("r{i:02}")).collect();
    for order in [
        Order::Oldest,
        Order::Newest,
        Order::Written(WriterName::local()),
    ] {
        for subject in [None, Some("s".to_owned())] {
            let (mut got, mut after, mut pages) = (Vec::new(), None, 0);
            loop {
                let page = query(
                    &made,
                    RecordQuery {
                        order: order.clone(),
                        subject: subject.clone(),
                        after,
                        limit: 4,
                        ..RecordQuery::default()
                    },
                );
                got.extend(names(&page.records));
                pages += 1;
                match page.next {
                    Some(next) => after = Some(Cursor::parse(&next.to_string()).unwrap()),
                    None => break,
                }
            }
            if order == Order::Newest {
                got.reverse();
            }
            assert_eq!((got, pages), (expect.clone(), 7), "{order:?}");
        }
    }
}

fn old_records_go_and_it_is_said(mut made: Made) {
    made.backend
        .append(&lines(
            (0..5)
                .map(|i| record(i * 100, &format!("r{i}"), None, 0))
                .collect(),
        ))
        .unwrap();
    let limits = Retention {
        age: Some(Duration::from_secs(250)),
        ..Retention::default()
    };
    let pruned = made
        .backend
        .prune(&limits, at(500), &mut |p| {
            record(
                500,
                &format!("note-{}-{}", p.records[0].first, p.records[0].last),
                None,
                0,
            )
        })
        .unwrap();
    assert_eq!(
        pruned.records,
        [PrunedRange {
            writer: WriterName::local(),
            first: 1,
            last: 3
        }]
    );
    assert_eq!(
        (pruned.more, pruned.note.as_ref().map(Position::seq)),
        (false, Some(6))
    );
    assert_eq!(
        names(&query(&made, RecordQuery::default()).records),
        ["note-1-3", "r4", "r3"]
    );
    // The newest stays, so that numbers go on where they were.
    let pruned = made
        .backend
        .prune(&limits, at(9_999), &mut |_| record(9_999, "note", None, 0))
        .unwrap();
    assert_eq!(
        pruned.records,
        [PrunedRange {
            writer: WriterName::local(),
            first: 4,
            last: 5
        }]
    );
    let called = Cell::new(false);
    let again = made
        .backend
        .prune(&Retention::default(), at(99_999), &mut |_| {
            called.set(true);
            record(0, "", None, 0)
        });
    assert_eq!(
        (again.unwrap(), called.get()),
        (Pruned::default(), false),
        "no limit, nothing goes, nothing is said"
    );
    let Appended::Done(Some(next)) = made
        .backend
        .append(&lines(vec![record(0, "r", None, 0)]))
        .unwrap()
    else {
        panic!("not done")
    };
    assert_eq!(next.seq(), 8);
}

fn too_many_bytes_go(mut made: Made) {
    let count = PRUNE_MAX + 100;
    let batch = lines(
        (0..i64::try_from(count).unwrap())
            .map(|i| record(i, &format!("r{i}"), None, 100))
            .collect(),
    );
    let bytes: u64 = batch.records.iter().map(|r| r.body.len() as u64).sum();
    made.backend.append(&batch).unwrap();
    let keep = |n: u64| Retention {
        bytes: Some(n),
        ..Retention::default()
    };
    let note = &mut |_: &Pruned| record(0, "note", None, 0);
    assert_eq!(
        made.backend.prune(&keep(bytes), at(0), note).unwrap(),
        Pruned::default()
    );
    let one = made.backend.prune(&keep(bytes - 1), at(0), note).unwrap();
    assert_eq!((one.records[0].last, one.more), (1, false));
    let many = made.backend.prune(&keep(1), at(0), note).unwrap();
    assert_eq!(
        (many.records[0].first, many.records[0].last, many.more),
        (2, PRUNE_MAX + 1, true)
    );
    let rest = made.backend.prune(&keep(1), at(0), note).unwrap();
    assert_eq!(
        (rest.records[0].last, rest.more),
        (count + 1, false),
        "the first note went with the rest"
    );
}

fn used_keys_outlive_their_evidence(mut made: Made) {
    let hour = 3600;
    let batch = Batch {
        once: vec![
            used("short", 10, 0, 1),
            used("long", hour, 0, 1),
            used("late", 10, hour - 60, 1),
        ],
        records: vec![record(0, "r", None, 0)],
        ..Batch::default()
    };
    made.backend.append(&batch).unwrap();
    let mut left = |now: i64| {
        let limits = Retention {
            age: Some(Duration::from_secs(1)),
            ..Retention::default()
        };
        made.backend
            .prune(&limits, at(now), &mut |_| record(now, "note", None, 0))
            .unwrap();
        ["short", "long", "late"].map(|key| {
            made.backend
                .used(&OnceKey::new("t", key))
                .unwrap()
                .is_some()
        })
    };
    assert_eq!(
        left(11),
        [true, true, true],
        "a while longer, since clocks differ"
    );
    assert_eq!(
        left(hour),
        [false, true, true],
        "the retry of a use is known for as long"
    );
    assert_eq!(left(2 * hour), [false, false, false]);
}
