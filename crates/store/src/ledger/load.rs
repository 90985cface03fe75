//! From rows to a snapshot, at the start and after having fallen too far behind.

use std::sync::Arc;

use attesta_model::{Change, Object, ObjectKey, Rarity, Snapshot, object::BodyError};
use attesta_spiffe::TrustDomain;
use jiff::Timestamp;

use crate::{
    Appended, Backend, BackendError, Batch, ChangedRow, Fault, Head, Header, LedgerId, Loaded,
    OpenError, Position, backend::FORMAT,
};

/// How many objects are put at a time: what `apply` remembers of a commit stays small.
const CHUNK: usize = 4096;

/// What opening a ledger gives.
pub(super) struct Start {
    pub(super) place: Arc<str>,
    pub(super) id: LedgerId,
    pub(super) snapshot: Snapshot,
    pub(super) rarity: Rarity,
    pub(super) newest_record: Option<Timestamp>,
    pub(super) last: Option<Position>,
}

/// Loads a ledger, and begins it when it is new.
pub(super) fn open(
    backend: &mut dyn Backend,
    trust_domain: &TrustDomain,
    now: Timestamp,
    new_id: [u8; 16],
) -> Result<Start, OpenError> {
    // Twice: another server may begin the same ledger at the same time.
    let mut place: Arc<str> = "ledger".into();
    for _ in 0..2 {
        let (loaded, objects) = read(backend, trust_domain)?;
        let Some(header) = loaded.header else {
            let header = Header {
                id: LedgerId(new_id),
                trust_domain: trust_domain.as_str().to_owned(),
                format: FORMAT,
                created_at: now,
            };
            match backend.append(&Batch {
                header: Some(header),
                ..Batch::default()
            })? {
                Appended::Done(_) => {
                    let (snapshot, rarity) = build(Vec::new(), loaded.head, trust_domain);
                    return Ok(Start {
                        place: loaded.place,
                        id: LedgerId(new_id),
                        snapshot,
                        rarity,
                        newest_record: None,
                        last: None,
                    });
                }
                Appended::Conflict(_) | Appended::Used(_) => {
                    place = loaded.place;
                    continue;
                }
            }
        };
        if header.format > FORMAT {
            return Err(OpenError::Newer {
                place: loaded.place.to_string(),
                found: header.format,
                known: FORMAT,
            });
        }
        if header.trust_domain != trust_domain.as_str() {
            return Err(OpenError::TrustDomain {
                place: loaded.place.to_string(),
                found: header.trust_domain,
                expected: trust_domain.as_str().to_owned(),
            });
        }
        // Only now: the objects of another trust domain, or of a newer format, need not make sense to us.
        let objects = objects.map_err(|e| Fault::Body(e).at(&loaded.place))?;
        let (snapshot, rarity) = build(objects, loaded.head, trust_domain);
        return Ok(Start {
            place: loaded.place,
            id: header.id,
            snapshot,
            rarity,
            newest_record: loaded.newest_record,
            last: loaded.last,
        });
    }
    Err(
        Fault::Refused("another server keeps beginning it".to_owned())
            .at(&place)
            .into(),
    )
}

/// Loads everything again.
pub(super) fn reload(
    backend: &mut dyn Backend,
    trust_domain: &TrustDomain,
) -> Result<(Snapshot, Rarity), BackendError> {
    let (loaded, objects) = read(backend, trust_domain)?;
    let objects = objects.map_err(|e| Fault::Body(e).at(&loaded.place))?;
    Ok(build(objects, loaded.head, trust_domain))
}

/// Rows as changes.
pub(super) fn changes(
    rows: &[ChangedRow],
    trust_domain: &TrustDomain,
) -> Result<Vec<Change>, BodyError> {
    rows.iter()
        .map(|row| match &row.body {
            Some(body) => {
                Object::from_body(row.kind, &row.key, body, trust_domain).map(Change::Put)
            }
            None => ObjectKey::parse(row.kind, &row.key).map(Change::Delete),
        })
        .collect()
}

type Objects = Vec<Option<Change>>;

/// All rows; the objects, or what is wrong with the first that makes no sense.
fn read(
    backend: &mut dyn Backend,
    trust_domain: &TrustDomain,
) -> Result<(Loaded, Result<Objects, BodyError>), BackendError> {
    let mut objects: Result<Objects, BodyError> = Ok(Vec::new());
    let loaded = backend.load(&mut |row| {
        if let Ok(read) = &mut objects {
            match Object::from_body(row.kind, row.key, row.body, trust_domain) {
                Ok(object) => read.push(Some(Change::Put(object))),
                Err(e) => objects = Err(e),
            }
        }
    })?;
    Ok((loaded, objects))
}

fn build(mut objects: Objects, head: Head, trust_domain: &TrustDomain) -> (Snapshot, Rarity) {
    // Counted before, so that the first entries are filed as well as the last.
    let mut rarity = Rarity::default();
    for object in objects.iter().flatten() {
        if let Change::Put(Object::Entry(entry)) = object {
            entry.selectors().iter().for_each(|s| rarity.add(s));
        }
    }
    let mut snapshot = Snapshot::empty(trust_domain.clone());
    // Rows come in the order of their keys, and a tree that is filled in order keeps its nodes half full: even places
    // first, then odd ones.
    let mut chunk = Vec::with_capacity(CHUNK);
    for start in [0, 1] {
        for object in objects.iter_mut().skip(start).step_by(2) {
            chunk.extend(object.take());
            if chunk.len() == CHUNK {
                snapshot.apply(&chunk, head.revision, &mut rarity);
                chunk.clear();
            }
        }
    }
    snapshot.apply(&chunk, head.revision, &mut rarity);
    // `apply` counted on top of what was counted before.
    let mut rarity = Rarity::default();
    for entry in snapshot.entries_after(None) {
        entry.selectors().iter().for_each(|s| rarity.add(s));
    }
    (snapshot.with_bundle_revision(head.bundle_revision), rarity)
}
