//! Key pairs and the requests that prove their possession (PKCS#10, RFC 2986), for workloads and for the agent itself.
//!
//! Private halves leave only as PKCS#8 that is wiped when dropped. Must not know what a key is for.

use std::str::FromStr;

use attesta_model::KeyAlgorithm;
use attesta_spiffe::SpiffeId;
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use const_oid::db::{
    rfc5280::ID_CE_SUBJECT_ALT_NAME,
    rfc5912::{ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, SHA_256_WITH_RSA_ENCRYPTION},
};
use der::{
    Any, Decode, Encode,
    asn1::{BitString, Ia5String, Null, OctetString, SetOfVec},
};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::{
    attr::Attribute,
    ext::{
        Extension,
        pkix::{SubjectAltName, name::GeneralName},
    },
    name::Name,
    request::{CertReq, CertReqInfo, ExtensionReq, Version},
};
use zeroize::Zeroizing;

/// Why there is no key or no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The library or the system's random source refused.
    #[error("a key could not be made")]
    Generate,
    /// The bytes are no private key that this agent makes.
    #[error("no PKCS#8 key of P-256, P-384 or RSA")]
    Malformed,
    /// The request could not be written or signed.
    #[error("a signing request could not be made")]
    Request,
}

/// A private key as unencrypted PKCS#8, wiped when dropped; in no `Debug`.
pub(crate) type Pkcs8 = Zeroizing<Vec<u8>>;

/// A key pair.
pub(crate) struct KeyPair {
    pair: Pair,
    pkcs8: Pkcs8,
    spki: Vec<u8>,
}

enum Pair {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl KeyPair {
    /// A new pair. RSA takes tens of milliseconds: call it on a blocking thread.
    pub(crate) fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let made = |_| KeyError::Generate;
        let pair = match algorithm {
            KeyAlgorithm::EcP256 => {
                Pair::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(made)?)
            }
            KeyAlgorithm::EcP384 => {
                Pair::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map_err(made)?)
            }
            KeyAlgorithm::Rsa2048 => {
                Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(made)?)
            }
        };
        let pkcs8 = match &pair {
            Pair::P256(p) | Pair::P384(p) => p
                .to_pkcs8v1()
                .map(|d| Zeroizing::new(d.as_ref().to_vec()))
                .map_err(made)?,
            Pair::Rsa(p) => {
                let der: Pkcs8V1Der<'_> = p.as_der().map_err(made)?;
                Zeroizing::new(der.as_ref().to_vec())
            }
        };
        Self::of(pair, pkcs8).map_err(|_| KeyError::Generate)
    }

    /// The pair of a private key that was kept.
    pub(crate) fn from_pkcs8(pkcs8: Pkcs8) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
            .map(Pair::P256)
            .or_else(|_| {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &pkcs8).map(Pair::P384)
            })
            .or_else(|_| RsaKeyPair::from_pkcs8(&pkcs8).map(Pair::Rsa))
            .map_err(|_| KeyError::Malformed)?;
        Self::of(pair, pkcs8)
    }

    fn of(pair: Pair, pkcs8: Pkcs8) -> Result<Self, KeyError> {
        let der: Result<PublicKeyX509Der<'_>, _> = match &pair {
            Pair::P256(p) | Pair::P384(p) => p.public_key().as_der(),
            Pair::Rsa(p) => p.public_key().as_der(),
        };
        let spki = der
            .map(|d| d.as_ref().to_vec())
            .map_err(|_| KeyError::Malformed)?;
        Ok(Self { pair, pkcs8, spki })
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The private key.
    pub(crate) fn pkcs8(&self) -> &Pkcs8 {
        &self.pkcs8
    }

    /// The private key, and the end of this pair.
    pub(crate) fn into_pkcs8(self) -> Pkcs8 {
        self.pkcs8
    }

    /// A signed request for this key: `C=US, O=SPIRE`, and the id as the only alternative name, as SPIRE's agents write
    /// it. Servers use the key alone.
    pub(crate) fn csr(&self, id: Option<&SpiffeId>) -> Result<Vec<u8>, KeyError> {
        let info = self.request(id).map_err(|_| KeyError::Request)?;
        let bytes = info.to_der().map_err(|_| KeyError::Request)?;
        let random = SystemRandom::new();
        let (oid, parameters, signature) = match &self.pair {
            Pair::P256(p) => (
                ECDSA_WITH_SHA_256,
                None,
                p.sign(&random, &bytes).map(|s| s.as_ref().to_vec()),
            ),
            Pair::P384(p) => (
                ECDSA_WITH_SHA_384,
                None,
                p.sign(&random, &bytes).map(|s| s.as_ref().to_vec()),
            ),
            Pair::Rsa(p) => {
                let mut out = vec![0; p.public_modulus_len()];
                let signed = p
                    .sign(&RSA_PKCS1_SHA256, &random, &bytes, &mut out)
                    .map(|()| out);
                (SHA_256_WITH_RSA_ENCRYPTION, Some(Any::from(Null)), signed)
            }
        };
        let signature = signature.map_err(|_| KeyError::Request)?;
        let request = CertReq {
            info,
            algorithm: AlgorithmIdentifierOwned { oid, parameters },
            signature: BitString::from_bytes(&signature).map_err(|_| KeyError::Request)?,
        };
        request.to_der().map_err(|_| KeyError::Request)
    }

    fn request(&self, id: Option<&SpiffeId>) -> der::Result<CertReqInfo> {
        let mut attributes = SetOfVec::new();
        if let Some(id) = id {
            let san = SubjectAltName(vec![GeneralName::UniformResourceIdentifier(
                Ia5String::new(id.as_str())?,
            )]);
            let extension = Extension {
                extn_id: ID_CE_SUBJECT_ALT_NAME,
                critical: false,
                extn_value: OctetString::new(san.to_der()?)?,
            };
            attributes.insert(Attribute::try_from(ExtensionReq(vec![extension]))?)?;
        }
        Ok(CertReqInfo {
            version: Version::V1,
            // RFC 4514 writes the last part first.
            subject: Name::from_str("O=SPIRE,C=US")?,
            public_key: SubjectPublicKeyInfoOwned::from_der(&self.spki)?,
            attributes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_survives_being_kept_and_signs_its_requests() {
        let id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        for algorithm in [
            KeyAlgorithm::EcP256,
            KeyAlgorithm::EcP384,
            KeyAlgorithm::Rsa2048,
        ] {
            let pair = KeyPair::generate(algorithm).unwrap();
            let again = KeyPair::from_pkcs8(pair.pkcs8().clone()).unwrap();
            assert_eq!(pair.spki(), again.spki());
            for id in [None, Some(&id)] {
                let csr = again.csr(id).unwrap();
                let read = CertReq::from_der(&csr).unwrap();
                assert_eq!(read.info.attributes.len(), usize::from(id.is_some()));
                assert_eq!(read.info.subject.to_string(), "O=SPIRE,C=US");
                let bits = read.info.public_key.subject_public_key.as_bytes().unwrap();
                let verification: &dyn aws_lc_rs::signature::VerificationAlgorithm = match algorithm
                {
                    KeyAlgorithm::EcP256 => &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
                    KeyAlgorithm::EcP384 => &aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1,
                    KeyAlgorithm::Rsa2048 => &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256,
                };
                let signed = read.info.to_der().unwrap();
                verification
                    .verify_sig(bits, &signed, read.signature.as_bytes().unwrap())
                    .unwrap();
            }
        }
        assert!(KeyPair::from_pkcs8(Zeroizing::new(vec![0x30, 0])).is_err());
    }
}
