//! Tables for `due` and `seen_by`, and the bells.

use zeroize::Zeroizing;

use super::*;
use crate::authorized::tests::{entry, who};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_900_000_000 + seconds).unwrap()
}

pub(crate) fn held(who: &Who, revision: u64, due: i64, expires: i64) -> Arc<Held> {
    Arc::new(Held {
        revision,
        who: Arc::new(who.clone()),
        chain: vec![1],
        key: Zeroizing::new(vec![2]),
        serial: format!("{revision:02x}"),
        authority: None,
        expires_at: at(expires),
        due_at: at(due),
    })
}

fn matches(authorized: &Authorized, who: &Who) -> Vec<Match> {
    authorized.identify(who, at(0)).0
}

#[test]
fn what_an_instance_sees_is_its_own() {
    let mut authorized = Authorized::default();
    authorized.put(entry("a", &["unix:uid:1"], |_| ()));
    authorized.put(entry("n", &["unix:uid:1"], |e| e.sharing = Sharing::Node));
    let (one, two, other) = (who(1, "1"), who(2, "1"), who(1, "2"));
    let book = Book::new(10);
    for found in matches(&authorized, &one) {
        book.put(vec![(
            HoldingKey::of(&one, &found.entry, &found.id),
            held(&one, 0, 50, 100),
        )]);
    }
    let see = |who: &Who, now| {
        let seen = book
            .holdings()
            .seen_by(who, matches(&authorized, &one), now);
        let ids = |all: Vec<&Match>| {
            all.into_iter()
                .map(|m| m.entry.id().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        (
            ids(seen.held.iter().map(|(m, _)| m).collect()),
            ids(seen.missing.iter().collect()),
        )
    };
    let check = |who: &Who, now, held: &str, missing: &str| {
        assert_eq!(see(who, at(now)), (held.to_owned(), missing.to_owned()))
    };
    check(&one, 0, "a n", "");
    // Due is still served, expired is not.
    check(&one, 99, "a n", "");
    check(&one, 100, "", "a n");
    // Another process, and the same process with other facts: only what the node shares.
    check(&two, 0, "n", "a");
    check(&other, 0, "n", "a");
    assert_eq!(book.holdings().len(), 2);
    assert_eq!(book.drop_instance(&one.attested.instance), ["00"]);
    check(&one, 0, "n", "a");
    assert_eq!(book.holdings().len(), 1);
}

#[test]
fn other_facts_of_an_instance_are_dropped() {
    let mut authorized = Authorized::default();
    authorized.put(entry("a", &["unix:gid:7"], |_| ()));
    let (before, after) = (who(1, "1"), who(1, "2"));
    let book = Book::new(10);
    for who in [&before, &after] {
        for found in matches(&authorized, who) {
            book.put(vec![(
                HoldingKey::of(who, &found.entry, &found.id),
                held(who, 0, 50, 100),
            )]);
        }
    }
    assert_eq!(book.holdings().len(), 2);
    book.drop_other_facts(&after);
    assert_eq!(book.holdings().len(), 1);
    assert_eq!(
        book.holdings()
            .seen_by(&after, matches(&authorized, &after), at(0))
            .held
            .len(),
        1
    );
}

#[test]
fn what_is_due() {
    let who = who(1, "1");
    let put = |authorized: &mut Authorized, revision| {
        authorized.put(entry("a", &["unix:uid:1"], |e| e.revision = revision));
        authorized.set_revision(1);
    };
    let check = |change: &dyn Fn(&mut Authorized), now, expect: Option<&str>| {
        let mut authorized = Authorized::default();
        put(&mut authorized, 3);
        let found = matches(&authorized, &who).remove(0);
        let book = Book::new(10);
        book.put(vec![(
            HoldingKey::of(&who, &found.entry, &found.id),
            held(&who, 3, 50, 100),
        )]);
        change(&mut authorized);
        let due = book.holdings().due(&authorized, at(now));
        let why = due.first().map(|(_, _, why)| match why {
            Due::Replace(_) => "replace",
            Due::Drop => "drop",
        });
        assert_eq!(why, expect, "at {now}");
    };
    check(&|_| (), 49, None);
    check(&|_| (), 50, Some("replace"));
    check(&|a| put(a, 4), 0, Some("replace"));
    check(
        &|a| a.remove(&EntryId::parse("a").unwrap()),
        0,
        Some("drop"),
    );
    check(
        &|a| a.put(entry("a", &["unix:uid:2"], |e| e.revision = 4)),
        0,
        Some("drop"),
    );
    check(
        &|a| {
            a.put(entry("a", &["unix:uid:1"], |e| {
                e.spiffe_id = "spiffe://example.org/b".to_owned()
            }))
        },
        0,
        Some("drop"),
    );
    check(
        &|a| a.put(entry("a", &["unix:uid:1"], |e| e.expires_at = Some(at(10)))),
        10,
        Some("drop"),
    );
    // Shared from now on: what one instance held alone goes, the node's is fetched ahead.
    check(
        &|a| a.put(entry("a", &["unix:uid:1"], |e| e.sharing = Sharing::Node)),
        0,
        Some("drop"),
    );
    // The server has not spoken yet: served until it expires.
    check(&|a| *a = Authorized::default(), 99, None);
    check(&|a| *a = Authorized::default(), 100, Some("drop"));
}

#[tokio::test]
async fn bells_ring_for_their_instance_and_for_the_node() {
    let (one, two) = (who(1, "1"), who(2, "1"));
    let mut authorized = Authorized::default();
    authorized.put(entry("a", &["unix:uid:1"], |_| ()));
    let found = matches(&authorized, &one).remove(0);
    let book = Book::new(10);
    let mut first = book.bell(&one.attested.instance);
    let mut second = book.bell(&two.attested.instance);
    book.put(vec![(
        HoldingKey::of(&one, &found.entry, &found.id),
        held(&one, 0, 50, 100),
    )]);
    first.rung().await;
    assert!(!second.heard.has_changed().unwrap());
    let node = entry("n", &["unix:uid:1"], |e| e.sharing = Sharing::Node);
    book.put(vec![(
        HoldingKey::of(&one, &node, &found.id),
        held(&Who::node(), 0, 50, 100),
    )]);
    first.rung().await;
    second.rung().await;
    drop((first, second));
    assert!(book.inner().bells.is_empty());
}
