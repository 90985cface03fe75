//! What this room's tests share: an authority made of rcgen, and a server's certificate from it.

pub(crate) mod fake_server;

use attesta_spiffe::{Bundle, X509Authority};
use attesta_tls::{CertificateDer, Identity};
use der::Decode;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};

use x509_cert::request::CertReq;

use crate::authorized::tests::domain;

/// The key of a request, as rcgen wants it.
struct Requested(CertReq);

impl PublicKeyData for Requested {
    fn der_bytes(&self) -> &[u8] {
        self.0
            .info
            .public_key
            .subject_public_key
            .as_bytes()
            .unwrap()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Signs whatever a test asks for.
pub(crate) struct Ca {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::OrganizationName, "TEST");
        params.subject_alt_names = vec![SanType::URI("spiffe://example.org".try_into().unwrap())];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2090, 1, 1);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(
            domain(),
            vec![X509Authority::from_der(&self.der).unwrap()],
            vec![],
            1,
            None,
        )
        .unwrap()
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// A leaf for the key of a request: valid from 10 s ago, for so many seconds from now.
    pub(crate) fn issue(&self, path: &str, csr: &[u8], seconds: i64) -> Vec<Vec<u8>> {
        let key = Requested(CertReq::from_der(csr).unwrap());
        vec![
            leaf(path, seconds)
                .signed_by(&key, &self.issuer)
                .unwrap()
                .der()
                .to_vec(),
        ]
    }

    /// A TLS identity of this path.
    pub(crate) fn identity(&self, path: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf(path, 3600).signed_by(&key, &self.issuer).unwrap();
        Identity::new(
            vec![CertificateDer::from(certificate.der().to_vec())],
            key.serialize_der(),
        )
        .unwrap()
    }
}

fn leaf(path: &str, seconds: i64) -> CertificateParams {
    let now = attesta_runtime::Clock::system().now().as_second();
    let at = |s: i64| {
        (std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(s).unwrap())).into()
    };
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(
        format!("spiffe://example.org{path}").try_into().unwrap(),
    )];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.not_before = at(now - 10);
    params.not_after = at(now + seconds);
    params
}
