//! Dropping what is too old or too much, in one transaction with the record that says so.

use std::sync::Arc;

use attesta_model::Revision;
use jiff::Timestamp;
use rusqlite::{Transaction, params};

use super::{SEGMENT_BITS, SEQ_BITS, append, head, row_number, signed, unsigned};
use crate::{Position, Pruned, PrunedRange, RecordRow, Retention, WriterName, backend::PRUNE_MAX};

/// One writer's records, oldest first.
struct Writer {
    no: i64,
    name: WriterName,
    bytes: i64,
    /// The newest, which stays.
    last: i64,
}

pub(super) fn prune(
    tx: Transaction<'_>,
    writer: &WriterName,
    limits: &Retention,
    now: Timestamp,
    note: &mut dyn FnMut(&Pruned) -> Arc<RecordRow>,
) -> rusqlite::Result<Pruned> {
    let mut pruned = Pruned::default();
    let mut writers = writers(&tx)?;
    let horizon = limits.horizon(now).map(Timestamp::as_millisecond);
    let mut surplus = limits.bytes.map_or(0, |limit| {
        writers
            .iter()
            .map(|w| w.bytes)
            .sum::<i64>()
            .saturating_sub(signed(limit))
    });
    let mut left = PRUNE_MAX;
    loop {
        // The oldest of any writer first, so that a limit in bytes is fair to all.
        let mut oldest: Option<(i64, usize, i64, i64)> = None;
        for (i, w) in writers.iter().enumerate() {
            if let Some((at, number, len)) = first(&tx, w)?
                && oldest.is_none_or(|(o, ..)| at < o)
            {
                oldest = Some((at, i, number, len));
            }
        }
        let Some((at, i, number, len)) = oldest else {
            break;
        };
        if surplus <= 0 && horizon.is_none_or(|h| at >= h) {
            break;
        }
        if left == 0 {
            pruned.more = true;
            break;
        }
        left -= 1;
        let Some(w) = writers.get_mut(i) else { break };
        tx.prepare_cached("DELETE FROM records WHERE position = ?1")?
            .execute([number])?;
        w.bytes -= len;
        surplus -= len;
        let seq = unsigned(number & ((1 << SEQ_BITS) - 1));
        match pruned.records.iter_mut().find(|r| r.writer == w.name) {
            Some(range) => range.last = seq,
            None => pruned.records.push(PrunedRange {
                writer: w.name.clone(),
                first: seq,
                last: seq,
            }),
        }
    }
    for w in &writers {
        // Whole segments; what is left of a record in the first one leads nowhere.
        let oldest = first(&tx, w)?.map_or(row_number(w.no, w.last), |(_, number, _)| number);
        tx.prepare_cached("DELETE FROM found WHERE segment >= ?1 AND segment < ?2")?
            .execute([row_number(w.no, 0) >> SEGMENT_BITS, oldest >> SEGMENT_BITS])?;
        tx.execute(
            "UPDATE writers SET bytes = ?2 WHERE no = ?1",
            params![w.no, w.bytes],
        )?;
    }
    let horizon = Retention::once_horizon(now).as_millisecond();
    pruned.once = tx.execute(
        "DELETE FROM once WHERE expires_ms < ?1 AND used_ms < ?1",
        [horizon],
    )? as u64;
    if let Some(keep) = limits.revisions {
        let floor = Revision(head(&tx)?.revision.0.saturating_sub(keep));
        let raised = tx.execute(
            "UPDATE head SET floor = ?1 WHERE floor < ?1",
            [signed(floor.0)],
        )?;
        if raised > 0 {
            pruned.tombstones = tx.execute(
                "DELETE FROM objects WHERE body IS NULL AND revision <= ?1",
                [signed(floor.0)],
            )? as u64;
        }
    }
    if !pruned.records.is_empty() {
        let (_, seq) = append(&tx, writer, &[note(&pruned)])?;
        pruned.note = Some(Position::new(writer.clone(), unsigned(seq)));
    }
    tx.commit()?;
    Ok(pruned)
}

fn writers(tx: &Transaction<'_>) -> rusqlite::Result<Vec<Writer>> {
    let mut all = tx.prepare_cached("SELECT no, name, bytes, next_seq - 1 FROM writers")?;
    let mut rows = all.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        // A name that makes no sense is none of ours to prune.
        if let Ok(name) = WriterName::parse(row.get_ref(1)?.as_str()?) {
            found.push(Writer {
                no: row.get(0)?,
                name,
                bytes: row.get(2)?,
                last: row.get(3)?,
            });
        }
    }
    Ok(found)
}

/// A writer's oldest record that may go: its time, row number and bytes.
fn first(tx: &Transaction<'_>, w: &Writer) -> rusqlite::Result<Option<(i64, i64, i64)>> {
    let mut find = tx.prepare_cached("SELECT at_ms, position, length(body) FROM records WHERE position > ?1 AND position < ?2 ORDER BY position LIMIT 1")?;
    let mut rows = find.query([row_number(w.no, 0), row_number(w.no, w.last)])?;
    rows.next()?
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .transpose()
}
