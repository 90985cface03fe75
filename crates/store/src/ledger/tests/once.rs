//! Evidence that is good for one use: declared or not, fresh or issued here, at once and again.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn evidence_is_used_once_by_whoever_comes_first() {
    for undeclared in [false, true] {
        let ledger = over(&Memory::new(), options());
        let key = OnceKey::new("jti", "1");
        let attempt = |holder: u8| {
            let (ledger, key) = (ledger.clone(), key.clone());
            let holder = OnceHolder([holder; 32]);
            let once = (!undeclared).then(|| (key.clone(), holder));
            async move {
                ledger
                    .commit(once, move |_, used| {
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
                    })
                    .await
                    .unwrap()
                    .value
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "a test of the ledger needs threads and no named tasks"
        )]
        let handles: Vec<_> = (0..16).map(|h| tokio::spawn(attempt(h))).collect();
        let mut first = Vec::new();
        for (holder, handle) in handles.into_iter().enumerate() {
            match handle.await.unwrap() {
                Used::No => first.push(holder),
                used => assert_eq!(used, Used::ByAnother { at: at(0) }),
            }
        }
        assert_eq!(first.len(), 1);
        assert_eq!(
            attempt(u8::try_from(first[0]).unwrap()).await,
            Used::ByYou { at: at(0) }
        );
        // One who was told and insists, and one who uses the same twice in one plan.
        for twice in [false, true] {
            let fresh = Once::Fresh {
                key: if twice {
                    OnceKey::new("jti", "2")
                } else {
                    key.clone()
                },
                expires_at: at(60),
            };
            let insists = ledger
                .commit(None, move |_, _| {
                    let plan = Plan::answer(())
                        .record(record("r"))
                        .once(fresh.clone(), OnceHolder([1; 32]));
                    Ok(if twice {
                        plan.once(fresh.clone(), OnceHolder([1; 32]))
                    } else {
                        plan
                    })
                })
                .await;
            assert_eq!(insists.unwrap_err().reason, Reason::Replay);
        }
    }
}

#[tokio::test]
async fn a_token_is_issued_here_unexpired_deleted_and_used_once() {
    let ledger = over(&Memory::new(), options());
    let [good, old, kept] = [1, 2, 3].map(|n| TokenHash([n; 32]));
    ledger
        .commit(None, move |_, _| {
            Ok(Plan::answer(())
                .change(token(good, 60))
                .change(token(old, 0))
                .change(token(kept, 60)))
        })
        .await
        .unwrap();
    let join = |hash: TokenHash, holder: u8, delete: bool| {
        let ledger = ledger.clone();
        let holder = OnceHolder([holder; 32]);
        async move {
            let key = once_key(&Once::Issued(hash));
            let done = ledger.commit(Some((key, holder)), move |_, used| {
                if used != Used::No {
                    return Ok(Plan::answer(used).record(record("retry")));
                }
                let plan = Plan::answer(used)
                    .record(record("join"))
                    .once(Once::Issued(hash), holder);
                Ok(if delete {
                    plan.change(Change::Delete(ObjectKey::Token(hash)))
                } else {
                    plan
                })
            });
            done.await.map(|d| d.value).map_err(|d| d.reason)
        }
    };
    assert_eq!(
        join(TokenHash([7; 32]), 1, true).await,
        Err(Reason::TokenUnknown)
    );
    assert_eq!(join(old, 1, true).await, Err(Reason::TokenExpired));
    assert_eq!(
        join(kept, 1, false).await,
        Err(Reason::Ledger),
        "a defect of the caller's"
    );
    assert_eq!(join(good, 1, true).await, Ok(Used::No));
    assert_eq!(join(good, 1, true).await, Ok(Used::ByYou { at: at(0) }));
    assert_eq!(join(good, 2, true).await, Ok(Used::ByAnother { at: at(0) }));
    assert_eq!(correlations(&ledger).await, ["join", "retry", "retry"]);
    assert!(ledger.snapshot().token(&good).is_none() && ledger.snapshot().token(&kept).is_some());
    let silent = ledger
        .commit(None, move |_, _| {
            Ok(Plan::answer(()).once(Once::Issued(kept), OnceHolder([1; 32])))
        })
        .await;
    assert_eq!(
        silent.unwrap_err().code,
        Code::Internal,
        "evidence is never used without a record"
    );
}
