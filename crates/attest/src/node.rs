//! Node attestors: which node an agent runs on. Both halves of one are in one file.
//!
//! The server's half sees the evidence and the time, never a snapshot: whether a token exists or
//! a node is banned is decided elsewhere.

pub mod join_token;
pub mod local;
mod nonce;
pub mod x509pop;

#[cfg(test)]
mod tests;

use attesta_model::{
    Attested, Evidence, Facts, Instance, Once, Parent, attested::AGENT_PREFIX, text,
};
use attesta_spiffe::{SpiffeId, TrustDomain};
use jiff::Timestamp;

pub use nonce::{NONCE_BYTES, Nonce};

use crate::AttestError;

/// Every node attestor there is. A new one is a file, its part of the settings, and a line here.
pub const NODE_ATTESTORS: &[NodeAttestor] =
    &[join_token::ATTESTOR, x509pop::ATTESTOR, local::ATTESTOR];

/// One line of [`NODE_ATTESTORS`]. Each half takes its own part out of the settings, and is
/// switched off where there is none.
#[derive(Clone, Copy)]
pub struct NodeAttestor {
    /// Its name: the evidence's kind, the facts' namespace, and the agent id's third segment.
    pub name: &'static str,
    /// Builds the server's half.
    pub verify: fn(&mut ServerSettings) -> Built<dyn Verify>,
    /// Builds the agent's half.
    pub collect: fn(&mut AgentSettings) -> Built<dyn Collect>,
}

/// One half of an attestor; none where it is switched off.
pub type Built<T> = Result<Option<Box<T>>, AttestError>;

/// The server's settings for all node attestors.
pub struct ServerSettings {
    /// Whose nodes these are.
    pub trust_domain: TrustDomain,
    /// Where challenges come from.
    pub nonce: Nonce,
    /// Whether join tokens are taken.
    pub join_token: bool,
    /// `x509pop`, if it is switched on.
    pub x509pop: Option<x509pop::ServerSettings>,
    /// The server's end of [`local::pair`], if the agent is in this process.
    pub local: Option<local::LocalVerify>,
}

impl ServerSettings {
    /// No attestor, and the system's random numbers.
    #[must_use]
    pub fn none(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            nonce: Nonce::system(),
            join_token: false,
            x509pop: None,
            local: None,
        }
    }
}

/// The agent's settings: exactly one attestor.
pub struct AgentSettings {
    /// Where the agent's part of an answer comes from.
    pub nonce: Nonce,
    /// The join token.
    pub join_token: Option<join_token::Token>,
    /// `x509pop`.
    pub x509pop: Option<x509pop::AgentSettings>,
    /// The agent's end of [`local::pair`].
    pub local: Option<local::LocalCollect>,
}

impl AgentSettings {
    /// No attestor, and the system's random numbers.
    #[must_use]
    pub fn none() -> Self {
        Self {
            nonce: Nonce::system(),
            join_token: None,
            x509pop: None,
            local: None,
        }
    }
}

/// The server's half: evidence in, a verdict or a challenge out. Never blocks.
pub trait Verify: Send + Sync {
    /// The attestor's name.
    fn name(&self) -> &'static str;

    /// Reads the evidence.
    ///
    /// # Errors
    /// `Malformed` or `Refused`.
    fn begin(&self, payload: &[u8], now: Timestamp) -> Result<Step, AttestError>;
}

/// Where an attestation stands.
pub enum Step {
    /// Proven.
    Done(Proven),
    /// One more proof is asked for.
    Challenge {
        /// What the agent is sent.
        challenge: Vec<u8>,
        /// Who reads its answer.
        next: Box<dyn Next>,
    },
}

/// Waits for the answer to one challenge, and takes one answer.
pub trait Next: Send {
    /// Reads the answer.
    ///
    /// # Errors
    /// `Malformed` or `Refused`; the attestation is over then.
    fn answer(self: Box<Self>, response: &[u8], now: Timestamp) -> Result<Step, AttestError>;
}

/// What an attestor says of a node. No `Debug`: a join token is its node's name.
pub struct Proven {
    /// The node's path below `/spire/agent/<attestor>/`.
    pub suffix: String,
    /// What is proven of it.
    pub facts: Facts,
    /// Whether the evidence is good for one use.
    pub once: Option<Once>,
    /// Whether the node may attest again with the same evidence.
    pub can_reattest: bool,
}

/// The agent's half. Built for one attestation; build another to read renewed files.
pub trait Collect: Send + Sync {
    /// The attestor's name.
    fn name(&self) -> &'static str;

    /// What the server is shown.
    ///
    /// # Errors
    /// When it cannot be collected.
    fn evidence(&self) -> Result<Evidence, AttestError>;

    /// The answer to a challenge.
    ///
    /// # Errors
    /// `Malformed` when the challenge makes no sense.
    fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, AttestError>;
}

/// The server's halves that are switched on.
pub struct Verifiers(Vec<Box<dyn Verify>>);

impl Verifiers {
    /// Builds those whose settings are there.
    ///
    /// # Errors
    /// The first [`AttestError::Setting`].
    pub fn new(mut settings: ServerSettings) -> Result<Self, AttestError> {
        let built = NODE_ATTESTORS
            .iter()
            .filter_map(|attestor| (attestor.verify)(&mut settings).transpose());
        Ok(Self(built.collect::<Result<_, _>>()?))
    }

    /// The names of those that are switched on.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &'static str> {
        self.0.iter().map(|verify| verify.name())
    }

    /// Hands the evidence to its attestor, whose name comes back for [`attested`].
    ///
    /// # Errors
    /// [`AttestError::Unknown`], or what the attestor says.
    pub fn begin(
        &self,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Result<(&'static str, Step), AttestError> {
        match self.0.iter().find(|verify| verify.name() == evidence.kind) {
            Some(verify) => Ok((verify.name(), verify.begin(&evidence.payload, now)?)),
            None => Err(AttestError::Unknown {
                name: text::bounded(&evidence.kind, 64),
                known: self.names().collect::<Vec<_>>().join(", "),
            }),
        }
    }
}

/// The agent's half that is configured.
///
/// # Errors
/// [`AttestError::Setting`] when it does not work, or when there is none, or more than one.
pub fn collector(mut settings: AgentSettings) -> Result<Box<dyn Collect>, AttestError> {
    let built = NODE_ATTESTORS
        .iter()
        .filter_map(|attestor| (attestor.collect)(&mut settings).transpose());
    let mut built = built.collect::<Result<Vec<_>, _>>()?;
    match (built.pop(), built.pop()) {
        (Some(one), None) => Ok(one),
        (one, _) => Err(AttestError::Setting {
            attestor: "node",
            setting: "node_attestor",
            why: if one.is_none() {
                "there is none"
            } else {
                "there are several"
            }
            .to_owned(),
            hint: format!(
                "configure exactly one of {}",
                NODE_ATTESTORS
                    .iter()
                    .map(|a| a.name)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
            .into(),
        }),
    }
}

/// The verdict: the node's id, and what is attested of it. The server vouches for nodes.
///
/// # Errors
/// `Malformed` when the suffix is no path of a SPIFFE ID.
pub fn attested(
    trust_domain: &TrustDomain,
    name: &'static str,
    proven: Proven,
) -> Result<(SpiffeId, Attested), AttestError> {
    let path = format!("{AGENT_PREFIX}{name}/{}", proven.suffix);
    // What is wrong with it stays unsaid, because it may be a secret.
    let id = trust_domain
        .with_path(&path)
        .map_err(|_| AttestError::malformed(name, "the node's name is no path of a SPIFFE ID"))?;
    Ok((
        id,
        Attested::new(Parent::Server, proven.facts, Instance::Node, proven.once),
    ))
}
