//! The JSON that SPIRE's `x509pop` sends. Bytes are standard base64 with padding; of the two kinds
//! of signature one is there, and the other is null or absent.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Bytes that travel as base64.
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD
            .decode(text.as_bytes())
            .map(Self)
            .map_err(|_| D::Error::custom("no base64"))
    }
}

/// The payload: the node's certificate, then intermediates.
#[derive(Serialize, Deserialize)]
pub(super) struct Shown {
    pub(super) certificates: Vec<Bytes>,
}

impl Shown {
    pub(super) fn of(certificates: &[CertificateDer<'_>]) -> Self {
        Self {
            certificates: certificates.iter().map(|c| Bytes(c.to_vec())).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Challenge {
    pub(super) rsa_signature: Option<Asked>,
    pub(super) ecdsa_signature: Option<Asked>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) nonce: Bytes,
}

impl Challenge {
    pub(super) fn rsa(nonce: [u8; 32]) -> Self {
        Self {
            rsa_signature: Some(Asked {
                nonce: Bytes(nonce.to_vec()),
            }),
            ecdsa_signature: None,
        }
    }

    pub(super) fn ecdsa(nonce: [u8; 32]) -> Self {
        Self {
            rsa_signature: None,
            ecdsa_signature: Some(Asked {
                nonce: Bytes(nonce.to_vec()),
            }),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) rsa_signature: Option<RsaSignature>,
    pub(super) ecdsa_signature: Option<EcdsaSignature>,
}

/// PSS with SHA-256 over both nonces.
#[derive(Serialize, Deserialize)]
pub(super) struct RsaSignature {
    pub(super) nonce: Bytes,
    pub(super) signature: Bytes,
}

/// ECDSA with SHA-256 over both nonces; `r` and `s` are unsigned, big-endian, of any length.
#[derive(Serialize, Deserialize)]
pub(super) struct EcdsaSignature {
    pub(super) nonce: Bytes,
    pub(super) r: Bytes,
    pub(super) s: Bytes,
}
