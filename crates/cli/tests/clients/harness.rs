//! What the clients' tests stand on: a directory, a running `attesta run`, and tools that may be missing.
//!
//! Must not know any client.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
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
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of its own, in which sockets may be made.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("attesta-clients-{}-{name}", std::process::id()));
        fs::remove_dir_all(&dir).ok();
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        word(&self.path(name)).to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A path as an argument.
pub(crate) fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The binary under test, with nothing of our own environment that it would heed.
pub(crate) fn attesta(arguments: &[&str]) -> Command {
    let mut command = quiet(Command::new(env!("CARGO_BIN_EXE_attesta")));
    command.args(arguments);
    command
}

/// A command without stdin, whose output is kept, and without what would point it at another server.
pub(crate) fn quiet(mut command: Command) -> Command {
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
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end; whatever it said is the message if it failed.
pub(crate) fn succeed(mut command: Command) -> Output {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}\n{}",
        out.status,
        text(&out.stdout),
        text(&out.stderr)
    );
    out
}

/// A running `attesta run`; killed if a test fails before it was stopped.
pub(crate) struct Running {
    child: Child,
    /// Held open, so that a late line of the child does not end it.
    _stdout: BufReader<ChildStdout>,
    ready: Value,
}

impl Running {
    /// `attesta run` with `arguments`, once it says that it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = attesta(&[&["run", "--output", "json"], arguments].concat())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (line, stdout) = first_line(child.stdout.take().unwrap());
        let Ok(ready) = serde_json::from_str(&line) else {
            child.kill().ok();
            panic!("no line but {line:?}: {:?}", child.wait());
        };
        Self {
            child,
            _stdout: stdout,
            ready,
        }
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) {
        end(&mut self.child, Signal::TERM);
    }

    /// Ends it as a lost machine would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A field of the line that says it is ready.
    pub(crate) fn field(&self, name: &str) -> String {
        self.ready[name]
            .as_str()
            .unwrap_or_else(|| panic!("no {name} in {}", self.ready))
            .to_owned()
    }

    /// A command of ours to this server, with `--output json`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = attesta(arguments);
        command
            .args(["--output", "json", "--admin", &self.field("admin")])
            .args(["--workload-api", &self.field("workload_api")]);
        command
    }

    /// What such a command answers.
    pub(crate) fn answer(&self, arguments: &[&str]) -> Value {
        let out = succeed(self.command(arguments));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Whoever runs `program` as our user is `spiffe_id`.
    pub(crate) fn entry(&self, spiffe_id: &str, program: &Path, more: &[&str]) {
        let path = format!("unix:path:{}", word(&program.canonicalize().unwrap()));
        let uid = format!("unix:uid:{}", rustix::process::getuid().as_raw());
        let made = [
            "entry",
            "create",
            "--spiffe-id",
            spiffe_id,
            "--selector",
            &uid,
            "--selector",
            &path,
        ];
        let answer = self.answer(&[&made, more].concat());
        assert_eq!(answer["results"][0]["ok"], true, "{answer}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A process of a client; killed if a test fails before it ended.
pub(crate) struct Client(pub(crate) Child);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn end(child: &mut Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not stop");
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(0));
}

fn first_line(stdout: ChildStdout) -> (String, BufReader<ChildStdout>) {
    let mut stdout = BufReader::new(stdout);
    let (tell, told) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut line = String::new();
        stdout.read_line(&mut line).ok();
        tell.send((line, stdout)).ok();
    });
    told.recv_timeout(PATIENCE).unwrap()
}

/// The lines of a client, as they come.
pub(crate) struct Lines(mpsc::Receiver<String>);

impl Lines {
    pub(crate) fn of(stdout: ChildStdout) -> Self {
        let (tell, told) = mpsc::sync_channel(1024);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Self(told)
    }

    /// The next line of which `wanted` makes something; those before it are passed over.
    pub(crate) fn find<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let begun = Instant::now();
        let mut seen = Vec::new();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self.0.recv_timeout(left) {
                Ok(line) => match wanted(&line) {
                    Some(found) => return found,
                    None => seen.push(line),
                },
                Err(why) => panic!("no {what}: {why}, after {seen:#?}"),
            }
        }
    }
}

/// The program that a variable names; `None` is a test to be skipped, which was said.
pub(crate) fn tool(variable: &str, test: &str) -> Option<PathBuf> {
    match std::env::var_os(variable) {
        // Empty: whoever set it knows that there is none, and has said so.
        Some(path) if path.is_empty() => skip(test, &format!("{variable} is empty"), false),
        Some(path) => Some(PathBuf::from(path)),
        None => skip(
            test,
            &format!("{variable} is not set; `cargo xtask test` does it"),
            true,
        ),
    }
}

/// Whether a program of the machine can be started; `false` is a test to be skipped, which was said.
pub(crate) fn installed(program: &str, argument: &str, test: &str) -> bool {
    let starts = quiet(Command::new(program))
        .arg(argument)
        .output()
        .is_ok_and(|out| out.status.success());
    starts || skip::<()>(test, &format!("no {program} found"), true).is_some()
}

fn skip<T>(test: &str, why: &str, needed: bool) -> Option<T> {
    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(
        !(needed && ci),
        "with CI=true nothing may be missing: {why}"
    );
    // Not `eprintln`: what passes is captured, and this is to be read.
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").ok();
    None
}
