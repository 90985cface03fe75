//! Messages of a Workload API, good ones and bad ones.

use attesta_wire::proto::workload::X509svid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;

/// An authority that signs SVIDs of `example.org`.
fn fake_authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI("spiffe://example.org".try_into().unwrap())];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn svid(authority: &CertifiedIssuer<'static, KeyPair>, id: &str, hint: &str) -> X509svid {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let leaf = params.signed_by(&key, authority).unwrap();
    X509svid {
        spiffe_id: id.to_owned(),
        x509_svid: leaf.der().to_vec(),
        x509_svid_key: key.serialize_der(),
        bundle: authority.der().to_vec(),
        hint: hint.to_owned(),
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_764_000_000).unwrap()
}

fn ids(svids: Vec<X509svid>) -> Result<Vec<String>, String> {
    let message = X509svidResponse {
        svids,
        ..Default::default()
    };
    read(message, now()).map(|s| s.iter().map(|s| s.id().to_string()).collect())
}

const A: &str = "spiffe://example.org/a";
const B: &str = "spiffe://example.org/b";

#[test]
fn identities_are_read_in_order_and_hints_are_unique() {
    let ca = fake_authority();
    assert_eq!(
        ids(vec![svid(&ca, A, ""), svid(&ca, B, "")]).unwrap(),
        [A, B]
    );
    // C185: of one hint the first counts.
    assert_eq!(
        ids(vec![svid(&ca, A, "x"), svid(&ca, B, "x")]).unwrap(),
        [A]
    );
    let mut twice = svid(&ca, A, "");
    twice.bundle = [twice.bundle.as_slice(), twice.bundle.as_slice()].concat();
    assert_eq!(ids(vec![twice]).unwrap(), [A]);
}

/// C181, C182, C183.
#[test]
fn what_is_missing_or_does_not_fit_is_refused() {
    let (ca, other) = (fake_authority(), fake_authority());
    let with = |change: &dyn Fn(&mut X509svid)| {
        let mut svid = svid(&ca, A, "");
        change(&mut svid);
        svid
    };
    for (svids, expect) in [
        (vec![], "no SVID"),
        (vec![with(&|s| s.spiffe_id.clear())], "empty"),
        (
            vec![with(&|s| s.spiffe_id = B.to_owned())],
            "is that of spiffe://example.org/a",
        ),
        (
            vec![with(&|s| s.spiffe_id = "spiffe://other.org/a".to_owned())],
            "spiffe://other.org/a",
        ),
        (vec![with(&|s| s.x509_svid.clear())], "chain is not a list"),
        (
            vec![with(&|s| s.x509_svid.truncate(100))],
            "chain is not a list",
        ),
        (vec![with(&|s| s.bundle.clear())], "bundle is not a list"),
        (
            vec![with(&|s| s.bundle = svid(&ca, B, "").x509_svid)],
            "bundle",
        ),
        (
            vec![with(&|s| s.bundle = other.der().to_vec())],
            "spiffe://example.org/a",
        ),
        (vec![with(&|s| s.x509_svid_key.clear())], "private key"),
        (
            vec![with(&|s| s.x509_svid_key = svid(&ca, A, "").x509_svid_key)],
            "private key",
        ),
        (
            vec![svid(&ca, A, ""), with(&|s| s.x509_svid_key.clear())],
            "private key",
        ),
    ] {
        let error = ids(svids).unwrap_err();
        assert!(error.contains(expect), "{expect}: {error}");
    }
}

#[test]
fn concatenated_der() {
    let long = [vec![0x30, 0x81, 0x80], vec![0; 128]].concat();
    let check = |der: &[u8], expect: Option<&[usize]>| {
        let lengths = certificates(der).map(|c| c.iter().map(|c| c.len()).collect::<Vec<_>>());
        assert_eq!(lengths.as_deref(), expect, "{der:?}");
    };
    check(&[], None);
    check(&[0x30, 0], Some(&[2]));
    check(&[0x30, 1, 5, 0x30, 0], Some(&[3, 2]));
    check(&[long.as_slice(), &[0x30, 0]].concat(), Some(&[131, 2]));
    check(&long[..130], None);
    check(&[0x30], None);
    check(&[0x31, 0], None);
    check(&[0x30, 0x80, 0, 0], None);
    check(&[0x30, 0x85, 0, 0, 0, 0, 0], None);
    check(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], None);
    check(&[0x30, 0, 0], None);
}
