//! A workload's life with server and agent in one process: identity by facts, rotation by a hand-turned clock, the push,
//! and what an impostor gets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what went wrong by stopping"
)]

use std::{collections::BTreeSet, time::Duration};

use attesta_spiffe::{UnverifiedJwt, verify_chain};
use attesta_testkit::{AgentWorld, workload};
use attesta_tls::CertificateDer;
use attesta_wire::proto::{
    spire::api::server::entry::v1::{BatchDeleteEntryRequest, entry_client::EntryClient},
    workload::{
        JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest,
        X509svidRequest, X509svidResponse,
    },
};
use tonic::{Code, Streaming};

fn me() -> String {
    // The user id of this process, from the kernel.
    use std::os::unix::fs::MetadataExt;
    format!(
        "unix:uid:{}",
        std::fs::metadata("/proc/self").unwrap().uid()
    )
}

/// Five milliseconds of real time, while the world's clock stands.
async fn rest(w: &AgentWorld) {
    let never = std::future::pending::<()>();
    w.world
        .clock
        .timeout(Duration::from_millis(5), never)
        .await
        .unwrap_err();
}

async fn next(stream: &mut Streaming<X509svidResponse>) -> X509svidResponse {
    tokio::time::timeout(Duration::from_secs(10), stream.message())
        .await
        .expect("an answer in time")
        .unwrap()
        .expect("an answer")
}

fn serial_of(world: &AgentWorld, svid: &[u8]) -> String {
    let chain = [CertificateDer::from(svid.to_vec())];
    verify_chain(
        &chain,
        &world.world.started.bundle.load(),
        world.world.clock.now(),
    )
    .unwrap()
    .serial_hex()
    .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_arrives_rotates_and_goes() {
    let w = AgentWorld::start().await.unwrap();
    let mut client = w.connect().await.unwrap();
    // Nobody yet: refused at once, with a status a client retries on.
    let refused = match client.fetch_x509svid(workload(X509svidRequest {})).await {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    // The operator finds by the decision's id who asked, and what it lacked.
    let decision = refused
        .metadata()
        .get("attesta-decision-id")
        .expect("a decision id")
        .to_str()
        .unwrap()
        .to_owned();
    let records = w.world.records().await.unwrap();
    let record = records
        .iter()
        .find(|r| r.contains(&decision))
        .expect("the refusal is written down");
    assert!(
        record.contains("\"outcome\":\"denied\"") && record.contains("\"instance\":\"process:"),
        "{record}"
    );
    let status = client
        .fetch_x509svid(X509svidRequest {})
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::InvalidArgument,
            "security header missing from request"
        )
    );

    let first = w.world.entry(&w.node, "/web", &[&me()]).await.unwrap();
    // The push is on its way.
    let mut stream = loop {
        let mut stream = match client.fetch_x509svid(workload(X509svidRequest {})).await {
            Ok(stream) => stream.into_inner(),
            Err(status) if status.code() == Code::PermissionDenied => continue,
            Err(status) => panic!("{status}"),
        };
        match stream.message().await {
            Ok(Some(answer)) => {
                assert_eq!(answer.svids.len(), 1);
                let svid = answer.svids.first().unwrap();
                assert_eq!(svid.spiffe_id, "spiffe://example.org/web");
                assert!(!svid.x509_svid_key.is_empty() && !svid.bundle.is_empty());
                break stream;
            }
            Err(status) if status.code() == Code::PermissionDenied => rest(&w).await,
            other => panic!("{other:?}"),
        }
    };
    // A second entry reaches the open stream, and its deletion too.
    w.world.hand.advance(Duration::from_secs(1));
    let second = w.world.entry(&w.node, "/api", &[&me()]).await.unwrap();
    let both = next(&mut stream).await;
    assert_eq!(
        both.svids
            .iter()
            .map(|s| s.spiffe_id.as_str())
            .collect::<Vec<_>>(),
        ["spiffe://example.org/web", "spiffe://example.org/api"]
    );
    EntryClient::new(w.world.admin().await.unwrap())
        .batch_delete_entry(BatchDeleteEntryRequest { ids: vec![second] })
        .await
        .unwrap();
    let one = next(&mut stream).await;
    assert_eq!(one.svids.len(), 1);

    // Half of an hour, ten times: each rotation is a new certificate, valid now.
    let mut serials = BTreeSet::from([serial_of(&w, &one.svids.first().unwrap().x509_svid)]);
    for _ in 0..10 {
        let answer = loop {
            w.world.hand.advance(Duration::from_secs(300));
            if let Ok(answer) =
                tokio::time::timeout(Duration::from_millis(120), stream.message()).await
            {
                break answer.unwrap().unwrap();
            }
        };
        serials.insert(serial_of(&w, &answer.svids.first().unwrap().x509_svid));
    }
    assert!(serials.len() >= 10, "{} certificates", serials.len());
    let records = w.world.records().await.unwrap();
    for serial in &serials {
        assert!(
            records
                .iter()
                .any(|r| r.contains(serial) && r.contains("\"instance\":\"process:")),
            "{serial} has its record, with its instance"
        );
    }
    EntryClient::new(w.world.admin().await.unwrap())
        .batch_delete_entry(BatchDeleteEntryRequest { ids: vec![first] })
        .await
        .unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        }
    })
    .await
    .expect("the stream ends");
    assert_eq!(gone.unwrap_err().code(), Code::PermissionDenied);
    w.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_bundles() {
    let w = AgentWorld::start().await.unwrap();
    w.world.entry(&w.node, "/web", &[&me()]).await.unwrap();
    let mut client = w.connect().await.unwrap();
    let ask = |audience: &[&str]| {
        workload(JwtsvidRequest {
            audience: audience.iter().map(ToString::to_string).collect(),
            spiffe_id: String::new(),
        })
    };
    let mut tries = 0;
    let token = loop {
        match client.fetch_jwtsvid(ask(&["db"])).await {
            Ok(answer) => break answer.into_inner().svids.into_iter().next().unwrap(),
            Err(status) if status.code() == Code::PermissionDenied && tries < 200 => {
                tries += 1;
                rest(&w).await;
            }
            Err(status) => panic!("{status}"),
        }
    };
    let bundle = w.world.started.bundle.load();
    UnverifiedJwt::parse(&token.svid)
        .unwrap()
        .verify(&bundle, &["db"], w.world.clock.now())
        .unwrap();
    let again = client
        .fetch_jwtsvid(ask(&["db"]))
        .await
        .unwrap()
        .into_inner()
        .svids
        .into_iter()
        .next()
        .unwrap();
    assert_eq!(
        again.svid, token.svid,
        "served from the cache within half its life"
    );
    w.world.hand.advance(Duration::from_secs(200));
    let fresh = client
        .fetch_jwtsvid(ask(&["db"]))
        .await
        .unwrap()
        .into_inner()
        .svids
        .into_iter()
        .next()
        .unwrap();
    assert_ne!(fresh.svid, token.svid, "never past half its life");
    assert_eq!(
        client.fetch_jwtsvid(ask(&[])).await.unwrap_err().message(),
        "audience must be specified"
    );

    let validate = |audience: &str, svid: &str| {
        workload(ValidateJwtsvidRequest {
            audience: audience.into(),
            svid: svid.into(),
        })
    };
    let valid = client
        .validate_jwtsvid(validate("db", &fresh.svid))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(valid.spiffe_id, "spiffe://example.org/web");
    for (audience, svid) in [
        ("other", fresh.svid.as_str()),
        ("db", "x.y.z"),
        ("", fresh.svid.as_str()),
        ("db", ""),
    ] {
        assert_eq!(
            client
                .validate_jwtsvid(validate(audience, svid))
                .await
                .unwrap_err()
                .code(),
            Code::InvalidArgument
        );
    }
    let x509 = client
        .fetch_x509_bundles(workload(X509BundlesRequest {}))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    assert!(x509.bundles.contains_key("spiffe://example.org"));
    let jwt = client
        .fetch_jwt_bundles(workload(JwtBundlesRequest {}))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let jwks = jwt.bundles.get("spiffe://example.org").unwrap();
    assert!(
        !String::from_utf8_lossy(jwks).contains("x5c"),
        "C196: no keys of other uses"
    );
    w.stop().await;
}
