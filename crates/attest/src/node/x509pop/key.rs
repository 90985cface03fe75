//! The node's private key, in the agent: read from a file that only its owner can read, held by
//! the crypto library and nowhere else.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA256, RsaKeyPair,
    },
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

use super::{
    FILE_BYTES, NAME, NONCE_BYTES,
    payload::{Answer, Bytes, EcdsaSignature, RsaSignature},
    setting,
};
use crate::AttestError;

const SETTING: &str = "private_key";

/// A key that can answer. No `Debug`, no `Clone`.
pub(super) enum PrivateKey {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
}

impl PrivateKey {
    /// Reads a PEM file of mode 0600 or stricter.
    pub(super) fn read(path: &Path) -> Result<Self, AttestError> {
        const HINT: &str = "give a PEM file with a private key (PKCS#8, SEC1 or PKCS#1)";
        let (pem, mode) = read_bounded(path).map_err(|e| setting(SETTING, path, e, HINT))?;
        if mode & 0o077 != 0 {
            let why = format!(
                "has mode {:04o}, so others than its owner can use the key",
                mode & 0o7777
            );
            return Err(setting(
                SETTING,
                path,
                why,
                "run chmod 0600 on it, as the user the agent runs as; if others may have read it, replace the key",
            ));
        }
        let mut der =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|e| setting(SETTING, path, e, HINT))?;
        let key = Self::parse(&der);
        der.zeroize();
        key.map_err(|why| {
            setting(
                SETTING,
                path,
                why,
                "use a key on P-256 or P-521, or RSA of 2048 to 8192 bits",
            )
        })
    }

    fn parse(der: &PrivateKeyDer<'_>) -> Result<Self, &'static str> {
        let bytes = der.secret_der();
        if let PrivateKeyDer::Pkcs1(_) = der {
            return RsaKeyPair::from_der(bytes)
                .map(Self::Rsa)
                .map_err(|_| "cannot be read as an RSA key");
        }
        // `from_private_key_der` reads PKCS#8 as well.
        let on = |curve| EcdsaKeyPair::from_private_key_der(curve, bytes).ok();
        if let Some(key) =
            on(&ECDSA_P256_SHA256_FIXED_SIGNING).or_else(|| on(&ECDSA_P521_SHA256_FIXED_SIGNING))
        {
            return Ok(Self::Ecdsa(key));
        }
        // SPIRE's answer is SHA-256 on every curve, and the crypto library signs on P-384 with
        // SHA-384 only.
        if on(&ECDSA_P384_SHA384_FIXED_SIGNING).is_some() {
            return Err("is a key on P-384, with which this agent cannot answer");
        }
        RsaKeyPair::from_pkcs8(bytes)
            .map(Self::Rsa)
            .map_err(|_| "is no RSA or ECDSA key that can be used")
    }

    /// The bits of its public key, as a certificate has them.
    pub(super) fn public_key(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => key.public_key().as_ref().to_vec(),
            Self::Ecdsa(key) => key.public_key().as_ref().to_vec(),
        }
    }

    /// The answer to a challenge.
    pub(super) fn answer(
        &self,
        nonce: [u8; NONCE_BYTES],
        signed: &[u8],
    ) -> Result<Answer, AttestError> {
        let fail = |_| AttestError::failed(NAME, "the private key did not sign");
        let nonce = Bytes(nonce.to_vec());
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(
                    &RSA_PSS_SHA256,
                    &SystemRandom::new(),
                    signed,
                    &mut signature,
                )
                .map_err(fail)?;
                Ok(Answer {
                    rsa_signature: Some(RsaSignature {
                        nonce,
                        signature: Bytes(signature),
                    }),
                    ecdsa_signature: None,
                })
            }
            Self::Ecdsa(key) => {
                let signature = key.sign(&SystemRandom::new(), signed).map_err(fail)?;
                // INVARIANT: a fixed signature is r and s, each of half its length.
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                Ok(Answer {
                    rsa_signature: None,
                    ecdsa_signature: Some(EcdsaSignature {
                        nonce,
                        r: Bytes(r.to_vec()),
                        s: Bytes(s.to_vec()),
                    }),
                })
            }
        }
    }
}

/// Reads a regular file up to a bound, and its mode; the bytes are zeroed when dropped.
pub(super) fn read_bounded(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, u32)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES {
        return Err(io::Error::other(format!(
            "is no regular file of at most {FILE_BYTES} bytes"
        )));
    }
    // Reserved at once, so that no copy of a key is left behind by a growing buffer.
    let size = usize::try_from(metadata.len()).map_err(io::Error::other)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(metadata.len()).read_to_end(&mut bytes)?;
    Ok((bytes, metadata.mode()))
}
