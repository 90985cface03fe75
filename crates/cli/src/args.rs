//! What the command line says for every command: how to answer, and where the sockets are.
//!
//! Must not know what any command does.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

/// The flags that every command has.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// How results, and errors on stderr, are written
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Global options"
    )]
    pub(crate) output: Output,
    /// The admin socket: a path, with or without `unix:`
    #[arg(
        long,
        global = true,
        env = "ATTESTA_ADMIN",
        value_name = "SOCKET",
        help_heading = "Global options"
    )]
    pub(crate) admin: Option<String>,
    /// The Workload API's socket: a path, with or without `unix:`
    #[arg(
        long,
        global = true,
        env = "SPIFFE_ENDPOINT_SOCKET",
        value_name = "SOCKET",
        help_heading = "Global options"
    )]
    pub(crate) workload_api: Option<String>,
    /// The directory of everything that is kept, and of the sockets
    #[arg(
        long,
        global = true,
        env = "ATTESTA_DATA_DIR",
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) data_dir: Option<PathBuf>,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON value, or one a line where it is a stream.
    Json,
}

impl Global {
    /// The directory that was named, else the platform's.
    pub(crate) fn directory(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(default_dir)
    }

    /// The server's admin socket: the one that was named, else `admin.sock` in the directory.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        named(self.admin.as_deref()).unwrap_or_else(|| self.directory().join(ADMIN_SOCKET))
    }

    /// The Workload API's socket: the one that was named, else `workload.sock` in the directory. An address that is
    /// not a unix socket's comes back as it was written; `ask` checks addresses by C166-C168.
    pub(crate) fn workload_socket(&self) -> PathBuf {
        named(self.workload_api.as_deref())
            .unwrap_or_else(|| self.directory().join(WORKLOAD_SOCKET))
    }

    /// The agent's own admin socket, where `explain <pid>` asks: beside the Workload API's.
    pub(crate) fn agent_admin_socket(&self) -> PathBuf {
        self.workload_socket().with_file_name(AGENT_ADMIN_SOCKET)
    }
}

/// The Workload API's socket, in the data directory.
pub(crate) const WORKLOAD_SOCKET: &str = "workload.sock";
/// The server's admin socket, in the data directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";
/// The agent's own admin socket, in the data directory.
pub(crate) const AGENT_ADMIN_SOCKET: &str = "agent-admin.sock";

/// Where things are kept when nobody says: `/var/lib/attesta` for root, else `$XDG_STATE_HOME/attesta`, else
/// `~/.local/state/attesta`; without a home, `attesta` in the working directory.
pub(crate) fn default_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/attesta");
    }
    // The XDG specification has relative paths ignored.
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map_or_else(|| PathBuf::from("attesta"), |state| state.join("attesta"))
}

fn named(address: Option<&str>) -> Option<PathBuf> {
    address
        .filter(|address| !address.is_empty())
        .map(socket_path)
}

/// The path of `unix:/path`, `unix:///path` or `/path`.
pub(crate) fn socket_path(address: &str) -> PathBuf {
    let path = address.strip_prefix("unix:").unwrap_or(address);
    // `unix://` with an empty authority is the same address.
    Path::new(
        path.strip_prefix("//")
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(path),
    )
    .to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_flag_then_by_directory() {
        let global = |admin: Option<&str>, dir: Option<&str>| Global {
            output: Output::Text,
            admin: admin.map(str::to_owned),
            workload_api: admin.map(str::to_owned),
            data_dir: dir.map(PathBuf::from),
        };
        for (admin, dir, expect) in [
            (Some("unix:/a/b.sock"), None, "/a/b.sock"),
            (Some("unix:///a/b.sock"), Some("/d"), "/a/b.sock"),
            (Some("/a/b.sock"), None, "/a/b.sock"),
            (Some("b.sock"), None, "b.sock"),
            (Some(""), Some("/d"), "/d/admin.sock"),
            (None, Some("/d"), "/d/admin.sock"),
        ] {
            assert_eq!(
                global(admin, dir).admin_socket(),
                Path::new(expect),
                "{admin:?} {dir:?}"
            );
        }
        assert_eq!(
            global(None, Some("/d")).workload_socket(),
            Path::new("/d/workload.sock")
        );
        assert_eq!(
            global(None, Some("/d")).agent_admin_socket(),
            Path::new("/d/agent-admin.sock")
        );
    }
}
