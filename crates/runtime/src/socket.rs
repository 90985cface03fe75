//! Unix sockets that nobody else can put in our place: made in a directory that only its owner can write, under a
//! temporary name, then renamed. A socket that someone listens on is never taken over.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

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

/// Listens on a unix socket with this mode. Must be called inside a tokio runtime.
///
/// # Errors
/// [`SocketError`]; whatever was there before is untouched.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
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
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    own_directory(directory)?;
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(io(e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => match StdStream::connect(path) {
            Ok(live) => {
                let pid = rustix::net::sockopt::socket_peercred(&live)
                    .ok()
                    .map(|c| c.pid.as_raw_nonzero().get());
                return Err(SocketError::InUse {
                    path: path.to_owned(),
                    pid,
                });
            }
            // Refused: its process is gone. Anything else is somebody else's.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(io(e)),
        },
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    let listener = StdListener::bind(&temporary).map_err(io)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).map_err(io)?;
    fs::rename(&temporary, path).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    UnixListener::from_std(listener).map_err(io)
}

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

    #[tokio::test]
    async fn a_live_socket_stays_and_a_stale_one_goes() {
        let dir = directory("live");
        let path = dir.join("s.sock");
        let first = bind(&path, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        match bind(&path, 0o660) {
            Err(SocketError::InUse { pid, .. }) => {
                assert_eq!(pid, i32::try_from(std::process::id()).ok())
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        drop(bind(&path, 0o777).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert!(matches!(
            bind(&path, 0o660),
            Err(SocketError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_others_can_change_is_refused() {
        let dir = directory("open");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            bind(&dir.join("s.sock"), 0o660)
                .unwrap_err()
                .to_string()
                .contains("chmod go-w")
        );
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(matches!(
            bind(&dir.join("s.sock"), 0o660),
            Err(SocketError::Directory { .. })
        ));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let link = dir.join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(matches!(
            bind(&link.join("s.sock"), 0o660),
            Err(SocketError::Directory { .. })
        ));
        assert!(matches!(
            bind(&dir.join("x".repeat(120)), 0o660),
            Err(SocketError::TooLong { .. })
        ));
        fs::remove_dir_all(dir).unwrap();
    }
}
