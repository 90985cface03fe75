//! Unix sockets in a directory that only the owner can write: made under a temporary name, then renamed, so that a
//! socket is never there without its mode; a live one is never taken over.
//!
//! Must not know what is served on them.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use attesta_runtime::Clock;
use tokio::net::{UnixListener, UnixStream};

/// The longest path a unix socket can have, in bytes (`sun_path` less its final zero).
pub const MAX_PATH_BYTES: usize = 107;
/// How long a socket that is there may take to answer before it counts as live.
const PROBE: Duration = Duration::from_secs(1);

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into a socket address.
    #[error("socket path {} has {len} bytes; at most {MAX_PATH_BYTES} are possible, choose a shorter directory", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// The path names no file in a directory.
    #[error("socket path {} names no file in a directory", .0.display())]
    NoName(PathBuf),
    /// Others could replace the socket.
    #[error("directory {} of the socket {why}; {hint}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// The way out.
        hint: &'static str,
    },
    /// Another process listens there.
    #[error("socket {} is in use by a running process; stop that one or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{} is there and is no socket; it is not replaced", .0.display())]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("socket {}: cannot {what}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A socket that is listened on; its file goes with it, if it is still this one's.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

impl Listening {
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // Nothing can be done about one that stays; the next start replaces it.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Listens on `path`, with this mode. A missing directory is made with mode 0755.
///
/// # Errors
/// See [`SocketError`].
pub(crate) async fn listen(
    path: &Path,
    mode: u32,
    clock: &Clock,
) -> Result<Listening, SocketError> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(SocketError::NoName(path.to_owned()));
    };
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let fail = |what, source| SocketError::Io {
        path: path.to_owned(),
        what,
        source,
    };
    let temporary = directory.join(temporary(name.len()));
    let len = path.as_os_str().len().max(temporary.as_os_str().len());
    if len > MAX_PATH_BYTES {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
            len,
        });
    }
    check_directory(directory)?;
    check_free(path, clock).await?;
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(fail("remove what an earlier start left", e));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&temporary).map_err(|e| fail("bind", e))?;
    let published = fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| identity(path));
    match published {
        Ok(file) => Ok(Listening {
            listener,
            path: path.to_owned(),
            file,
        }),
        Err(e) => {
            drop(fs::remove_file(&temporary));
            Err(fail("publish", e))
        }
    }
}

/// A name of this process beside the socket, no longer than the socket's own where that is possible.
fn temporary(len: usize) -> String {
    let mut name = format!(".s{:x}", std::process::id());
    name.truncate(len.max(4));
    name
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

/// Whoever can write the directory can put another socket there and be asked for identities.
fn check_directory(directory: &Path) -> Result<(), SocketError> {
    let fail = |source| SocketError::Io {
        path: directory.to_owned(),
        what: "use its directory",
        source,
    };
    let refuse = |why, hint| {
        Err(SocketError::Directory {
            directory: directory.to_owned(),
            why,
            hint,
        })
    };
    let metadata = match fs::symlink_metadata(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(fail)?;
            fs::symlink_metadata(directory)
        }
        found => found,
    }
    .map_err(fail)?;
    if metadata.is_symlink() {
        return refuse("is a symbolic link", "name the directory itself");
    }
    if !metadata.is_dir() {
        return refuse("is no directory", "choose another path");
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return refuse(
            "belongs to another user",
            "use a directory of the user that runs this",
        );
    }
    if metadata.mode() & 0o022 != 0 {
        return refuse(
            "can be written by others than its owner",
            "chmod go-w it, or use a directory of its own",
        );
    }
    Ok(())
}

/// That nobody listens there. What a process that is gone has left may be replaced.
async fn check_free(path: &Path, clock: &Clock) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(SocketError::Io {
                path: path.to_owned(),
                what: "look at it",
                source,
            });
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match clock.timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(e))
            if matches!(
                e.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        // It answers, or is too busy to: somebody is there.
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    async fn bind(path: &Path) -> Result<Listening, SocketError> {
        listen(path, 0o777, &Clock::system()).await
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_with_its_listener() {
        let dir = directory();
        let path = dir.path().join("a").join("workload.sock");
        let listening = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o777);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777,
            0o755
        );
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no temporary name is left"
        );
        UnixStream::connect(listening.path()).await.unwrap();
        drop(listening);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
        let dir = directory();
        let path = dir.path().join("s");
        let live = bind(&path).await.unwrap();
        assert!(matches!(bind(&path).await, Err(SocketError::InUse(_))));
        drop(live);
        // What kill -9 leaves: the file without its listener.
        let stale = dir.path().join("t");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        let new = bind(&stale).await.unwrap();
        UnixStream::connect(new.path()).await.unwrap();
        // One that was replaced meanwhile is not removed with us.
        fs::remove_file(&stale).unwrap();
        fs::write(&stale, "another").unwrap();
        drop(new);
        assert!(stale.exists());
        assert!(matches!(bind(&stale).await, Err(SocketError::NoSocket(_))));
    }

    #[tokio::test]
    async fn directories_that_others_can_change_are_refused() {
        let dir = directory();
        let real = dir.path().join("real");
        fs::create_dir(&real).unwrap();
        for mode in [0o775, 0o757, 0o1777] {
            fs::set_permissions(&real, fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(
                    bind(&real.join("s")).await,
                    Err(SocketError::Directory { .. })
                ),
                "{mode:o}"
            );
        }
        fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let error = bind(&link.join("s")).await.unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        bind(&real.join("s")).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_does_not_fit_is_said_to_be_too_long() {
        let dir = directory();
        let long = dir.path().join("x".repeat(MAX_PATH_BYTES));
        let error = bind(&long.join("s")).await.unwrap_err();
        assert!(
            matches!(error, SocketError::TooLong { len, .. } if len > MAX_PATH_BYTES),
            "{error}"
        );
        assert!(!long.exists());
        let base = dir.path().as_os_str().len();
        let fits = dir.path().join("y".repeat(MAX_PATH_BYTES - base - 1));
        bind(&fits).await.unwrap();
    }
}
