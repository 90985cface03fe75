//! Who wants what, when.

use std::fmt;

use attesta_spiffe::SpiffeId;
use jiff::Timestamp;

/// Ties everything one call causes together, from attestation to downstream use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrelationId(String);

impl CorrelationId {
    /// A correlation id: 1 to 64 of `A-Z a-z 0-9 - _ .`.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty()
            || text.len() > 64
            || !text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        {
            return Err("a correlation id is 1 to 64 of A-Z a-z 0-9 - _ .");
        }
        Ok(Self(text.to_owned()))
    }

    /// From random or timed bits drawn outside (this room has neither).
    #[must_use]
    pub fn from_uuid(id: uuid::Uuid) -> Self {
        Self(id.simple().to_string())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One decision's name, by which an operator finds its record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DecisionId(pub [u8; 16]);

impl DecisionId {
    /// Parses what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A credential's name, known before it is signed: an X.509 serial in lower-case hex, whole bytes; a JWT's `jti`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId(String);

impl CredentialId {
    /// An X.509 serial: 48 bits of milliseconds and 80 random bits, drawn outside.
    #[must_use]
    pub fn from_serial(serial: &[u8; 16]) -> Self {
        Self(hex::encode(serial))
    }

    /// A serial as records write it: 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse_serial(text: &str) -> Option<Self> {
        let hex = |c: char| c.is_ascii_digit() || matches!(c, 'a'..='f');
        (text.len() == 32 && text.chars().all(hex)).then(|| Self(text.to_owned()))
    }

    /// A token's id.
    #[must_use]
    pub fn from_uuid(id: uuid::Uuid) -> Self {
        Self(id.hyphenated().to_string())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When the serial of one of our certificates was drawn, from its first 48 bits; `None` where it is none of ours.
#[must_use]
pub fn serial_time(serial_hex: &str) -> Option<Timestamp> {
    if serial_hex.len() != 32 {
        return None;
    }
    let mut bytes = [0u8; 16];
    hex::decode_to_slice(serial_hex, &mut bytes).ok()?;
    let mut millis = [0u8; 8];
    millis.get_mut(2..)?.copy_from_slice(bytes.get(..6)?);
    Timestamp::from_millisecond(i64::try_from(u64::from_be_bytes(millis)).ok()?).ok()
}

/// A serial with this time in its first 48 bits and these random bits after.
#[must_use]
pub fn serial_at(time: Timestamp, random: [u8; 10]) -> [u8; 16] {
    let millis = u64::try_from(time.as_millisecond())
        .unwrap_or(0)
        .to_be_bytes();
    let mut out = [0u8; 16];
    for (to, from) in out
        .iter_mut()
        .zip(millis.iter().skip(2).chain(random.iter()))
    {
        *to = *from;
    }
    out
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The server itself, by the name of its task.
    System(&'static str),
    /// Whoever opened the admin socket: kernel-told user id, and the program's path where it could be read.
    Local {
        /// User id.
        uid: u32,
        /// Process id.
        pid: u32,
        /// Program, printable.
        path: String,
    },
    /// An admin by its SPIFFE ID over mTLS.
    Admin(SpiffeId),
    /// An attested node's agent, by its certificate.
    Node {
        /// The node.
        id: SpiffeId,
        /// The certificate it came with.
        serial: String,
    },
    /// Someone unknown, by where they came from.
    Stranger(String),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(task) => write!(f, "system:{task}"),
            Self::Local { uid, .. } => write!(f, "local:uid:{uid}"),
            Self::Admin(id) => write!(f, "{id}"),
            Self::Node { id, .. } => write!(f, "{id}"),
            Self::Stranger(from) => write!(f, "stranger:{from}"),
        }
    }
}

/// What is asked. The words are those of policies and records; new ones are only added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    missing_docs,
    reason = "each name is its sentence; `as_str` is the stable word"
)]
pub enum Action {
    AttestNode,
    RenewNode,
    IssueX509,
    IssueJwt,
    InstanceEnded,
    EntryCreate,
    EntryUpdate,
    EntryDelete,
    NodeBan,
    NodeEvict,
    TokenCreate,
    AuthorityPrepare,
    AuthorityActivate,
    AuthorityRetire,
    ServerSvid,
    Forget,
    Read,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::AttestNode,
        Self::RenewNode,
        Self::IssueX509,
        Self::IssueJwt,
        Self::InstanceEnded,
        Self::EntryCreate,
        Self::EntryUpdate,
        Self::EntryDelete,
        Self::NodeBan,
        Self::NodeEvict,
        Self::TokenCreate,
        Self::AuthorityPrepare,
        Self::AuthorityActivate,
        Self::AuthorityRetire,
        Self::ServerSvid,
        Self::Forget,
        Self::Read,
    ];

    /// The stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttestNode => "attest_node",
            Self::RenewNode => "renew_node",
            Self::IssueX509 => "issue_x509",
            Self::IssueJwt => "issue_jwt",
            Self::InstanceEnded => "instance_ended",
            Self::EntryCreate => "entry_create",
            Self::EntryUpdate => "entry_update",
            Self::EntryDelete => "entry_delete",
            Self::NodeBan => "node_ban",
            Self::NodeEvict => "node_evict",
            Self::TokenCreate => "token_create",
            Self::AuthorityPrepare => "authority_prepare",
            Self::AuthorityActivate => "authority_activate",
            Self::AuthorityRetire => "authority_retire",
            Self::ServerSvid => "server_svid",
            Self::Forget => "forget",
            Self::Read => "read",
        }
    }
}

/// Who wants what, when. Time and ids were drawn before, so a command is a function of its arguments.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// When.
    pub at: Timestamp,
    /// The decision's name.
    pub decision: DecisionId,
    /// What it belongs to.
    pub correlation: CorrelationId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_carries_its_time() {
        let at = Timestamp::from_millisecond(1_764_000_000_123).unwrap();
        let serial = serial_at(at, [0xff; 10]);
        let id = CredentialId::from_serial(&serial);
        assert_eq!(id.as_str().len(), 32);
        assert!(
            id.as_str().starts_with("01"),
            "positive, with its leading zero"
        );
        assert_eq!(serial_time(id.as_str()), Some(at));
        assert_eq!(serial_time("00ff"), None);
    }
}
