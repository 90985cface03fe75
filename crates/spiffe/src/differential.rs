//! The same questions asked of the `spiffe` crate and of us: the verdicts must agree.
//!
//! Where they do not, on purpose:
//! - an upper-case trust domain: they lower it, we refuse it (C007; so do go-spiffe and SPIRE);
//! - an ID longer than 2048 bytes: they parse it, we refuse it (C016 asks for no more);
//! - a trust domain from an ID with a path: they drop the path, we refuse it;
//! - a leaf without basic constraints: they refuse it, we take it (RFC 5280: cA is FALSE then);
//! - unknown JOSE header members: they refuse them, we pass over them unless there is `crit`;
//! - ES512: they cannot verify it, we can (C057);
//! - `iat`: they do not read it, we refuse one that is no date;
//! - fractions in `nbf`: they round them, we refuse them;
//! - members that come twice: they refuse those they read, we refuse all;
//! - leeway: they have none, we have ten seconds (C068; no test here is that near).

use std::cell::Cell;

use der::flagset::FlagSet;
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestRunner};
use spiffe_client::{JwtBundle, JwtBundleSet, JwtSvid, X509Bundle, X509Svid};
use x509_cert::ext::pkix::KeyUsages;

use crate::bundle::Bundle;
use crate::id::{MAX_ID_BYTES, SpiffeId, TrustDomain};
use crate::jwtsvid::{JwtAlgorithm, UnverifiedJwt};
use crate::testing::{
    Ext, LEAF, Recipe, dns_name, domain, jwt_bundle, signing_input, token, uri_name,
};
use crate::x509svid::leaf_id;

/// Runs the cases; `test` tells whether both accepted. A generator that makes next to nothing
/// acceptable, or nothing else, would prove little, so that fails too.
fn run<S: Strategy>(
    cases: u32,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<bool, TestCaseError>,
) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let accepted = Cell::new(0);
    TestRunner::new(config)
        .run(strategy, |value| {
            accepted.set(accepted.get() + u32::from(test(value)?));
            Ok(())
        })
        .unwrap();
    let range = cases / 20..=cases - cases / 20;
    assert!(
        range.contains(&accepted.get()),
        "{} accepted",
        accepted.get()
    );
}

fn ids() -> impl Strategy<Value = String> {
    let scheme = select(vec![
        "spiffe://",
        "spiffe://",
        "spiffe://",
        "SPIFFE://",
        "spiffE://",
        "spiffe:/",
        "http://",
        "",
    ]);
    let name = prop_oneof![
        4 => "[a-z0-9._-]{0,12}",
        1 => "[a-zA-Z0-9._@:%\\[\\]-]{0,12}",
        1 => Just("a".repeat(255)),
        1 => Just("a".repeat(256)),
    ];
    let segment = prop_oneof![
        6 => "[a-zA-Z0-9._-]{1,6}",
        1 => select(vec!["", ".", "..", "...", "%41", "a b", "\u{e4}", "a?b", "a#b", "\u{0}"])
            .prop_map(str::to_owned),
        1 => "\\PC{0,4}",
    ];
    let path = prop::collection::vec(segment, 0..4)
        .prop_map(|all| all.iter().map(|one| format!("/{one}")).collect::<String>());
    prop_oneof![
        8 => (scheme, name, path).prop_map(|(scheme, name, path)| format!("{scheme}{name}{path}")),
        1 => "\\PC{0,20}",
    ]
}

#[test]
fn ids_are_the_same() {
    run(4000, &ids(), |input| {
        let (ours, theirs) = (
            SpiffeId::parse(&input),
            spiffe_client::SpiffeId::new(&input),
        );
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.as_str(), theirs.to_string()),
            (Err(_), Ok(theirs)) => {
                let (_, rest) = input.split_once("://").unwrap();
                let spelled = rest.split('/').next().unwrap();
                let lowered = theirs.trust_domain_name();
                prop_assert!(spelled != lowered, "{:?}: {:?}", input, ours);
            }
            (Ok(_), Err(error)) => prop_assert!(false, "{:?}: {}", input, error),
            (Err(_), Err(_)) => {}
        }
        Ok(ours.is_ok() && theirs.is_ok())
    });
}

#[test]
fn trust_domains_are_the_same() {
    run(2000, &ids(), |input| {
        let input = input.as_str();
        let mut accepted = false;
        for input in [input, input.trim_start_matches("spiffe://")] {
            let ours = TrustDomain::from_name_or_id(input);
            let theirs = spiffe_client::TrustDomain::new(input);
            match (&ours, &theirs) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.as_str(), theirs.as_str()),
                (Err(_), Ok(theirs)) => {
                    let spelled = input.rsplit("://").next().unwrap();
                    let whole = spelled == theirs.as_str();
                    prop_assert!(!whole, "{:?}: {:?}", input, ours);
                }
                (Ok(_), Err(error)) => prop_assert!(false, "{:?}: {}", input, error),
                (Err(_), Err(_)) => {}
            }
            accepted |= ours.is_ok();
        }
        Ok(accepted)
    });
}

#[test]
fn the_length_of_an_id_differs() {
    let long = format!("spiffe://td/{}", "a".repeat(MAX_ID_BYTES));
    assert!(spiffe_client::SpiffeId::new(&long).is_ok());
    assert!(SpiffeId::parse(&long).is_err());
}

#[test]
fn leaves_are_the_same() {
    let several = subsequence(
        vec![
            uri_name(LEAF),
            uri_name("spiffe://example.org"),
            uri_name("spiffe://example.org/"),
            uri_name("https://example.org/web"),
            uri_name("SPIFFE://example.org/web"),
            uri_name("spiffe://EXAMPLE.org/web"),
            dns_name("web.example.org"),
        ],
        0..3,
    );
    let names = prop_oneof![Just(vec![uri_name(LEAF)]), several];
    let constraints = prop::option::weighted(0.9, (any::<bool>(), prop::bool::weighted(0.2)));
    let usages = subsequence(
        vec![
            KeyUsages::DigitalSignature,
            KeyUsages::DigitalSignature,
            KeyUsages::KeyEncipherment,
            KeyUsages::KeyAgreement,
            KeyUsages::KeyCertSign,
            KeyUsages::CRLSign,
        ],
        0..5,
    );
    let usages = prop::option::weighted(0.9, (any::<bool>(), usages));
    let root = Recipe::authority("ca").root();
    run(
        400,
        &(names, constraints, usages),
        |(names, constraints, usages)| {
            let upper = names.contains(&uri_name("spiffe://EXAMPLE.org/web"));
            let mut recipe = Recipe::leaf(LEAF);
            recipe.extensions.clear();
            if !names.is_empty() {
                recipe = recipe.with(Ext::names(false, names));
            }
            if let Some((critical, ca)) = constraints {
                recipe = recipe.with(Ext::constraints(critical, ca, None));
            }
            if let Some((critical, usages)) = &usages {
                let mut bits = FlagSet::default();
                usages.iter().for_each(|usage| bits |= *usage);
                recipe = recipe.with(Ext::usage(*critical, bits));
            }
            let leaf = recipe.under(&root);
            let ours = leaf_id(&leaf.der);
            let theirs = X509Svid::parse_from_der(&leaf.der, leaf.key.serialized_der());
            let theirs = theirs.map(|svid| svid.spiffe_id().to_string());
            match (&ours, &theirs) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.as_str(), theirs),
                (Ok(_), Err(error)) => prop_assert!(constraints.is_none(), "{}", error),
                (Err(error), Ok(_)) => prop_assert!(upper, "{}", error),
                (Err(_), Err(_)) => {}
            }
            Ok(ours.is_ok() && theirs.is_ok())
        },
    );
}

#[test]
fn their_bundle_reads_our_authorities() {
    let roots = ["a", "b"].map(|name| Recipe::authority(name).root());
    let bundle = crate::testing::bundle_of(&[&roots[0], &roots[1]]);
    let again = Bundle::parse(&domain(), &bundle.to_json()).unwrap();
    let ders: Vec<_> = again.x509_authorities().iter().map(|a| a.der()).collect();
    let name = spiffe_client::TrustDomain::new("example.org").unwrap();
    let theirs = X509Bundle::from_x509_authorities(name, &ders).unwrap();
    let read: Vec<_> = theirs.authorities().iter().map(|a| a.as_bytes()).collect();
    assert_eq!(read, [&roots[0].der[..], &roots[1].der]);
}

fn their_bundles(bundle: &Bundle) -> JwtBundleSet {
    let name = spiffe_client::TrustDomain::new("example.org").unwrap();
    let theirs = JwtBundle::from_jwt_authorities(name, &bundle.jwks_json()).unwrap();
    JwtBundleSet::from_iter([theirs])
}

fn both(
    token: &str,
    bundle: &Bundle,
    audience: &str,
) -> (Result<String, String>, Result<String, String>) {
    // Their clock is the real one; all dates here are decades away from both.
    let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
    let ours = UnverifiedJwt::parse(token)
        .and_then(|parsed| parsed.verify(bundle, &[audience], now))
        .map(|svid| format!("{} {:?} {}", svid.id(), svid.audience(), svid.key_id()))
        .map_err(|error| error.to_string());
    let theirs = JwtSvid::parse_and_validate(token, &their_bundles(bundle), &[audience])
        .map(|svid| {
            format!(
                "{} {:?} {}",
                svid.spiffe_id(),
                svid.audience(),
                svid.key_id()
            )
        })
        .map_err(|error| error.to_string());
    (ours, theirs)
}

#[test]
fn tokens_are_the_same() {
    // The first is the usual one.
    let text = |all: &[&str]| {
        let all: Vec<String> = all.iter().map(|s| (*s).to_owned()).collect();
        prop_oneof![4 => Just(all[0].clone()), 1 => select(all)]
    };
    let header = (
        text(&[
            r#""ES256""#,
            r#""ES256""#,
            r#""ES256""#,
            r#""ES384""#,
            r#""RS256""#,
            r#""none""#,
            r#""HS256""#,
            "null",
            "1",
        ]),
        text(&[
            r#","kid":"p256""#,
            r#","kid":"p256""#,
            r#","kid":"p256""#,
            r#","kid":"p384""#,
            r#","kid":"x""#,
            r#","kid":null"#,
            r#","kid":1"#,
            r#","kid":"p256","kid":"p256""#,
            "",
        ]),
        text(&[
            "",
            r#","typ":"JWT""#,
            r#","typ":"JOSE""#,
            r#","typ":"jwt""#,
            r#","typ":null"#,
        ]),
    )
        .prop_map(|(alg, kid, typ)| format!(r#"{{"alg":{alg}{kid}{typ}}}"#));
    let claims = (
        text(&[
            r#""sub":"spiffe://example.org/web","#,
            r#""sub":"spiffe://example.org/web","#,
            r#""sub":"spiffe://example.org","#,
            r#""sub":"spiffe://other.org/web","#,
            r#""sub":"web","#,
            r#""sub":null,"#,
            "",
        ]),
        text(&[
            r#""aud":"db","#,
            r#""aud":["db"],"#,
            r#""aud":["x","db"],"#,
            r#""aud":"x","#,
            r#""aud":[],"#,
            r#""aud":["db",1],"#,
            r#""aud":null,"#,
            "",
        ]),
        text(&[
            r#""exp":4000000000"#,
            r#""exp":4000000000"#,
            r#""exp":1000000000"#,
            r#""exp":0"#,
            r#""exp":-1"#,
            r#""exp":"4000000000""#,
            r#""exp":4e9"#,
            r#""exp":null"#,
            r#""exp":99999999999999999"#,
            r#""x":0"#,
        ]),
        text(&[
            "",
            "",
            r#","nbf":1000000000"#,
            r#","nbf":4000000000"#,
            r#","nbf":"1""#,
            r#","nbf":null"#,
            r#","iat":1000000000"#,
            r#","jti":"x","n":{"a":[1.5]}"#,
        ]),
    )
        .prop_map(|(sub, aud, exp, rest)| format!("{{{sub}{aud}{exp}{rest}}}"));
    let bundle = jwt_bundle();
    let forged = prop::bool::weighted(0.1);
    run(
        1500,
        &(header, claims, forged),
        |(header, claims, forged)| {
            let mut token = token(JwtAlgorithm::Es256, &header, &claims);
            if forged {
                token = token.replacen(
                    &signing_input(&header, &claims),
                    &signing_input(&header, "{}"),
                    1,
                );
            }
            let (ours, theirs) = both(&token, &bundle, "db");
            prop_assert_eq!(
                ours.is_ok(),
                theirs.is_ok(),
                "{} {}: {:?} {:?}",
                header,
                claims,
                ours,
                theirs
            );
            let accepted = ours.is_ok();
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                prop_assert_eq!(ours, theirs);
            }
            Ok(accepted)
        },
    );
}

#[test]
fn keys_mean_the_same() {
    let all = jwt_bundle();
    let keys = subsequence(all.jwt_keys().to_vec(), 0..=4);
    run(32, &keys, |keys| {
        let bundle = Bundle::new(domain(), Vec::new(), keys, 1, None).unwrap();
        let mut accepted = false;
        for (algorithm, kid) in [
            (JwtAlgorithm::Es256, "p256"),
            (JwtAlgorithm::Es384, "p384"),
            (JwtAlgorithm::Rs256, "rsa"),
            (JwtAlgorithm::Ps384, "rsa"),
        ] {
            let header = format!(r#"{{"alg":"{}","kid":"{kid}"}}"#, algorithm.as_str());
            let claims = format!(r#"{{"sub":"{LEAF}","aud":"db","exp":4000000000}}"#);
            let (ours, theirs) = both(&token(algorithm, &header, &claims), &bundle, "db");
            accepted |= ours.is_ok();
            prop_assert_eq!(&ours.ok(), &theirs.ok());
        }
        Ok(accepted)
    });
}

#[test]
fn tokens_that_differ() {
    let bundle = jwt_bundle();
    let claims = format!(r#"{{"sub":"{LEAF}","aud":"db","exp":4000000000}}"#);
    let with = |more: &str| claims.replace('}', &format!(",{more}}}"));
    let header = r#"{"alg":"ES256","kid":"p256"}"#;
    let more = r#"{"alg":"ES256","kid":"p256","jku":"https://example.org"}"#;
    let es512 = r#"{"alg":"ES512","kid":"p521"}"#;
    for (algorithm, header, claims, verdicts) in [
        (JwtAlgorithm::Es256, more, claims.clone(), (true, false)),
        (JwtAlgorithm::Es512, es512, claims.clone(), (true, false)),
        (
            JwtAlgorithm::Es256,
            header,
            with(r#""iat":"x""#),
            (false, true),
        ),
        (
            JwtAlgorithm::Es256,
            header,
            with(r#""nbf":1.5"#),
            (false, true),
        ),
        (
            JwtAlgorithm::Es256,
            header,
            with(r#""x":1,"x":2"#),
            (false, true),
        ),
        (
            JwtAlgorithm::Es256,
            header,
            claims.replace("example.org", "EXAMPLE.org"),
            (false, true),
        ),
    ] {
        let (ours, theirs) = both(&token(algorithm, header, &claims), &bundle, "db");
        assert_eq!(
            (ours.is_ok(), theirs.is_ok()),
            verdicts,
            "{header} {claims}"
        );
    }
}
