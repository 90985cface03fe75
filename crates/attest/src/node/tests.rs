//! One conformance suite over every node attestor: good evidence verifies, everything else is an
//! error that names the attestor, and an answer is good for its own challenge only.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use attesta_model::{Code, Denial};

use super::{x509pop::tests::Files, *};

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// Counts, so that no two nonces are the same and a run is like any other.
fn counting() -> Nonce {
    let next = Arc::new(AtomicU8::new(1));
    Nonce::new(move || Some([next.fetch_add(1, Ordering::Relaxed); NONCE_BYTES]))
}

/// Both halves of one attestor, and what they should prove.
struct Pair {
    name: &'static str,
    verifiers: Verifiers,
    collect: Box<dyn Collect>,
    id: String,
    selectors: Vec<String>,
    once: bool,
    can_reattest: bool,
}

fn pair(name: &'static str, files: &Files) -> Pair {
    let domain = TrustDomain::parse("example.org").unwrap();
    let mut server = ServerSettings {
        nonce: counting(),
        ..ServerSettings::none(domain)
    };
    let mut agent = AgentSettings {
        nonce: counting(),
        ..AgentSettings::none()
    };
    let (suffix, selectors, once, can_reattest) = match name {
        "join_token" => {
            server.join_token = true;
            agent.join_token = join_token::Token::parse("my-token").ok();
            ("my-token".to_owned(), vec![], true, false)
        }
        "x509pop" => {
            server.x509pop = Some(files.server());
            agent.x509pop = Some(files.agent());
            (files.leaf_fingerprint(), files.selectors(), false, true)
        }
        "local" => {
            let (verify, collect) = local::pair([7; 32]);
            server.local = Some(verify);
            agent.local = Some(collect);
            ("node".to_owned(), vec![], false, true)
        }
        other => panic!("{other} has no fixture: add one, so that it is tested"),
    };
    Pair {
        name,
        verifiers: Verifiers::new(server).unwrap(),
        collect: collector(agent).unwrap(),
        id: format!("spiffe://example.org/spire/agent/{name}/{suffix}"),
        selectors,
        once,
        can_reattest,
    }
}

fn all() -> Vec<Pair> {
    let files = Files::ec();
    NODE_ATTESTORS
        .iter()
        .map(|attestor| pair(attestor.name, &files))
        .collect()
}

impl Pair {
    fn begin(&self, payload: Vec<u8>) -> Result<Step, AttestError> {
        let evidence = Evidence {
            kind: self.name.to_owned(),
            payload,
        };
        self.verifiers.begin(&evidence, now()).map(|(name, step)| {
            assert_eq!(name, self.name);
            step
        })
    }

    fn good(&self) -> Vec<u8> {
        let evidence = self.collect.evidence().unwrap();
        assert_eq!(
            (evidence.kind.as_str(), self.collect.name()),
            (self.name, self.name)
        );
        evidence.payload
    }

    fn refuses(&self, what: &str, step: Result<Step, AttestError>) {
        let Err(error) = step else {
            panic!("{} took {what}", self.name)
        };
        assert!(
            error.to_string().starts_with(&format!("{}: ", self.name)),
            "{error}"
        );
        assert!(!error.to_string().contains("my-token"), "{error}");
        let code = Denial::from(error).code;
        assert!(
            matches!(code, Code::InvalidArgument | Code::PermissionDenied),
            "{} {what}: {code:?}",
            self.name
        );
    }
}

#[test]
fn good_evidence_verifies() {
    let domain = TrustDomain::parse("example.org").unwrap();
    for pair in all() {
        let mut step = pair.begin(pair.good()).unwrap();
        let proven = loop {
            step = match step {
                Step::Done(proven) => break proven,
                Step::Challenge { challenge, next } => next
                    .answer(&pair.collect.answer(&challenge).unwrap(), now())
                    .unwrap(),
            };
        };
        assert_eq!(
            (proven.once.is_some(), proven.can_reattest),
            (pair.once, pair.can_reattest),
            "{}",
            pair.name
        );
        let (id, attested) = attested(&domain, pair.name, proven).unwrap();
        assert_eq!(id.as_str(), pair.id);
        assert_eq!(
            (attested.parent, attested.instance),
            (Parent::Server, Instance::Node)
        );
        assert_eq!(
            attested.selectors.iter().collect::<Vec<_>>(),
            pair.selectors,
            "{}",
            pair.name
        );
    }
}

#[test]
fn bad_evidence_is_an_error_that_names_the_attestor() {
    for pair in all() {
        let good = pair.good();
        for bad in [
            vec![],
            vec![0],
            vec![0xff; 40],
            b"{}".to_vec(),
            b"[null]".to_vec(),
            b"{\"certificates\":[]}".to_vec(),
            b"{\"certificates\":[\"\"]}".to_vec(),
            b"{\"certificates\":[\"AAAA\"]}".to_vec(),
            b"{\"certificates\":[null]}".to_vec(),
            vec![b'a'; 1 << 20],
            [good.as_slice(), &vec![b' '; 1 << 20]].concat(),
        ] {
            let what = format!(
                "{} bytes starting {:?}",
                bad.len(),
                bad.iter().take(20).collect::<Vec<_>>()
            );
            pair.refuses(&what, pair.begin(bad));
        }
        // A join token has no shape by which a shorter one could be told; it is another token.
        if pair.name != "join_token" {
            for length in 0..good.len().min(400) {
                pair.refuses("truncated evidence", pair.begin(good[..length].to_vec()));
            }
        }
    }
}

#[test]
fn wrong_answers_are_refused() {
    for pair in all() {
        let ask = || match pair.begin(pair.good()).unwrap() {
            Step::Challenge { challenge, next } => Some((challenge, next)),
            Step::Done(_) => None,
        };
        let Some((first, _)) = ask() else {
            assert!(pair.collect.answer(b"anything").is_err(), "{}", pair.name);
            continue;
        };
        let answer = pair.collect.answer(&first).unwrap();
        let (second, next) = ask().unwrap();
        assert_ne!(first, second);
        pair.refuses(
            "the answer to another challenge",
            next.answer(&answer, now()),
        );
        let good = || {
            let (challenge, next) = ask().unwrap();
            (pair.collect.answer(&challenge).unwrap(), next)
        };
        for at in (0..good().0.len()).step_by(7) {
            let (mut answer, next) = good();
            answer.truncate(at);
            pair.refuses("a truncated answer", next.answer(&answer, now()));
        }
        for bad in [
            vec![],
            b"{}".to_vec(),
            b"null".to_vec(),
            vec![b' '; 1 << 20],
        ] {
            pair.refuses("another answer", good().1.answer(&bad, now()));
        }
        for bad in [
            &b""[..],
            b"{}",
            b"{\"rsa_signature\":null,\"ecdsa_signature\":{\"nonce\":\"AAAA\"}}",
            &vec![b' '; 1 << 20],
        ] {
            assert!(pair.collect.answer(bad).is_err());
        }
    }
}

#[test]
fn one_attestors_evidence_is_nothing_to_another() {
    let all = all();
    for from in &all {
        for to in all
            .iter()
            .filter(|to| to.name != from.name && to.name != "join_token")
        {
            to.refuses("another attestor's evidence", to.begin(from.good()));
        }
    }
}

#[test]
fn what_is_not_switched_on_is_unknown() {
    let domain = TrustDomain::parse("example.org").unwrap();
    let verifiers = Verifiers::new(ServerSettings {
        join_token: true,
        ..ServerSettings::none(domain)
    })
    .unwrap();
    let evidence = Evidence {
        kind: "x509pop\u{1b}".to_owned(),
        payload: vec![],
    };
    let Err(error) = verifiers.begin(&evidence, now()) else {
        panic!("it is not there")
    };
    assert_eq!(
        error.to_string(),
        "could not find node attestor type \"x509pop\\\\u{1b}\"; switched on: join_token"
    );
    assert_eq!(Denial::from(error).code, Code::FailedPrecondition);
}

#[test]
fn an_agent_has_exactly_one() {
    assert!(collector(AgentSettings::none()).is_err());
    let (_verify, local) = local::pair([7; 32]);
    let two = AgentSettings {
        join_token: join_token::Token::parse("t").ok(),
        local: Some(local),
        ..AgentSettings::none()
    };
    let Err(error) = collector(two) else {
        panic!("two are too many")
    };
    assert!(error.to_string().contains("there are several"), "{error}");
}

#[test]
fn another_process_is_not_local() {
    let domain = TrustDomain::parse("example.org").unwrap();
    let (verify, _) = local::pair([7; 32]);
    let (_, collect) = local::pair([8; 32]);
    let server = ServerSettings {
        local: Some(verify),
        ..ServerSettings::none(domain)
    };
    let evidence = collect.evidence().unwrap();
    let Err(error) = Verifiers::new(server).unwrap().begin(&evidence, now()) else {
        panic!("another secret")
    };
    assert_eq!(Denial::from(error).code, Code::PermissionDenied);
}

#[test]
fn a_suffix_that_is_no_path_is_not_repeated() {
    let domain = TrustDomain::parse("example.org").unwrap();
    let proven = Proven {
        suffix: "se cret".to_owned(),
        facts: Facts::default(),
        once: None,
        can_reattest: false,
    };
    let error = attested(&domain, "join_token", proven).unwrap_err();
    assert!(!error.to_string().contains("cret"), "{error}");
}
