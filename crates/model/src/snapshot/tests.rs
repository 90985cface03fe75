//! The snapshot's indexes against a plain list, and the rules of who may vouch for whom.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{Attested, EntrySpec, Fact, Facts, Instance, SelectorSet};

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    td().with_path(path).unwrap()
}

fn entry(name: &str, parent: Parent, spiffe_id: &str, selectors: &[&str]) -> Arc<Entry> {
    let spec = EntrySpec {
        spiffe_id: format!("spiffe://example.org{spiffe_id}"),
        parent: Some(parent),
        selectors: selectors.iter().map(ToString::to_string).collect(),
        ..EntrySpec::default()
    };
    Arc::new(Entry::new(spec, EntryId::parse(name).unwrap(), &td()).unwrap())
}

fn put(e: &Arc<Entry>) -> Change {
    Change::Put(Object::Entry(Arc::clone(e)))
}

fn snapshot(changes: &[Change]) -> Snapshot {
    let mut s = Snapshot::empty(td());
    s.apply(changes, Revision(1), &mut Rarity::default());
    s
}

fn node(path: &str, facts: Facts) -> Node {
    let at = Timestamp::UNIX_EPOCH;
    Node {
        id: id(path),
        attestor: "t".into(),
        facts,
        valid_from: at,
        banned: false,
        can_reattest: false,
        created_at: at,
        serial: String::new(),
        expires_at: at,
    }
}

#[test]
fn a_node_vouches_for_its_own_its_aliases_and_what_they_parent() {
    let a = Parent::Id(id("/spire/agent/t/a"));
    let s = snapshot(&[
        put(&entry("own", a, "/own", &["unix:uid:1"])),
        put(&entry("alias", Parent::Server, "/cluster", &["t:zone:x"])),
        put(&entry(
            "foreign-alias",
            Parent::Server,
            "/other-cluster",
            &["t:zone:y"],
        )),
        put(&entry(
            "by-alias",
            Parent::Id(id("/cluster")),
            "/by-alias",
            &["unix:uid:1"],
        )),
        put(&entry(
            "by-own",
            Parent::Id(id("/own")),
            "/by-own",
            &["unix:uid:1"],
        )),
        put(&entry(
            "ring",
            Parent::Id(id("/by-own")),
            "/own",
            &["unix:uid:9"],
        )),
        put(&entry(
            "elsewhere",
            Parent::Id(id("/other-cluster")),
            "/elsewhere",
            &["unix:uid:1"],
        )),
    ]);
    let n = node(
        "/spire/agent/t/a",
        Facts::new([Fact::new("t", "zone", ["x"]).unwrap()]).unwrap(),
    );
    let parents = s.parents_of(&n);
    let attested = Attested::new(
        Parent::Id(n.id.clone()),
        Facts::new([Fact::new("unix", "uid", ["1"]).unwrap()]).unwrap(),
        Instance::Node,
        None,
    );
    let mut got: Vec<String> = s
        .identify(&parents, &attested, Timestamp::UNIX_EPOCH)
        .into_iter()
        .map(|m| m.unwrap().entry.id().to_string())
        .collect();
    got.sort();
    assert_eq!(got, ["by-alias", "by-own", "own"]);
}

#[test]
fn an_expanded_id_never_carries_rights() {
    let a = Parent::Id(id("/spire/agent/t/a"));
    let mut admin = entry(
        "root",
        Parent::Id(id("/spire/agent/t/b")),
        "/u/0",
        &["unix:uid:77"],
    )
    .spec();
    admin.admin = true;
    let admin = Arc::new(Entry::new(admin, EntryId::parse("root").unwrap(), &td()).unwrap());
    let s = snapshot(&[
        put(&admin),
        put(&entry("any", a.clone(), "/u/{unix.uid}", &["unix:gid:1"])),
    ]);
    assert!(s.is_admin(&id("/u/0")));
    for (uid, ok) in [("0", false), ("1", true)] {
        let facts = Facts::new([
            Fact::new("unix", "uid", [uid]).unwrap(),
            Fact::new("unix", "gid", ["1"]).unwrap(),
        ])
        .unwrap();
        let got = s.identify(
            std::slice::from_ref(&a),
            &Attested::new(a.clone(), facts, Instance::Node, None),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].is_ok(), ok);
    }
}

#[test]
fn precedence_is_priority_then_creation() {
    let a = Parent::Id(id("/spire/agent/t/a"));
    let make = |name: &str, priority: i32, created: i64| {
        let mut spec = entry(name, a.clone(), &format!("/{name}"), &["unix:uid:1"]).spec();
        spec.priority = priority;
        spec.created_at = Timestamp::from_second(created).unwrap();
        Arc::new(Entry::new(spec, EntryId::parse(name).unwrap(), &td()).unwrap())
    };
    let s = snapshot(&[
        put(&make("late", 0, 9)),
        put(&make("early", 0, 1)),
        put(&make("first", 5, 99)),
    ]);
    let facts = Facts::new([Fact::new("unix", "uid", ["1"]).unwrap()]).unwrap();
    let got = s.identify(
        std::slice::from_ref(&a),
        &Attested::new(a.clone(), facts, Instance::Node, None),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(
        got.into_iter()
            .map(|m| m.unwrap().entry.id().to_string())
            .collect::<Vec<_>>(),
        ["first", "early", "late"]
    );
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u8, Vec<u8>),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..20u8, 0..4u8, 0..6u8, prop::collection::vec(0..5u8, 1..4)).prop_map(|(n, p, i, s)| Step::Put(n, p, i, s)),
        1 => (0..20u8).prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever was put and deleted: matching, listing and similarity say what a plain list says.
    #[test]
    fn indexes_agree_with_a_plain_list(steps in steps(), have in prop::collection::vec(0..5u8, 0..5)) {
        let parent = |p: u8| match p { 0 => Parent::Server, 1 => Parent::Id(id("/spire/agent/t/a")), 2 => Parent::Id(id("/nested")), _ => Parent::Id(id("/e1")) };
        let mut snapshot = Snapshot::empty(td());
        let mut rarity = Rarity::default();
        let mut list: Vec<Arc<Entry>> = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            let change = match step {
                Step::Put(n, p, i, s) => {
                    let selectors: Vec<String> = s.iter().map(|s| format!("t:{s}")).collect();
                    let e = entry(&format!("e{n}"), parent(*p), &format!("/e{i}"), &selectors.iter().map(String::as_str).collect::<Vec<_>>());
                    list.retain(|o| o.id() != e.id());
                    list.push(Arc::clone(&e));
                    put(&e)
                }
                Step::Delete(n) => {
                    let key = EntryId::parse(&format!("e{n}")).unwrap();
                    list.retain(|o| *o.id() != key);
                    Change::Delete(ObjectKey::Entry(key))
                }
            };
            snapshot.apply(&[change], Revision(i as u64 + 1), &mut rarity);
        }
        prop_assert_eq!(snapshot.entry_count(), list.len());
        let selectors = SelectorSet::new(have.iter().map(|s| format!("t:{s}")));
        for p in 0..4 {
            let parent = parent(p);
            let names = |it: Vec<&Arc<Entry>>| { let mut v: Vec<String> = it.iter().map(|e| e.id().to_string()).collect(); v.sort(); v };
            let want: Vec<&Arc<Entry>> = list.iter().filter(|e| *e.parent() == parent).collect();
            prop_assert_eq!(names(snapshot.entries_of(&parent).collect()), names(want));
            let found: Vec<&Arc<Entry>> = selectors.iter().flat_map(|s| snapshot.entries_filed(&parent, s)).filter(|e| e.selectors().all_in(&selectors)).collect();
            let want: Vec<&Arc<Entry>> = list.iter().filter(|e| *e.parent() == parent && e.selectors().all_in(&selectors)).collect();
            prop_assert_eq!(names(found), names(want));
        }
        for e in &list {
            prop_assert!(snapshot.similar(e).is_some());
        }
        for i in 0..6 {
            prop_assert_eq!(snapshot.is_nested_parent(&id(&format!("/e{i}"))), list.iter().any(|e| *e.parent() == Parent::Id(id(&format!("/e{i}")))));
        }
    }
}
