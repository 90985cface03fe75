//! The data directory: what is where in it, and what of it must fit together before anything starts.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{ErrorKind, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf, absolute},
};

use attesta_authority::{Kek, KekError, draw};
use attesta_runtime::socket;
use attesta_store::{Backend, Memory, OpenRecords, Sqlite};

use crate::output::Failure;

/// The ledger.
const LEDGER: &str = "attesta.db";
/// The key-encryption key.
const KEY: &str = "attesta.key";
/// The port that was chosen once.
const PORT: &str = "server.port";

/// A data directory; an ephemeral one goes when this is dropped.
pub(super) struct Place {
    dir: PathBuf,
    ephemeral: bool,
}

impl Place {
    /// The directory at `dir`, made with mode 0755 where there is none: the Workload API's socket is for every user, and
    /// what is secret in it has its own mode.
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        let fail = |e: std::io::Error| {
            Failure::file("use the data directory", dir, &e)
                .with_hint("choose another with --data-dir")
        };
        let dir_absolute = absolute(dir).map_err(fail)?;
        if let Some(parent) = dir_absolute.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(fail)?;
        }
        match DirBuilder::new().mode(0o755).create(&dir_absolute) {
            // Whatever the umask is.
            Ok(()) => {
                fs::set_permissions(&dir_absolute, Permissions::from_mode(0o755)).map_err(fail)?
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(fail(e)),
        }
        socket::own_directory(&dir_absolute).map_err(|e| Failure::failed(e.to_string()))?;
        Ok(Self {
            dir: dir_absolute,
            ephemeral: false,
        })
    }

    /// A new directory under the system's for temporary files.
    pub(super) fn ephemeral() -> Result<Self, Failure> {
        let random: [u8; 6] = draw::bytes().map_err(|e| Failure::failed(e.to_string()))?;
        let dir = std::env::temp_dir().join(format!("attesta-{}", hex::encode(random)));
        let fail = |e: std::io::Error| {
            Failure::file("make the temporary directory", &dir, &e)
                .with_hint("TMPDIR names another parent for it")
        };
        // Not recursive, so that nobody has put something there before.
        DirBuilder::new().mode(0o755).create(&dir).map_err(fail)?;
        let place = Self {
            dir: dir.clone(),
            ephemeral: true,
        };
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).map_err(fail)?;
        socket::own_directory(&dir).map_err(|e| Failure::failed(e.to_string()))?;
        Ok(place)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The ledger's backend and the key-encryption key. A key is made only where there is no ledger yet, so that a lost
    /// key is never replaced by one that opens nothing.
    pub(super) fn state(&self) -> anyhow::Result<(Kek, Box<dyn Backend>, OpenRecords)> {
        if self.ephemeral {
            let memory = Memory::new();
            let records = memory.records();
            return Ok((Kek::ephemeral()?, Box::new(memory), records));
        }
        let (ledger, key) = (self.path(LEDGER), self.path(KEY));
        let (kek, sqlite) = if ledger.symlink_metadata().is_ok() {
            // What is wrong with the file is said first: a foreign one never had a key.
            let sqlite = Sqlite::open(&ledger)?;
            (
                Kek::open(&key, false).map_err(|e| lost(e, &ledger))?,
                sqlite,
            )
        } else {
            // The key first: a crash in between leaves a key without a ledger, which the next start takes.
            (Kek::open(&key, true)?, Sqlite::open(&ledger)?)
        };
        let records = sqlite.records();
        Ok((kek, Box::new(sqlite), records))
    }

    /// Where to listen: what was asked for; where that leaves the port open, the one of before if it is still free.
    pub(super) fn listen(&self, asked: Option<SocketAddr>) -> SocketAddr {
        let mut listen = asked.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        if listen.port() == 0
            && let Some(port) = self.port()
        {
            let before = SocketAddr::new(listen.ip(), port);
            if TcpListener::bind(before).is_ok() {
                listen = before;
            }
        }
        listen
    }

    /// Keeps the port for the next start.
    pub(super) fn remember(&self, address: Option<SocketAddr>) {
        let Some(port) = address.map(|a| a.port()).filter(|_| !self.ephemeral) else {
            return;
        };
        match self.port() {
            Some(before) if before == port => return,
            Some(before) => tracing::warn!(
                before,
                port,
                "listening on another port than before; agents elsewhere have to be told"
            ),
            None => {}
        }
        if let Err(e) = write(&self.path(PORT), format!("{port}\n").as_bytes(), 0o644) {
            tracing::warn!(error = %e, "the port could not be kept for the next start");
        }
    }

    fn port(&self) -> Option<u16> {
        fs::read_to_string(self.path(PORT))
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.ephemeral
            && let Err(e) = fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(path = %self.dir.display(), error = %e, "the temporary directory stays");
        }
    }
}

fn lost(error: KekError, ledger: &Path) -> anyhow::Error {
    match &error {
        KekError::Io { path, source } if source.kind() == ErrorKind::NotFound => Failure::failed(format!("key file {} is missing", path.display()))
            .with_cause(format!("the authorities in {} are sealed under it; no new ones are made in their place", ledger.display()))
            .with_hint("put the key file back from where it is kept; or move the ledger away to begin anew, as a trust domain nobody trusts yet")
            .into(),
        _ => error.into(),
    }
}

/// Writes a file whole or not at all: beside it, then renamed.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ephemeral_place_goes_and_a_port_is_kept() {
        let place = Place::ephemeral().unwrap();
        let dir = place.dir().to_owned();
        assert_eq!(
            fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o755
        );
        let kept = Place::open(&dir.join("kept")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(kept.listen(None), address);
        let other = TcpListener::bind(address).unwrap();
        let taken = other.local_addr().unwrap();
        kept.remember(Some(taken));
        assert_eq!(kept.listen(None).port(), 0, "taken by another");
        drop(other);
        assert_eq!(kept.listen(None), taken);
        assert_eq!(
            kept.listen(Some(SocketAddr::from(([127, 0, 0, 1], 7))))
                .port(),
            7,
            "what was asked for wins"
        );
        drop(place);
        assert!(!dir.exists());
    }

    #[test]
    fn a_lost_key_is_not_replaced_and_a_foreign_file_stays() {
        let outer = Place::ephemeral().unwrap();
        let place = Place::open(&outer.path("d")).unwrap();
        drop(place.state().unwrap());
        fs::remove_file(place.path(KEY)).unwrap();
        let error = place.state().err().unwrap();
        assert!(error.to_string().contains("is missing"), "{error}");
        assert!(!place.path(KEY).exists());

        let foreign = Place::open(&outer.path("f")).unwrap();
        fs::write(foreign.path(LEDGER), "my diary, not a database at all").unwrap();
        let error = foreign.state().err().unwrap().to_string();
        assert!(
            error.contains("this is no ledger") && error.contains("move it away"),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(foreign.path(LEDGER)).unwrap(),
            "my diary, not a database at all"
        );
        assert!(!foreign.path(KEY).exists());
    }
}
