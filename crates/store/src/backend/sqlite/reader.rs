//! Reading records, on a connection of its own: write-ahead logging lets it read beside the writer.

use std::{collections::HashMap, path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags, Transaction, params_from_iter, types::Value};

use super::{SEQ_BITS, fault, instance_key, open, row_number, signed, subject_key, time, unsigned};
use crate::{
    BackendError, Cursor, Fault, Order, Position, RecordPage, RecordQuery, Records, StoredRecord,
    WriterName,
};

pub(super) struct Reader {
    connection: Connection,
    place: Arc<str>,
}

impl Reader {
    pub(super) fn open(path: &Path, place: &Arc<str>) -> Result<Self, BackendError> {
        let connection = Connection::open_with_flags(path, open::flags(OpenFlags::SQLITE_OPEN_READ_ONLY)).and_then(|c| {
            c.busy_timeout(std::time::Duration::from_secs(5))?;
            c.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA query_only = ON; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;")?;
            Ok(c)
        });
        connection
            .map(|connection| Self {
                connection,
                place: Arc::clone(place),
            })
            .map_err(|e| fault(e).at(place))
    }
}

impl Records for Reader {
    fn query(&mut self, query: &RecordQuery) -> Result<RecordPage, BackendError> {
        let place = Arc::clone(&self.place);
        let found = self
            .connection
            .transaction()
            .and_then(|tx| read(&tx, query))
            .map_err(|e| fault(e).at(&place))?;
        found.ok_or_else(|| {
            Fault::Damaged("a record's place or time makes no sense".to_owned()).at(&place)
        })
    }
}

/// `None` where a row makes no sense.
fn read(tx: &Transaction<'_>, query: &RecordQuery) -> rusqlite::Result<Option<RecordPage>> {
    let mut names: HashMap<i64, WriterName> = HashMap::new();
    let mut all = tx.prepare_cached("SELECT no, name FROM writers")?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let Ok(name) = WriterName::parse(row.get_ref(1)?.as_str()?) else {
            return Ok(None);
        };
        names.insert(row.get(0)?, name);
    }
    let Some((sql, values)) = compose(query, |writer| {
        names
            .iter()
            .find(|(_, name)| *name == writer)
            .map(|(no, _)| *no)
    }) else {
        return Ok(Some(RecordPage::default()));
    };
    let mut records = Vec::new();
    let mut find = tx.prepare_cached(&sql)?;
    let mut rows = find.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        let (Some(writer), Some(at)) = (names.get(&(number >> SEQ_BITS)), time(row.get(1)?)) else {
            return Ok(None);
        };
        let position = Position::new(writer.clone(), unsigned(number & ((1 << SEQ_BITS) - 1)));
        records.push(StoredRecord {
            position,
            at,
            kind: row.get(2)?,
            body: row.get(3)?,
        });
    }
    Ok(Some(RecordPage::cut(records, query.page())))
}

/// Each segment of each writer is asked for the key `?1`. What was hashed is compared again by the clauses that follow.
const FOUND: &str = "FROM (
    WITH RECURSIVE seg(s, last) AS (
      SELECT (SELECT position FROM records
              WHERE position > (no << 47) AND position < ((no + 1) << 47) ORDER BY position LIMIT 1) >> 11,
             ((no << 47) | (next_seq - 1)) >> 11
      FROM writers
      UNION ALL
      SELECT s + 1, last FROM seg WHERE s < last)
    SELECT s FROM seg) AS segments
  CROSS JOIN found ON found.segment = segments.s AND found.key = ?1
  CROSS JOIN records ON records.position = found.position";

/// The statement, by the narrowest index that fits: chosen here, not by statistics that grow old. `None` where the
/// writer asked for is not known: then there is nothing.
fn compose(
    query: &RecordQuery,
    no: impl Fn(&WriterName) -> Option<i64>,
) -> Option<(String, Vec<Value>)> {
    let mut values: Vec<Value> = Vec::new();
    let key = match query {
        RecordQuery {
            order: Order::Written(_),
            ..
        }
        | RecordQuery { name: Some(_), .. }
        | RecordQuery {
            correlation: Some(_),
            ..
        } => None,
        RecordQuery {
            instance: Some(instance),
            ..
        } => Some(instance_key(instance)),
        RecordQuery {
            subject: Some(subject),
            ..
        } => Some(subject_key(subject)),
        _ => None,
    };
    let from = match (key, query) {
        (Some(key), _) => {
            values.push(Value::Integer(key));
            FOUND
        }
        (
            None,
            RecordQuery {
                order: Order::Written(_),
                ..
            },
        ) => "FROM records NOT INDEXED",
        (None, RecordQuery { name: Some(_), .. }) => "FROM records INDEXED BY records_name",
        (
            None,
            RecordQuery {
                correlation: Some(_),
                ..
            },
        ) => "FROM records INDEXED BY records_correlation",
        (None, _) => "FROM records INDEXED BY records_at",
    };
    let mut sql = format!("SELECT records.position {from} WHERE 1");
    let mut and = |clause: &str, value: Value| {
        values.push(value);
        sql.push_str(&format!(" AND {clause} ?{}", values.len()));
    };
    for (column, asked) in [
        ("name =", &query.name),
        ("correlation =", &query.correlation),
        ("instance =", &query.instance),
        ("subject =", &query.subject),
        ("kind =", &query.kind),
    ] {
        if let Some(asked) = asked {
            and(column, Value::Text(asked.clone()));
        }
    }
    if let Some(from) = query.from {
        and("at_ms >=", Value::Integer(from.as_millisecond()));
    }
    if let Some(until) = query.until {
        and("at_ms <", Value::Integer(until.as_millisecond()));
    }
    let after = |after: &Cursor| {
        no(after.position.writer()).map(|no| row_number(no, signed(after.position.seq())))
    };
    let order = match &query.order {
        Order::Written(writer) => {
            let no = no(writer)?;
            let start = match &query.after {
                Some(cursor) if cursor.position.writer() == writer => {
                    row_number(no, signed(cursor.position.seq()))
                }
                _ => row_number(no, 0),
            };
            and("records.position >", Value::Integer(start));
            and("records.position <", Value::Integer(row_number(no + 1, 0)));
            "records.position"
        }
        by_time => {
            if let Some(cursor) = &query.after {
                let sign = if *by_time == Order::Newest { "<" } else { ">" };
                let row = after(cursor)?;
                // The first half is what the index can use.
                and(&format!("at_ms {sign}="), Value::Integer(cursor.at_ms));
                let n = values.len();
                values.push(Value::Integer(row));
                sql.push_str(&format!(
                    " AND (at_ms, records.position) {sign} (?{n}, ?{})",
                    values.len()
                ));
            }
            if *by_time == Order::Newest {
                "at_ms DESC, records.position DESC"
            } else {
                "at_ms, records.position"
            }
        }
    };
    values.push(Value::Integer(signed(query.page() as u64 + 1)));
    // Bodies are read for the page alone, not for all that is sorted.
    let n = values.len();
    let sql = format!(
        "SELECT position, at_ms, kind, body FROM records WHERE position IN ({sql} ORDER BY {order} LIMIT ?{n}) ORDER BY {order}"
    );
    Some((sql, values))
}
