//! The `unix` attestor against real processes: copies of this very test program that connect, and
//! then do what an attacker would.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests; the child is told by its environment what to do"
)]

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use attesta_attest::{
    AttestError, Peer, PeerError,
    workload::{Observed, WorkloadSettings, Workloads, unix},
};
use aws_lc_rs::digest;

const SOCKET: &str = "ATTESTA_TEST_SOCKET";
const DEADLINE: Duration = Duration::from_secs(20);

/// Not a test: what a child runs. It connects, then obeys one line.
#[test]
#[ignore = "run by the other tests as a child process"]
fn child() {
    let Ok(socket) = std::env::var(SOCKET) else {
        return;
    };
    let stream = UnixStream::connect(socket).unwrap();
    // A copy of the connection outlives exec and fork, as an attacker would have it.
    let kept = rustix::io::dup(&stream).unwrap();
    rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).unwrap();
    let mut order = String::new();
    BufReader::new(&stream).read_line(&mut order).unwrap();
    match order.trim().split_once(' ') {
        Some(("exec", path)) => panic!("{}", Command::new(path).arg("60").exec()),
        Some(("setuid", uid)) => {
            nix::unistd::setuid(uid.parse::<u32>().unwrap().into()).unwrap();
            (&stream).write_all(b"!").unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
        _ => std::process::exit(0),
    }
}

/// A child that has connected, and its peer as the agent sees it.
struct Connected {
    child: Child,
    stream: UnixStream,
    peer: Peer,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Connected {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Connected {
    /// Runs a copy of this program with these bytes at its end, as this user.
    fn new(extra: &[u8], uid: Option<u32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("program");
        fs::copy("/proc/self/exe", &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(extra)
            .unwrap();
        Self::run(dir, path, uid)
    }

    fn run(dir: tempfile::TempDir, path: PathBuf, uid: Option<u32>) -> Self {
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new(&path);
        command.args([
            "--exact",
            "child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ]);
        command
            .env(SOCKET, &socket)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        // A program that was just written may still be open for writing in a sibling that forked.
        let child = loop {
            match command.spawn() {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now()
                }
                child => break child.unwrap(),
            }
        };
        let (stream, _) = listener.accept().unwrap();
        let peer = Peer::of(&stream).unwrap();
        assert_eq!(peer.pid(), child.id());
        Self {
            child,
            stream,
            peer,
            path,
            _dir: dir,
        }
    }

    fn order(&self, order: &str) {
        (&self.stream)
            .write_all(format!("{order}\n").as_bytes())
            .unwrap();
    }

    async fn attest(&self, settings: unix::Settings) -> Result<Observed, AttestError> {
        Workloads::new(&WorkloadSettings {
            unix: Some(settings),
        })
        .attest(&self.peer, DEADLINE)
        .await
    }

    async fn attest_all(&self) -> Result<Observed, AttestError> {
        self.attest(unix::Settings::default()).await
    }
}

fn sha256(path: &Path) -> String {
    hex::encode(digest::digest(&digest::SHA256, &fs::read(path).unwrap()))
}

fn one(observed: &Observed, key: &str) -> String {
    let fact = observed
        .facts
        .find("unix", key)
        .unwrap_or_else(|| panic!("no {key}: {:?}", observed.notes));
    fact.single().unwrap().to_owned()
}

fn note<'a>(observed: &'a Observed, fact: &str) -> &'a str {
    assert!(
        observed
            .facts
            .iter()
            .all(|f| format!("unix.{}", f.key()) != fact),
        "{fact} is there"
    );
    &observed.notes.iter().find(|n| n.fact == fact).unwrap().why
}

#[tokio::test]
async fn a_process_is_described() {
    let connected = Connected::new(b"", None);
    let seen = connected.attest_all().await.unwrap();
    assert_eq!(
        one(&seen, "uid"),
        rustix::process::geteuid().as_raw().to_string()
    );
    assert_eq!(
        one(&seen, "gid"),
        rustix::process::getegid().as_raw().to_string()
    );
    assert_eq!(one(&seen, "path"), connected.path.to_str().unwrap());
    assert_eq!(one(&seen, "sha256"), sha256(&connected.path));
    assert!(one(&seen, "cgroup").starts_with('/'));
    let me = fs::read_link("/proc/self/exe").unwrap();
    assert_eq!(one(&seen, "parent_path"), me.to_str().unwrap());
    assert!(seen.digest_facts().find("unix", "parent_path").is_none());
    assert_eq!(
        seen.digest_facts().iter().len() + 1,
        seen.facts.iter().len()
    );
    if rustix::process::geteuid().is_root() {
        assert_eq!(
            (one(&seen, "user"), one(&seen, "group")),
            ("root".to_owned(), "root".to_owned())
        );
    }
    // Asked again it is the same.
    let again = connected.attest_all().await.unwrap();
    assert_eq!(again.digest_facts(), seen.digest_facts());
}

#[tokio::test]
async fn another_user_is_another_caller() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: another user needs root");
        return;
    }
    let connected = Connected::new(b"", Some(65_534));
    let seen = connected.attest_all().await.unwrap();
    assert_eq!(
        (one(&seen, "uid"), one(&seen, "gid")),
        ("65534".to_owned(), "65534".to_owned())
    );
    // An id without a name has no name.
    let connected = Connected::new(b"", Some(54_321));
    let seen = connected.attest_all().await.unwrap();
    assert_eq!(one(&seen, "uid"), "54321");
    assert!(seen.facts.find("unix", "user").is_none());
}

#[tokio::test]
async fn other_bytes_at_the_same_path() {
    let good = Connected::new(b"", None);
    let path = good.path.clone();
    let before = good.attest_all().await.unwrap();
    // Replaced while it runs: the running one keeps its digest and has no path any more.
    let evil = good.path.with_extension("evil");
    fs::copy(&path, &evil).unwrap();
    OpenOptions::new()
        .append(true)
        .open(&evil)
        .unwrap()
        .write_all(b"evil")
        .unwrap();
    fs::rename(&evil, &path).unwrap();
    let running = good.attest_all().await.unwrap();
    assert_eq!(one(&running, "sha256"), one(&before, "sha256"));
    assert!(note(&running, "unix.path").contains("deleted or replaced"));
    // Started anew from that path it is another program.
    let dir = tempfile::tempdir().unwrap();
    let evil = Connected::run(dir, path.clone(), None);
    let seen = evil.attest_all().await.unwrap();
    assert_eq!(one(&seen, "path"), path.to_str().unwrap());
    assert_eq!(one(&seen, "sha256"), sha256(&path));
    assert_ne!(one(&seen, "sha256"), one(&before, "sha256"));
}

#[tokio::test]
async fn exec_after_connect_is_not_the_one_who_connected() {
    let connected = Connected::new(b"attacker", None);
    assert!(connected.attest_all().await.is_ok());
    let sleep = ["/bin/sleep", "/usr/bin/sleep"]
        .into_iter()
        .find(|p| Path::new(p).exists())
        .unwrap();
    connected.order(&format!("exec {sleep}"));
    let mine = fs::canonicalize(&connected.path).unwrap();
    let exe = format!("/proc/{}/exe", connected.peer.pid());
    // While it is being executed there is no program at all for a moment.
    while !fs::read_link(&exe).is_ok_and(|now| now != mine) {
        std::thread::yield_now();
    }
    assert!(connected.peer.alive());
    assert_eq!(
        connected.attest_all().await.unwrap_err(),
        AttestError::Peer(PeerError::Executed)
    );
}

#[tokio::test]
async fn setuid_after_connect_is_not_the_one_who_connected() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: another user needs root");
        return;
    }
    let connected = Connected::new(b"", None);
    connected.order("setuid 65534");
    (&connected.stream).read_exact(&mut [0]).unwrap();
    assert_eq!(
        connected.attest_all().await.unwrap_err(),
        AttestError::Peer(PeerError::ChangedUser)
    );
}

#[tokio::test]
async fn the_dead_are_not_described() {
    let mut connected = Connected::new(b"", None);
    connected.child.kill().unwrap();
    connected.peer.gone().await.unwrap();
    // A zombie still has its pid; after wait, anybody may get it.
    assert_eq!(
        connected.attest_all().await.unwrap_err(),
        AttestError::Peer(PeerError::Gone)
    );
    connected.child.wait().unwrap();
    assert!(!connected.peer.alive());
    assert_eq!(
        connected.attest_all().await.unwrap_err(),
        AttestError::Peer(PeerError::Gone)
    );
    // Its connection is still open here, and names nobody.
    assert_eq!(Peer::of(&connected.stream).unwrap_err(), PeerError::Gone);
}

#[tokio::test]
async fn an_executable_over_the_limit_has_no_digest() {
    let connected = Connected::new(b"", None);
    let size = fs::metadata(&connected.path).unwrap().len();
    let seen = connected
        .attest(unix::Settings {
            executable_limit: size - 1,
            ..unix::Settings::default()
        })
        .await
        .unwrap();
    assert!(note(&seen, "unix.sha256").contains(&format!("executable_limit is {}", size - 1)));
    assert_eq!(one(&seen, "path"), connected.path.to_str().unwrap());
}

#[tokio::test]
async fn a_path_that_cannot_be_a_fact_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evil\u{1b}[31m\nunix:uid:0");
    fs::copy("/proc/self/exe", &path).unwrap();
    let connected = Connected::run(dir, path, None);
    let seen = connected.attest_all().await.unwrap();
    let why = note(&seen, "unix.path");
    assert!(
        why.contains("control character") && !why.contains('\n') && !why.contains('\u{1b}'),
        "{why}"
    );
    assert_eq!(
        seen.facts
            .selectors()
            .iter()
            .filter(|s| s.starts_with("unix:uid:"))
            .count(),
        1
    );
}

/// Whoever has mounts of his own says there what he likes: the path names another file here.
#[tokio::test]
async fn a_path_from_other_mounts_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (program, trusted) = (dir.path().join("attacker"), dir.path().join("trusted"));
    fs::copy("/proc/self/exe", &program).unwrap();
    fs::write(&trusted, "the trusted program").unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let script = format!(
        "mount --bind {0} {1} && exec {1} --exact child --ignored --test-threads=1",
        program.display(),
        trusted.display()
    );
    let unshared = Command::new("unshare")
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status();
    if !unshared.is_ok_and(|s| s.success()) {
        println!("SKIPPED: a mount namespace needs root and unshare");
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script])
        .env(SOCKET, &socket)
        .stdout(Stdio::null());
    let child = command.spawn().unwrap();
    let (stream, _) = listener.accept().unwrap();
    let peer = Peer::of(&stream).unwrap();
    let connected = Connected {
        child,
        stream,
        peer,
        path: trusted,
        _dir: dir,
    };
    let seen = connected.attest_all().await.unwrap();
    assert!(note(&seen, "unix.path").contains("foreign_paths"));
    assert_eq!(one(&seen, "sha256"), sha256(&program));
    let foreign = unix::Settings {
        foreign_paths: true,
        ..unix::Settings::default()
    };
    assert_eq!(
        one(&connected.attest(foreign).await.unwrap(), "path"),
        connected.path.to_str().unwrap()
    );
}
