//! The one running thing a credential is bound to.

use std::{fmt, sync::Arc};

/// A container, else a process; `Node` is what a node holds as a whole (DESIGN section 2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Instance {
    /// A process, named so that a reused pid is another instance.
    Process {
        /// The kernel's boot id.
        boot: Arc<str>,
        /// Process id in the agent's pid namespace.
        pid: u32,
        /// Start time in clock ticks since boot (`/proc/PID/stat` field 22).
        start: u64,
    },
    /// A container by its runtime's id.
    Container(Arc<str>),
    /// The node itself.
    Node,
}

/// The instance as one word, for records and look-ups: `process:BOOT:PID:START`, `container:ID`, `node`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey(String);

impl InstanceKey {
    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Instance {
    /// The instance as one word.
    #[must_use]
    pub fn key(&self) -> InstanceKey {
        InstanceKey(match self {
            Self::Process { boot, pid, start } => format!("process:{boot}:{pid}:{start}"),
            Self::Container(id) => format!("container:{id}"),
            Self::Node => "node".to_owned(),
        })
    }

    /// An instance from the parts a wire message carries.
    ///
    /// # Errors
    /// What is wrong with them, as a sentence.
    pub fn process(boot: &str, pid: u32, start: u64) -> Result<Self, &'static str> {
        let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        if boot.len() > 64 || boot.is_empty() || !boot.chars().all(plain) {
            return Err("boot_id must be 1 to 64 hexadecimal digits and dashes");
        }
        if pid == 0 {
            return Err("pid must be positive");
        }
        Ok(Self::Process {
            boot: boot.into(),
            pid,
            start,
        })
    }

    /// A container by its id.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn container(id: &str) -> Result<Self, &'static str> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if id.is_empty() || id.len() > 256 || !id.chars().all(plain) {
            return Err("container id must be 1 to 256 of A-Z a-z 0-9 - _ .");
        }
        Ok(Self::Container(id.into()))
    }
}
