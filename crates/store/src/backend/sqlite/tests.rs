//! The file: who may have it, what is refused and left as it is, and a full disk.

use std::{fs, os::unix::fs::PermissionsExt};

use attesta_model::RecordIndex;

use super::*;

fn lines(n: usize, bytes: usize) -> Batch {
    let index = RecordIndex {
        at_ms: 1,
        kind: "k",
        subject: None,
        instance: None,
        name: "n".into(),
        correlation: "c".into(),
    };
    let row = Arc::new(RecordRow {
        index,
        body: vec![b'x'; bytes],
    });
    Batch {
        records: vec![row; n],
        ..Batch::default()
    }
}

fn count(db: &mut Sqlite) -> u64 {
    db.load(&mut |_| ()).unwrap().last.map_or(0, |p| p.seq())
}

#[test]
fn a_second_process_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("attesta.db");
    let first = Sqlite::open(&path).unwrap();
    let message = Sqlite::open(&path).err().unwrap().to_string();
    assert!(
        message.contains(&format!("in use by process {}", std::process::id())),
        "{message}"
    );
    drop(first);
    Sqlite::open(&path).unwrap();
}

#[test]
fn only_the_owner_can_read_any_of_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("attesta.db");
    let mut db = Sqlite::open(&path).unwrap();
    db.append(&lines(1, 10)).unwrap();
    let mut seen: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|f| {
            let f = f.unwrap();
            assert_eq!(
                f.metadata().unwrap().permissions().mode() & 0o777,
                0o600,
                "{:?}",
                f.path()
            );
            f.file_name().into_string().unwrap()
        })
        .collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            "attesta.db",
            "attesta.db-shm",
            "attesta.db-wal",
            "attesta.db.lock"
        ]
    );
    drop(db);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    Sqlite::open(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn what_is_not_ours_is_refused_and_left_as_it_is() {
    let good = || {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Sqlite::open(&dir.path().join("attesta.db")).unwrap();
        db.append(&lines(50, 1000)).unwrap();
        drop(db);
        fs::read(dir.path().join("attesta.db")).unwrap()
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let cut = |n: usize| {
        let mut file = good();
        file.truncate(n);
        file
    };
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("empty", Vec::new(), "the file is empty"),
        (
            "text",
            b"#!/bin/sh\necho \x1b[31m".to_vec(),
            r#"begins with "#,
        ),
        (
            "another's",
            with(68, &[0, 0, 0, 1]),
            "SQLite database of another program",
        ),
        (
            "newer",
            with(60, &[0, 0, 0, 9]),
            "of format 9 and this binary knows 1",
        ),
        ("header cut", cut(50), "ends within its header"),
        ("cut", cut(3 * 4096), "is truncated: 12288 of"),
        ("one byte short", cut(good().len() - 1), "is truncated"),
        ("scrambled", with(100, &[0xff; 4000]), "malformed"),
    ];
    for (name, file, expect) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attesta.db");
        fs::write(&path, &file).unwrap();
        let message = Sqlite::open(&path)
            .err()
            .unwrap_or_else(|| panic!("{name} was opened"))
            .to_string();
        assert!(
            message.contains(expect) && message.contains("attesta.db"),
            "{name}: {message}"
        );
        assert!(message.contains("left as it is"), "{name}: {message}");
        assert!(!message.contains('\x1b'), "{name}");
        assert_eq!(fs::read(&path).unwrap(), file, "{name} was changed");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("attesta.db")).unwrap();
    assert!(matches!(
        Sqlite::open(&dir.path().join("attesta.db")),
        Err(OpenError::Foreign { .. })
    ));
    fs::write(dir.path().join("other.db-wal"), b"x").unwrap();
    assert!(
        Sqlite::open(&dir.path().join("other.db"))
            .err()
            .unwrap()
            .to_string()
            .contains("-wal file is still there")
    );
    let message = Sqlite::open(&dir.path().join("no/attesta.db"))
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("No such file"), "{message}");
}

#[test]
fn a_crash_while_it_is_made_leaves_nothing_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("attesta.db.new"), b"half").unwrap();
    fs::write(dir.path().join("attesta.db.new-journal"), b"half").unwrap();
    let mut db = Sqlite::open(&dir.path().join("attesta.db")).unwrap();
    assert_eq!(count(&mut db), 0);
    assert!(!dir.path().join("attesta.db.new").exists());
}

#[test]
fn a_full_disk_takes_nothing_and_says_so_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = Sqlite::open(&dir.path().join("attesta.db")).unwrap();
    db.append(&lines(10, 1000)).unwrap();
    let pages: i64 = db
        .connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    db.connection
        .execute_batch(&format!("PRAGMA max_page_count = {}", pages + 4))
        .unwrap();
    let failed = db.append(&lines(1000, 1000)).unwrap_err();
    assert!(matches!(failed.fault, Fault::Full), "{failed}");
    assert_eq!(count(&mut db), 10, "nothing is half");
    db.connection
        .execute_batch("PRAGMA max_page_count = 1000000")
        .unwrap();
    assert!(
        matches!(db.append(&lines(1000, 1000)).unwrap(), Appended::Done(Some(p)) if p.seq() == 11)
    );
    assert_eq!(count(&mut db), 1010);
}

#[test]
fn an_unknown_kind_is_a_newer_version() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = Sqlite::open(&dir.path().join("attesta.db")).unwrap();
    db.connection
        .execute("INSERT INTO objects VALUES ('grant', 'k', 1, x'00')", [])
        .unwrap();
    let failed = db.load(&mut |_| ()).unwrap_err();
    assert!(
        matches!(failed.fault, Fault::Newer(_)) && failed.to_string().contains("grant"),
        "{failed}"
    );
    assert_eq!(db.since(Revision(0)).unwrap(), Since::Reload);
}

#[test]
fn each_query_uses_the_index_that_was_chosen_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = Sqlite::open(&dir.path().join("attesta.db")).unwrap();
    db.append(&lines(3, 10)).unwrap();
    let open = db.records();
    let mut reader = open().unwrap();
    let some = || Some("x".to_owned());
    let q = crate::RecordQuery::default;
    // INDEXED BY fails where the index does not serve.
    for query in [
        q(),
        crate::RecordQuery {
            name: some(),
            ..q()
        },
        crate::RecordQuery {
            correlation: some(),
            kind: some(),
            ..q()
        },
        crate::RecordQuery {
            instance: some(),
            from: time(0),
            ..q()
        },
        crate::RecordQuery {
            subject: some(),
            until: time(9),
            ..q()
        },
    ] {
        for order in [
            crate::Order::Newest,
            crate::Order::Oldest,
            crate::Order::Written(WriterName::local()),
        ] {
            let after = Some(crate::Cursor::parse("5@local:2").unwrap());
            reader
                .query(&crate::RecordQuery {
                    order,
                    after,
                    ..query.clone()
                })
                .unwrap();
        }
    }
    reader.query(&q()).unwrap();
}

#[test]
fn subjects_are_found_over_all_segments_and_after_pruning() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = Sqlite::open(&dir.path().join("attesta.db")).unwrap();
    let row = |n: u32| {
        let subject = Some(format!("s{}", n % 1000));
        let index = RecordIndex {
            at_ms: i64::from(n),
            kind: "k",
            subject,
            instance: Some(format!("i{}", n % 500)),
            name: n.to_string(),
            correlation: "c".into(),
        };
        Arc::new(RecordRow {
            index,
            body: n.to_string().into_bytes(),
        })
    };
    let batch = Batch {
        records: (0..7000).map(row).collect(),
        ..Batch::default()
    };
    db.append(&batch).unwrap();
    let open = db.records();
    let found = |q: crate::RecordQuery| -> Vec<String> {
        let page = open().unwrap().query(&q).unwrap();
        page.records
            .into_iter()
            .map(|r| String::from_utf8(r.body).unwrap())
            .collect()
    };
    let q = crate::RecordQuery::default;
    let seven = crate::RecordQuery {
        subject: Some("s7".into()),
        ..q()
    };
    assert_eq!(
        found(seven.clone()),
        ["6007", "5007", "4007", "3007", "2007", "1007", "7"]
    );
    let both = crate::RecordQuery {
        instance: Some("i7".into()),
        from: time(5_000),
        ..q()
    };
    assert_eq!(found(both), ["6507", "6007", "5507", "5007"]);
    // A key that collides: the index leads there, and the comparison passes it over.
    db.connection
        .execute(
            "UPDATE records SET subject = 'other' WHERE name = '4007'",
            [],
        )
        .unwrap();
    assert_eq!(found(seven.clone()).len(), 6);

    let limits = Retention {
        age: Some(std::time::Duration::from_millis(2_500)),
        ..Retention::default()
    };
    let note = row(9_999);
    let now = time(7_000).unwrap();
    let pruned = db.prune(&limits, now, &mut |_| Arc::clone(&note)).unwrap();
    assert_eq!(pruned.records.first().map(|r| r.last), Some(4_500));
    assert_eq!(found(seven), ["6007", "5007"]);
    let left: (i64, i64) = db
        .connection
        .query_row(
            "SELECT min(position & 8388607), count(*) FROM found",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(left, (4096, 2 * (7001 - 4095)), "whole segments go");
}
