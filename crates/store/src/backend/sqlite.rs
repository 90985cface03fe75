//! Rows in SQLite: the embedded default. One writer's connection here; readers of records have their own. Write-ahead
//! log and full synchronisation: what is answered is on the disk. It must not know what a row means.

mod open;
mod prune;
mod reader;
mod schema;
#[cfg(test)]
mod tests;

use std::{fs::File, path::Path, sync::Arc};

use attesta_model::{Kind, OnceHolder, OnceKey, Revision};
use jiff::Timestamp;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::{
    Appended, Backend, BackendError, Batch, ChangedRow, Fault, Head, Header, Loaded, OpenError,
    OpenRecords, Pruned, RecordRow, Retention, Row, Since, Use,
};
use crate::{LedgerId, Position, WriterName};

/// Bits of a record's row number that count; those above name the writer. One integer key serves as position, and
/// every index ends in it: no second index, and each writer's records are appended in order.
const SEQ_BITS: u32 = 47;

/// Bits of a row number that count within a segment of `found` (the reader's statement knows both numbers).
const SEGMENT_BITS: u32 = 11;

/// One writer's handle of a database file.
pub struct Sqlite {
    connection: Connection,
    path: Arc<Path>,
    place: Arc<str>,
    writer: WriterName,
    /// Holds the lock; released when this is dropped, after the connection.
    _lock: File,
}

impl Sqlite {
    /// Opens the database at `path`, or makes it; files are made with mode 0600. The directory must exist. A file that
    /// is foreign, truncated or of a newer version is left as it is.
    ///
    /// # Errors
    /// [`OpenError`], which names the path, what was found, and what to do.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let lock = open::lock(path)?;
        open::prepare(path)?;
        let place: Arc<str> = path.display().to_string().into();
        let connection = open::connect(path)?;
        Ok(Self {
            connection,
            path: path.into(),
            place,
            writer: WriterName::local(),
            _lock: lock,
        })
    }

    /// Opens readers of the same file.
    #[must_use]
    pub fn records(&self) -> OpenRecords {
        let path = Arc::clone(&self.path);
        let place = Arc::clone(&self.place);
        Box::new(move || Ok(Box::new(reader::Reader::open(&path, &place)?)))
    }
}

impl Backend for Sqlite {
    fn load(&mut self, each: &mut dyn FnMut(Row<'_>)) -> Result<Loaded, BackendError> {
        let place = Arc::clone(&self.place);
        let fail = |e| fault(e).at(&place);
        let tx = self.connection.transaction().map_err(fail)?;
        let header = tx
            .query_row(
                "SELECT id, trust_domain, format, created_ms FROM header",
                [],
                |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get(1)?,
                        row.get(2)?,
                        row.get(3)?,
                    ))
                },
            )
            .optional()
            .map_err(fail)?;
        let header = match header {
            None => None,
            Some((id, trust_domain, format, created)) => {
                let damaged = || Fault::Damaged("its header makes no sense".to_owned()).at(&place);
                Some(Header {
                    id: LedgerId::parse(&id).ok_or_else(damaged)?,
                    trust_domain,
                    format,
                    created_at: time(created).ok_or_else(damaged)?,
                })
            }
        };
        let head = head(&tx).map_err(fail)?;
        stream(&tx, &place, each)?;
        let newest: Option<i64> = tx
            .query_row("SELECT max(at_ms) FROM records", [], |row| row.get(0))
            .map_err(fail)?;
        let last = next_seq(&tx, &self.writer)
            .map_err(fail)?
            .and_then(|(_, next)| next.checked_sub(1))
            .filter(|last| *last > 0);
        Ok(Loaded {
            place: Arc::clone(&place),
            header,
            head,
            newest_record: newest.and_then(time),
            last: last.map(|seq| Position::new(self.writer.clone(), unsigned(seq))),
        })
    }

    fn used(&mut self, key: &OnceKey) -> Result<Option<Use>, BackendError> {
        let place = &self.place;
        let mut found = self
            .connection
            .prepare_cached("SELECT o.holder, o.used_ms, w.name, o.seq FROM once o JOIN writers w ON w.no = o.writer WHERE o.key = ?1")
            .map_err(|e| fault(e).at(place))?;
        let row = found
            .query_row([key.as_str()], |row| {
                Ok((
                    row.get::<_, [u8; 32]>(0)?,
                    row.get(1)?,
                    row.get::<_, String>(2)?,
                    row.get(3)?,
                ))
            })
            .optional()
            .map_err(|e| fault(e).at(place))?;
        let Some((holder, at, writer, seq)) = row else {
            return Ok(None);
        };
        let damaged = || Fault::Damaged("a used key makes no sense".to_owned()).at(place);
        let writer = WriterName::parse(&writer).map_err(|_| damaged())?;
        Ok(Some(Use {
            holder: OnceHolder(holder),
            at: time(at).ok_or_else(damaged)?,
            position: Position::new(writer, unsigned(seq)),
        }))
    }

    fn append(&mut self, batch: &Batch) -> Result<Appended, BackendError> {
        let written = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|tx| write(tx, &self.writer, batch));
        written.map_err(|e| fault(e).at(&self.place))
    }

    fn since(&mut self, revision: Revision) -> Result<Since, BackendError> {
        let place = Arc::clone(&self.place);
        let tx = self
            .connection
            .transaction()
            .map_err(|e| fault(e).at(&place))?;
        changed(&tx, revision).map_err(|e| fault(e).at(&place))
    }

    fn prune(
        &mut self,
        limits: &Retention,
        now: Timestamp,
        note: &mut dyn FnMut(&Pruned) -> Arc<RecordRow>,
    ) -> Result<Pruned, BackendError> {
        let pruned = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|tx| prune::prune(tx, &self.writer, limits, now, note));
        pruned.map_err(|e| fault(e).at(&self.place))
    }
}

fn stream(
    tx: &Transaction<'_>,
    place: &Arc<str>,
    each: &mut dyn FnMut(Row<'_>),
) -> Result<(), BackendError> {
    let fail = |e| fault(e).at(place);
    let mut all = tx
        .prepare_cached("SELECT kind, key, body FROM objects WHERE body IS NOT NULL")
        .map_err(fail)?;
    let mut rows = all.query([]).map_err(fail)?;
    while let Some(row) = rows.next().map_err(fail)? {
        let text = |i| row.get_ref(i).and_then(|v| Ok(v.as_str()?));
        let word = text(0).map_err(fail)?;
        let kind = Kind::parse(word).ok_or_else(|| unknown(word).at(place))?;
        let body = row
            .get_ref(2)
            .and_then(|v| Ok(v.as_blob()?))
            .map_err(fail)?;
        each(Row {
            kind,
            key: text(1).map_err(fail)?,
            body,
        });
    }
    Ok(())
}

/// One transaction. An early return drops it, and dropping rolls back.
fn write(tx: Transaction<'_>, writer: &WriterName, batch: &Batch) -> rusqlite::Result<Appended> {
    if let Some(header) = &batch.header {
        let insert = "INSERT INTO header(one, id, trust_domain, format, created_ms) VALUES (1, ?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
        let new = tx.execute(
            insert,
            params![
                header.id.to_string(),
                header.trust_domain,
                header.format,
                header.created_at.as_millisecond()
            ],
        )?;
        if new == 0 {
            return Ok(Appended::Conflict(head(&tx)?));
        }
    }
    if !batch.changes.is_empty() {
        let now = head(&tx)?;
        if now.revision != batch.base {
            return Ok(Appended::Conflict(now));
        }
        put(&tx, batch)?;
    }
    let mut first = None;
    let mut place = (0, 0);
    if !batch.records.is_empty() {
        place = append(&tx, writer, &batch.records)?;
        first = Some(Position::new(writer.clone(), unsigned(place.1)));
    }
    for row in &batch.once {
        let mut insert =
            tx.prepare_cached("INSERT INTO once(key, expires_ms, writer, seq, holder, used_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING")?;
        let seq = place.1.saturating_add_unsigned(row.record as u64);
        let new = insert.execute(params![
            row.key.as_str(),
            row.expires_at.as_millisecond(),
            place.0,
            seq,
            row.holder.0,
            row.at.as_millisecond()
        ])?;
        if new == 0 {
            return Ok(Appended::Used(row.key.clone()));
        }
    }
    tx.commit()?;
    Ok(Appended::Done(first))
}

fn put(tx: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut put = tx.prepare_cached(
        "INSERT INTO objects(kind, key, revision, body) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT(kind, key) DO UPDATE SET revision = excluded.revision, body = excluded.body",
    )?;
    for change in &batch.changes {
        put.execute(params![
            change.kind.as_str(),
            change.key,
            signed(change.revision.0),
            change.body
        ])?;
    }
    let mut head = tx.prepare_cached("UPDATE head SET revision = ?1, bundle_revision = ?2")?;
    head.execute(params![
        signed(batch.head.revision.0),
        signed(batch.head.bundle_revision.0)
    ])?;
    Ok(())
}

/// Appends records; the writer's row number and the number of the first.
fn append(
    tx: &Transaction<'_>,
    writer: &WriterName,
    records: &[Arc<RecordRow>],
) -> rusqlite::Result<(i64, i64)> {
    let (no, first) = match next_seq(tx, writer)? {
        Some(found) => found,
        None => {
            tx.execute(
                "INSERT INTO writers(name, next_seq, bytes) VALUES (?1, 1, 0)",
                [writer.as_str()],
            )?;
            (tx.last_insert_rowid(), 1)
        }
    };
    let mut insert = tx.prepare_cached(
        "INSERT INTO records(position, at_ms, kind, subject, instance, name, correlation, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let mut found =
        tx.prepare_cached("INSERT INTO found(segment, key, position) VALUES (?1, ?2, ?3)")?;
    let mut seq = first;
    let mut bytes = 0u64;
    for record in records {
        let i = &record.index;
        let row = row_number(no, seq);
        insert.execute(params![
            row,
            i.at_ms,
            i.kind,
            i.subject,
            i.instance,
            i.name,
            i.correlation,
            record.body
        ])?;
        for key in [
            i.subject.as_deref().map(subject_key),
            i.instance.as_deref().map(instance_key),
        ]
        .into_iter()
        .flatten()
        {
            found.execute([row >> SEGMENT_BITS, key, row])?;
        }
        seq = seq.saturating_add(1);
        bytes = bytes.saturating_add(record.body.len() as u64);
    }
    let mut update =
        tx.prepare_cached("UPDATE writers SET next_seq = ?2, bytes = bytes + ?3 WHERE no = ?1")?;
    update.execute(params![no, seq, signed(bytes)])?;
    Ok((no, first))
}

fn next_seq(tx: &Transaction<'_>, writer: &WriterName) -> rusqlite::Result<Option<(i64, i64)>> {
    let mut find = tx.prepare_cached("SELECT no, next_seq FROM writers WHERE name = ?1")?;
    find.query_row([writer.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

fn head(tx: &Transaction<'_>) -> rusqlite::Result<Head> {
    let mut find = tx.prepare_cached("SELECT revision, bundle_revision FROM head")?;
    find.query_row([], |row| {
        Ok(Head {
            revision: Revision(unsigned(row.get(0)?)),
            bundle_revision: Revision(unsigned(row.get(1)?)),
        })
    })
}

fn changed(tx: &Transaction<'_>, revision: Revision) -> rusqlite::Result<Since> {
    let floor: i64 = tx.query_row("SELECT floor FROM head", [], |row| row.get(0))?;
    if revision.0 < unsigned(floor) {
        return Ok(Since::Reload);
    }
    let head = head(tx)?;
    let mut rows = Vec::new();
    let mut find = tx.prepare_cached(
        "SELECT kind, key, revision, body FROM objects WHERE revision > ?1 ORDER BY revision",
    )?;
    let mut found = find.query([signed(revision.0)])?;
    while let Some(row) = found.next()? {
        // A kind that a newer server wrote: the load below says so.
        let Some(kind) = Kind::parse(row.get_ref(0)?.as_str()?) else {
            return Ok(Since::Reload);
        };
        rows.push(ChangedRow {
            kind,
            key: row.get(1)?,
            revision: Revision(unsigned(row.get(2)?)),
            body: row.get(3)?,
        });
    }
    Ok(Since::Changes { rows, head })
}

fn subject_key(subject: &str) -> i64 {
    hash(b's', subject)
}

fn instance_key(instance: &str) -> i64 {
    hash(b'i', instance)
}

/// FNV-1a of 64 bits. It is written to disk and never changes; that it can be made to collide costs a look at a row
/// that is then passed over.
fn hash(kind: u8, text: &str) -> i64 {
    let bytes = std::iter::once(kind).chain(text.bytes());
    bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
        .cast_signed()
}

fn row_number(writer: i64, seq: i64) -> i64 {
    (writer << SEQ_BITS) | seq
}

/// SQLite's integers are signed; what we count never comes near the sign.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn time(ms: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(ms).ok()
}

fn unknown(kind: &str) -> Fault {
    Fault::Newer(format!(
        "objects of kind {:?}",
        attesta_model::text::bounded(kind, 64)
    ))
}

/// What SQLite says, in our words.
fn fault(e: rusqlite::Error) -> Fault {
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Fault::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::Busy,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Fault::Damaged(e.to_string()),
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::FileLockingProtocolFailed,
        ) => Fault::Io(e.to_string()),
        _ => Fault::Refused(e.to_string()),
    }
}
