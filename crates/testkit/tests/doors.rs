//! The table of all RPCs, each called as stranger, workload, agent, banned agent and administrator: the answer and the
//! record of every refusal are checked. An RPC that has no door, or a door that is not in the table, fails here.
use std::{collections::BTreeSet, time::Duration};

use attesta_server::{Level, RPCS};
use attesta_testkit::World;
use attesta_wire::{
    FILE_DESCRIPTOR_SET,
    proto::spire::api::server::{
        agent::v1::{BanAgentRequest, agent_client::AgentClient},
        svid::v1::{BatchNewX509svidRequest, NewX509svidParams, svid_client::SvidClient},
    },
};
use tonic::{Code, Status, client::Grpc, transport::Channel};

/// Calls with an empty message and waits for the first answer, or for the call to be let through.
async fn call(channel: &Channel, path: &'static str) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|e| Status::unknown(e.to_string()))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let request = tonic::Request::new(tokio_stream::once(()));
    let call = grpc.streaming(request, http::uri::PathAndQuery::from_static(path), codec);
    match tokio::time::timeout(Duration::from_secs(2), call).await {
        // A stream that says nothing yet was let through.
        Err(_) => Ok(()),
        Ok(Err(status)) => Err(status),
        Ok(Ok(answer)) => {
            match tokio::time::timeout(Duration::from_millis(300), answer.into_inner().message())
                .await
            {
                Ok(Err(status)) => Err(status),
                _ => Ok(()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_is_tried_by_everyone() {
    let world = World::start().await.unwrap();
    let agent = world.join().await.unwrap();
    let banned = world.join().await.unwrap();
    let admin = world.admin().await.unwrap();
    // A workload's SVID: real, of this trust domain, and of no business here.
    let entry = world
        .entry(&agent.id, "/workload", &["unix:uid:1"])
        .await
        .unwrap();
    let (key, csr) = attesta_testkit::csr().unwrap();
    let request = BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id: entry,
            csr,
        }],
    };
    let issued = SvidClient::new(agent.channel.clone())
        .batch_new_x509svid(request)
        .await
        .unwrap()
        .into_inner();
    let svid = issued
        .results
        .into_iter()
        .next()
        .unwrap()
        .svid
        .expect("issued");
    let workload = world
        .with_certificate(&svid.cert_chain[0], &key)
        .await
        .unwrap();
    AgentClient::new(admin.clone())
        .ban_agent(BanAgentRequest {
            id: Some(attesta_wire::id::to_wire(&banned.id)),
        })
        .await
        .unwrap();
    let stranger = world.tls(None).await.unwrap();

    let callers: [(&str, &Channel, &[Level]); 5] = [
        ("stranger", &stranger, &[Level::Any]),
        ("workload", &workload, &[Level::Any]),
        ("agent", &agent.channel, &[Level::Any, Level::Agent]),
        ("banned agent", &banned.channel, &[Level::Any]),
        ("administrator", &admin, &[Level::Any, Level::Local]),
    ];
    let mut refused = 0;
    for rpc in RPCS {
        for (who, channel, may) in callers {
            let allowed = rpc.levels.iter().any(|l| may.contains(l));
            let answer = call(channel, rpc.path).await;
            let denied = matches!(&answer, Err(s) if s.code() == Code::PermissionDenied && s.message() == format!("authorization denied for method {}", rpc.path));
            // Health is served on the admin socket alone, where it has nobody to refuse.
            if rpc.path.starts_with("/grpc.health") && who != "administrator" {
                assert!(denied, "{who} {}: {answer:?}", rpc.path);
                continue;
            }
            assert_eq!(denied, !allowed, "{who} calls {}: {answer:?}", rpc.path);
            if let Err(status) = &answer {
                assert_ne!(
                    status.code(),
                    Code::Unimplemented,
                    "{who} calls {}: {status:?}",
                    rpc.path
                );
            }
            refused += u32::from(denied);
        }
    }
    assert!(refused > 50, "{refused}");
    let records = world.records().await.unwrap();
    for who in [
        format!("inside as {}", banned.id),
        "inside as spiffe://example.org/workload".to_owned(),
        "inside".to_owned(),
    ] {
        let needle = format!("\"from\":\"{who}\"");
        let kinds: BTreeSet<&str> = records
            .iter()
            .filter(|r| r.contains(&needle) && r.contains("\"outcome\":\"denied\""))
            .filter_map(|r| r.split("\"action\":\"").nth(1)?.split('"').next())
            .collect();
        assert!(
            kinds.len() >= 8,
            "refusals of {who} are recorded: {kinds:?}"
        );
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_table_is_not_served() {
    let world = World::start().await.unwrap();
    let admin = world.admin().await.unwrap();
    let table: BTreeSet<&str> = RPCS.iter().map(|r| r.path).collect();
    let set =
        <prost_types::FileDescriptorSet as prost::Message>::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut others = 0;
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                if table.contains(path.as_str()) {
                    continue;
                }
                others += 1;
                let status = call(&admin, Box::leak(path.clone().into_boxed_str()))
                    .await
                    .expect_err(&path);
                assert_eq!(status.code(), Code::Unimplemented, "{path}");
            }
        }
    }
    assert!(others > 20);
    world.stop().await;
}
