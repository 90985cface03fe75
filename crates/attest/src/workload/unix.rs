//! The `unix` attestor: who a process is to the kernel, and which program it runs.
//!
//! SPIRE's selectors `uid`, `user`, `gid`, `group`, `supplementary_gid`, `supplementary_group`,
//! `path` and `sha256`; and ours, `cgroup` and `parent_path`. Ids are the effective ones.
//! Knows no containers and no other machine.

use std::{fs::File, io, os::unix::ffi::OsStringExt, sync::Arc};

use attesta_model::{Fact, limits, text};
use futures::future::BoxFuture;
use nix::{
    errno::Errno,
    unistd::{Gid, Group, Uid, User},
};
use tokio::sync::Semaphore;

use super::{
    Note, Sighting, WorkloadAttestor, WorkloadPlugin,
    executable::{Executables, Hashed},
};
use crate::{
    AttestError, Peer, PeerError, parse,
    peer::{self, FileId},
};

/// Its name, and the namespace of its facts.
pub const NAME: &str = "unix";

/// Its line in the table.
pub const PLUGIN: WorkloadPlugin = WorkloadPlugin {
    name: NAME,
    build: |settings| {
        settings
            .unix
            .clone()
            .map(|s| Arc::new(Unix::new(s)) as Arc<dyn WorkloadAttestor>)
    },
};

/// How many processes are looked at together; each takes a thread, which a name service may hold.
const AT_ONCE: usize = 64;
/// What the kernel appends to the path of a file that has no name any more.
const DELETED: &str = " (deleted)";

/// The settings of `unix`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest executable that is hashed, in bytes; a larger one has no `sha256` fact.
    pub executable_limit: u64,
    /// Whether `path` is given although it names no file, or another file, where the agent runs.
    ///
    /// Such a path is what the process's own mounts say, and whoever may make mounts (any user,
    /// in a user namespace of his own) says there what he likes. SPIRE gives it.
    pub foreign_paths: bool,
}

impl Default for Settings {
    /// 512 MiB; no foreign paths.
    fn default() -> Self {
        Self {
            executable_limit: 512 << 20,
            foreign_paths: false,
        }
    }
}

/// The attestor.
pub struct Unix {
    foreign_paths: bool,
    gate: Arc<Semaphore>,
    executables: Executables,
}

impl Unix {
    /// Builds it.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            foreign_paths: settings.foreign_paths,
            gate: Arc::new(Semaphore::new(AT_ONCE)),
            executables: Executables::new(settings.executable_limit),
        }
    }

    async fn look(&self, peer: &Peer) -> Result<Sighting, AttestError> {
        let permit = Arc::clone(&self.gate)
            .acquire_owned()
            .await
            .map_err(failed)?;
        let (held, foreign_paths) = (peer.clone(), self.foreign_paths);
        // Name services and file systems may block.
        let looking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut seen = Seen::default();
            let file = seen.look(&held, foreign_paths)?;
            Ok::<_, AttestError>((seen, file))
        });
        let (mut seen, file) = looking.await.map_err(failed)??;
        if let Some(file) = file {
            match self.executables.hash(file).await {
                Ok(Hashed::Digest(digest)) => seen.add("sha256", [hex::encode(digest)]),
                Ok(Hashed::TooLarge { size }) => {
                    let limit = self.executables.limit();
                    seen.leave_out(
                        "sha256",
                        format!("the executable has {size} bytes; executable_limit is {limit}"),
                    );
                }
                Err(e) => {
                    return Err(AttestError::failed(
                        NAME,
                        format!("sha256 of the executable: {e}"),
                    ));
                }
            }
        }
        peer.unchanged()?;
        Ok(seen.0)
    }
}

impl WorkloadAttestor for Unix {
    fn name(&self) -> &'static str {
        NAME
    }

    fn attest<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Sighting, AttestError>> {
        Box::pin(async {
            self.look(peer).await.map_err(|e| match e {
                // Among several attestors it is this one that could not read.
                AttestError::Peer(e @ (PeerError::Unreadable { .. } | PeerError::Socket(_))) => {
                    failed(e)
                }
                e => e,
            })
        })
    }
}

fn failed(e: impl ToString) -> AttestError {
    AttestError::failed(NAME, e.to_string())
}

#[derive(Default)]
struct Seen(Sighting);

impl Seen {
    /// All but the digest; the executable is opened for that, where it may be.
    fn look(&mut self, peer: &Peer, foreign_paths: bool) -> Result<Option<File>, AttestError> {
        let status =
            parse::status(&peer.read("status")?).map_err(|e| PeerError::from((peer.pid(), e)))?;
        if (status.uid, status.gid) != (peer.uid(), peer.gid()) {
            return Err(PeerError::ChangedUser.into());
        }
        self.add("uid", [status.uid.to_string()]);
        self.add_all("user", user(status.uid)?);
        self.add("gid", [status.gid.to_string()]);
        self.add_all("group", group(status.gid)?);
        self.add_all(
            "supplementary_gid",
            status.groups.iter().map(u32::to_string),
        );
        // With more the fact above is left out already.
        if status.groups.len() <= limits::FACT_VALUES {
            let names: Result<Vec<_>, _> = status.groups.iter().map(|gid| group(*gid)).collect();
            self.add_all("supplementary_group", names?.into_iter().flatten());
        }
        match parse::cgroup(&peer.read("cgroup")?) {
            Ok(path) if path.ends_with(DELETED) => {
                self.leave_out("cgroup", "the cgroup has been removed")
            }
            Ok(path) => self.add("cgroup", [path]),
            Err(e) => self.leave_out("cgroup", e.to_string()),
        }
        self.parent(peer, foreign_paths)?;
        match peer.program() {
            Some(program) => {
                match path(peer.pid(), program, foreign_paths)? {
                    Ok(path) => self.add("path", [path]),
                    Err(why) => self.leave_out("path", why),
                }
                self.executable(peer, program)
            }
            None => {
                let why = "the agent may not look at the executable of this process; it needs CAP_SYS_PTRACE for that";
                self.leave_out("path", why);
                self.leave_out("sha256", why);
                Ok(None)
            }
        }
    }

    /// Opens the executable through `/proc/PID/exe`, which is the file itself whatever its name.
    fn executable(&mut self, peer: &Peer, program: FileId) -> Result<Option<File>, AttestError> {
        let opened =
            File::open(peer.proc("exe")).and_then(|file| Ok((FileId::of(&file.metadata()?), file)));
        if !peer.alive() {
            return Err(PeerError::Gone.into());
        }
        match opened {
            Ok((id, file)) if id == program => Ok(Some(file)),
            Ok(_) => Err(PeerError::Executed.into()),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                self.leave_out("sha256", "the agent may not read the executable");
                Ok(None)
            }
            Err(e) => Err(peer.unreadable("exe", e).into()),
        }
    }

    /// The parent's path, if the parent can be told: it is no proof of the process itself, and it
    /// changes when the parent ends or executes another program.
    fn parent(&mut self, peer: &Peer, foreign_paths: bool) -> Result<(), AttestError> {
        const KEY: &str = "parent_path";
        let parent_of = || -> Result<u32, AttestError> {
            let stat =
                parse::stat(&peer.read("stat")?).map_err(|e| PeerError::from((peer.pid(), e)))?;
            Ok(stat.parent)
        };
        let parent = parent_of()?;
        if parent == 0 {
            self.leave_out(KEY, "the process has no parent that is visible from here");
            return Ok(());
        }
        let start = peer::stat(parent).map(|s| s.start);
        let found = match std::fs::metadata(peer::proc(parent, "exe")) {
            Ok(metadata) => path(parent, FileId::of(&metadata), foreign_paths)?,
            Err(e) => Err(format!("the parent's executable: {e}")),
        };
        // INVARIANT: still the parent, and still the same process, so what was read was its own.
        if parent_of()? != parent || start.is_err() || peer::stat(parent).map(|s| s.start) != start
        {
            self.leave_out(KEY, "the parent ended while it was looked at");
            return Ok(());
        }
        match found.and_then(|path| Fact::new(NAME, KEY, [path]).map_err(|e| e.to_string())) {
            Ok(fact) => self.0.changing.push(fact),
            Err(why) => self.leave_out(KEY, why),
        }
        Ok(())
    }

    /// A fact that has a value, or a note why these values cannot be one.
    fn add<V: AsRef<str>>(&mut self, key: &str, values: impl IntoIterator<Item = V>) {
        match Fact::new(NAME, key, values) {
            Ok(fact) => self.0.facts.push(fact),
            Err(e) => self.leave_out(key, e.to_string()),
        }
    }

    /// A fact that may have no value at all.
    fn add_all(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        if !values.is_empty() {
            self.add(key, values);
        }
    }

    fn leave_out(&mut self, key: &str, why: impl AsRef<str>) {
        self.0.notes.push(Note {
            fact: format!("{NAME}.{key}"),
            why: text::printable(why.as_ref()),
        });
    }
}

/// The path of a process's executable, or why it has none that could be believed.
fn path(
    pid: u32,
    program: FileId,
    foreign_paths: bool,
) -> Result<Result<String, String>, AttestError> {
    let link = match std::fs::read_link(peer::proc(pid, "exe")) {
        Ok(link) => link,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
            ) =>
        {
            return Ok(Err(format!("the executable's path: {e}")));
        }
        Err(e) => {
            return Err(PeerError::Unreadable {
                pid,
                file: "exe",
                why: e.to_string(),
            }
            .into());
        }
    };
    let Ok(path) = String::from_utf8(link.into_os_string().into_vec()) else {
        return Ok(Err("the executable's path is no UTF-8".to_owned()));
    };
    // A file may be named so as well; it gets no path either.
    if path.ends_with(DELETED) {
        return Ok(Err(
            "the executable was deleted or replaced after it was started".to_owned(),
        ));
    }
    if !path.starts_with('/') {
        return Ok(Err("the executable is no file with a path".to_owned()));
    }
    let here = std::fs::metadata(&path).ok().map(|m| FileId::of(&m));
    if !foreign_paths && here != Some(program) {
        return Ok(Err(format!(
            "{path} is not the executable where the agent runs: the process has mounts of its own (setting foreign_paths)"
        )));
    }
    Ok(Ok(path))
}

/// A user's name; none for an id that has none.
fn user(uid: u32) -> Result<Option<String>, AttestError> {
    named(
        User::from_uid(Uid::from_raw(uid)).map(|user| user.map(|u| u.name)),
        "user",
        uid,
    )
}

/// A group's name; none for an id that has none.
fn group(gid: u32) -> Result<Option<String>, AttestError> {
    named(
        Group::from_gid(Gid::from_raw(gid)).map(|group| group.map(|g| g.name)),
        "group",
        gid,
    )
}

fn named(
    found: Result<Option<String>, Errno>,
    what: &str,
    id: u32,
) -> Result<Option<String>, AttestError> {
    match found {
        Ok(name) => Ok(name),
        // What getpwnam(3) lists for "not found", besides success.
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        Err(e) => Err(failed(format!("name of {what} {id}: {e}"))),
    }
}
