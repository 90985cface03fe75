//! `x509pop` with real certificates: kinds of keys, chains, times, files.

use std::{os::unix::fs::PermissionsExt, path::Path};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{RSA_PSS_SHA256, RsaKeyPair, RsaPssSaltLength, RsaSignatureEncoding},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};

use super::{
    super::{AgentSettings as All, Verifiers, collector},
    *,
};

/// A CA, an intermediate and a node, as files.
pub(in crate::node) struct Files {
    dir: tempfile::TempDir,
    leaf: CertificateDer<'static>,
    above: Vec<String>,
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

fn node() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "node-1");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0x1b, 0x2c]));
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2026, 12, 1);
    params
}

impl Files {
    pub(in crate::node) fn ec() -> Self {
        let mut params = node();
        params.subject_alt_names = vec![
            SanType::URI("x509pop://example.org/cluster/a/b".try_into().unwrap()),
            SanType::URI("x509pop://other.org/cluster/c".try_into().unwrap()),
        ];
        Self::new(&KeyPair::generate().unwrap(), params)
    }

    fn new(key: &KeyPair, params: CertificateParams) -> Self {
        let root_key = KeyPair::generate().unwrap();
        let root = ca("Root").self_signed(&root_key).unwrap();
        let middle_key = KeyPair::generate().unwrap();
        let middle = ca("Middle")
            .signed_by(&middle_key, &Issuer::new(ca("Root"), root_key))
            .unwrap();
        let leaf = params
            .signed_by(key, &Issuer::new(ca("Middle"), middle_key))
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, pem: String| {
            std::fs::write(dir.path().join(name), pem).unwrap();
            std::fs::set_permissions(
                dir.path().join(name),
                std::fs::Permissions::from_mode(0o600),
            )
            .unwrap();
        };
        write("root.pem", root.pem());
        write("node.pem", leaf.pem());
        write("middle.pem", middle.pem());
        write("node.key", key.serialize_pem());
        let mut above = vec![
            certificate::fingerprint(root.der()),
            certificate::fingerprint(middle.der()),
        ];
        above.sort_unstable();
        Self {
            dir,
            leaf: leaf.der().clone(),
            above,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(in crate::node) fn server(&self) -> ServerSettings {
        ServerSettings {
            ca_bundles: vec![self.path("root.pem")],
        }
    }

    pub(in crate::node) fn agent(&self) -> AgentSettings {
        AgentSettings {
            certificate: self.path("node.pem"),
            private_key: self.path("node.key"),
            intermediates: Some(self.path("middle.pem")),
        }
    }

    pub(in crate::node) fn leaf_fingerprint(&self) -> String {
        certificate::fingerprint(&self.leaf)
    }

    pub(in crate::node) fn selectors(&self) -> Vec<String> {
        let mut all: Vec<_> = self
            .above
            .iter()
            .map(|f| format!("x509pop:ca:fingerprint:{f}"))
            .collect();
        all.extend(
            [
                "x509pop:san:cluster:a/b",
                "x509pop:serialnumber:0a1b2c",
                "x509pop:subject:cn:node-1",
            ]
            .map(str::to_owned),
        );
        all
    }

    fn verifiers(&self) -> Verifiers {
        let domain = TrustDomain::parse("example.org").unwrap();
        Verifiers::new(AllServerSettings {
            x509pop: Some(self.server()),
            ..AllServerSettings::none(domain)
        })
        .unwrap()
    }

    fn collector(&self) -> Result<Box<dyn Collect>, AttestError> {
        collector(All {
            x509pop: Some(self.agent()),
            ..All::none()
        })
    }

    fn begin(&self, at: &str) -> Result<Step, AttestError> {
        let evidence = self.collector().unwrap().evidence().unwrap();
        self.verifiers()
            .begin(&evidence, at.parse().unwrap())
            .map(|(_, step)| step)
    }
}

const NOW: &str = "2026-06-01T00:00:00Z";

fn challenge(step: Result<Step, AttestError>) -> (Vec<u8>, Box<dyn Next>) {
    match step.unwrap() {
        Step::Challenge { challenge, next } => (challenge, next),
        Step::Done(_) => panic!("nothing was proven yet"),
    }
}

#[test]
fn each_kind_of_key_is_proven() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P521_SHA256,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let files = Files::new(&key, node());
        let (asked, next) = challenge(files.begin(NOW));
        let answer = files.collector().unwrap().answer(&asked).unwrap();
        assert!(
            matches!(
                next.answer(&answer, NOW.parse().unwrap()),
                Ok(Step::Done(_))
            ),
            "{algorithm:?}"
        );
        // Another key's signature over the very challenge.
        let (asked, next) = challenge(files.begin(NOW));
        let other = Files::new(&KeyPair::generate_for(algorithm).unwrap(), node());
        let answer = other.collector().unwrap().answer(&asked).unwrap();
        assert!(
            next.answer(&answer, NOW.parse().unwrap()).is_err(),
            "{algorithm:?}"
        );
    }
}

/// SPIRE's agent signs RSA with the longest salt that fits.
#[test]
fn rsa_with_the_longest_salt_is_taken() {
    static LONGEST: RsaSignatureEncoding =
        RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let files = Files::new(&key, node());
    let (asked, next) = challenge(files.begin(NOW));
    let asked: Challenge = serde_json::from_slice(&asked).unwrap();
    let nonce = [9; NONCE_BYTES];
    let signed = [asked.rsa_signature.unwrap().nonce.0.as_slice(), &nonce].concat();
    let signer = RsaKeyPair::from_pkcs8(key.serialized_der()).unwrap();
    let mut signature = vec![0; signer.public_modulus_len()];
    signer
        .sign(&LONGEST, &SystemRandom::new(), &signed, &mut signature)
        .unwrap();
    let answer = serde_json::json!({ "rsa_signature": { "nonce": payload::Bytes(nonce.to_vec()), "signature": payload::Bytes(signature) } });
    assert!(matches!(
        next.answer(answer.to_string().as_bytes(), NOW.parse().unwrap()),
        Ok(Step::Done(_))
    ));
}

/// P-384 signs SHA-256 in SPIRE; our server reads that, our agent cannot write it, and says so.
#[test]
fn p384_is_challenged_and_our_agent_says_that_it_cannot_answer() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let files = Files::new(&key, node());
    let Err(error) = files.collector() else {
        panic!("it cannot sign")
    };
    assert!(error.to_string().contains("P-384"), "{error}");
    let middle = read_certificates("", &files.path("middle.pem")).unwrap();
    let shown = Shown::of(&[files.leaf.clone(), middle[0].clone()]);
    let evidence = Evidence {
        kind: NAME.to_owned(),
        payload: serde_json::to_vec(&shown).unwrap(),
    };
    let (_, step) = files
        .verifiers()
        .begin(&evidence, NOW.parse().unwrap())
        .unwrap();
    let (asked, next) = challenge(Ok(step));
    let asked: Challenge = serde_json::from_slice(&asked).unwrap();
    let asked = asked.ecdsa_signature.unwrap().nonce.0;
    // Somebody else's signature: SHA-256 on P-384, as SPIRE's agent makes it.
    let nonce = [9; NONCE_BYTES];
    std::fs::write(files.path("signed"), [asked.as_slice(), &nonce].concat()).unwrap();
    let signed = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .args([files.path("node.key"), files.path("signed")])
        .output();
    let Ok(signed) = signed else {
        println!("SKIPPED: no openssl here, so no signature on P-384 with SHA-256 was checked");
        return;
    };
    let (r, s) = certificate::scalars(&signed.stdout);
    let answer = serde_json::json!({
        "ecdsa_signature": { "nonce": payload::Bytes(nonce.to_vec()), "r": payload::Bytes(r), "s": payload::Bytes(s) }
    });
    assert!(matches!(
        next.answer(answer.to_string().as_bytes(), NOW.parse().unwrap()),
        Ok(Step::Done(_))
    ));
}

#[test]
fn the_wire_is_spires() {
    let files = Files::ec();
    let evidence = files.collector().unwrap().evidence().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&evidence.payload).unwrap();
    assert_eq!(shown["certificates"].as_array().unwrap().len(), 2);
    let (asked, _) = challenge(files.begin(NOW));
    let asked_json: serde_json::Value = serde_json::from_slice(&asked).unwrap();
    assert!(asked_json["rsa_signature"].is_null());
    assert_eq!(
        asked_json["ecdsa_signature"]["nonce"]
            .as_str()
            .unwrap()
            .len(),
        44
    );
    let answer = files.collector().unwrap().answer(&asked).unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert!(answer["rsa_signature"].is_null());
    for member in ["nonce", "r", "s"] {
        assert!(answer["ecdsa_signature"][member].is_string(), "{member}");
    }
}

#[test]
fn chains_that_do_not_hold() {
    let good = Files::ec();
    for (at, says) in [
        (
            "2025-01-01T00:00:00Z",
            "is not valid before 2026-01-01T00:00:00Z",
        ),
        ("2026-12-02T00:00:00Z", "expired at 2026-12-01T00:00:00Z"),
    ] {
        let error = good.begin(at).err().unwrap();
        assert!(matches!(error, AttestError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    // Another CA of the same name.
    let other = Files::ec();
    let evidence = good.collector().unwrap().evidence().unwrap();
    assert!(matches!(
        other.verifiers().begin(&evidence, NOW.parse().unwrap()),
        Err(AttestError::Refused { .. })
    ));
    // Without the intermediate, and with too many.
    for (certificates, malformed) in [
        (vec![good.leaf.clone()], false),
        (vec![good.leaf.clone(); INTERMEDIATES + 2], true),
    ] {
        let evidence = Evidence {
            kind: NAME.to_owned(),
            payload: serde_json::to_vec(&Shown::of(&certificates)).unwrap(),
        };
        let error = good
            .verifiers()
            .begin(&evidence, NOW.parse().unwrap())
            .err()
            .unwrap();
        assert_eq!(
            matches!(error, AttestError::Malformed { .. }),
            malformed,
            "{error}"
        );
    }
}

#[test]
fn what_a_certificate_may_be() {
    for (what, good, change) in [
        (
            "no names, no extended usage",
            true,
            (|_| {}) as fn(&mut CertificateParams),
        ),
        ("for servers only", true, |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
        }),
        ("no signatures", false, |p| {
            p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]
        }),
        ("no key usage", false, |p| p.key_usages = vec![]),
        ("a CA", false, |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        }),
    ] {
        let mut params = node();
        change(&mut params);
        let files = Files::new(&KeyPair::generate().unwrap(), params);
        match files.begin(NOW) {
            Ok(_) => assert!(good, "{what}"),
            Err(e) => assert!(
                !good && matches!(e, AttestError::Refused { .. }),
                "{what}: {e}"
            ),
        }
    }
}

#[test]
fn files_that_do_not_work_are_named_with_the_way_out() {
    let files = Files::ec();
    let check = |says: &str| {
        let Err(error) = files.collector() else {
            panic!("{says}")
        };
        assert!(matches!(error, AttestError::Setting { .. }));
        assert!(error.to_string().contains(says), "{error}");
    };
    let mode = |mode| {
        std::fs::set_permissions(
            files.path("node.key"),
            std::fs::Permissions::from_mode(mode),
        )
        .unwrap()
    };
    for open in [0o644, 0o640, 0o660, 0o604] {
        mode(open);
        check("chmod 0600");
    }
    mode(0o400);
    assert!(files.collector().is_ok());
    mode(0o600);
    let write = |name: &str, bytes: &[u8]| std::fs::write(files.path(name), bytes).unwrap();
    let key = std::fs::read(files.path("node.key")).unwrap();
    write(
        "node.key",
        KeyPair::generate().unwrap().serialize_pem().as_bytes(),
    );
    check("is not the key of the certificate");
    write("node.key", b"nothing");
    check("private_key");
    write("node.key", &key);
    write("node.pem", b"");
    check("has no certificate");
    std::fs::remove_file(files.path("node.pem")).unwrap();
    check("node.pem");
    std::fs::create_dir(files.path("node.pem")).unwrap();
    check("is no regular file");
}

#[test]
fn a_ca_bundle_that_does_not_work() {
    let domain = || TrustDomain::parse("example.org").unwrap();
    let build = |ca_bundles| {
        Verifiers::new(AllServerSettings {
            x509pop: Some(ServerSettings { ca_bundles }),
            ..AllServerSettings::none(domain())
        })
    };
    for bundles in [
        vec![],
        vec![Path::new("/nonexistent").to_owned()],
        vec![Path::new("/dev/null").to_owned()],
    ] {
        assert!(matches!(build(bundles), Err(AttestError::Setting { .. })));
    }
}
