//! Tables for C047 to C053, C071 to C073 and C105 to C124: bundle documents, written and read.
//! C106 to C108 in time (a number that rises with each change) are the ledger's to keep.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::testing::{LEAF, Recipe, Signer, TokenKey, domain, json as parsed, jwt_bundle};

const KINDS: [KeyType; 4] = [
    KeyType::EcP256,
    KeyType::EcP384,
    KeyType::EcP521,
    KeyType::Rsa,
];

fn full() -> (Bundle, Signer) {
    let root = Recipe::authority("ca").root();
    let bundle = Bundle::new(
        domain(),
        vec![X509Authority::from_der(&root.der).unwrap()],
        jwt_bundle().jwt_keys().to_vec(),
        7,
        Some(Duration::from_millis(300_900)),
    )
    .unwrap();
    (bundle, root)
}

fn read(document: &Value) -> Result<Bundle, BundleError> {
    Bundle::parse(&domain(), document.to_string().as_bytes())
}

fn x509_element(der: &[u8]) -> Value {
    json!({"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(der)]})
}

fn jwt_element() -> Value {
    let document = parsed(&jwt_bundle().to_json());
    document["keys"][0].clone()
}

#[test]
fn c047_c048_c049_x509_elements() {
    let (bundle, root) = full();
    let document = parsed(&bundle.to_json());
    let element = &document["keys"][0];
    assert_eq!(element["use"], "x509-svid");
    assert_eq!(element["kty"], "EC");
    assert!(element.get("kid").is_none());
    assert_eq!(element["x5c"], json!([STANDARD.encode(&root.der)]));
    assert_eq!(element["crv"], "P-256");
    assert_eq!(element["x"].as_str().unwrap().len(), 43);
}

#[test]
fn c050_self_signed_is_not_asked_for() {
    let root = Recipe::authority("ca").root();
    let middle = Recipe::authority("middle").under(&root);
    let bundle = read(&json!({"keys": [x509_element(&middle.der)]})).unwrap();
    assert_eq!(bundle.x509_authorities()[0].der(), middle.der);
}

#[test]
fn c051_c052_x5c() {
    let root = Recipe::authority("ca").root();
    for x5c in [json!([]), Value::Null] {
        let element = json!({"kty": "EC", "use": "x509-svid", "x5c": x5c});
        assert_eq!(
            read(&json!({"keys": [element]}))
                .unwrap()
                .x509_authorities(),
            []
        );
    }
    let element = json!({"kty": "EC", "use": "x509-svid"});
    assert_eq!(
        read(&json!({"keys": [element]}))
            .unwrap()
            .x509_authorities(),
        []
    );

    let good = STANDARD.encode(&root.der);
    for rest in [json!("junk"), json!(1), json!(STANDARD.encode("junk"))] {
        let element = json!({"kty": "EC", "use": "x509-svid", "x5c": [good, rest]});
        let bundle = read(&json!({"keys": [element]})).unwrap();
        assert_eq!(bundle.x509_authorities().len(), 1);
    }
    for bad in [json!("junk"), json!(["?"]), json!([1]), json!([null])] {
        let element = json!({"kty": "EC", "use": "x509-svid", "x5c": bad});
        assert_eq!(
            read(&json!({"keys": [x509_element(&root.der), element]})),
            Err(BundleError::X5c { index: 1 })
        );
    }
    let junk = x509_element(b"junk");
    assert_eq!(
        read(&json!({"keys": [junk]})),
        Err(BundleError::Authority {
            index: 0,
            error: X509Error::Malformed
        })
    );
    let leaf = Recipe::leaf(LEAF).under(&root);
    assert_eq!(
        read(&json!({"keys": [x509_element(&leaf.der)]})),
        Err(BundleError::Authority {
            index: 0,
            error: X509Error::NotAuthority
        })
    );
}

#[test]
fn c053_c115_no_keys_no_trust() {
    let bundle = read(&json!({"keys": []})).unwrap();
    assert_eq!(bundle.x509_authorities(), []);
    assert_eq!(bundle.jwt_keys(), []);
    assert_eq!(bundle.trust_domain(), &domain());
    // That nothing verifies with it is in the tables of x509svid and jwtsvid.
}

#[test]
fn c071_c072_jwt_elements() {
    let document = parsed(&jwt_bundle().to_json());
    let keys = document["keys"].as_array().unwrap();
    for (element, kid) in keys.iter().zip(["p256", "p384", "p521", "rsa"]) {
        assert_eq!(element["use"], "jwt-svid");
        assert_eq!(element["kid"], kid);
    }
    for kid in [json!(""), json!(1), Value::Null, json!("k".repeat(257))] {
        let mut element = jwt_element();
        element["kid"] = kid;
        assert_eq!(read(&json!({"keys": [element]})), Err(BundleError::KeyId));
    }
    let mut element = jwt_element();
    element.as_object_mut().unwrap().remove("kid");
    assert_eq!(read(&json!({"keys": [element]})), Err(BundleError::KeyId));
    assert_eq!(
        read(&json!({"keys": [jwt_element(), jwt_element()]})),
        Err(BundleError::SameKeyId)
    );
}

#[test]
fn c073_other_uses_give_no_jwt_keys() {
    let root = Recipe::authority("ca").root();
    for usage in ["wit-svid", "sig", "x509-svid", "JWT-SVID"] {
        let mut element = jwt_element();
        element["use"] = json!(usage);
        let bundle = read(&json!({"keys": [element, x509_element(&root.der)]})).unwrap();
        assert_eq!(bundle.jwt_keys(), [], "{usage}");
    }
}

#[test]
fn c105_unknown_members_are_allowed() {
    let (bundle, _) = full();
    let mut document = parsed(&bundle.to_json());
    document["spiffe_future"] = json!({"a": [1]});
    document["keys"][0]["x5t#S256"] = json!("x");
    document["keys"][1]["alg"] = json!("ES256");
    assert_eq!(read(&document), Ok(bundle));
    for junk in [
        "",
        "[]",
        "null",
        "{",
        r#""keys""#,
        r#"{"keys":[],"keys":[]}"#,
    ] {
        assert!(matches!(
            Bundle::parse(&domain(), junk.as_bytes()),
            Err(BundleError::Json(_))
        ));
    }
}

#[test]
fn c106_c107_c109_sequence() {
    let (bundle, _) = full();
    assert_eq!(parsed(&bundle.to_json())["spiffe_sequence"], 7);
    for (sequence, expect) in [
        (json!(0), Some(0)),
        (json!(u64::MAX), Some(u64::MAX)),
        (Value::Null, Some(0)),
        (json!(-1), None),
        (json!(1.5), None),
        (json!("1"), None),
    ] {
        let got = read(&json!({"keys": [], "spiffe_sequence": sequence}));
        assert_eq!(got.ok().map(|b| b.sequence()), expect, "{sequence}");
    }
    let past = br#"{"keys":[],"spiffe_sequence":18446744073709551616}"#;
    assert!(Bundle::parse(&domain(), past).is_err());
    assert_eq!(read(&json!({"keys": []})).unwrap().sequence(), 0);
}

#[test]
fn c110_c111_c112_refresh_hint() {
    let (bundle, _) = full();
    assert_eq!(parsed(&bundle.to_json())["spiffe_refresh_hint"], 300);
    assert_eq!(bundle.refresh_hint(), Some(Duration::from_secs(300)));
    let without = Bundle::new(domain(), Vec::new(), Vec::new(), 1, None).unwrap();
    assert!(
        parsed(&without.to_json())
            .get("spiffe_refresh_hint")
            .is_none()
    );
    for (hint, expect) in [
        (json!(0), Some(Some(0))),
        (json!(60), Some(Some(60))),
        (json!(u64::MAX), Some(Some(u64::MAX))),
        (Value::Null, Some(None)),
        (json!(1.5), None),
        (json!("60"), None),
        (json!(-1), None),
    ] {
        let got = read(&json!({"keys": [], "spiffe_refresh_hint": hint}));
        let got = got.ok().map(|b| b.refresh_hint().map(|h| h.as_secs()));
        assert_eq!(got, expect, "{hint}");
    }
}

#[test]
fn c113_keys_are_there() {
    let empty = Bundle::new(domain(), Vec::new(), Vec::new(), 1, None).unwrap();
    assert_eq!(parsed(&empty.to_json())["keys"], json!([]));
    for document in [json!({}), json!({"keys": null}), json!({"keys": {}})] {
        assert_eq!(
            read(&document),
            Err(BundleError::Member { member: "keys" }),
            "{document}"
        );
    }
    for element in [json!(1), Value::Null, json!([])] {
        assert_eq!(
            read(&json!({"keys": [jwt_element(), element]})),
            Err(BundleError::Element { index: 1 })
        );
    }
}

#[test]
fn c114_c116_c117_c118_what_is_passed_over() {
    let root = Recipe::authority("ca").root();
    let mut strange = Vec::new();
    for (member, value) in [
        ("kty", json!("AKP")),
        ("kty", json!("oct")),
        ("kty", json!("ec")),
        ("kty", Value::Null),
        ("kty", json!("OKP")),
        ("crv", json!("secp256k1")),
        ("use", json!("unheard-of")),
        ("use", json!("Jwt-Svid")),
        ("use", Value::Null),
        ("use", json!(["jwt-svid"])),
    ] {
        let mut element = jwt_element();
        element[member] = value;
        strange.push(element);
    }
    for member in ["kty", "use"] {
        let mut element = jwt_element();
        element.as_object_mut().unwrap().remove(member);
        strange.push(element);
        let mut element = x509_element(&root.der);
        element.as_object_mut().unwrap().remove(member);
        strange.push(element);
    }
    let none = read(&json!({"keys": strange})).unwrap();
    assert_eq!(
        (none.x509_authorities(), none.jwt_keys()),
        (&[][..], &[][..])
    );
    strange.extend([jwt_element(), x509_element(&root.der)]);
    let kept = read(&json!({"keys": strange})).unwrap();
    assert_eq!(kept.x509_authorities().len(), 1);
    assert_eq!(kept.jwt_keys().len(), 1);
    // C116, C117: what we write always has both.
    let (bundle, _) = full();
    for element in parsed(&bundle.to_json())["keys"].as_array().unwrap() {
        assert!(element["kty"].is_string() && element["use"].is_string());
    }
}

#[test]
fn c119_no_members_beyond_the_defined() {
    let (bundle, _) = full();
    let document = parsed(&bundle.to_json());
    for element in document["keys"].as_array().unwrap() {
        for name in element.as_object().unwrap().keys() {
            let known = ["kty", "use", "kid", "crv", "x", "y", "n", "e", "x5c"];
            assert!(known.contains(&name.as_str()), "{name}");
        }
    }
    let mut names: Vec<_> = document.as_object().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["keys", "spiffe_refresh_hint", "spiffe_sequence"]);
}

#[test]
fn keys_survive_the_document() {
    let (bundle, _) = full();
    let json = bundle.to_json();
    let again = Bundle::parse(&domain(), &json).unwrap();
    assert_eq!(again, bundle);
    assert_eq!(again.to_json(), json);
    for (key, kind) in bundle.jwt_keys().iter().zip(KINDS) {
        assert_eq!(key.key_type(), kind);
        assert_eq!(key.public_key(), TokenKey::of(kind).spki());
        let again = again.jwt_key(key.key_id()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
    }
}

#[test]
fn broken_jwt_keys() {
    let document = parsed(&jwt_bundle().to_json());
    let (ec, rsa) = (&document["keys"][0], &document["keys"][3]);
    let y = URL_SAFE_NO_PAD.decode(ec["y"].as_str().unwrap()).unwrap();
    let mut off_curve = y.clone();
    off_curve[31] ^= 1;
    let n = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap();
    let padded = [&[0], &n[..]].concat();
    let member = |member| KeyError::Member { member };
    for (element, name, value, error) in [
        (ec, "x", json!(1), member("x")),
        (ec, "x", json!("="), member("x")),
        (ec, "y", json!(URL_SAFE_NO_PAD.encode(&y[1..])), member("y")),
        (
            ec,
            "y",
            json!(URL_SAFE_NO_PAD.encode(&off_curve)),
            KeyError::Invalid,
        ),
        (ec, "crv", json!(1), member("crv")),
        (ec, "crv", json!("P-384"), member("x")),
        (rsa, "n", json!(""), member("n")),
        (
            rsa,
            "n",
            json!(URL_SAFE_NO_PAD.encode(&padded)),
            member("n"),
        ),
        (
            rsa,
            "n",
            json!(URL_SAFE_NO_PAD.encode(&n[..128])),
            KeyError::RsaBits { bits: 1024 },
        ),
        (rsa, "e", json!("AA"), member("e")),
        (rsa, "e", json!("Ag"), KeyError::Invalid),
    ] {
        let mut element = element.clone();
        element[name] = value;
        assert_eq!(
            read(&json!({"keys": [element]})),
            Err(BundleError::Key { index: 0, error }),
            "{name}"
        );
    }
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&ed25519);
    assert_eq!(JwtKey::new("k", &spki, None), Err(BundleError::KeyType));
    assert!(matches!(
        JwtKey::new("k", b"junk", None),
        Err(BundleError::Key { .. })
    ));
}

#[test]
fn parts_come_once() {
    let root = Recipe::authority("ca").root();
    let authority = X509Authority::from_der(&root.der).unwrap();
    let twice = vec![authority.clone(), authority];
    assert_eq!(
        Bundle::new(domain(), twice, Vec::new(), 1, None),
        Err(BundleError::SameAuthority)
    );
    let key = jwt_bundle().jwt_keys()[0].clone();
    assert_eq!(
        Bundle::new(domain(), Vec::new(), vec![key.clone(), key], 1, None),
        Err(BundleError::SameKeyId)
    );
    let element = x509_element(&root.der);
    let bundle = read(&json!({"keys": [element, element]})).unwrap();
    assert_eq!(bundle.x509_authorities().len(), 1);
}

#[test]
fn c195_c196_the_workload_apis_key_set() {
    let (bundle, _) = full();
    let document = parsed(&bundle.jwks_json());
    assert_eq!(document.as_object().unwrap().len(), 1);
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4);
    for key in keys {
        assert!(key["kid"].is_string());
        assert!(key.get("use").is_none() && key.get("x5c").is_none());
    }
}

#[test]
fn c120_c121_c123_c124_maps() {
    let (bundle, _) = full();
    let other = TrustDomain::parse("other.org").unwrap();
    let foreign = Bundle::new(other.clone(), Vec::new(), Vec::new(), 3, None).unwrap();
    let mut map = BundleMap::new();
    assert!(map.insert(bundle.clone()).is_none());
    assert!(map.insert(foreign.clone()).is_none());
    assert!(map.insert(foreign.clone()).is_some());
    let document = parsed(&map.to_json());
    let entry = &document["trust_domains"]["example.org"];
    assert!(entry.get("spiffe_refresh_hint").is_none());
    assert_eq!(entry["spiffe_sequence"], 7);

    let again = BundleMap::parse(&map.to_json()).unwrap();
    assert_eq!(again.len(), 2);
    assert_eq!(again.bundle(&other), Some(&foreign));
    assert_eq!(
        again.bundle(&domain()),
        Some(&bundle.clone().without_hint())
    );
    let names: Vec<_> = again.iter().map(|b| b.trust_domain().as_str()).collect();
    assert_eq!(names, ["example.org", "other.org"]);

    let hinted = json!({"trust_domains": {"example.org": {
        "keys": [], "spiffe_refresh_hint": 60}}});
    let hinted = BundleMap::parse(hinted.to_string().as_bytes()).unwrap();
    assert_eq!(hinted.bundle(&domain()).unwrap().refresh_hint(), None);

    assert!(
        BundleMap::parse(br#"{"trust_domains":{}}"#)
            .unwrap()
            .is_empty()
    );
    for junk in [
        json!({}),
        json!({"trust_domains": []}),
        json!({"trust_domains": {"example.org": 1}}),
        json!({"trust_domains": {"example.org": {}}}),
    ] {
        let got = BundleMap::parse(junk.to_string().as_bytes());
        assert!(matches!(got, Err(BundleError::Member { .. })), "{junk}");
    }
    for name in ["", "Example.org", "spiffe://example.org", "a/b"] {
        let document = json!({"trust_domains": {name: {"keys": []}}});
        let got = BundleMap::parse(document.to_string().as_bytes());
        assert!(matches!(got, Err(BundleError::Name(_))), "{name}");
    }
}

#[test]
fn c122_names_that_come_twice() {
    for document in [
        r#"{"trust_domains":{"example.org":{"keys":[]},"example.org":{"keys":[]}}}"#,
        r#"{"trust_domains":{},"trust_domains":{}}"#,
    ] {
        assert!(matches!(
            BundleMap::parse(document.as_bytes()),
            Err(BundleError::Json(_))
        ));
    }
}

#[test]
fn documents_are_bounded() {
    let len = MAX_BUNDLE_BYTES + 1;
    let long = vec![b' '; len];
    assert_eq!(
        Bundle::parse(&domain(), &long),
        Err(BundleError::TooLong { len })
    );
    assert_eq!(BundleMap::parse(&long), Err(BundleError::TooLong { len }));
}
