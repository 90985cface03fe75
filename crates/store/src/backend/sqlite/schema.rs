//! The tables. A new table or column raises [`super::super::FORMAT`], and an older binary then refuses the file.

/// Written into the file's header (offset 68), so that another program's database is recognised: `ATST`.
pub(super) const APPLICATION_ID: u32 = 0x4154_5354;

/// All tables. `objects` is kept in the order of its keys, since bodies are small and read all at once; `records` by
/// row number, since bodies are larger and every index ends in that number. Times, names and correlation ids come in
/// order, and their indexes only append. Subjects and instances do not: an index over all of them would write a page
/// for each record (measured: 43 instead of 11 us of CPU a record in groups of 100). `found` is therefore an index in
/// segments of 2,048 records: what a transaction adds to it lies on a few pages, and a query asks every segment.
pub(super) const TABLES: &str = "
CREATE TABLE header (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  id TEXT NOT NULL,
  trust_domain TEXT NOT NULL,
  format INTEGER NOT NULL,
  created_ms INTEGER NOT NULL
);
CREATE TABLE head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  revision INTEGER NOT NULL,
  bundle_revision INTEGER NOT NULL,
  floor INTEGER NOT NULL
);
INSERT INTO head VALUES (1, 0, 0, 0);
CREATE TABLE objects (
  kind TEXT NOT NULL,
  key TEXT NOT NULL,
  revision INTEGER NOT NULL,
  body BLOB,
  PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE INDEX objects_revision ON objects(revision);
CREATE TABLE writers (
  no INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  next_seq INTEGER NOT NULL,
  bytes INTEGER NOT NULL
);
CREATE TABLE records (
  position INTEGER PRIMARY KEY,
  at_ms INTEGER NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT,
  instance TEXT,
  name TEXT NOT NULL,
  correlation TEXT NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX records_at ON records(at_ms);
CREATE INDEX records_name ON records(name);
CREATE INDEX records_correlation ON records(correlation);
CREATE TABLE found (
  segment INTEGER NOT NULL,
  key INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (segment, key, position)
) WITHOUT ROWID;
CREATE TABLE once (
  key TEXT PRIMARY KEY,
  expires_ms INTEGER NOT NULL,
  writer INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  holder BLOB NOT NULL,
  used_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX once_expires ON once(expires_ms);
";
