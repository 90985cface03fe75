//! Two ledgers on the same rows, as two servers on one database.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_servers_on_one_database_take_turns() {
    let memory = Memory::new();
    let open = |name: &str| {
        let twin = memory.beside(WriterName::parse(name).unwrap());
        Ledger::open(Box::new(twin), memory.records(), &td(), clock(), options())
            .unwrap()
            .ledger
    };
    let (one, two) = (open("one"), open("two"));
    assert_eq!(one.id(), two.id());
    let work = |ledger: Ledger, name: &'static str| async move {
        let mut revisions = Vec::new();
        for i in 0..100 {
            let done = create(&ledger, &format!("{name}{i}")).await.unwrap();
            assert_eq!(
                done.receipts[0].position().to_string(),
                format!("{name}:{}", i + 1)
            );
            revisions.push(done.revision.0);
        }
        revisions
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "a test of the ledger needs threads and no named tasks"
    )]
    let (a, b) = (
        tokio::spawn(work(one.clone(), "one")),
        tokio::spawn(work(two.clone(), "two")),
    );
    let mut revisions = a.await.unwrap();
    revisions.extend(b.await.unwrap());
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=200).collect::<Vec<_>>());
    assert_eq!(
        (one.catch_up().await.unwrap(), two.catch_up().await.unwrap()),
        (Revision(200), Revision(200))
    );
    assert_eq!(ids(&one), ids(&two));

    // Evidence that the other server took is found when it is written, and the command is told.
    let key = OnceKey::new("jti", "1");
    for (ledger, expect) in [(&one, Used::No), (&two, Used::ByAnother { at: at(0) })] {
        let holder = OnceHolder([if expect == Used::No { 1 } else { 2 }; 32]);
        let key = key.clone();
        let done = ledger.commit(None, move |_, used| {
            let plan = Plan::answer(used).record(record("r"));
            Ok(if used == Used::No {
                plan.once(
                    Once::Fresh {
                        key: key.clone(),
                        expires_at: at(60),
                    },
                    holder,
                )
            } else {
                plan
            })
        });
        assert_eq!(done.await.unwrap().value, expect);
    }

    // Below the floor, everything is loaded, deletions and the bundle's revision included.
    one.commit(None, |_, _| {
        Ok(Plan::answer(()).change(Change::Delete(ObjectKey::Entry(
            EntryId::parse("one0").unwrap(),
        ))))
    })
    .await
    .unwrap();
    one.commit(None, |_, _| Ok(Plan::answer(()).change(authority("k"))))
        .await
        .unwrap();
    create(&one, "last").await.unwrap();
    let limits = Retention {
        revisions: Some(0),
        ..Retention::default()
    };
    assert_eq!(
        one.prune(limits, |_| record("note"))
            .await
            .unwrap()
            .tombstones,
        1
    );
    assert_eq!(two.catch_up().await.unwrap(), Revision(203));
    assert_eq!(
        (ids(&one), two.snapshot().bundle_revision()),
        (ids(&two), Revision(202))
    );
}
