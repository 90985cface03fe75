//! A certificate signing request, of which only the key is used, and only once its signature has proven possession.
//!
//! Whatever names a request asks for are ignored (SPIRE does the same): an entry says who one is, not the caller.

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest},
    encoding::{AsDer, PublicKeyX509Der},
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA384_ASN1,
        ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, EcdsaKeyPair, KeyPair, ParsedPublicKey,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
        VerificationAlgorithm,
    },
};
use const_oid::{
    ObjectIdentifier,
    db::rfc5912::{
        ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1,
        SECP_384_R_1, SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION,
        SHA_512_WITH_RSA_ENCRYPTION,
    },
};
use der::{Decode, Encode, Sequence, asn1::BitStringRef};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use zeroize::Zeroizing;

/// Longest request, in bytes. An RSA-4096 request with a few names has about 1,700.
pub const MAX_BYTES: usize = 8 * 1024;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Too long.
    #[error("CSR is longer than 8192 bytes")]
    TooLong,
    /// Not DER of PKCS#10 (RFC 2986).
    #[error("malformed CSR")]
    Malformed,
    /// A key we do not certify.
    #[error(
        "CSR has a key of an unsupported kind; use ECDSA on P-256 or P-384, or RSA with 2048 to 4096 bits"
    )]
    Key,
    /// A signature we do not verify.
    #[error("CSR is signed with an unsupported algorithm; use SHA-256 or stronger")]
    Algorithm,
    /// The signature does not verify: the caller has not shown that the key is its own.
    #[error("invalid CSR signature")]
    Signature,
}

/// A public key whose private half the caller has proven to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectKey {
    spki: Vec<u8>,
    digest: [u8; 32],
    key_id: [u8; 20],
}

impl SubjectKey {
    /// SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what binds evidence used once to its caller.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// SHA-1 of the public key bits: the subject key identifier (RFC 5280 section 4.2.1.2, method 1).
    #[must_use]
    pub fn key_id(&self) -> [u8; 20] {
        self.key_id
    }

    /// Parses a request and verifies its signature.
    ///
    /// # Errors
    /// [`CsrError`].
    pub fn from_csr(csr: &[u8]) -> Result<Self, CsrError> {
        if csr.len() > MAX_BYTES {
            return Err(CsrError::TooLong);
        }
        let outer = Request::from_der(csr).map_err(|_| CsrError::Malformed)?;
        let spki = &outer.info.public_key;
        let (curve, allowed) = kind(spki)?;
        let algorithm = verification(outer.algorithm.oid, curve).ok_or(CsrError::Algorithm)?;
        let info = outer.info.to_der().map_err(|_| CsrError::Malformed)?;
        // DER has one encoding: what was parsed and written again is what was signed, or the signature fails.
        let key_bits = spki
            .subject_public_key
            .as_bytes()
            .ok_or(CsrError::Malformed)?;
        let spki_der = spki.to_der().map_err(|_| CsrError::Malformed)?;
        let signature = outer.signature.as_bytes().ok_or(CsrError::Malformed)?;
        if !allowed.contains(&key_bits.len()) {
            return Err(CsrError::Key);
        }
        ParsedPublicKey::new(algorithm, key_bits)
            .map_err(|_| CsrError::Key)?
            .verify_sig(&info, signature)
            .map_err(|_| CsrError::Signature)?;
        Ok(Self::of(spki_der, key_bits))
    }

    /// The key of an authority or of the server itself, whose private half is in this room's reach.
    pub(crate) fn own(spki: &[u8]) -> Result<Self, CsrError> {
        let parsed = SubjectPublicKeyInfoRef::from_der(spki).map_err(|_| CsrError::Malformed)?;
        let bits = parsed
            .subject_public_key
            .as_bytes()
            .ok_or(CsrError::Malformed)?;
        Ok(Self::of(spki.to_vec(), bits))
    }

    fn of(spki: Vec<u8>, bits: &[u8]) -> Self {
        let mut out = Self {
            digest: [0; 32],
            key_id: [0; 20],
            spki,
        };
        out.digest
            .copy_from_slice(digest(&SHA256, &out.spki).as_ref());
        out.key_id
            .copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, bits).as_ref());
        out
    }
}

/// A fresh P-256 key pair for a process's own certificate: its private half never leaves memory.
pub struct OwnKey {
    /// The public half.
    pub public: SubjectKey,
    /// The private half, PKCS#8 DER.
    pub private_pkcs8: Zeroizing<Vec<u8>>,
}

impl SubjectKey {
    /// A fresh key pair of this process.
    ///
    /// # Errors
    /// The library could not make one.
    pub fn generate() -> Result<OwnKey, CsrError> {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| CsrError::Key)?;
        let private = pair.to_pkcs8v1().map_err(|_| CsrError::Key)?;
        let public = pair.public_key().as_der().map_err(|_| CsrError::Key)?;
        let public: &PublicKeyX509Der<'_> = &public;
        Ok(OwnKey {
            public: Self::own(public.as_ref())?,
            private_pkcs8: Zeroizing::new(private.as_ref().to_vec()),
        })
    }
}

/// PKCS#10 (RFC 2986 section 4), borrowed; names and attributes are read past.
#[derive(Sequence)]
struct Request<'a> {
    info: Info<'a>,
    algorithm: AlgorithmIdentifierRef<'a>,
    signature: BitStringRef<'a>,
}

#[derive(Sequence)]
struct Info<'a> {
    version: u8,
    subject: der::asn1::AnyRef<'a>,
    public_key: SubjectPublicKeyInfoRef<'a>,
    attributes: Option<der::asn1::AnyRef<'a>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Curve {
    P256,
    P384,
    Rsa,
}

/// Which kind of key, and how long its bits may be.
fn kind(
    spki: &SubjectPublicKeyInfoRef<'_>,
) -> Result<(Curve, std::ops::RangeInclusive<usize>), CsrError> {
    match spki.algorithm.oid {
        ID_EC_PUBLIC_KEY => match spki.algorithm.parameters_oid() {
            Ok(SECP_256_R_1) => Ok((Curve::P256, 65..=65)),
            Ok(SECP_384_R_1) => Ok((Curve::P384, 97..=97)),
            _ => Err(CsrError::Key),
        },
        // An RSAPublicKey of 2048 to 4096 bits with a usual exponent.
        RSA_ENCRYPTION => Ok((Curve::Rsa, 265..=530)),
        _ => Err(CsrError::Key),
    }
}

fn verification(oid: ObjectIdentifier, curve: Curve) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (oid, curve) {
        (ECDSA_WITH_SHA_256, Curve::P256) => &ECDSA_P256_SHA256_ASN1,
        (ECDSA_WITH_SHA_384, Curve::P256) => &ECDSA_P256_SHA384_ASN1,
        (ECDSA_WITH_SHA_256, Curve::P384) => &ECDSA_P384_SHA256_ASN1,
        (ECDSA_WITH_SHA_384, Curve::P384) => &ECDSA_P384_SHA384_ASN1,
        (SHA_256_WITH_RSA_ENCRYPTION, Curve::Rsa) => &RSA_PKCS1_2048_8192_SHA256,
        (SHA_384_WITH_RSA_ENCRYPTION, Curve::Rsa) => &RSA_PKCS1_2048_8192_SHA384,
        (SHA_512_WITH_RSA_ENCRYPTION, Curve::Rsa) => &RSA_PKCS1_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateParams;

    use super::*;

    fn csr(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["evil.example".into()])
            .unwrap()
            .serialize_request(&key)
            .unwrap()
            .der()
            .to_vec()
    }

    #[test]
    fn only_a_key_that_signed_its_request_is_believed() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
        ] {
            let good = csr(algorithm);
            SubjectKey::from_csr(&good).unwrap();
            let mut forged = good.clone();
            let last = forged.len() - 1;
            forged[last] ^= 1;
            assert!(SubjectKey::from_csr(&forged).is_err());
            for cut in [0, 1, good.len() / 2, good.len() - 1] {
                assert_eq!(SubjectKey::from_csr(&good[..cut]), Err(CsrError::Malformed));
            }
        }
        assert_eq!(
            SubjectKey::from_csr(&csr(&rcgen::PKCS_ED25519)),
            Err(CsrError::Key)
        );
        assert_eq!(
            SubjectKey::from_csr(&vec![0x30; 1 << 20]),
            Err(CsrError::TooLong)
        );
    }

    #[test]
    fn a_key_from_another_request_does_not_verify() {
        let (a, b) = (
            csr(&rcgen::PKCS_ECDSA_P256_SHA256),
            csr(&rcgen::PKCS_ECDSA_P256_SHA256),
        );
        let key = |c: &[u8]| SubjectKey::from_csr(c).unwrap().spki;
        let (ka, kb) = (key(&a), key(&b));
        let at = a.windows(ka.len()).position(|w| w == ka).unwrap();
        let mut swapped = a.clone();
        swapped[at..at + ka.len()].copy_from_slice(&kb);
        assert_eq!(SubjectKey::from_csr(&swapped), Err(CsrError::Signature));
    }
}
