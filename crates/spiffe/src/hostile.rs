//! Good input with a few bytes changed: no parser breaks, and nothing forged verifies. A short
//! form of the fuzz targets that every test run can afford.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use rustls_pki_types::CertificateDer;

use crate::bundle::Bundle;
use crate::jwtsvid::{JwtAlgorithm, UnverifiedJwt, lint_jwt};
use crate::testing::{LEAF, Recipe, Signer, bundle_of, domain, id, jwt_bundle, now, token};
use crate::x509authority::X509Authority;
use crate::x509svid::{leaf_id, lint_authority, lint_leaf, lint_leaf_tbs, verify_chain};

/// Changes, by place and kind.
type Edits = Vec<(Index, u8, u8)>;

fn bent(good: &[u8], edits: &Edits) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for (place, kind, byte) in edits {
        let index = place.index(bytes.len().max(1));
        match kind % 4 {
            0 if !bytes.is_empty() => bytes[index] = *byte,
            1 if !bytes.is_empty() => bytes[index] ^= 1 << (byte % 8),
            2 if !bytes.is_empty() => {
                bytes.remove(index);
            }
            3 => bytes.insert(index, *byte),
            _ => {}
        }
    }
    bytes
}

fn run(good: &[u8], test: impl Fn(&[u8]) -> Result<(), TestCaseError>) {
    let edits = prop::collection::vec((any::<Index>(), any::<u8>(), any::<u8>()), 1..4);
    let config = Config {
        cases: 1500,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&edits, |edits| {
            let bytes = bent(good, &edits);
            if bytes == good {
                return Ok(());
            }
            test(&bytes)
        })
        .unwrap();
}

fn pair() -> (Signer, Signer) {
    let root = Recipe::authority("ca").root();
    let leaf = Recipe::leaf(LEAF).under(&root);
    (root, leaf)
}

#[test]
fn certificates() {
    let (root, leaf) = pair();
    let bundle = bundle_of(&[&root]);
    run(&leaf.der, |der| {
        if lint_leaf(der, &id(LEAF)).is_ok() {
            prop_assert_eq!(leaf_id(der), Ok(id(LEAF)));
        }
        prop_assert!(verify_chain(&[CertificateDer::from(der)], &bundle, now()).is_err());
        Ok(())
    });
    run(&leaf.tbs(), |tbs| {
        let verdict = lint_leaf_tbs(tbs, &id(LEAF));
        prop_assert!(verdict.is_ok() || !verdict.unwrap_err().to_string().is_empty());
        Ok(())
    });
    run(&root.der, |der| {
        if lint_authority(der, &domain()).is_ok() {
            prop_assert!(leaf_id(der).is_err());
        }
        if let Ok(authority) = X509Authority::from_der(der) {
            let bundle = Bundle::new(domain(), vec![authority], Vec::new(), 1, None).unwrap();
            prop_assert_eq!(Bundle::parse(&domain(), &bundle.to_json()), Ok(bundle));
        }
        Ok(())
    });
}

#[test]
fn bundles() {
    let (root, _) = pair();
    let authority = X509Authority::from_der(&root.der).unwrap();
    let keys = jwt_bundle().jwt_keys().to_vec();
    let bundle = Bundle::new(domain(), vec![authority], keys, 1, None).unwrap();
    run(&bundle.to_json(), |json| {
        if let Ok(read) = Bundle::parse(&domain(), json) {
            prop_assert_eq!(Bundle::parse(&domain(), &read.to_json()), Ok(read));
        }
        Ok(())
    });
}

#[test]
fn tokens() {
    let header = r#"{"alg":"ES256","kid":"p256","typ":"JWT"}"#;
    let claims = format!(r#"{{"sub":"{LEAF}","aud":["db"],"exp":1780315500}}"#);
    let good = token(JwtAlgorithm::Es256, header, &claims);
    let bundle = jwt_bundle();
    run(good.as_bytes(), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Ok(());
        };
        if let Ok(parsed) = UnverifiedJwt::parse(text) {
            prop_assert!(parsed.verify(&bundle, &["db"], now()).is_err(), "{}", text);
        }
        Ok(())
    });
    let (input, _) = good.rsplit_once('.').unwrap();
    run(input.as_bytes(), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Ok(());
        };
        if lint_jwt(text, &id(LEAF)).is_ok() {
            let token = format!("{text}.AAAA");
            prop_assert!(UnverifiedJwt::parse(&token).is_ok());
        }
        Ok(())
    });
}
