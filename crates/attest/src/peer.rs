//! The process on the other end of a unix socket, held so that its pid cannot become another's.
//!
//! Knows nothing of facts. What `/proc/PID` says is believed only if the held process was still
//! there after it was read: then the pid was its own all the while.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use attesta_model::Instance;
use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::parse::{self, ParseError};

/// Longest file below `/proc/PID` that is read, in bytes: 65,536 supplementary groups fit.
const PROC_BYTES: u64 = 1 << 20;

/// Why a peer cannot be held or described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The process has ended, so nobody can say what it was.
    #[error("the process that connected has ended")]
    Gone,
    /// The kernel gives its pid as 0.
    #[error(
        "the process that connected lives in a pid namespace that is not visible from here; \
         run the agent in the host's pid namespace (hostPID)"
    )]
    OtherNamespace,
    /// Not a connected unix socket.
    #[error("the socket is no connected unix socket, so it has no peer process")]
    NotUnix,
    /// The process executed another program after it had connected.
    #[error("the process executed another program since it connected; it has to connect again")]
    Executed,
    /// The process changed its user or group after it had connected.
    #[error("the process changed its user or group since it connected; it has to connect again")]
    ChangedUser,
    /// The socket did not say who its peer is.
    #[error("the socket does not say who connected: {0}")]
    Socket(String),
    /// A file below `/proc` is not readable though the process lives.
    #[error("/proc/{pid}/{file}: {why}")]
    Unreadable {
        /// The process.
        pid: u32,
        /// The file.
        file: &'static str,
        /// Why it was not read.
        why: String,
    },
}

/// Which file a program is: two files on one machine never share it while both are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
        }
    }
}

/// A process that connected, held by a pidfd. Cheap to clone; the hold ends with the last clone.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Held>);

#[derive(Debug)]
struct Held {
    pid: u32,
    uid: u32,
    gid: u32,
    pidfd: OwnedFd,
    start: u64,
    boot: Arc<str>,
    /// The program when it was first seen; none where this agent may not look.
    program: Option<FileId>,
}

impl Peer {
    /// Holds whoever connected this unix socket.
    ///
    /// By `SO_PEERPIDFD` (Linux 6.5), which cannot miss. On older kernels by `pidfd_open` on the
    /// pid of `SO_PEERCRED`, with the start time read before and after: that finds a pid reused
    /// while it is being opened; one reused before that, in the time between connect and this
    /// call, must also pass for the same user and group when it is attested.
    ///
    /// # Errors
    /// [`PeerError`]; `Gone` when the process has ended since it connected.
    pub fn of(socket: &impl AsFd) -> Result<Self, PeerError> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials).map_err(|e| match e {
            Errno::ENOTSOCK | Errno::ENOPROTOOPT | Errno::ENOTCONN => PeerError::NotUnix,
            e => PeerError::Socket(e.to_string()),
        })?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let pid = match u32::try_from(credentials.pid()) {
            // What an unconnected or a TCP socket answers.
            Ok(0) if uid == u32::MAX => return Err(PeerError::NotUnix),
            Ok(0) => return Err(PeerError::OtherNamespace),
            Ok(pid) => pid,
            Err(_) => return Err(PeerError::NotUnix),
        };
        match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => Self::held(pid, uid, gid, pidfd),
            Err(Errno::ENOPROTOOPT) => Self::opened(pid, uid, gid),
            // What kernels say of a peer that was reaped: 6.5, and later ones.
            Err(Errno::EINVAL | Errno::ESRCH | Errno::ENODATA) => Err(PeerError::Gone),
            Err(e) => Err(PeerError::Socket(e.to_string())),
        }
    }

    /// Holds a process that did not connect, as it is now: for an administrator who asks about it. What it is told of
    /// is the process that has this pid at this moment; nothing is ever issued to it.
    ///
    /// # Errors
    /// [`PeerError`]; `Gone` when there is no such process.
    pub fn by_pid(pid: u32) -> Result<Self, PeerError> {
        let status = parse::status(&read(pid, "status")?).map_err(|e| PeerError::from((pid, e)))?;
        Self::opened(pid, status.uid, status.gid)
    }

    /// The way of kernels before 6.5.
    fn opened(pid: u32, uid: u32, gid: u32) -> Result<Self, PeerError> {
        let before = stat(pid)?;
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(PeerError::Gone)?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::SRCH => PeerError::Gone,
            e => PeerError::Socket(e.to_string()),
        })?;
        let peer = Self::held(pid, uid, gid, pidfd)?;
        if peer.0.start == before.start {
            Ok(peer)
        } else {
            Err(PeerError::Gone)
        }
    }

    fn held(pid: u32, uid: u32, gid: u32, pidfd: OwnedFd) -> Result<Self, PeerError> {
        let seen = stat(pid);
        let program = program(pid);
        if !is_alive(&pidfd) {
            return Err(PeerError::Gone);
        }
        let (start, program) = (seen?.start, program?);
        Ok(Self(Arc::new(Held {
            pid,
            uid,
            gid,
            pidfd,
            start,
            boot: boot()?,
            program,
        })))
    }

    /// Its process id, in this process's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Its effective user id when it connected.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Its effective group id when it connected.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.0.gid
    }

    /// Its start time in clock ticks since boot.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.0.start
    }

    /// The kernel's boot id.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.0.boot
    }

    /// The process as what a credential is bound to.
    #[must_use]
    pub fn instance(&self) -> Instance {
        Instance::Process {
            boot: Arc::clone(&self.0.boot),
            pid: self.0.pid,
            start: self.0.start,
        }
    }

    /// Whether it still runs. Never blocks; a zombie does not run.
    #[must_use]
    pub fn alive(&self) -> bool {
        is_alive(&self.0.pidfd)
    }

    /// Returns when the process has ended. Needs a tokio runtime with IO, and one file descriptor
    /// while it waits.
    ///
    /// # Errors
    /// [`PeerError::Socket`] when it cannot be waited for (no descriptor left, say); the caller
    /// may ask [`Peer::alive`] instead.
    pub async fn gone(&self) -> Result<(), PeerError> {
        let fail = |e: io::Error| PeerError::Socket(e.to_string());
        // A descriptor of its own, because epoll takes each only once and several may wait.
        let pidfd = self.0.pidfd.try_clone().map_err(fail)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps the promise that is asked for there: \
                      it stays open and the same until it is dropped"
        )]
        let waiting = AsyncFd::with_interest(pidfd, Interest::READABLE).map_err(fail)?;
        while self.alive() {
            waiting.readable().await.map_err(fail)?.clear_ready();
        }
        Ok(())
    }

    /// That it is alive and runs the program with which it connected.
    ///
    /// Without this, whoever holds a copy of the connection could connect, execute a trusted
    /// program under the same pid, and be handed that program's identity.
    ///
    /// # Errors
    /// [`PeerError::Gone`], [`PeerError::Executed`], or `Unreadable`.
    pub fn unchanged(&self) -> Result<(), PeerError> {
        let program = program(self.0.pid);
        if !self.alive() {
            return Err(PeerError::Gone);
        }
        // INVARIANT: not looking alike includes "could not be looked at before, can be now".
        if program? == self.0.program {
            Ok(())
        } else {
            Err(PeerError::Executed)
        }
    }

    /// The program with which it connected.
    pub(crate) fn program(&self) -> Option<FileId> {
        self.0.program
    }

    /// The path of one of its files below `/proc`. Whoever reads it asks [`Peer::alive`] after.
    pub(crate) fn proc(&self, file: &str) -> PathBuf {
        proc(self.0.pid, file)
    }

    /// Reads a file below `/proc/PID`, then makes sure that it was this process's.
    pub(crate) fn read(&self, file: &'static str) -> Result<Vec<u8>, PeerError> {
        let read = read(self.0.pid, file);
        if self.alive() {
            read
        } else {
            Err(PeerError::Gone)
        }
    }

    /// An error that names a file of this process.
    pub(crate) fn unreadable(&self, file: &'static str, why: impl ToString) -> PeerError {
        PeerError::Unreadable {
            pid: self.0.pid,
            file,
            why: why.to_string(),
        }
    }
}

impl From<(u32, ParseError)> for PeerError {
    fn from((pid, e): (u32, ParseError)) -> Self {
        Self::Unreadable {
            pid,
            file: e.file,
            why: e.to_string(),
        }
    }
}

pub(crate) fn proc(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

fn read(pid: u32, file: &'static str) -> Result<Vec<u8>, PeerError> {
    let mut text = Vec::new();
    let read = File::open(proc(pid, file)).and_then(|f| f.take(PROC_BYTES).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(e) => Err(PeerError::Unreadable {
            pid,
            file,
            why: e.to_string(),
        }),
    }
}

/// Anyone's start time and parent; the caller makes sure that the pid was not reused.
pub(crate) fn stat(pid: u32) -> Result<parse::Stat, PeerError> {
    parse::stat(&read(pid, "stat")?).map_err(|e| (pid, e).into())
}

/// Which file a process runs; none where this process may not look, or where there is none.
fn program(pid: u32) -> Result<Option<FileId>, PeerError> {
    match std::fs::metadata(proc(pid, "exe")) {
        Ok(metadata) => Ok(Some(FileId::of(&metadata))),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(PeerError::Unreadable {
            pid,
            file: "exe",
            why: e.to_string(),
        }),
    }
}

fn is_alive(pidfd: &OwnedFd) -> bool {
    loop {
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match rustix::event::poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        ) {
            Ok(0) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return false,
        }
    }
}

fn boot() -> Result<Arc<str>, PeerError> {
    static BOOT: OnceLock<Arc<str>> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(Arc::clone(boot));
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|e| PeerError::Socket(format!("/proc/sys/kernel/random/boot_id: {e}")))?;
    Ok(Arc::clone(BOOT.get_or_init(|| text.trim().into())))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
        process::{Child, Command},
    };

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn a_pair_is_held_by_its_maker() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(&a).unwrap();
        assert_eq!(peer.pid(), std::process::id());
        assert_eq!(peer.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid(), rustix::process::getegid().as_raw());
        assert!(peer.alive());
        assert_eq!(peer.unchanged(), Ok(()));
        let Instance::Process { boot, pid, start } = peer.instance() else {
            panic!("a process")
        };
        assert!(Instance::process(&boot, pid, start).is_ok());
        assert_eq!((start, &*boot), (peer.start(), peer.boot()));
    }

    #[test]
    fn sockets_without_a_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(Peer::of(&tcp).unwrap_err(), PeerError::NotUnix);
        assert_eq!(
            Peer::of(&File::open("/dev/null").unwrap()).unwrap_err(),
            PeerError::NotUnix
        );
    }

    #[test]
    fn the_old_way_holds_too() {
        let mut child = sleeper();
        let peer = Peer::opened(child.id(), 0, 0).unwrap();
        assert!(peer.alive());
        assert!(peer.read("status").is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!peer.alive());
        assert_eq!(peer.read("status"), Err(PeerError::Gone));
        assert_eq!(peer.unchanged(), Err(PeerError::Gone));
        assert!(Peer::opened(child.id(), 0, 0).is_err());
    }

    #[test]
    fn a_zombie_does_not_run() {
        let mut child = sleeper();
        let peer = Peer::opened(child.id(), 0, 0).unwrap();
        child.kill().unwrap();
        while peer.alive() {
            std::thread::yield_now();
        }
        // Not reaped yet, so /proc still has it, and it is not described any more.
        assert!(peer.proc("stat").exists());
        assert_eq!(peer.read("stat"), Err(PeerError::Gone));
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn its_end_is_noticed_by_all_who_wait() {
        let mut child = sleeper();
        let peer = Peer::opened(child.id(), 0, 0).unwrap();
        let other = peer.clone();
        let ((), first, second) = tokio::join!(
            async {
                tokio::task::yield_now().await;
                child.kill().unwrap();
            },
            peer.gone(),
            other.gone()
        );
        assert_eq!((first, second), (Ok(()), Ok(())));
        child.wait().unwrap();
        assert_eq!(peer.gone().await, Ok(()));
    }
}
