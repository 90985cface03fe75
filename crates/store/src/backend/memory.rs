//! Rows in memory: for `attesta run --ephemeral`, and for every test of the rooms above. The same rules as a database,
//! and nothing survives the process. It must not know what a row means.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, MutexGuard, PoisonError},
};

use attesta_model::{Kind, OnceKey, Revision};
use jiff::Timestamp;

use super::{
    Appended, Backend, BackendError, Batch, ChangedRow, Head, Header, Loaded, OpenRecords,
    PRUNE_MAX, Pruned, PrunedRange, RecordRow, Records, Retention, Row, Since, Use,
};
use crate::{Cursor, Order, Position, RecordPage, RecordQuery, StoredRecord, WriterName};

/// One writer's handle of rows in memory. [`Memory::beside`] makes a second writer on the same rows, as a second server
/// on the same database would be.
pub struct Memory {
    writer: WriterName,
    place: Arc<str>,
    state: Shared,
}

#[expect(
    clippy::disallowed_types,
    reason = "held for one operation in memory, by the writer's thread or a thread that may block; never across IO or await"
)]
type Shared = Arc<std::sync::Mutex<State>>;

#[derive(Clone, Default)]
struct State {
    header: Option<Header>,
    head: Head,
    floor: Revision,
    objects: BTreeMap<(Kind, String), Kept>,
    once: HashMap<OnceKey, (Use, Timestamp)>,
    lines: BTreeMap<WriterName, Lines>,
    bytes: u64,
}

/// The revision of an object's last change, and its bytes; none for a tombstone.
type Kept = (Revision, Option<Vec<u8>>);

/// One writer's records; `first` is the number of the oldest that is still there.
#[derive(Clone)]
struct Lines {
    first: u64,
    rows: VecDeque<Arc<RecordRow>>,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            first: 1,
            rows: VecDeque::new(),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// Empty, with the writer [`WriterName::local`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            writer: WriterName::local(),
            place: "memory".into(),
            state: Shared::default(),
        }
    }

    /// Another writer on the same rows.
    #[must_use]
    pub fn beside(&self, writer: WriterName) -> Self {
        Self {
            writer,
            place: Arc::clone(&self.place),
            state: Arc::clone(&self.state),
        }
    }

    /// A copy of the rows as they are now, which goes its own way: what a disk would hold after a crash at this moment.
    #[must_use]
    pub fn fork(&self) -> Self {
        let copy = self.lock().clone();
        Self {
            writer: self.writer.clone(),
            place: Arc::clone(&self.place),
            state: Shared::new(copy.into()),
        }
    }

    /// Opens readers of the same rows.
    #[must_use]
    pub fn records(&self) -> OpenRecords {
        let state = Arc::clone(&self.state);
        Box::new(move || Ok(Box::new(Reader(Arc::clone(&state)))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    // No operation leaves the rows half changed, so what another thread left when it panicked is whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for Memory {
    fn load(&mut self, each: &mut dyn FnMut(Row<'_>)) -> Result<Loaded, BackendError> {
        let state = self.lock();
        for ((kind, key), (_, body)) in &state.objects {
            if let Some(body) = body {
                each(Row {
                    kind: *kind,
                    key,
                    body,
                });
            }
        }
        let newest = state
            .lines
            .values()
            .filter_map(|l| l.rows.iter().map(|r| r.index.at_ms).max())
            .max();
        Ok(Loaded {
            place: Arc::clone(&self.place),
            header: state.header.clone(),
            head: state.head,
            newest_record: newest.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
            last: state
                .lines
                .get(&self.writer)
                .and_then(|l| l.last())
                .map(|seq| Position::new(self.writer.clone(), seq)),
        })
    }

    fn used(&mut self, key: &OnceKey) -> Result<Option<Use>, BackendError> {
        Ok(self.lock().once.get(key).map(|(u, _)| u.clone()))
    }

    fn append(&mut self, batch: &Batch) -> Result<Appended, BackendError> {
        let mut state = self.lock();
        if batch.header.is_some() && state.header.is_some() {
            return Ok(Appended::Conflict(state.head));
        }
        if !batch.changes.is_empty() && state.head.revision != batch.base {
            return Ok(Appended::Conflict(state.head));
        }
        for (i, row) in batch.once.iter().enumerate() {
            if state.once.contains_key(&row.key)
                || batch.once.iter().take(i).any(|r| r.key == row.key)
            {
                return Ok(Appended::Used(row.key.clone()));
            }
        }
        // Nothing below fails.
        if let Some(header) = &batch.header {
            state.header = Some(header.clone());
        }
        if !batch.changes.is_empty() {
            state.head = batch.head;
        }
        for change in &batch.changes {
            state.objects.insert(
                (change.kind, change.key.clone()),
                (change.revision, change.body.clone()),
            );
        }
        let first = (!batch.records.is_empty()).then(|| state.push(&self.writer, &batch.records));
        let next = first
            .clone()
            .unwrap_or_else(|| Position::new(self.writer.clone(), 0));
        for row in &batch.once {
            let used = Use {
                holder: row.holder,
                at: row.at,
                position: next.plus(row.record),
            };
            state.once.insert(row.key.clone(), (used, row.expires_at));
        }
        Ok(Appended::Done(first))
    }

    fn since(&mut self, revision: Revision) -> Result<Since, BackendError> {
        let state = self.lock();
        if revision < state.floor {
            return Ok(Since::Reload);
        }
        let mut rows: Vec<ChangedRow> = state
            .objects
            .iter()
            .filter(|(_, (at, _))| *at > revision)
            .map(|((kind, key), (at, body))| ChangedRow {
                kind: *kind,
                key: key.clone(),
                revision: *at,
                body: body.clone(),
            })
            .collect();
        rows.sort_by_key(|r| r.revision);
        Ok(Since::Changes {
            rows,
            head: state.head,
        })
    }

    fn prune(
        &mut self,
        limits: &Retention,
        now: Timestamp,
        note: &mut dyn FnMut(&Pruned) -> Arc<RecordRow>,
    ) -> Result<Pruned, BackendError> {
        let mut state = self.lock();
        let mut pruned = Pruned::default();
        let horizon = limits.horizon(now).map(Timestamp::as_millisecond);
        let mut left = PRUNE_MAX;
        // The oldest of any writer first, so that a limit in bytes is fair to all.
        while let Some(writer) = state.oldest_to_go(horizon, limits.bytes) {
            if left == 0 {
                pruned.more = true;
                break;
            }
            left -= 1;
            let seq = state.drop_oldest(&writer);
            match pruned.records.iter_mut().find(|r| r.writer == writer) {
                Some(range) => range.last = seq,
                None => pruned.records.push(PrunedRange {
                    writer,
                    first: seq,
                    last: seq,
                }),
            }
        }
        let once_horizon = Retention::once_horizon(now);
        let before = state.once.len();
        state
            .once
            .retain(|_, (used, expires_at)| *expires_at >= once_horizon || used.at >= once_horizon);
        pruned.once = (before - state.once.len()) as u64;
        if let Some(keep) = limits.revisions {
            let floor = Revision(state.head.revision.0.saturating_sub(keep));
            if floor > state.floor {
                state.floor = floor;
                let before = state.objects.len();
                state
                    .objects
                    .retain(|_, (at, body)| body.is_some() || *at > floor);
                pruned.tombstones = (before - state.objects.len()) as u64;
            }
        }
        if !pruned.records.is_empty() {
            pruned.note = Some(state.push(&self.writer, &[note(&pruned)]));
        }
        Ok(pruned)
    }
}

impl Lines {
    fn last(&self) -> Option<u64> {
        (self.first + self.rows.len() as u64)
            .checked_sub(1)
            .filter(|last| *last > 0)
    }
}

impl State {
    fn push(&mut self, writer: &WriterName, rows: &[Arc<RecordRow>]) -> Position {
        self.bytes += rows.iter().map(|r| r.body.len() as u64).sum::<u64>();
        let lines = self.lines.entry(writer.clone()).or_default();
        let first = lines.first + lines.rows.len() as u64;
        lines.rows.extend(rows.iter().cloned());
        Position::new(writer.clone(), first)
    }

    /// The writer whose oldest record goes next; each one's newest stays.
    fn oldest_to_go(&self, horizon: Option<i64>, bytes: Option<u64>) -> Option<WriterName> {
        let too_much = bytes.is_some_and(|limit| self.bytes > limit);
        self.lines
            .iter()
            .filter(|(_, lines)| lines.rows.len() > 1)
            .filter_map(|(writer, lines)| lines.rows.front().map(|row| (row.index.at_ms, writer)))
            .filter(|(at, _)| too_much || horizon.is_some_and(|h| *at < h))
            .min()
            .map(|(_, writer)| writer.clone())
    }

    fn drop_oldest(&mut self, writer: &WriterName) -> u64 {
        let Some(lines) = self.lines.get_mut(writer) else {
            return 0;
        };
        let seq = lines.first;
        if let Some(row) = lines.rows.pop_front() {
            lines.first += 1;
            self.bytes = self.bytes.saturating_sub(row.body.len() as u64);
        }
        seq
    }
}

struct Reader(Shared);

impl Records for Reader {
    fn query(&mut self, query: &RecordQuery) -> Result<RecordPage, BackendError> {
        let state = lock(&self.0);
        let mut found: Vec<(Cursor, &RecordRow)> = state
            .lines
            .iter()
            .filter(|(writer, _)| !matches!(&query.order, Order::Written(of) if of != *writer))
            .flat_map(|(writer, lines)| {
                let places = (lines.first..).map(|seq| Position::new(writer.clone(), seq));
                places.zip(&lines.rows).map(|(position, row)| {
                    (
                        Cursor {
                            at_ms: row.index.at_ms,
                            position,
                        },
                        &**row,
                    )
                })
            })
            .filter(|(_, row)| matches(query, row))
            .filter(|(place, _)| {
                query
                    .after
                    .as_ref()
                    .is_none_or(|after| follows(&query.order, place, after))
            })
            .collect();
        match query.order {
            Order::Newest => found.sort_by(|(a, _), (b, _)| b.cmp(a)),
            Order::Oldest => found.sort_by(|(a, _), (b, _)| a.cmp(b)),
            Order::Written(_) => {}
        }
        let page = query.page();
        let records = found.into_iter().take(page + 1).filter_map(|(place, row)| {
            let at = Timestamp::from_millisecond(place.at_ms).ok()?;
            Some(StoredRecord {
                position: place.position,
                at,
                kind: row.index.kind.to_owned(),
                body: row.body.clone(),
            })
        });
        Ok(RecordPage::cut(records.collect(), page))
    }
}

fn follows(order: &Order, place: &Cursor, after: &Cursor) -> bool {
    match order {
        Order::Newest => place < after,
        Order::Oldest => place > after,
        Order::Written(_) => place.position > after.position,
    }
}

fn matches(query: &RecordQuery, row: &RecordRow) -> bool {
    let index = &row.index;
    let is =
        |asked: &Option<String>, have: Option<&str>| asked.is_none() || asked.as_deref() == have;
    query.from.is_none_or(|t| index.at_ms >= t.as_millisecond())
        && query.until.is_none_or(|t| index.at_ms < t.as_millisecond())
        && is(&query.kind, Some(index.kind))
        && is(&query.subject, index.subject.as_deref())
        && is(&query.instance, index.instance.as_deref())
        && is(&query.name, Some(&index.name))
        && is(&query.correlation, Some(&index.correlation))
}
