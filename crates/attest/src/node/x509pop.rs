//! `x509pop`: the node has a certificate from somebody else's CA, and the key to it.
//!
//! The chain is verified to the configured CA bundle, then a signature over two nonces proves
//! possession: payloads, challenge and answer are SPIRE's. Knows no revocation lists.

mod certificate;
mod key;
mod payload;

#[cfg(test)]
pub(super) mod tests;

use std::path::PathBuf;

use attesta_model::{Evidence, Facts};
use attesta_spiffe::TrustDomain;
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{
    AgentSettings as AllAgentSettings, Built, Collect, NONCE_BYTES, Next, NodeAttestor, Nonce,
    Proven, ServerSettings as AllServerSettings, Step, Verify,
};
use crate::AttestError;
use certificate::{Authorities, Leaf, Possession};
use key::PrivateKey;
use payload::{Answer, Challenge, Shown};

/// Its name.
pub const NAME: &str = "x509pop";
/// Its line in the table.
pub const ATTESTOR: NodeAttestor = NodeAttestor {
    name: NAME,
    verify,
    collect,
};
/// Longest payload, in bytes.
pub const PAYLOAD_BYTES: usize = 64 * 1024;
/// Longest challenge or answer, in bytes.
pub const ANSWER_BYTES: usize = 8 * 1024;
/// Most certificates between the node's and the CA bundle's, as SPIRE has it.
pub const INTERMEDIATES: usize = 4;
/// Longest file of certificates or of a key, in bytes.
const FILE_BYTES: u64 = 4 << 20;

/// The server's settings.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// PEM files of the CA certificates that node certificates chain to; at least one.
    pub ca_bundles: Vec<PathBuf>,
}

/// The agent's settings.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// PEM file of the node's certificate; intermediates may follow it.
    pub certificate: PathBuf,
    /// PEM file of its key (PKCS#8, SEC1 or PKCS#1), mode 0600 or stricter.
    pub private_key: PathBuf,
    /// PEM file of further intermediates.
    pub intermediates: Option<PathBuf>,
}

fn verify(settings: &mut AllServerSettings) -> Built<dyn Verify> {
    let Some(own) = settings.x509pop.take() else {
        return Ok(None);
    };
    let mut certificates = Vec::new();
    for path in &own.ca_bundles {
        certificates.extend(read_certificates("ca_bundles", path)?);
    }
    let authorities = Authorities::new(certificates)?;
    Ok(Some(Box::new(Proofs {
        trust_domain: settings.trust_domain.clone(),
        authorities,
        nonce: settings.nonce.clone(),
    })))
}

fn collect(settings: &mut AllAgentSettings) -> Built<dyn Collect> {
    let Some(own) = settings.x509pop.take() else {
        return Ok(None);
    };
    let mut certificates = read_certificates("certificate", &own.certificate)?;
    if let Some(path) = &own.intermediates {
        certificates.extend(read_certificates("intermediates", path)?);
    }
    let key = PrivateKey::read(&own.private_key)?;
    if let Some(leaf) = certificates.first()
        && certificate::public_key(leaf)? != key.public_key()
    {
        return Err(setting(
            "private_key",
            &own.private_key,
            "is not the key of the certificate",
            "give the key that belongs to the first certificate of the file",
        ));
    }
    Ok(Some(Box::new(Proof {
        certificates,
        key,
        nonce: settings.nonce.clone(),
    })))
}

/// The server's half.
struct Proofs {
    trust_domain: TrustDomain,
    authorities: Authorities,
    nonce: Nonce,
}

impl Verify for Proofs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn begin(&self, payload: &[u8], now: Timestamp) -> Result<Step, AttestError> {
        bounded("payload", payload, PAYLOAD_BYTES)?;
        let shown: Shown = read_json("payload", payload)?;
        let mut chain = shown
            .certificates
            .into_iter()
            .map(|c| CertificateDer::from(c.0));
        let leaf = chain
            .next()
            .ok_or_else(|| AttestError::malformed(NAME, "the payload has no certificate"))?;
        let intermediates: Vec<_> = chain.collect();
        if intermediates.len() > INTERMEDIATES {
            return Err(AttestError::malformed(
                NAME,
                format!(
                    "{} intermediates; at most {INTERMEDIATES} are allowed",
                    intermediates.len()
                ),
            ));
        }
        let fingerprints = self.authorities.verify(&leaf, &intermediates, now)?;
        let Leaf {
            suffix,
            facts,
            possession,
        } = Leaf::read(&leaf, &fingerprints, &self.trust_domain)?;
        let nonce = self.nonce.draw().ok_or_else(no_random)?;
        let challenge = write_json(&match possession {
            Possession::Rsa(_) => Challenge::rsa(nonce),
            Possession::Ecdsa(..) => Challenge::ecdsa(nonce),
        })?;
        Ok(Step::Challenge {
            challenge,
            next: Box::new(Asked {
                nonce,
                possession,
                suffix,
                facts,
            }),
        })
    }
}

/// A challenge that waits for its answer.
struct Asked {
    nonce: [u8; NONCE_BYTES],
    possession: Possession,
    suffix: String,
    facts: Facts,
}

impl Next for Asked {
    fn answer(self: Box<Self>, response: &[u8], _: Timestamp) -> Result<Step, AttestError> {
        bounded("answer", response, ANSWER_BYTES)?;
        let answer: Answer = read_json("answer", response)?;
        let signed = |nonce: &[u8]| -> Result<[u8; 2 * NONCE_BYTES], AttestError> {
            signed_bytes(&self.nonce, nonce).ok_or_else(|| {
                AttestError::malformed(NAME, "the answer's nonce does not have 32 bytes")
            })
        };
        match (
            &self.possession,
            answer.rsa_signature,
            answer.ecdsa_signature,
        ) {
            (Possession::Rsa(_), Some(rsa), None) => self
                .possession
                .check_rsa(&signed(&rsa.nonce.0)?, &rsa.signature.0)?,
            (Possession::Ecdsa(..), None, Some(ec)) => {
                self.possession
                    .check_ecdsa(&signed(&ec.nonce.0)?, &ec.r.0, &ec.s.0)?
            }
            _ => {
                return Err(AttestError::malformed(
                    NAME,
                    "the answer is not one to the challenge: it has another kind of signature, or none",
                ));
            }
        }
        Ok(Step::Done(Proven {
            suffix: self.suffix,
            facts: self.facts,
            once: None,
            can_reattest: true,
        }))
    }
}

/// The agent's half.
struct Proof {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    nonce: Nonce,
}

impl Collect for Proof {
    fn name(&self) -> &'static str {
        NAME
    }

    fn evidence(&self) -> Result<Evidence, AttestError> {
        let payload = write_json(&Shown::of(&self.certificates))?;
        bounded("payload", &payload, PAYLOAD_BYTES)?;
        Ok(Evidence {
            kind: NAME.to_owned(),
            payload,
        })
    }

    fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, AttestError> {
        bounded("challenge", challenge, ANSWER_BYTES)?;
        let challenge: Challenge = read_json("challenge", challenge)?;
        let asked = match (
            &self.key,
            challenge.rsa_signature,
            challenge.ecdsa_signature,
        ) {
            (PrivateKey::Rsa(_), Some(asked), None) | (PrivateKey::Ecdsa(_), None, Some(asked)) => {
                asked.nonce.0
            }
            _ => {
                return Err(AttestError::malformed(
                    NAME,
                    "the challenge is for another kind of key",
                ));
            }
        };
        let own = self.nonce.draw().ok_or_else(no_random)?;
        let signed = <[u8; NONCE_BYTES]>::try_from(asked.as_slice())
            .ok()
            .and_then(|asked| signed_bytes(&asked, &own))
            .ok_or_else(|| {
                AttestError::malformed(NAME, "the challenge's nonce does not have 32 bytes")
            })?;
        write_json(&self.key.answer(own, &signed)?)
    }
}

/// What is signed: the challenger's nonce, then the answerer's.
fn signed_bytes(challenge: &[u8; NONCE_BYTES], answer: &[u8]) -> Option<[u8; 2 * NONCE_BYTES]> {
    if answer.len() != NONCE_BYTES {
        return None;
    }
    [challenge.as_slice(), answer].concat().try_into().ok()
}

fn bounded(what: &'static str, bytes: &[u8], most: usize) -> Result<(), AttestError> {
    if bytes.len() > most {
        return Err(AttestError::malformed(
            NAME,
            format!(
                "the {what} has {} bytes; at most {most} are allowed",
                bytes.len()
            ),
        ));
    }
    Ok(())
}

fn read_json<'a, T: serde::Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, AttestError> {
    // Where, not what: serde repeats what it found.
    serde_json::from_slice(bytes).map_err(|e| {
        AttestError::malformed(
            NAME,
            format!(
                "the {what} is not the JSON expected (line {} column {})",
                e.line(),
                e.column()
            ),
        )
    })
}

fn write_json(value: &impl serde::Serialize) -> Result<Vec<u8>, AttestError> {
    serde_json::to_vec(value).map_err(|e| AttestError::failed(NAME, e.to_string()))
}

fn no_random() -> AttestError {
    AttestError::failed(NAME, "the system gave no random numbers")
}

fn setting(
    setting: &'static str,
    path: &std::path::Path,
    why: impl std::fmt::Display,
    hint: &'static str,
) -> AttestError {
    AttestError::Setting {
        attestor: NAME,
        setting,
        why: format!("{}: {why}", path.display()),
        hint: hint.into(),
    }
}

fn read_certificates(
    name: &'static str,
    path: &std::path::Path,
) -> Result<Vec<CertificateDer<'static>>, AttestError> {
    const HINT: &str = "give a PEM file with at least one certificate";
    let pem = key::read_bounded(path)
        .map_err(|e| setting(name, path, e, HINT))?
        .0;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(setting(name, path, "has no certificate", HINT)),
        Err(e) => Err(setting(name, path, e, HINT)),
    }
}
