//! Tables for C054 to C073. C069 and C070, how a client sends a token over HTTP and gRPC, are
//! the clients' duties: nothing here sends anything.

use super::*;
use crate::bundle::{BundleError, JwtKey};
use crate::testing::{LEAF, TokenKey, domain, id, json, jwt_bundle, now, signing_input, token};

const HEADER: &str = r#"{"alg":"ES256","kid":"p256","typ":"JWT"}"#;
/// 2026-06-01T12:00:00Z is 1780315200.
const CLAIMS: &str =
    r#"{"sub":"spiffe://example.org/web","aud":["db"],"exp":1780315500,"iat":1780315200}"#;

fn verify(token: &str) -> Result<JwtSvid, JwtError> {
    UnverifiedJwt::parse(token)?.verify(&jwt_bundle(), &["db"], now())
}

fn check_header(header: &str, expect: Result<(), JwtError>) {
    let got = verify(&token(JwtAlgorithm::Es256, header, CLAIMS)).map(|_| ());
    assert_eq!(got, expect, "{header}");
}

fn check_claims(claims: &str, expect: Result<(), JwtError>) {
    let got = verify(&token(JwtAlgorithm::Es256, HEADER, claims)).map(|_| ());
    assert_eq!(got, expect, "{claims}");
}

fn check_lint(header: &str, claims: &str, expect: Result<(), JwtError>) {
    let got = lint_jwt(&signing_input(header, claims), &id(LEAF));
    assert_eq!(got, expect, "{header} {claims}");
}

#[test]
fn a_good_token() {
    let token = token(JwtAlgorithm::Es256, HEADER, CLAIMS);
    let parsed = UnverifiedJwt::parse(&token).unwrap();
    assert_eq!(parsed.unverified_subject(), &id(LEAF));
    let svid = verify(&token).unwrap();
    assert_eq!(svid.id(), &id(LEAF));
    assert_eq!(svid.audience(), ["db"]);
    assert_eq!(svid.expires_at().as_second(), 1_780_315_500);
    assert_eq!(
        svid.issued_at().map(Timestamp::as_second),
        Some(1_780_315_200)
    );
    assert_eq!(svid.key_id(), "p256");
    assert_eq!(
        Value::Object(svid.claims().clone()),
        json(CLAIMS.as_bytes())
    );
    check_lint(HEADER, CLAIMS, Ok(()));
}

#[test]
fn c054_c055_compact_serialization_only() {
    let good = token(JwtAlgorithm::Es256, HEADER, CLAIMS);
    let (input, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    let flat = format!(
        r#"{{"payload":"{claims}","protected":"{header}","header":{{"kid":"p256"}},"signature":"{signature}"}}"#
    );
    for (token, expect) in [
        (String::new(), JwtError::NotCompact),
        ("a".to_owned(), JwtError::NotCompact),
        (input.to_owned(), JwtError::NotCompact),
        (format!("{good}."), JwtError::NotCompact),
        (format!("{good}.{signature}"), JwtError::NotCompact),
        (format!(".{good}"), JwtError::NotCompact),
        (flat, JwtError::NotCompact),
        (format!(" {good}"), JwtError::Base64 { part: "header" }),
        (format!("{good}\n"), JwtError::Base64 { part: "signature" }),
        (format!("{good}="), JwtError::Base64 { part: "signature" }),
        (
            format!("{header}.{claims}=.{signature}"),
            JwtError::Base64 { part: "claims" },
        ),
        (
            "a".repeat(MAX_JWT_BYTES + 1),
            JwtError::TooLong {
                len: MAX_JWT_BYTES + 1,
            },
        ),
    ] {
        assert_eq!(verify(&token).map(|_| ()), Err(expect), "{token:.80}");
    }
}

#[test]
fn c056_the_header_has_three_members() {
    for name in ["jku", "jwk", "x5c", "x5u", "cty", "b64", "x\\u001b"] {
        let header = format!(r#"{{"alg":"ES256","kid":"p256","{name}":"x"}}"#);
        check_header(&header, Ok(()));
        let name = shown(&name.replace("\\u001b", "\u{1b}"));
        check_lint(&header, CLAIMS, Err(JwtError::HeaderMember { name }));
    }
    check_header(
        r#"{"alg":"ES256","kid":"p256","crit":["b64"],"b64":false}"#,
        Err(JwtError::Critical),
    );
    check_header(
        r#"{"alg":"ES256","kid":"p256","crit":[]}"#,
        Err(JwtError::Critical),
    );
    let twice = token(
        JwtAlgorithm::Es256,
        r#"{"alg":"none","kid":"p256","alg":"ES256"}"#,
        CLAIMS,
    );
    assert!(matches!(
        verify(&twice),
        Err(JwtError::Json { part: "header", .. })
    ));
}

#[test]
fn c057_all_nine_algorithms() {
    for algorithm in JwtAlgorithm::ALL {
        let name = algorithm.as_str();
        assert_eq!(JwtAlgorithm::parse(name), Some(algorithm));
        let kid = match algorithm.key_type() {
            KeyType::EcP256 => "p256",
            KeyType::EcP384 => "p384",
            KeyType::EcP521 => "p521",
            _ => "rsa",
        };
        let header = format!(r#"{{"alg":"{name}","kid":"{kid}"}}"#);
        let good = token(algorithm, &header, CLAIMS);
        verify(&good).unwrap();
        check_lint(&header, CLAIMS, Ok(()));
        // One bit of the signature.
        let (input, signature) = good.rsplit_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[10] ^= 1;
        let forged = format!("{input}.{}", URL_SAFE_NO_PAD.encode(&bytes));
        assert_eq!(verify(&forged), Err(JwtError::Signature), "{name}");
        // The same key under each other algorithm.
        for other in JwtAlgorithm::ALL.into_iter().filter(|a| *a != algorithm) {
            let header = format!(r#"{{"alg":"{}","kid":"{kid}"}}"#, other.as_str());
            let expect = if other.key_type() == algorithm.key_type() {
                JwtError::Signature
            } else {
                JwtError::KeyMismatch
            };
            assert_eq!(verify(&token(algorithm, &header, CLAIMS)), Err(expect));
        }
    }
}

#[test]
fn c058_every_other_algorithm_is_refused_first() {
    for name in [
        "none", "None", "HS256", "HS384", "HS512", "EdDSA", "ES256K", "es256", "ES256 ", "",
        "RSA1_5",
    ] {
        let header = format!(r#"{{"alg":"{name}","kid":"p256"}}"#);
        check_header(&header, Err(JwtError::Algorithm));
        check_lint(&header, CLAIMS, Err(JwtError::Algorithm));
        // Unsigned, too.
        let bare = format!("{}.", signing_input(&header, CLAIMS));
        assert_eq!(verify(&bare), Err(JwtError::Algorithm));
    }
    for header in [
        r#"{"kid":"p256"}"#,
        r#"{"alg":256,"kid":"p256"}"#,
        r#"{"alg":["ES256"],"kid":"p256"}"#,
        r#"{"alg":null}"#,
    ] {
        check_header(header, Err(JwtError::Algorithm));
    }
}

#[test]
fn c059_kid_is_needed() {
    for header in [
        r#"{"alg":"ES256"}"#,
        r#"{"alg":"ES256","kid":""}"#,
        r#"{"alg":"ES256","kid":1}"#,
        r#"{"alg":"ES256","kid":null}"#,
    ] {
        check_header(header, Err(JwtError::NoKeyId));
        check_lint(header, CLAIMS, Err(JwtError::NoKeyId));
    }
}

#[test]
fn c060_typ() {
    for typ in [r#""JWT""#, r#""JOSE""#] {
        let header = format!(r#"{{"alg":"ES256","kid":"p256","typ":{typ}}}"#);
        check_header(&header, Ok(()));
        check_lint(&header, CLAIMS, Ok(()));
    }
    check_header(r#"{"alg":"ES256","kid":"p256"}"#, Ok(()));
    for typ in [
        r#""jwt""#,
        r#""at+jwt""#,
        r#""wit+jwt""#,
        r#""""#,
        "null",
        "1",
    ] {
        let header = format!(r#"{{"alg":"ES256","kid":"p256","typ":{typ}}}"#);
        check_header(&header, Err(JwtError::Type));
        check_lint(&header, CLAIMS, Err(JwtError::Type));
    }
}

#[test]
fn c061_sub_is_a_spiffe_id() {
    let missing = JwtError::Missing { claim: "sub" };
    check_claims(r#"{"aud":"db","exp":1780315500}"#, Err(missing.clone()));
    check_lint(HEADER, r#"{"aud":"db","exp":1780315500}"#, Err(missing));
    for (sub, expect) in [
        ("1", JwtError::Claim { claim: "sub" }),
        ("null", JwtError::Claim { claim: "sub" }),
        (r#""""#, JwtError::Subject(IdError::Empty)),
        (r#""web""#, JwtError::Subject(IdError::Scheme)),
        (
            r#""spiffe://example.org/""#,
            JwtError::Subject(IdError::TrailingSlash),
        ),
    ] {
        let claims = format!(r#"{{"sub":{sub},"aud":"db","exp":1780315500}}"#);
        check_claims(&claims, Err(expect.clone()));
        check_lint(HEADER, &claims, Err(expect));
    }
    for sub in ["spiffe://example.org/other", "SPIFFE://example.org/web"] {
        let claims = format!(r#"{{"sub":"{sub}","aud":"db","exp":1780315500}}"#);
        check_lint(HEADER, &claims, Err(JwtError::OtherSubject));
        check_claims(&claims, Ok(()));
    }
    for sub in ["spiffe://other.org/web", "spiffe://example.org.evil/web"] {
        let claims = format!(r#"{{"sub":"{sub}","aud":"db","exp":1780315500}}"#);
        check_claims(&claims, Err(JwtError::OtherTrustDomain));
    }
}

#[test]
fn c062_c063_c065_an_audience_is_needed() {
    let missing = JwtError::Missing { claim: "aud" };
    let malformed = JwtError::Claim { claim: "aud" };
    let many = vec![r#""db""#; MAX_AUDIENCES + 1].join(",");
    for (aud, expect) in [
        (String::new(), missing.clone()),
        (r#""aud":[],"#.to_owned(), missing),
        (r#""aud":null,"#.to_owned(), malformed.clone()),
        (r#""aud":1,"#.to_owned(), malformed.clone()),
        (r#""aud":["db",1],"#.to_owned(), malformed.clone()),
        (format!(r#""aud":[{many}],"#), malformed),
    ] {
        let claims = format!(r#"{{{aud}"sub":"{LEAF}","exp":1780315500}}"#);
        check_claims(&claims, Err(expect.clone()));
        check_lint(HEADER, &claims, Err(expect));
    }
}

#[test]
fn c064_one_audience_must_be_the_validators() {
    for (aud, expect) in [
        (r#""db""#, Ok(())),
        (r#"["x","db"]"#, Ok(())),
        (r#""DB""#, Err(JwtError::Audience)),
        (r#"["db "]"#, Err(JwtError::Audience)),
        (r#"["x","y"]"#, Err(JwtError::Audience)),
        (r#"[""]"#, Err(JwtError::Audience)),
    ] {
        let claims = format!(r#"{{"sub":"{LEAF}","aud":{aud},"exp":1780315500}}"#);
        check_claims(&claims, expect);
    }
    let token = token(JwtAlgorithm::Es256, HEADER, CLAIMS);
    for (audiences, ok) in [
        (&["db"][..], true),
        (&["x", "db"], true),
        (&["x"], false),
        (&[], false),
    ] {
        let parsed = UnverifiedJwt::parse(&token).unwrap();
        let got = parsed.verify(&jwt_bundle(), audiences, now());
        assert_eq!(got.is_ok(), ok, "{audiences:?}");
    }
}

#[test]
fn c066_c067_exp_is_needed() {
    for (exp, expect) in [
        ("", JwtError::Missing { claim: "exp" }),
        (r#","exp":null"#, JwtError::Claim { claim: "exp" }),
        (r#","exp":"1780315500""#, JwtError::Claim { claim: "exp" }),
        (r#","exp":1780315500.5"#, JwtError::Claim { claim: "exp" }),
        (r#","exp":1.7803155e9"#, JwtError::Claim { claim: "exp" }),
        (r#","exp":-1"#, JwtError::Claim { claim: "exp" }),
        (
            r#","exp":18446744073709551615"#,
            JwtError::Claim { claim: "exp" },
        ),
        (r#","exp":999999999999"#, JwtError::Claim { claim: "exp" }),
        (r#","exp":1e400"#, JwtError::Claim { claim: "exp" }),
    ] {
        let claims = format!(r#"{{"sub":"{LEAF}","aud":"db"{exp}}}"#);
        if exp.contains("e400") {
            let token = token(JwtAlgorithm::Es256, HEADER, &claims);
            assert!(matches!(verify(&token), Err(JwtError::Json { .. })));
            continue;
        }
        check_claims(&claims, Err(expect.clone()));
        check_lint(HEADER, &claims, Err(expect));
    }
    check_lint(
        HEADER,
        &format!(r#"{{"sub":"{LEAF}","aud":"db","exp":1780315200,"iat":1780315200}}"#),
        Err(JwtError::Claim { claim: "exp" }),
    );
}

#[test]
fn c068_time_with_leeway() {
    let now = now().as_second();
    let leeway = i64::try_from(LEEWAY.as_secs()).unwrap();
    let at = |second| Timestamp::from_second(second).unwrap();
    for (exp, expect) in [
        (now + 1, Ok(())),
        (now, Ok(())),
        (now - leeway + 1, Ok(())),
        (
            now - leeway,
            Err(JwtError::Expired {
                at: at(now - leeway),
            }),
        ),
        (0, Err(JwtError::Expired { at: at(0) })),
    ] {
        let claims = format!(r#"{{"sub":"{LEAF}","aud":"db","exp":{exp}}}"#);
        check_claims(&claims, expect);
    }
    for (nbf, expect) in [
        (now, Ok(())),
        (now + leeway, Ok(())),
        (
            now + leeway + 1,
            Err(JwtError::NotYetValid {
                at: at(now + leeway + 1),
            }),
        ),
    ] {
        let claims = format!(
            r#"{{"sub":"{LEAF}","aud":"db","exp":{},"nbf":{nbf}}}"#,
            now + 1000
        );
        check_claims(&claims, expect);
    }
    // iat limits nothing (RFC 7519 4.1.6).
    let claims = format!(
        r#"{{"sub":"{LEAF}","aud":"db","exp":{0},"iat":{0}}}"#,
        now + 900
    );
    check_claims(&claims, Ok(()));
}

#[test]
fn c073_only_the_bundles_jwt_keys() {
    for (kid, alg, expect) in [
        ("p256", "ES256", Ok(())),
        (
            "P256",
            "ES256",
            Err(JwtError::UnknownKey {
                key_id: "P256".to_owned(),
            }),
        ),
        ("p384", "ES256", Err(JwtError::KeyMismatch)),
        ("rsa", "ES256", Err(JwtError::KeyMismatch)),
        ("p256", "RS256", Err(JwtError::KeyMismatch)),
    ] {
        check_header(&format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#), expect);
    }
    // A key with an end verifies nothing after it, though the token would still be in time.
    let spki = TokenKey::of(KeyType::EcP256).spki();
    let token = token(JwtAlgorithm::Es256, HEADER, CLAIMS);
    for (end, ok) in [(now(), false), (later(now()), true)] {
        let key = JwtKey::new("p256", &spki, Some(end)).unwrap();
        let bundle = Bundle::new(domain(), Vec::new(), vec![key], 1, None).unwrap();
        let parsed = UnverifiedJwt::parse(&token).unwrap();
        assert_eq!(parsed.verify(&bundle, &["db"], now()).is_ok(), ok);
    }
    // No JWT keys: no JWT-SVID is trusted.
    let bundle = Bundle::new(domain(), Vec::new(), Vec::new(), 1, None).unwrap();
    let parsed = UnverifiedJwt::parse(&token).unwrap();
    assert!(parsed.verify(&bundle, &["db"], now()).is_err());
    assert_eq!(JwtKey::new("", &spki, None), Err(BundleError::KeyId));
}

#[test]
fn errors_repeat_no_control_characters() {
    let header = r#"{"alg":"ES256","kid":"\u001b[2J\u202e"}"#;
    let text = verify(&token(JwtAlgorithm::Es256, header, CLAIMS))
        .unwrap_err()
        .to_string();
    assert!(text.chars().all(|c| (' '..='~').contains(&c)), "{text:?}");
}

#[test]
fn duplicate_claims_are_refused() {
    let claims = format!(
        r#"{{"sub":"{LEAF}","sub":"spiffe://example.org/admin","aud":"db","exp":1780315500}}"#
    );
    assert!(matches!(
        verify(&token(JwtAlgorithm::Es256, HEADER, &claims)),
        Err(JwtError::Json { part: "claims", .. })
    ));
}
