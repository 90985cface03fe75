//! Material for the tests of this crate: certificates of any shape, keys and tokens. Never part
//! of the library.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{
    ID_CE_BASIC_CONSTRAINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE, ID_CE_NAME_CONSTRAINTS,
    ID_CE_SUBJECT_ALT_NAME, ID_CE_SUBJECT_KEY_IDENTIFIER, ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH,
};
use der::asn1::{Ia5String, OctetString};
use der::flagset::FlagSet;
use der::{Decode, Encode};
use jiff::Timestamp;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, Issuer, KeyPair, SerialNumber,
    date_time_ymd,
};
use serde_json::Value;
use x509_cert::Certificate;
use x509_cert::ext::pkix::constraints::name::{GeneralSubtree, NameConstraints};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName, SubjectKeyIdentifier,
};

use crate::bundle::{Bundle, JwtKey};
use crate::id::{SpiffeId, TrustDomain};
use crate::jwtsvid::JwtAlgorithm;
use crate::key::KeyType;
use crate::x509authority::X509Authority;

pub(crate) const LEAF: &str = "spiffe://example.org/web";

pub(crate) fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn id(s: &str) -> SpiffeId {
    SpiffeId::parse(s).unwrap()
}

/// An extension as it will stand in the certificate.
#[derive(Clone)]
pub(crate) struct Ext {
    pub(crate) oid: ObjectIdentifier,
    pub(crate) critical: bool,
    pub(crate) content: Vec<u8>,
}

impl Ext {
    pub(crate) fn new(oid: ObjectIdentifier, critical: bool, value: &impl Encode) -> Self {
        let content = value.to_der().unwrap();
        Self {
            oid,
            critical,
            content,
        }
    }

    pub(crate) fn names(critical: bool, names: Vec<GeneralName>) -> Self {
        Self::new(ID_CE_SUBJECT_ALT_NAME, critical, &SubjectAltName(names))
    }

    pub(crate) fn uris(critical: bool, uris: &[&str]) -> Self {
        Self::names(critical, uris.iter().map(|uri| uri_name(uri)).collect())
    }

    pub(crate) fn constraints(critical: bool, ca: bool, path_len: Option<u8>) -> Self {
        let value = BasicConstraints {
            ca,
            path_len_constraint: path_len,
        };
        Self::new(ID_CE_BASIC_CONSTRAINTS, critical, &value)
    }

    pub(crate) fn usage(critical: bool, usages: impl Into<FlagSet<KeyUsages>>) -> Self {
        Self::new(ID_CE_KEY_USAGE, critical, &KeyUsage(usages.into()))
    }

    pub(crate) fn purposes(purposes: &[ObjectIdentifier]) -> Self {
        let value = ExtendedKeyUsage(purposes.to_vec());
        Self::new(ID_CE_EXT_KEY_USAGE, false, &value)
    }

    pub(crate) fn key_id(id: &[u8]) -> Self {
        let value = SubjectKeyIdentifier(OctetString::new(id).unwrap());
        Self::new(ID_CE_SUBJECT_KEY_IDENTIFIER, false, &value)
    }

    pub(crate) fn permitted_uri(base: &str) -> Self {
        let subtree = GeneralSubtree {
            base: uri_name(base),
            minimum: 0,
            maximum: None,
        };
        let value = NameConstraints {
            permitted_subtrees: Some(vec![subtree]),
            excluded_subtrees: None,
        };
        Self::new(ID_CE_NAME_CONSTRAINTS, true, &value)
    }
}

pub(crate) fn uri_name(uri: &str) -> GeneralName {
    GeneralName::UniformResourceIdentifier(Ia5String::new(uri).unwrap())
}

pub(crate) fn dns_name(name: &str) -> GeneralName {
    GeneralName::DnsName(Ia5String::new(name).unwrap())
}

/// A certificate to be: right by default, bent by each test.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) subject: Option<String>,
    pub(crate) serial: Vec<u8>,
    pub(crate) years: (i32, i32),
    pub(crate) extensions: Vec<Ext>,
}

impl Recipe {
    pub(crate) fn leaf(uri: &str) -> Self {
        Self {
            subject: Some("leaf".to_owned()),
            serial: vec![0x01, 0x9a, 0x00, 0xff],
            years: (2026, 2027),
            extensions: vec![
                Ext::uris(false, &[uri]),
                Ext::constraints(true, false, None),
                Ext::usage(
                    true,
                    KeyUsages::DigitalSignature
                        | KeyUsages::KeyEncipherment
                        | KeyUsages::KeyAgreement,
                ),
                Ext::purposes(&[ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH]),
            ],
        }
    }

    pub(crate) fn authority(name: &str) -> Self {
        Self {
            subject: Some(name.to_owned()),
            serial: vec![0x7f],
            years: (2026, 2028),
            extensions: vec![
                Ext::uris(false, &["spiffe://example.org"]),
                Ext::constraints(true, true, None),
                Ext::usage(true, KeyUsages::KeyCertSign | KeyUsages::CRLSign),
                Ext::key_id(name.as_bytes()),
            ],
        }
    }

    /// With this extension in the place of the one of its kind.
    pub(crate) fn with(mut self, ext: Ext) -> Self {
        self.extensions.retain(|other| other.oid != ext.oid);
        self.extensions.push(ext);
        self
    }

    /// With this extension beside whatever is there.
    pub(crate) fn and(mut self, ext: Ext) -> Self {
        self.extensions.push(ext);
        self
    }

    pub(crate) fn without(mut self, oid: ObjectIdentifier) -> Self {
        self.extensions.retain(|ext| ext.oid != oid);
        self
    }

    pub(crate) fn subject(mut self, subject: Option<&str>) -> Self {
        self.subject = subject.map(str::to_owned);
        self
    }

    pub(crate) fn serial(mut self, serial: &[u8]) -> Self {
        self.serial = serial.to_vec();
        self
    }

    pub(crate) fn years(mut self, from: i32, to: i32) -> Self {
        self.years = (from, to);
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(subject) = &self.subject {
            params
                .distinguished_name
                .push(DnType::CommonName, subject.as_str());
        }
        params.serial_number = Some(SerialNumber::from_slice(&self.serial));
        params.not_before = date_time_ymd(self.years.0, 1, 1);
        params.not_after = date_time_ymd(self.years.1, 1, 1);
        for ext in &self.extensions {
            let oid: Vec<u64> = ext.oid.arcs().map(u64::from).collect();
            let mut custom = CustomExtension::from_oid_content(&oid, ext.content.clone());
            custom.set_criticality(ext.critical);
            params.custom_extensions.push(custom);
        }
        params
    }

    /// Signed by itself.
    pub(crate) fn root(self) -> Signer {
        self.root_with(KeyPair::generate().unwrap())
    }

    pub(crate) fn root_with(self, key: KeyPair) -> Signer {
        let der = self.params().self_signed(&key).unwrap().der().to_vec();
        Signer {
            recipe: self,
            key,
            der,
        }
    }

    /// Signed by `issuer`.
    pub(crate) fn under(self, issuer: &Signer) -> Signer {
        let key = KeyPair::generate().unwrap();
        let params = issuer.recipe.params();
        let signer = Issuer::from_params(&params, &issuer.key);
        let der = self
            .params()
            .signed_by(&key, &signer)
            .unwrap()
            .der()
            .to_vec();
        Signer {
            recipe: self,
            key,
            der,
        }
    }
}

/// A certificate with its key.
pub(crate) struct Signer {
    recipe: Recipe,
    pub(crate) key: KeyPair,
    pub(crate) der: Vec<u8>,
}

impl Signer {
    pub(crate) fn tbs(&self) -> Vec<u8> {
        let certificate = Certificate::from_der(&self.der).unwrap();
        certificate.tbs_certificate().to_der().unwrap()
    }
}

pub(crate) fn bundle_of(signers: &[&Signer]) -> Bundle {
    let authorities = signers
        .iter()
        .map(|signer| X509Authority::from_der(&signer.der).unwrap())
        .collect();
    Bundle::new(domain(), authorities, Vec::new(), 1, None).unwrap()
}

/// A key that signs tokens.
pub(crate) enum TokenKey {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl TokenKey {
    /// One key of each kind for the whole run, since making an RSA key is slow.
    pub(crate) fn of(kind: KeyType) -> &'static Self {
        static P256: OnceLock<TokenKey> = OnceLock::new();
        static P384: OnceLock<TokenKey> = OnceLock::new();
        static P521: OnceLock<TokenKey> = OnceLock::new();
        static RSA: OnceLock<TokenKey> = OnceLock::new();
        let ec = |algorithm: &'static EcdsaSigningAlgorithm| {
            Self::Ec(EcdsaKeyPair::generate(algorithm).unwrap())
        };
        match kind {
            KeyType::EcP256 => P256.get_or_init(|| ec(&ECDSA_P256_SHA256_FIXED_SIGNING)),
            KeyType::EcP384 => P384.get_or_init(|| ec(&ECDSA_P384_SHA384_FIXED_SIGNING)),
            KeyType::EcP521 => P521.get_or_init(|| ec(&ECDSA_P521_SHA512_FIXED_SIGNING)),
            KeyType::Rsa => {
                RSA.get_or_init(|| Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
            }
            KeyType::Ed25519 => panic!("no JWT-SVID is signed with Ed25519"),
        }
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Ec(pair) => pair.public_key().as_der().unwrap(),
            Self::Rsa(pair) => pair.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    pub(crate) fn sign(&self, algorithm: JwtAlgorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    JwtAlgorithm::Rs256 => &RSA_PKCS1_SHA256,
                    JwtAlgorithm::Rs384 => &RSA_PKCS1_SHA384,
                    JwtAlgorithm::Rs512 => &RSA_PKCS1_SHA512,
                    JwtAlgorithm::Ps256 => &RSA_PSS_SHA256,
                    JwtAlgorithm::Ps384 => &RSA_PSS_SHA384,
                    _ => &RSA_PSS_SHA512,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }
}

/// `header.claims` from any text.
pub(crate) fn signing_input(header: &str, claims: &str) -> String {
    let (header, claims) = (
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims),
    );
    format!("{header}.{claims}")
}

/// A signed token, whatever its header says.
pub(crate) fn token(algorithm: JwtAlgorithm, header: &str, claims: &str) -> String {
    let input = signing_input(header, claims);
    let signature = TokenKey::of(algorithm.key_type()).sign(algorithm, input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A bundle with one key of each kind, each under its kind's name.
pub(crate) fn jwt_bundle() -> Bundle {
    let keys = [
        (KeyType::EcP256, "p256"),
        (KeyType::EcP384, "p384"),
        (KeyType::EcP521, "p521"),
        (KeyType::Rsa, "rsa"),
    ]
    .map(|(kind, name)| JwtKey::new(name, &TokenKey::of(kind).spki(), None).unwrap());
    Bundle::new(domain(), Vec::new(), keys.into(), 1, None).unwrap()
}

pub(crate) fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}
