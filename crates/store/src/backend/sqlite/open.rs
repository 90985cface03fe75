//! Opening the file: who else has it, what it is, and making it whole or not at all. Until the file is known to be
//! ours it is only read.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::{fault, schema};
use crate::backend::{FORMAT, OpenError};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How long the writer waits for a program that reads the file with other tools.
const BUSY: Duration = Duration::from_secs(5);

/// Takes the lock file beside the database. The lock is the kernel's and dies with its holder; the file stays.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let lock = beside(path, ".lock");
    let io = |doing| {
        move |source| OpenError::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock)
        .map_err(io("open its lock file"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Best effort: the answer is the same without it.
            let read = (&mut file).take(32).read_to_string(&mut pid);
            let pid: String = pid.chars().filter(char::is_ascii_digit).collect();
            let holder = if read.is_err() || pid.is_empty() {
                "another process".to_owned()
            } else {
                format!("process {pid}")
            };
            return Err(OpenError::Locked {
                path: path.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(e)) => return Err(io("lock it")(e)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io("write its lock file"))?;
    Ok(file)
}

/// Sees to it that there is a database of ours at `path`. The lock is held.
pub(super) fn prepare(path: &Path) -> Result<(), OpenError> {
    let wal = beside(path, "-wal");
    let io = |doing| {
        move |source| OpenError::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    match File::open(path) {
        Ok(file) => inspect(path, file, &wal),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if wal.exists() {
                // SQLite would replay it into the new file.
                let why = "the file is missing, and its -wal file is still there".to_owned();
                return Err(OpenError::Damaged {
                    path: path.to_owned(),
                    why,
                });
            }
            create(path)
        }
        Err(e) => Err(io("open it")(e)),
    }
}

/// Makes the database under another name, then renames it: at `path` there is all of it or nothing.
fn create(path: &Path) -> Result<(), OpenError> {
    let new = beside(path, ".new");
    let io = |doing| {
        move |source| OpenError::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    for old in [new.clone(), beside(&new, "-journal")] {
        match fs::remove_file(&old) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(io("remove what a crash left beside it")(e));
            }
            _ => {}
        }
    }
    // SQLite gives its other files the mode of this one.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(io("create it"))?;
    let made = Connection::open_with_flags(&new, flags(OpenFlags::SQLITE_OPEN_READ_WRITE)).and_then(|connection| {
        connection.pragma_update(None, "synchronous", "EXTRA")?;
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; PRAGMA application_id = {}; PRAGMA user_version = {FORMAT}; {} COMMIT;",
            schema::APPLICATION_ID,
            schema::TABLES
        ))
    });
    made.map_err(|e| OpenError::Backend(fault(e).at(&path.display().to_string().into())))?;
    file.sync_all().map_err(io("write it"))?;
    fs::rename(&new, path).map_err(io("rename it"))?;
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(io("write its directory"))
}

/// Reads the header of what is there (SQLite's file format, section 1.3) and refuses what is not ours.
fn inspect(path: &Path, mut file: File, wal: &Path) -> Result<(), OpenError> {
    let io = |doing| {
        move |source| OpenError::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    let damaged = |why: String| OpenError::Damaged {
        path: path.to_owned(),
        why,
    };
    let foreign = |found: String| OpenError::Foreign {
        path: path.to_owned(),
        found,
    };
    let metadata = file.metadata().map_err(io("read it"))?;
    if !metadata.is_file() {
        return Err(foreign("a directory or a device".to_owned()));
    }
    let mut head = Vec::with_capacity(100);
    (&mut file)
        .take(100)
        .read_to_end(&mut head)
        .map_err(io("read it"))?;
    if head.is_empty() {
        return Err(damaged("the file is empty".to_owned()));
    }
    if !head.starts_with(MAGIC) {
        let begins = head.get(..16).unwrap_or(&head).escape_ascii().to_string();
        return Err(foreign(format!("a file that begins with \"{begins}\"")));
    }
    let number = |at: usize| {
        head.get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_be_bytes)
    };
    let (Some(pages), Some(version), Some(application)) = (number(28), number(60), number(68))
    else {
        return Err(damaged("the file ends within its header".to_owned()));
    };
    if application != schema::APPLICATION_ID {
        return Err(foreign("a SQLite database of another program".to_owned()));
    }
    if version > FORMAT {
        return Err(OpenError::Newer {
            place: path.display().to_string(),
            found: version,
            known: FORMAT,
        });
    }
    // 1 stands for 65536.
    let page = match head.get(16..18) {
        Some([0, 1]) => 65_536,
        Some(&[high, low]) => u64::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    let expect = u64::from(pages) * page;
    // While the log beside it holds something, the file itself need not be whole.
    let logged = fs::metadata(wal).map_or(0, |m| m.len());
    if logged == 0 && metadata.len() < expect {
        return Err(damaged(format!(
            "the file is truncated: {} of {expect} bytes are there",
            metadata.len()
        )));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the ledger's file could be read by others; its mode is now 0600");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io("set its mode"))?;
    }
    Ok(())
}

/// The writer's connection.
pub(super) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let opened = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE)).and_then(|connection| {
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.execute_batch(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA temp_store = MEMORY; PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864;
             SELECT revision FROM head;",
        )?;
        Ok(connection)
    });
    opened.map_err(|e| {
        let fault = fault(e);
        match fault {
            super::Fault::Damaged(why) => OpenError::Damaged {
                path: path.to_owned(),
                why,
            },
            other => OpenError::Backend(other.at(&path.display().to_string().into())),
        }
    })
}

/// Names are taken as they are, and links are not followed (the directory is its owner's alone).
pub(super) fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
