//! Unix sockets that nobody else can put in our place: made in a directory that only its owner can write, under a
//! temporary name, then renamed. A socket that someone listens on is never taken over.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::{UnixListener, UnixStream};

use crate::Clock;

/// Longest path of a unix socket on Linux, in bytes (`sun_path`, with its NUL).
pub const PATH_MAX: usize = 107;

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit.
    #[error(
        "socket path {path} has {len} bytes; Linux allows {PATH_MAX}. Choose a shorter data directory"
    )]
    TooLong {
        /// Which path.
        path: PathBuf,
        /// How long it is.
        len: usize,
    },
    /// Someone listens there.
    #[error("socket {path} is in use by a live process{}. Stop it first, or choose another path", .pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    InUse {
        /// Which path.
        path: PathBuf,
        /// Who listens, where the kernel tells.
        pid: Option<i32>,
    },
    /// Something else is there.
    #[error(
        "{path} exists and is no socket; it is left alone. Move it away, or choose another path"
    )]
    NotASocket {
        /// Which path.
        path: PathBuf,
    },
    /// Others could replace the socket.
    #[error("directory {path} {why}: others could put their own socket in place of ours. {hint}")]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do.
        hint: String,
    },
    /// The system refused.
    #[error("socket {path}: {source}")]
    Io {
        /// Which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that is listened on; its file goes with it, if it is still this one's.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

impl Listening {
    /// To accept on.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where.
    #[must_use]
    pub fn path(&self) -> &Path {
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

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

/// Listens on a unix socket with this mode. A missing directory is made with mode 0755.
///
/// # Errors
/// [`SocketError`]; whatever was there before is untouched.
pub async fn listen(path: &Path, mode: u32, clock: &Clock) -> Result<Listening, SocketError> {
    let io = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let len = path.as_os_str().len();
    // The temporary name is a little longer than the final one.
    if len + TEMPORARY.len() > PATH_MAX {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
            len,
        });
    }
    if path.file_name().is_none() {
        return Err(SocketError::NotASocket {
            path: path.to_owned(),
        });
    }
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    own_directory(directory)?;
    check_free(path, clock).await?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary).map_err(io)?;
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
            Err(io(e))
        }
    }
}

/// That nobody listens there. What a process that is gone has left may be replaced.
async fn check_free(path: &Path, clock: &Clock) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(SocketError::Io {
                path: path.to_owned(),
                source,
            });
        }
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match clock.timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(e)) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
            Ok(())
        }
        // It answers, or is too busy to: somebody is there.
        answer => {
            let live = answer.ok().and_then(Result::ok);
            let pid = live
                .and_then(|s| rustix::net::sockopt::socket_peercred(&s).ok())
                .map(|c| c.pid.as_raw_nonzero().get());
            Err(SocketError::InUse {
                path: path.to_owned(),
                pid,
            })
        }
    }
}

/// How long a socket that is there may take to answer before it counts as live.
const PROBE: Duration = Duration::from_secs(1);
const TEMPORARY: &str = ".new";

/// Makes a directory (mode 0755) if there is none, and checks that only its owner, us or root, can change what is in it.
///
/// # Errors
/// [`SocketError::Directory`], with the way out.
pub fn own_directory(directory: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io {
        path: directory.to_owned(),
        source,
    };
    match fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
    {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(io(e)),
        _ => {}
    }
    let refuse = |path: &Path, why: String, hint: String| {
        Err(SocketError::Directory {
            path: path.to_owned(),
            why,
            hint,
        })
    };
    if fs::symlink_metadata(directory)
        .map_err(io)?
        .file_type()
        .is_symlink()
    {
        return refuse(
            directory,
            "is a symbolic link".to_owned(),
            "Name the directory it points to".to_owned(),
        );
    }
    let me = rustix::process::geteuid().as_raw();
    let real = fs::canonicalize(directory).map_err(io)?;
    for (depth, ancestor) in real.ancestors().enumerate() {
        let meta = fs::symlink_metadata(ancestor).map_err(io)?;
        if meta.uid() != me && meta.uid() != 0 {
            return refuse(
                ancestor,
                format!("belongs to uid {}", meta.uid()),
                "Choose a directory of your own".to_owned(),
            );
        }
        // In a sticky directory (as /tmp) nobody renames what is another's: good enough above, not for the socket itself.
        let sticky = meta.mode() & 0o1000 != 0;
        if meta.mode() & 0o022 != 0 && (depth == 0 || !sticky) {
            let hint = format!(
                "Run `chmod go-w {}`, or choose another directory",
                ancestor.display()
            );
            return refuse(
                ancestor,
                format!("has mode {:04o}", meta.mode() & 0o7777),
                hint,
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("attesta-socket-{}-{name}", std::process::id()));
        fs::remove_dir_all(&dir).ok();
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    async fn bind(path: &Path, mode: u32) -> Result<Listening, SocketError> {
        listen(path, mode, &Clock::system()).await
    }

    #[tokio::test]
    async fn a_live_socket_stays_and_a_stale_one_goes() {
        let dir = directory("live");
        let path = dir.join("made").join("s.sock");
        let first = bind(&path, 0o660).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777,
            0o755
        );
        match bind(&path, 0o660).await {
            Err(SocketError::InUse { pid, .. }) => {
                assert_eq!(pid, i32::try_from(std::process::id()).ok())
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(!path.exists(), "it goes with its listener");
        // What a killed process leaves.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind(&path, 0o777).await.unwrap());
        fs::write(&path, "a file").unwrap();
        assert!(matches!(
            bind(&path, 0o660).await,
            Err(SocketError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_another_put_there_is_left() {
        let dir = directory("other");
        let path = dir.join("s.sock");
        let first = bind(&path, 0o660).await.unwrap();
        fs::remove_file(&path).unwrap();
        let second = bind(&path, 0o660).await.unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_others_can_change_is_refused() {
        let dir = directory("open");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            bind(&dir.join("s.sock"), 0o660)
                .await
                .unwrap_err()
                .to_string()
                .contains("chmod go-w")
        );
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(matches!(
            bind(&dir.join("s.sock"), 0o660).await,
            Err(SocketError::Directory { .. })
        ));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let link = dir.join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(matches!(
            bind(&link.join("s.sock"), 0o660).await,
            Err(SocketError::Directory { .. })
        ));
        assert!(matches!(
            bind(&dir.join("x".repeat(120)), 0o660).await,
            Err(SocketError::TooLong { .. })
        ));
        fs::remove_dir_all(dir).unwrap();
    }
}
