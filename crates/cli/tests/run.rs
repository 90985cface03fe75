//! `attesta run` as its users have it: a child process, its one line, its signals, its directory.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails says so by panicking, and waits in real time"
)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of its own, in which sockets may be made.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("attesta-cli-{}-{name}", std::process::id()));
        fs::remove_dir_all(&dir).ok();
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn attesta(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attesta"));
    for name in [
        "ATTESTA_ADMIN",
        "ATTESTA_DATA_DIR",
        "ATTESTA_LOG",
        "ATTESTA_JOIN_TOKEN",
        "SPIFFE_ENDPOINT_SOCKET",
    ] {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A command that ends by itself.
fn ended(arguments: &[&str]) -> Output {
    attesta(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running `attesta run`; killed if a test fails before it was stopped.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    ready: Value,
    took: Duration,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let begun = Instant::now();
        let mut child = attesta(&[&["run", "--output", "json"], arguments].concat())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).ok();
            tell.send((line, stdout)).ok();
        });
        let (line, stdout) = told.recv_timeout(PATIENCE).unwrap();
        let Ok(ready) = serde_json::from_str(&line) else {
            let out = child.wait_with_output().unwrap();
            panic!("no line but {line:?}: {}", text(&out.stderr));
        };
        Self {
            child,
            stdout,
            ready,
            took: begun.elapsed(),
        }
    }

    fn stop(mut self, signal: Signal) -> String {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not stop");
            thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(status.code(), Some(0), "{rest}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "it took {:?} to stop",
            begun.elapsed()
        );
        rest
    }

    fn field(&self, name: &str) -> String {
        self.ready[name]
            .as_str()
            .unwrap_or_else(|| panic!("no {name} in {}", self.ready))
            .to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        let field = self.field(name);
        PathBuf::from(field.strip_prefix("unix:").unwrap_or(&field))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_ephemeral_run_says_where_all_is_and_leaves_nothing() {
    let run = Running::start(&["--ephemeral"]);
    assert_eq!(run.field("trust_domain"), "example.org");
    assert_eq!(
        run.field("node"),
        "spiffe://example.org/spire/agent/local/node"
    );
    assert!(run.ready["issuer"].is_null());
    assert_eq!(run.ready.as_object().unwrap().len(), 7);
    assert_eq!(
        (mode(&run.path("workload_api")), mode(&run.path("admin"))),
        (0o777, 0o660)
    );
    assert_eq!(mode(&run.path("bundle")), 0o644);
    assert!(
        fs::read_to_string(run.path("bundle"))
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----\n")
    );
    let server: std::net::SocketAddr = run.field("server").parse().unwrap();
    assert!(server.ip().is_loopback() && std::net::TcpStream::connect(server).is_ok());
    let dir = run.path("bundle").parent().unwrap().to_owned();
    eprintln!("ready after {:?}", run.took);
    assert_eq!(run.stop(Signal::TERM), "", "exactly one line");
    assert!(!dir.exists());
}

#[test]
fn the_same_directory_is_the_same_trust_domain() {
    let dir = Directory::new("same");
    let data = dir.path("data");
    let data_dir = data.to_str().unwrap();
    let first = Running::start(&["--data-dir", data_dir, "--trust-domain", "acme.com"]);
    for (name, expect) in [("attesta.db", 0o600), ("attesta.key", 0o600)] {
        assert_eq!(mode(&data.join(name)), expect, "{name}");
    }
    assert_eq!(mode(&data), 0o755);
    let (bundle, server) = (
        fs::read_to_string(first.path("bundle")).unwrap(),
        first.field("server"),
    );

    // A second one on the same directory is refused, and says who has it.
    let second = ended(&["run", "--data-dir", data_dir, "--trust-domain", "acme.com"]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(
        said.contains(&format!("in use by process {}", first.child.id())),
        "{said}"
    );
    assert!(said.contains("choose another data directory"), "{said}");

    first.stop(Signal::INT);
    assert!(!data.join("admin.sock").exists() && !data.join("workload.sock").exists());

    let again = Running::start(&["--data-dir", data_dir, "--trust-domain", "acme.com"]);
    assert_eq!(
        fs::read_to_string(again.path("bundle")).unwrap(),
        bundle,
        "the same keys"
    );
    assert_eq!(again.field("server"), server, "the same port");
    again.stop(Signal::TERM);

    let other = ended(&["run", "--data-dir", data_dir, "--output", "json"]);
    assert_eq!(other.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&other.stderr).unwrap();
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("belongs to trust domain \"acme.com\" for ever"),
        "{error}"
    );
}

#[test]
fn a_kill_leaves_nothing_in_the_way() {
    let dir = Directory::new("kill");
    let data = dir.path("data");
    let mut first = Running::start(&["--data-dir", data.to_str().unwrap()]);
    let bundle = fs::read_to_string(first.path("bundle")).unwrap();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let again = Running::start(&["--data-dir", data.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(again.path("bundle")).unwrap(), bundle);
    again.stop(Signal::TERM);
}

#[test]
fn databases_that_are_not_ours_are_refused_with_the_way_out_and_left_alone() {
    let dir = Directory::new("broken");
    let whole = dir.path("whole");
    Running::start(&["--data-dir", whole.to_str().unwrap()]).stop(Signal::TERM);
    let database = fs::read(whole.join("attesta.db")).unwrap();
    let key = fs::read(whole.join("attesta.key")).unwrap();
    let mut newer = database.clone();
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    for (name, bytes, expect) in [
        (
            "truncated",
            &database[..database.len() / 2],
            "the file is truncated",
        ),
        (
            "foreign",
            &b"my diary, which is no database at all"[..],
            "this is no ledger",
        ),
        ("newer", &newer[..], "it is of format 99"),
        ("empty", &b""[..], "the file is empty"),
    ] {
        let data = dir.path(name);
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(data.join("attesta.db"), bytes).unwrap();
        fs::write(data.join("attesta.key"), &key).unwrap();
        fs::set_permissions(data.join("attesta.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let out = ended(&["run", "--data-dir", data.to_str().unwrap()]);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{name}: {said}");
        assert!(
            said.contains(expect) && said.contains("attesta.db"),
            "{name}: {said}"
        );
        assert!(said.contains("it was left as it is"), "{name}: {said}");
        assert_eq!(fs::read(data.join("attesta.db")).unwrap(), bytes, "{name}");
    }

    // A key that others could read, and another key than the ledger's.
    fs::set_permissions(whole.join("attesta.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = text(&ended(&["run", "--data-dir", whole.to_str().unwrap()]).stderr);
    assert!(
        said.contains("has mode 0644") && said.contains("chmod 600"),
        "{said}"
    );
    fs::set_permissions(whole.join("attesta.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(whole.join("attesta.key"), [7; 32]).unwrap();
    let said = text(&ended(&["run", "--data-dir", whole.to_str().unwrap()]).stderr);
    assert!(said.contains("Put back the key file"), "{said}");
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_at_once() {
    let dir = Directory::new("config");
    let file = dir.path("a.toml");
    fs::write(
        &file,
        "[server]\ntrust_domian = \"a\"\nca_ttl = 5\n[server.x509pop]\nca_bundle_path = \"x\"\n",
    )
    .unwrap();
    let out = ended(&["run", "--ephemeral", "-c", file.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(2));
    let said = text(&out.stderr);
    let at = |line: u32| format!("cause: {}:{line}: ", file.display());
    assert!(
        said.starts_with(&format!("error: {} has 3 mistakes\n", file.display())),
        "{said}"
    );
    for line in [2, 3, 5] {
        assert!(said.contains(&at(line)), "{line}: {said}");
    }
    assert!(
        said.contains("did you mean `trust_domain`?")
            && said.contains("did you mean `ca_bundle_paths`?"),
        "{said}"
    );

    fs::write(&file, "[server]\ntrust_domain = \"a\"\n").unwrap();
    assert!(
        ended(&["config", "check", "-c", file.to_str().unwrap()])
            .status
            .success()
    );
    let missing = ended(&[
        "config",
        "check",
        "-c",
        dir.path("b.toml").to_str().unwrap(),
    ]);
    assert_eq!(missing.status.code(), Some(2));
    let usage = ended(&["run", "--no-such-flag", "--output", "json"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(
        serde_json::from_slice::<Value>(&usage.stderr).unwrap()["error"]
            .as_str()
            .unwrap()
            .contains("--no-such-flag")
    );
}

#[test]
fn the_demo_shows_everything_and_ends_by_itself() {
    let out = ended(&["run", "--demo", "--once"]);
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{said}{}", text(&out.stderr));
    for expect in [
        "payments  called spiffe://example.org/demo/orders over mTLS",
        "impostor  asked for an identity and was refused",
        "lacks unix:path:",
        "turned away a caller without an identity",
    ] {
        assert!(said.contains(expect), "{expect}: {said}");
    }
}

#[test]
fn an_agent_of_its_own_joins_with_a_token() {
    let dir = Directory::new("agent");
    let server = Running::start(&["--data-dir", dir.path("server").to_str().unwrap()]);
    let token = ended(&["token", "generate", "--admin", &server.field("admin")]);
    assert!(token.status.success(), "{}", text(&token.stderr));
    let data = dir.path("agent");
    let (address, bundle) = (server.field("server"), server.field("bundle"));
    let arguments = [
        "agent",
        "run",
        "--output",
        "json",
        "--trust-domain",
        "example.org",
        "--server-address",
        &address,
        "--bootstrap-bundle",
        &bundle,
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let start = |token: Option<&str>| {
        let mut command = attesta(&arguments);
        if let Some(token) = token {
            command.env("ATTESTA_JOIN_TOKEN", token);
        }
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        ready["node"].as_str().unwrap().to_owned()
    };
    let first = start(Some(text(&token.stdout).trim()));
    assert!(
        first.starts_with("spiffe://example.org/spire/agent/join_token/"),
        "{first}"
    );
    // It kept what it was given: no token is needed again.
    assert_eq!(start(None), first);

    let bare = ended(&[
        "agent",
        "run",
        "--trust-domain",
        "example.org",
        "--server-address",
        &address,
        "--data-dir",
        dir.path("none").to_str().unwrap(),
    ]);
    assert_eq!(bare.status.code(), Some(2));
    assert!(
        text(&bare.stderr).contains("--bootstrap-bundle"),
        "{}",
        text(&bare.stderr)
    );
    server.stop(Signal::TERM);
}
