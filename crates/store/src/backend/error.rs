//! What can go wrong below the ledger, in sentences that say where and what to do next.

use std::{path::PathBuf, sync::Arc};

use attesta_model::{Code, Denial, Reason, object::BodyError};

/// A backend's failure, with the place where it happened.
#[derive(Debug, thiserror::Error)]
#[error("ledger {place}: {fault}")]
pub struct BackendError {
    /// A path, or `memory`.
    pub place: Arc<str>,
    /// What happened.
    pub fault: Fault,
}

/// What happened.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No space left.
    #[error("no space left on the device")]
    Full,
    /// Someone else holds it for longer than we wait.
    #[error("locked by another program")]
    Busy,
    /// The operating system refused.
    #[error("input or output failed: {0}")]
    Io(String),
    /// What is there makes no sense.
    #[error("damaged: {0}")]
    Damaged(String),
    /// It holds what only a newer version understands.
    #[error("written by a newer version: {0}")]
    Newer(String),
    /// An object's bytes make no sense.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Anything else: a limit, or a defect of ours.
    #[error("{0}")]
    Refused(String),
}

impl Fault {
    /// With its place.
    pub(crate) fn at(self, place: &Arc<str>) -> BackendError {
        BackendError {
            place: Arc::clone(place),
            fault: self,
        }
    }
}

impl From<&BackendError> for Denial {
    fn from(e: &BackendError) -> Self {
        let hint = match &e.fault {
            Fault::Full => {
                "free some space there; nothing was half written, and the ledger goes on by itself"
            }
            Fault::Busy => {
                "find the program that holds it; the ledger goes on by itself once it is released"
            }
            Fault::Io(_) => "check the device; the ledger goes on by itself once it answers",
            Fault::Damaged(_) | Fault::Body(_) => {
                "stop, keep a copy of the file, and restore a backup"
            }
            Fault::Newer(_) => "start the version that wrote it",
            Fault::Refused(_) => "try again; if it stays, report it with the decision's record",
        };
        Self::new(Code::Unavailable, Reason::Ledger, e.to_string()).with_hint(hint)
    }
}

impl From<BackendError> for Denial {
    fn from(e: BackendError) -> Self {
        Self::from(&e)
    }
}

/// Why a ledger was not opened. Nothing was changed where it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("ledger {}: in use by {holder}; stop that process first, or choose another data directory", path.display())]
    Locked {
        /// The database.
        path: PathBuf,
        /// Who has it: a process id.
        holder: String,
    },
    /// A file of something else.
    #[error("ledger {}: this is no ledger but {found}; it was left as it is: move it away, or choose another data directory", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// A ledger that is not whole.
    #[error("ledger {}: {why}; it was left as it is: restore a backup, or move it away together with its -wal and -shm files to begin anew", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A ledger of a newer version.
    #[error(
        "ledger {place}: it is of format {found} and this binary knows {known}; it was left as it is: start the version that wrote it, or restore a backup of before the upgrade"
    )]
    Newer {
        /// Where.
        place: String,
        /// Its level.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A ledger of another trust domain.
    #[error(
        "ledger {place}: it belongs to trust domain {found:?} for ever, and {expected:?} was asked for; set trust_domain to {found:?}, or choose another data directory"
    )]
    TrustDomain {
        /// Where.
        place: String,
        /// Whose it is.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The operating system refused.
    #[error("ledger {}: {doing}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// What is there could not be read.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// No thread could be started.
    #[error("the ledger's thread could not be started: {0}")]
    Thread(std::io::Error),
}
