//! Tables for C019 to C046: what an issuer may sign and what a validator accepts. C069 and C070
//! (how a client sends a token) and the rest of the clients' duties are not this crate's.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{
    ANY_EXTENDED_KEY_USAGE, ID_CE_BASIC_CONSTRAINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE,
    ID_CE_SUBJECT_ALT_NAME, ID_CE_SUBJECT_KEY_IDENTIFIER, ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH,
};
use der::asn1::{Null, OctetString};
use x509_cert::ext::pkix::KeyUsages;
use x509_cert::ext::pkix::name::GeneralName;

use super::*;
use crate::id::IdError;
use crate::testing::{Ext, LEAF, Recipe, Signer, bundle_of, dns_name, domain, id, now, uri_name};
use crate::x509authority::X509Authority;

const PRIVATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.7");

fn check_lint(recipe: Recipe, expect: Result<(), X509Error>) {
    let leaf = recipe.under(&Recipe::authority("ca").root());
    assert_eq!(lint_leaf(&leaf.der, &id(LEAF)), expect);
    assert_eq!(lint_leaf_tbs(&leaf.tbs(), &id(LEAF)), expect);
}

fn check_lint_authority(recipe: Recipe, expect: Result<(), X509Error>) {
    let root = recipe.root();
    assert_eq!(lint_authority(&root.der, &domain()), expect);
    assert_eq!(lint_authority_tbs(&root.tbs(), &domain()), expect);
}

fn verify(chain: &[&Signer], roots: &[&Signer]) -> Result<VerifiedX509, X509Error> {
    let chain: Vec<_> = chain
        .iter()
        .map(|signer| CertificateDer::from(signer.der.clone()))
        .collect();
    verify_chain(&chain, &bundle_of(roots), now())
}

/// A leaf straight under a root: what the checks of one certificate say of it.
fn check_leaf(recipe: Recipe, expect: Result<&str, X509Error>) {
    let root = Recipe::authority("ca").root();
    let leaf = recipe.under(&root);
    let expect = expect.map(id);
    assert_eq!(leaf_id(&leaf.der), expect);
    let verified = verify(&[&leaf], &[&root]).map(|verified| verified.id().clone());
    assert_eq!(verified, expect);
}

#[test]
fn c023_issuer_writes_one_uri() {
    check_lint(Recipe::leaf(LEAF), Ok(()));
    check_lint(
        Recipe::leaf(LEAF).without(ID_CE_SUBJECT_ALT_NAME),
        Err(X509Error::UriNames { count: 0 }),
    );
    check_lint(
        Recipe::leaf(LEAF).with(Ext::names(false, vec![dns_name("web.example.org")])),
        Err(X509Error::UriNames { count: 0 }),
    );
    check_lint(
        Recipe::leaf(LEAF).with(Ext::uris(false, &[LEAF, LEAF])),
        Err(X509Error::UriNames { count: 2 }),
    );
    for other in ["spiffe://example.org/other", "SPIFFE://example.org/web"] {
        check_lint(Recipe::leaf(other), Err(X509Error::OtherId));
    }
}

#[test]
fn c024_validator_refuses_several_uris() {
    for others in [
        &[LEAF, LEAF][..],
        &[LEAF, "https://example.org/web"],
        &["https://example.org/web", LEAF],
        &[LEAF, "spiffe://example.org/other"],
    ] {
        check_leaf(
            Recipe::leaf(LEAF).with(Ext::uris(false, others)),
            Err(X509Error::UriNames { count: 2 }),
        );
    }
    check_leaf(
        Recipe::leaf(LEAF).without(ID_CE_SUBJECT_ALT_NAME),
        Err(X509Error::UriNames { count: 0 }),
    );
}

#[test]
fn c025_other_names_do_not_matter() {
    let names = vec![
        dns_name("web.example.org"),
        uri_name(LEAF),
        GeneralName::IpAddress(OctetString::new([192, 0, 2, 1]).unwrap()),
        dns_name("web2.example.org"),
    ];
    let recipe = Recipe::leaf(LEAF).with(Ext::names(false, names));
    check_lint(recipe.clone(), Ok(()));
    check_leaf(recipe, Ok(LEAF));
}

#[test]
fn c026_c027_a_leaf_has_a_path() {
    let root = Recipe::authority("ca").root();
    let leaf = Recipe::leaf("spiffe://example.org").under(&root);
    let expect = Err(X509Error::NoPath);
    assert_eq!(lint_leaf(&leaf.der, &domain().id()), expect);
    check_leaf(Recipe::leaf("spiffe://example.org"), Err(X509Error::NoPath));
}

#[test]
fn c028_name_is_critical_when_the_subject_is_empty() {
    let bare = Recipe::leaf(LEAF).subject(None);
    check_lint(
        bare.clone(),
        Err(X509Error::NotCritical(Part::SubjectAltName)),
    );
    check_lint(bare.with(Ext::uris(true, &[LEAF])), Ok(()));
    check_lint(Recipe::leaf(LEAF).with(Ext::uris(true, &[LEAF])), Ok(()));
}

#[test]
fn c019_c020_c029_c030_c031_an_authority_has_its_domains_id() {
    check_lint_authority(Recipe::authority("ca"), Ok(()));
    for other in [
        "spiffe://example.org/ca",
        "spiffe://other.org",
        "spiffe://example.org.evil",
    ] {
        check_lint_authority(
            Recipe::authority("ca").with(Ext::uris(false, &[other])),
            Err(X509Error::OtherId),
        );
    }
    check_lint_authority(
        Recipe::authority("ca").without(ID_CE_SUBJECT_ALT_NAME),
        Err(X509Error::UriNames { count: 0 }),
    );
}

#[test]
fn c032_an_authority_authenticates_no_peer() {
    let root = Recipe::authority("ca").root();
    for own in [
        Recipe::authority("intermediate"),
        Recipe::authority("intermediate").with(Ext::uris(false, &[LEAF])),
        Recipe::leaf(LEAF).with(Ext::constraints(true, true, None)),
    ] {
        let signer = own.under(&root);
        assert_eq!(leaf_id(&signer.der), Err(X509Error::IsAuthority));
        assert_eq!(verify(&[&signer], &[&root]), Err(X509Error::IsAuthority));
    }
    assert_eq!(verify(&[&root], &[&root]), Err(X509Error::IsAuthority));
}

#[test]
fn c033_an_authority_has_ca() {
    check_lint_authority(
        Recipe::authority("ca").with(Ext::constraints(true, false, None)),
        Err(X509Error::NotAuthority),
    );
    check_lint_authority(
        Recipe::authority("ca").without(ID_CE_BASIC_CONSTRAINTS),
        Err(X509Error::Missing(Part::BasicConstraints)),
    );
    check_lint_authority(
        Recipe::authority("ca").with(Ext::constraints(false, true, None)),
        Err(X509Error::NotCritical(Part::BasicConstraints)),
    );
}

#[test]
fn c034_c044_a_leaf_has_no_ca() {
    check_lint(
        Recipe::leaf(LEAF).without(ID_CE_BASIC_CONSTRAINTS),
        Err(X509Error::Missing(Part::BasicConstraints)),
    );
    let ca = Recipe::leaf(LEAF).with(Ext::constraints(true, true, None));
    check_lint(ca.clone(), Err(X509Error::IsAuthority));
    check_leaf(ca, Err(X509Error::IsAuthority));
    check_lint(
        Recipe::leaf(LEAF).with(Ext::constraints(true, false, Some(0))),
        Err(X509Error::Invalid(Part::BasicConstraints)),
    );
    // cA is FALSE by default (RFC 5280 4.2.1.9): a validator does not ask for the extension.
    check_leaf(
        Recipe::leaf(LEAF).without(ID_CE_BASIC_CONSTRAINTS),
        Ok(LEAF),
    );
}

#[test]
fn c035_path_length_is_obeyed() {
    let root = Recipe::authority("ca")
        .with(Ext::constraints(true, true, Some(0)))
        .root();
    let middle = Recipe::authority("middle")
        .with(Ext::constraints(true, true, Some(0)))
        .under(&root);
    let below = Recipe::authority("below").under(&middle);
    let leaf = Recipe::leaf(LEAF).under(&below);
    check_lint_authority(
        Recipe::authority("ca").with(Ext::constraints(true, true, Some(0))),
        Ok(()),
    );
    assert_eq!(
        verify(&[&leaf, &below, &middle], &[&root]),
        Err(X509Error::Path(webpki::Error::PathLenConstraintViolated))
    );
}

#[test]
fn c036_uri_name_constraints_are_refused_not_ignored() {
    let root = Recipe::authority("ca").root();
    for base in ["example.org", "other.org"] {
        let middle = Recipe::authority("middle")
            .and(Ext::permitted_uri(base))
            .under(&root);
        let leaf = Recipe::leaf(LEAF).under(&middle);
        assert_eq!(
            verify(&[&leaf, &middle], &[&root]),
            Err(X509Error::Path(webpki::Error::NameConstraintViolation))
        );
    }
}

#[test]
fn c037_key_usage_is_there_and_critical() {
    let missing = || Err(X509Error::Missing(Part::KeyUsage));
    check_lint(Recipe::leaf(LEAF).without(ID_CE_KEY_USAGE), missing());
    check_lint_authority(Recipe::authority("ca").without(ID_CE_KEY_USAGE), missing());
    check_lint(
        Recipe::leaf(LEAF).with(Ext::usage(false, KeyUsages::DigitalSignature)),
        Err(X509Error::NotCritical(Part::KeyUsage)),
    );
    check_lint_authority(
        Recipe::authority("ca").with(Ext::usage(false, KeyUsages::KeyCertSign)),
        Err(X509Error::NotCritical(Part::KeyUsage)),
    );
    check_leaf(
        Recipe::leaf(LEAF).without(ID_CE_KEY_USAGE),
        Err(X509Error::Missing(Part::KeyUsage)),
    );
    check_leaf(
        Recipe::leaf(LEAF).with(Ext::usage(false, KeyUsages::DigitalSignature)),
        Ok(LEAF),
    );
}

#[test]
fn c038_an_authority_may_sign_certificates() {
    check_lint_authority(
        Recipe::authority("ca").with(Ext::usage(true, KeyUsages::KeyCertSign)),
        Ok(()),
    );
    check_lint_authority(
        Recipe::authority("ca").with(Ext::usage(true, KeyUsages::CRLSign)),
        Err(X509Error::UsageMissing {
            usage: "keyCertSign",
        }),
    );
}

#[test]
fn c039_a_leaf_may_sign() {
    let recipe = Recipe::leaf(LEAF).with(Ext::usage(true, KeyUsages::KeyAgreement));
    let expect = X509Error::UsageMissing {
        usage: "digitalSignature",
    };
    check_lint(recipe.clone(), Err(expect.clone()));
    check_leaf(recipe, Err(expect));
}

#[test]
fn c040_c045_a_leaf_signs_no_certificates_and_lists() {
    for (bit, usage) in [
        (KeyUsages::KeyCertSign, "keyCertSign"),
        (KeyUsages::CRLSign, "cRLSign"),
    ] {
        let recipe = Recipe::leaf(LEAF).with(Ext::usage(true, KeyUsages::DigitalSignature | bit));
        check_lint(recipe.clone(), Err(X509Error::UsageForbidden { usage }));
        check_leaf(recipe, Err(X509Error::UsageForbidden { usage }));
    }
    for bits in [
        KeyUsages::DigitalSignature.into(),
        KeyUsages::DigitalSignature | KeyUsages::KeyEncipherment,
        KeyUsages::DigitalSignature | KeyUsages::KeyAgreement,
    ] {
        check_lint(Recipe::leaf(LEAF).with(Ext::usage(true, bits)), Ok(()));
    }
}

#[test]
fn c041_c042_both_ends_of_a_connection() {
    check_lint(
        Recipe::leaf(LEAF).without(ID_CE_EXT_KEY_USAGE),
        Err(X509Error::Missing(Part::ExtendedKeyUsage)),
    );
    let root = Recipe::authority("ca").root();
    for purposes in [
        &[ID_KP_SERVER_AUTH][..],
        &[ID_KP_CLIENT_AUTH],
        &[PRIVATE],
        &[ID_KP_SERVER_AUTH, PRIVATE],
    ] {
        let recipe = Recipe::leaf(LEAF).with(Ext::purposes(purposes));
        check_lint(recipe.clone(), Err(X509Error::Purposes));
        let leaf = recipe.under(&root);
        assert_eq!(verify(&[&leaf], &[&root]), Err(X509Error::Purposes));
    }
    for recipe in [
        Recipe::leaf(LEAF).without(ID_CE_EXT_KEY_USAGE),
        Recipe::leaf(LEAF).with(Ext::purposes(&[ANY_EXTENDED_KEY_USAGE])),
        Recipe::leaf(LEAF).with(Ext::purposes(&[
            PRIVATE,
            ID_KP_CLIENT_AUTH,
            ID_KP_SERVER_AUTH,
        ])),
    ] {
        check_leaf(recipe, Ok(LEAF));
    }
}

#[test]
fn c043_a_path_to_the_bundle() {
    let root = Recipe::authority("ca").root();
    let other = Recipe::authority("other").root();
    // Same name and same key id, another key.
    let twin = Recipe::authority("ca").root();
    let middle = Recipe::authority("middle").under(&root);
    let leaf = Recipe::leaf(LEAF).under(&middle);

    let verified = verify(&[&leaf, &middle], &[&other, &root]).unwrap();
    assert_eq!(verified.id(), &id(LEAF));
    assert_eq!(verified.serial_hex(), "019a00ff");
    assert_eq!(verified.not_before().to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(verified.not_after().to_string(), "2027-01-01T00:00:00Z");
    assert_eq!(
        verified.spki_der(),
        rcgen::PublicKeyData::subject_public_key_info(&leaf.key)
    );
    // Extra certificates, the root among them, do no harm.
    verify(&[&leaf, &other, &root, &middle], &[&root]).unwrap();
    // A bundle may hold an intermediate as its authority.
    verify(&[&leaf], &[&middle]).unwrap();

    for (chain, roots, expect) in [
        (vec![&leaf], vec![&root], X509Error::UnknownIssuer),
        (vec![&leaf, &middle], vec![&other], X509Error::UnknownIssuer),
        (vec![&leaf, &middle], vec![&twin], X509Error::Signature),
    ] {
        assert_eq!(verify(&chain, &roots), Err(expect));
    }

    let mut forged = leaf.der.clone();
    *forged.last_mut().unwrap() ^= 1;
    let chain = [forged, middle.der.clone()].map(CertificateDer::from);
    assert!(matches!(
        verify_chain(&chain, &bundle_of(&[&root]), now()),
        Err(X509Error::Signature | X509Error::Path(_))
    ));
}

#[test]
fn c043_time() {
    let root = Recipe::authority("ca").root();
    let at = |s: &str| s.parse::<Timestamp>().unwrap();
    let chain = |leaf: &Signer| [CertificateDer::from(leaf.der.clone())];
    let leaf = Recipe::leaf(LEAF).under(&root);
    let bundle = bundle_of(&[&root]);
    for (now, expect) in [
        ("2026-01-01T00:00:00Z", Ok(())),
        ("2027-01-01T00:00:00Z", Ok(())),
        ("2027-01-01T00:00:00.999Z", Ok(())),
        (
            "2027-01-01T00:00:01Z",
            Err(X509Error::Expired {
                not_after: at("2027-01-01T00:00:00Z"),
            }),
        ),
        ("2025-12-31T23:59:59Z", Err(X509Error::NoAuthority)),
        ("1960-01-01T00:00:00Z", Err(X509Error::NoAuthority)),
        // An authority past its end vouches for nothing, whatever the leaf says.
        ("2028-01-01T00:00:01Z", Err(X509Error::NoAuthority)),
    ] {
        let got = verify_chain(&chain(&leaf), &bundle, at(now)).map(|_| ());
        assert_eq!(got, expect, "{now}");
    }
    let early = Recipe::leaf(LEAF).years(2027, 2028).under(&root);
    assert_eq!(
        verify(&[&early], &[&root]),
        Err(X509Error::NotYetValid {
            not_before: at("2027-01-01T00:00:00Z")
        })
    );
    let old = Recipe::authority("old").years(2024, 2025).under(&root);
    let below = Recipe::leaf(LEAF).under(&old);
    assert_eq!(
        verify(&[&below, &old], &[&root]),
        Err(X509Error::Expired {
            not_after: at("2025-01-01T00:00:00Z")
        })
    );
}

#[test]
fn c043_intermediates_may_sign() {
    let root = Recipe::authority("ca").root();
    let plain = Recipe::leaf("spiffe://example.org/evil").under(&root);
    let leaf = Recipe::leaf(LEAF).under(&plain);
    assert_eq!(
        verify(&[&leaf, &plain], &[&root]),
        Err(X509Error::Path(webpki::Error::EndEntityUsedAsCa))
    );
    let mute = Recipe::authority("mute")
        .with(Ext::usage(true, KeyUsages::CRLSign))
        .under(&root);
    let leaf = Recipe::leaf(LEAF).under(&mute);
    assert_eq!(
        verify(&[&leaf, &mute], &[&root]),
        Err(X509Error::UsageMissing {
            usage: "keyCertSign"
        })
    );
    // An intermediate of some company's own authority has no SPIFFE ID (C029 is a SHOULD).
    let foreign = Recipe::authority("foreign")
        .without(ID_CE_SUBJECT_ALT_NAME)
        .under(&root);
    let leaf = Recipe::leaf(LEAF).under(&foreign);
    verify(&[&leaf, &foreign], &[&root]).unwrap();
}

#[test]
fn c046_the_uri_is_a_spiffe_id() {
    for (uri, expect) in [
        ("https://example.org/web", IdError::Scheme),
        ("spiffe:/example.org/web", IdError::Scheme),
        ("spiffe://example.org/", IdError::TrailingSlash),
        (
            "spiffe://example.org/a%62",
            IdError::PathChar { found: '%', at: 2 },
        ),
        (
            "spiffe://Example.org/a",
            IdError::TrustDomainChar { found: 'E', at: 0 },
        ),
    ] {
        check_leaf(Recipe::leaf(uri), Err(X509Error::Id(expect.clone())));
        check_lint(Recipe::leaf(uri), Err(X509Error::Id(expect)));
    }
    check_leaf(Recipe::leaf("SPIFFE://example.org/web"), Ok(LEAF));
}

#[test]
fn c053_c115_without_authorities_nothing_is_trusted() {
    let root = Recipe::authority("ca").root();
    let leaf = Recipe::leaf(LEAF).under(&root);
    assert_eq!(verify(&[&leaf], &[]), Err(X509Error::NoAuthority));
}

#[test]
fn a_leaf_of_another_domain() {
    let root = Recipe::authority("ca").root();
    for uri in ["spiffe://other.org/web", "spiffe://example.org.evil/web"] {
        let leaf = Recipe::leaf(uri).under(&root);
        assert_eq!(verify(&[&leaf], &[&root]), Err(X509Error::OtherTrustDomain));
    }
}

#[test]
fn chains_are_bounded() {
    let root = Recipe::authority("ca").root();
    let leaf = Recipe::leaf(LEAF).under(&root);
    assert_eq!(verify(&[], &[&root]), Err(X509Error::EmptyChain));
    let fits: Vec<_> = std::iter::repeat_n(&leaf, MAX_CHAIN).collect();
    verify(&fits, &[&root]).unwrap();
    let many: Vec<_> = std::iter::repeat_n(&leaf, MAX_CHAIN + 1).collect();
    assert_eq!(
        verify(&many, &[&root]),
        Err(X509Error::ChainTooLong { len: MAX_CHAIN + 1 })
    );
    let len = MAX_CERTIFICATE_BYTES + 1;
    assert_eq!(leaf_id(&vec![0x30; len]), Err(X509Error::TooLong { len }));
    for junk in [
        &b""[..],
        b"x",
        &[0x30, 0x80],
        &leaf.der[..leaf.der.len() - 1],
    ] {
        assert_eq!(leaf_id(junk), Err(X509Error::Malformed));
    }
    let mut trailing = leaf.der.clone();
    trailing.push(0);
    assert_eq!(leaf_id(&trailing), Err(X509Error::Malformed));
}

#[test]
fn rfc5280_lints() {
    check_lint(
        Recipe::leaf(LEAF).serial(&[0]),
        Err(X509Error::Invalid(Part::Serial)),
    );
    check_lint(
        Recipe::leaf(LEAF).serial(&[0x7f; 21]),
        Err(X509Error::Invalid(Part::Serial)),
    );
    check_lint(Recipe::leaf(LEAF).serial(&[0x7f; 20]), Ok(()));
    check_lint(
        Recipe::leaf(LEAF).years(2027, 2027),
        Err(X509Error::Invalid(Part::Validity)),
    );
    check_lint(
        Recipe::leaf(LEAF).and(Ext::new(PRIVATE, true, &Null)),
        Err(X509Error::UnknownCritical { oid: PRIVATE }),
    );
    check_lint(
        Recipe::leaf(LEAF).and(Ext::new(PRIVATE, false, &Null)),
        Ok(()),
    );
    let twice = Recipe::leaf(LEAF).and(Ext::uris(false, &["spiffe://example.org/admin"]));
    let expect = X509Error::Twice {
        oid: ID_CE_SUBJECT_ALT_NAME,
    };
    check_lint(twice.clone(), Err(expect.clone()));
    check_leaf(twice, Err(expect));
    check_lint_authority(
        Recipe::authority("ca")
            .with(Ext::uris(true, &["spiffe://example.org"]))
            .subject(None),
        Err(X509Error::Missing(Part::Subject)),
    );
    check_lint_authority(
        Recipe::authority("ca").without(ID_CE_SUBJECT_KEY_IDENTIFIER),
        Err(X509Error::Missing(Part::SubjectKeyIdentifier)),
    );
}

#[test]
fn serials_are_whole_bytes() {
    for (serial, expect) in [
        (&[0x01, 0x9a][..], "019a"),
        (&[0x00, 0xff, 0x00], "ff00"),
        (&[0x0a], "0a"),
        (&[0x00], "00"),
        (&[0xde, 0xad], "dead"),
    ] {
        assert_eq!(serial_hex(serial), expect);
    }
    let root = Recipe::authority("ca").root();
    let leaf = Recipe::leaf(LEAF).serial(&[0xfe, 0x01]).under(&root);
    let verified = verify(&[&leaf], &[&root]).unwrap();
    assert_eq!(verified.serial_hex(), "fe01");
}

#[test]
fn authorities_of_every_kind_of_key() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let root = Recipe::authority("ca").root_with(key);
        let leaf = Recipe::leaf(LEAF).under(&root);
        verify(&[&leaf], &[&root]).unwrap();
        let authority = X509Authority::from_der(&root.der).unwrap();
        assert_eq!(authority.subject_key_id(), Some(&b"ca"[..]));
        assert_eq!(authority.der(), root.der);
        assert_eq!(
            authority.spki_der(),
            rcgen::PublicKeyData::subject_public_key_info(&root.key)
        );
    }
}

#[test]
fn a_leaf_is_no_authority() {
    let root = Recipe::authority("ca").root();
    let leaf = Recipe::leaf(LEAF).under(&root);
    assert_eq!(
        X509Authority::from_der(&leaf.der),
        Err(X509Error::NotAuthority)
    );
}
