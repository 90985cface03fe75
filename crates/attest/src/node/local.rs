//! `local`: agent and server are one process. The evidence is a secret that never leaves its
//! memory; nothing is on disk, and the node has one name over all restarts.

use attesta_model::{Evidence, Facts};
use aws_lc_rs::constant_time;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{AgentSettings, Built, Collect, NodeAttestor, Proven, ServerSettings, Step, Verify};
use crate::AttestError;

/// Its name.
pub const NAME: &str = "local";
/// Its line in the table.
pub const ATTESTOR: NodeAttestor = NodeAttestor {
    name: NAME,
    verify,
    collect,
};
/// The node's path below `/spire/agent/local/`: entries under it stay true over restarts.
pub const SUFFIX: &str = "node";

/// Both ends, of 32 random bytes that are drawn at every start.
#[must_use]
pub fn pair(random: [u8; 32]) -> (LocalVerify, LocalCollect) {
    let random = Zeroizing::new(random);
    (LocalVerify(random.clone()), LocalCollect(random))
}

/// The server's half.
pub struct LocalVerify(Zeroizing<[u8; 32]>);

/// The agent's half.
pub struct LocalCollect(Zeroizing<[u8; 32]>);

fn verify(settings: &mut ServerSettings) -> Built<dyn Verify> {
    Ok(settings
        .local
        .take()
        .map(|half| Box::new(half) as Box<dyn Verify>))
}

fn collect(settings: &mut AgentSettings) -> Built<dyn Collect> {
    Ok(settings
        .local
        .take()
        .map(|half| Box::new(half) as Box<dyn Collect>))
}

impl Verify for LocalVerify {
    fn name(&self) -> &'static str {
        NAME
    }

    fn begin(&self, payload: &[u8], _: Timestamp) -> Result<Step, AttestError> {
        if payload.len() != self.0.len() {
            return Err(AttestError::malformed(
                NAME,
                "the payload does not have 32 bytes",
            ));
        }
        constant_time::verify_slices_are_equal(payload, self.0.as_slice())
            .map_err(|_| AttestError::refused(NAME, "the agent is not in the server's process"))?;
        Ok(Step::Done(Proven {
            suffix: SUFFIX.to_owned(),
            facts: Facts::default(),
            once: None,
            can_reattest: true,
        }))
    }
}

impl Collect for LocalCollect {
    fn name(&self) -> &'static str {
        NAME
    }

    fn evidence(&self) -> Result<Evidence, AttestError> {
        Ok(Evidence {
            kind: NAME.to_owned(),
            payload: self.0.to_vec(),
        })
    }

    fn answer(&self, _: &[u8]) -> Result<Vec<u8>, AttestError> {
        Err(AttestError::malformed(
            NAME,
            "the server asked a question, and there is none",
        ))
    }
}
