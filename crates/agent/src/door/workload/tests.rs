//! The Workload API over a real socket, this process as the workload, behind a whole agent and a fake server.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use attesta_attest::{
    AttestError,
    node::Collect,
    workload::{WorkloadSettings, Workloads, unix},
};
use attesta_model::{Entry, EntrySpec, Evidence, KeyAlgorithm, Sharing};
use attesta_runtime::{Clock, Live, Tasks, readiness};
use attesta_spiffe::{leaf_id, verify_chain};
use attesta_tls::CertificateDer;
use attesta_wire::proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, net::UnixStream, sync::mpsc};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

use super::*;
use crate::{
    Agent, AgentLimits, AgentSettings, AgentStatus, Bootstrap, DECISION_METADATA, Dial,
    authorized::tests::{domain, entry},
    testing::fake_server::{EVIDENCE, FakeServer},
};

struct TestEvidence;

impl Collect for TestEvidence {
    fn name(&self) -> &'static str {
        "test"
    }

    fn evidence(&self) -> Result<Evidence, AttestError> {
        Ok(Evidence {
            kind: "test".to_owned(),
            payload: EVIDENCE.to_vec(),
        })
    }

    fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, AttestError> {
        assert_eq!(challenge, b"ping");
        Ok(b"pong".to_vec())
    }
}

/// A directory, a fake server and the tasks of both.
struct Stage {
    dir: tempfile::TempDir,
    fake: Arc<FakeServer>,
    dial: mpsc::Sender<DuplexStream>,
    clock: Clock,
    tasks: Tasks,
}

struct Running {
    socket: PathBuf,
    status: Live<AgentStatus>,
    tasks: Tasks,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let clock = Clock::system();
        let tasks = Tasks::new(clock.clone());
        let (fake, dial) = FakeServer::start(&tasks, &clock);
        Self {
            dir,
            fake,
            dial,
            clock,
            tasks,
        }
    }

    async fn agent(&self, change: impl FnOnce(&mut AgentSettings)) -> Running {
        let mut settings = AgentSettings {
            trust_domain: domain(),
            server: Dial::Local(self.dial.clone()),
            bootstrap: Bootstrap::Bundle(self.fake.ca.bundle()),
            data_dir: None,
            workload_socket: self.dir.path().join("workload.sock"),
            admin_socket: None,
            collect: Arc::new(TestEvidence),
            workloads: Workloads::new(&WorkloadSettings {
                unix: Some(unix::Settings::default()),
            }),
            sync_interval: Duration::from_secs(5),
            workload_key: KeyAlgorithm::EcP256,
            limits: AgentLimits::default(),
        };
        change(&mut settings);
        let socket = settings.workload_socket.clone();
        let tasks = Tasks::new(self.clock.clone());
        let (guards, ready) = readiness();
        let agent = Agent::build(settings, self.clock.clone(), &tasks, &guards)
            .await
            .unwrap();
        let status = agent.status();
        assert!(!ready.is_ready());
        agent.run(&tasks);
        Running {
            socket,
            status,
            tasks,
        }
    }

    /// That the fake server was never asked anything odd; ends everything.
    async fn end(self, agent: Running) {
        assert!(
            agent
                .tasks
                .drain(Duration::from_secs(5))
                .await
                .aborted
                .is_empty()
        );
        assert_eq!(*self.fake.faults.load(), Vec::<String>::new());
        self.tasks.drain(Duration::from_secs(1)).await;
    }
}

impl Running {
    async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        let socket = self.socket.clone();
        let connect = move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        let channel = Endpoint::from_static("http://workload")
            .connect_with_connector(tower::service_fn(connect))
            .await
            .unwrap();
        SpiffeWorkloadApiClient::new(channel)
    }

    async fn synced(&self, entries: usize) {
        let mut version = self.status.version();
        while self.status.load().entries != entries {
            version = within(self.status.changed(version)).await;
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    Clock::system()
        .timeout(Duration::from_secs(10), future)
        .await
        .expect("in time")
}

fn asks<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, "true".parse().unwrap());
    request
}

/// An entry that this process matches.
fn ours(id: &str, more: impl FnOnce(&mut EntrySpec)) -> Arc<Entry> {
    entry(
        id,
        &[&format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
        more,
    )
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    within(stream.message()).await
}

fn ids(response: &X509svidResponse) -> Vec<&str> {
    response
        .svids
        .iter()
        .map(|s| s.spiffe_id.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_is_served_pushed_anew_and_taken_away() {
    let stage = Stage::new();
    stage.fake.set_entries(vec![
        ours("a", |_| ()),
        entry("b", &["unix:uid:1", "unix:uid:2"], |_| ()),
    ]);
    let agent = stage.agent(|_| ()).await;
    agent.synced(2).await;
    let mut client = agent.client().await;
    let mut stream = client
        .fetch_x509svid(asks(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(ids(&first), ["spiffe://example.org/a"]);
    let svid = &first.svids[0];
    assert_eq!(leaf_id(&svid.x509_svid).unwrap().path(), "/a");
    verify_chain(
        &[CertificateDer::from(svid.x509_svid.clone())],
        &stage.fake.ca.bundle(),
        stage.clock.now(),
    )
    .unwrap();
    attesta_tls::Identity::new(vec![svid.x509_svid.clone().into()], &svid.x509_svid_key).unwrap();
    assert_eq!(svid.bundle, stage.fake.ca.der());
    // A second connection of the same instance is served what it holds.
    let mut again = agent
        .client()
        .await
        .fetch_x509svid(asks(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut again).await.unwrap().unwrap(), first);
    assert_eq!(stage.fake.issued.load(Ordering::SeqCst), 1);
    // A new entry of higher priority comes first; the old SVID stays as it is.
    stage
        .fake
        .set_entries(vec![ours("a", |_| ()), ours("c", |e| e.priority = 1)]);
    let second = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(
        ids(&second),
        ["spiffe://example.org/c", "spiffe://example.org/a"]
    );
    assert_eq!(second.svids[1], first.svids[0]);
    // A changed entry is issued anew.
    stage.fake.set_entries(vec![ours("a", |e| e.revision = 1)]);
    let third = loop {
        let message = next(&mut stream).await.unwrap().unwrap();
        if message.svids.len() == 1 && message.svids[0] != first.svids[0] {
            break message;
        }
    };
    assert_eq!(ids(&third), ["spiffe://example.org/a"]);
    // Nothing is left: the stream ends.
    stage.fake.set_entries(vec![]);
    let end = loop {
        match next(&mut stream).await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (end.code(), end.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    assert_eq!(
        agent
            .status
            .load()
            .id
            .as_ref()
            .map(|id| id.path().to_owned())
            .as_deref(),
        Some("/spire/agent/test/1")
    );
    stage.end(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_of_one_instance_ask_once_and_rotation_reaches_their_streams() {
    let stage = Stage::new();
    stage.fake.ttl.store(4, Ordering::SeqCst);
    stage.fake.set_entries(vec![ours("a", |_| ())]);
    let agent = stage.agent(|_| ()).await;
    agent.synced(1).await;
    let open = (0..16).map(|_| async {
        let mut stream = agent
            .client()
            .await
            .fetch_x509svid(asks(X509svidRequest {}))
            .await
            .unwrap()
            .into_inner();
        let first = next(&mut stream).await.unwrap().unwrap();
        (stream, first)
    });
    let mut streams = futures::future::join_all(open).await;
    assert_eq!(stage.fake.issued.load(Ordering::SeqCst), 1);
    assert_eq!(agent.status.load().holdings, 1);
    for (stream, first) in &mut streams {
        let rotated = next(stream).await.unwrap().unwrap();
        assert_ne!(rotated.svids[0].x509_svid, first.svids[0].x509_svid);
        assert_ne!(rotated.svids[0].x509_svid_key, first.svids[0].x509_svid_key);
    }
    stage.end(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_texts() {
    let stage = Stage::new();
    let agent = stage.agent(|s| s.limits.streams_per_uid = 2).await;
    let mut client = agent.client().await;
    let said = |status: Status| (status.code(), status.message().to_owned());
    let is = |code, message: &str| (code, message.to_owned());
    let denied = client
        .fetch_x509svid(Request::new(X509svidRequest {}))
        .await
        .unwrap_err();
    assert_eq!(
        said(denied),
        is(
            Code::InvalidArgument,
            "security header missing from request"
        )
    );
    let mut wrong = Request::new(X509svidRequest {});
    wrong
        .metadata_mut()
        .insert(SECURITY_HEADER, "True".parse().unwrap());
    assert_eq!(
        client.fetch_x509svid(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let jwt = |audience: &[&str], id: &str| {
        asks(JwtsvidRequest {
            audience: audience.iter().map(|a| (*a).to_owned()).collect(),
            spiffe_id: id.to_owned(),
        })
    };
    stage
        .fake
        .set_entries(vec![entry("z", &["unix:uid:4294967294"], |_| ())]);
    agent.synced(1).await;
    assert_eq!(
        said(
            client
                .fetch_x509svid(asks(X509svidRequest {}))
                .await
                .unwrap_err()
        ),
        is(Code::PermissionDenied, "no identity issued")
    );
    assert_eq!(
        said(
            client
                .fetch_x509_bundles(asks(X509BundlesRequest {}))
                .await
                .unwrap_err()
        ),
        is(Code::PermissionDenied, "no identity issued")
    );
    assert_eq!(
        said(client.fetch_jwtsvid(jwt(&["x"], "")).await.unwrap_err()),
        is(Code::PermissionDenied, "no identity issued")
    );
    stage
        .fake
        .set_entries(vec![ours("a", |_| ()), ours("b", |_| ())]);
    agent.synced(2).await;
    assert_eq!(
        said(client.fetch_jwtsvid(jwt(&[], "")).await.unwrap_err()),
        is(Code::InvalidArgument, "audience must be specified")
    );
    let bad = client
        .fetch_jwtsvid(jwt(&["x"], "http://a"))
        .await
        .unwrap_err();
    assert!(
        bad.code() == Code::InvalidArgument
            && bad.message().starts_with("invalid requested SPIFFE ID: "),
        "{bad}"
    );
    let other = client
        .fetch_jwtsvid(jwt(&["x"], "spiffe://example.org/other"))
        .await
        .unwrap_err();
    assert_eq!(
        said(other),
        is(Code::PermissionDenied, "no identity issued")
    );
    let validate = |audience: &str, svid: &str| {
        asks(ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: svid.to_owned(),
        })
    };
    assert_eq!(
        said(
            client
                .validate_jwtsvid(validate("", "x"))
                .await
                .unwrap_err()
        ),
        is(Code::InvalidArgument, "audience must be specified")
    );
    assert_eq!(
        said(
            client
                .validate_jwtsvid(validate("x", ""))
                .await
                .unwrap_err()
        ),
        is(Code::InvalidArgument, "svid must be specified")
    );
    assert_eq!(
        client
            .validate_jwtsvid(validate("x", "a.b.c"))
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
    assert_eq!(
        client
            .fetch_witsvid(asks(WitsvidRequest::default()))
            .await
            .unwrap_err()
            .code(),
        Code::Unimplemented
    );
    // The server says no: the caller learns that, and by what its record is found.
    stage.fake.refuse.store(1, Ordering::SeqCst);
    let refused = client
        .fetch_x509svid(asks(X509svidRequest {}))
        .await
        .unwrap_err();
    assert_eq!(
        refused.metadata().get(DECISION_METADATA).unwrap(),
        "0badcafe"
    );
    assert_eq!(
        said(refused),
        is(Code::PermissionDenied, "no identity issued")
    );
    stage.fake.refuse.store(0, Ordering::SeqCst);
    // Tokens: one per identity; cached for the same audiences in any order.
    let tokens = client
        .fetch_jwtsvid(jwt(&["x", "y"], ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(tokens.svids.len(), 2);
    let before = stage.fake.issued.load(Ordering::SeqCst);
    let one = client
        .fetch_jwtsvid(jwt(&["y", "x", "y"], "spiffe://example.org/b"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(one.svids, tokens.svids[1..]);
    client.fetch_jwtsvid(jwt(&["y"], "")).await.unwrap();
    assert_eq!(stage.fake.issued.load(Ordering::SeqCst), before + 2);
    // Streams are counted per user.
    let first = client
        .fetch_x509_bundles(asks(X509BundlesRequest {}))
        .await
        .unwrap();
    let second = client
        .fetch_jwt_bundles(asks(JwtBundlesRequest {}))
        .await
        .unwrap();
    assert_eq!(
        client
            .fetch_x509svid(asks(X509svidRequest {}))
            .await
            .unwrap_err()
            .code(),
        Code::Unavailable
    );
    let bundles = next(&mut first.into_inner()).await.unwrap().unwrap();
    assert_eq!(
        bundles.bundles.get("spiffe://example.org").unwrap(),
        stage.fake.ca.der()
    );
    let jwks = next(&mut second.into_inner()).await.unwrap().unwrap();
    assert!(
        String::from_utf8(jwks.bundles.get("spiffe://example.org").unwrap().clone())
            .unwrap()
            .contains("keys")
    );
    stage.end(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_server_says_that_it_passes() {
    let mut stage = Stage::new();
    let (nobody, gone) = mpsc::channel(1);
    drop(gone);
    let real = std::mem::replace(&mut stage.dial, nobody);
    let agent = stage.agent(|_| ()).await;
    let status = agent
        .client()
        .await
        .fetch_x509svid(asks(X509svidRequest {}))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let mut version = agent.status.version();
    while agent.status.load().last_error.is_none() {
        version = within(agent.status.changed(version)).await;
    }
    assert!(!agent.status.load().server_reachable);
    stage.dial = real;
    stage.end(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_identity_is_used_again_and_what_is_shared_is_fetched_ahead() {
    let stage = Stage::new();
    stage
        .fake
        .set_entries(vec![ours("n", |e| e.sharing = Sharing::Node)]);
    let data = stage.dir.path().join("data");
    let mut serials = Vec::new();
    for _ in 0..2 {
        let agent = stage.agent(|s| s.data_dir = Some(data.clone())).await;
        let mut version = agent.status.version();
        while agent.status.load().holdings != 1 {
            version = within(agent.status.changed(version)).await;
        }
        let before = stage.fake.issued.load(Ordering::SeqCst);
        let mut stream = agent
            .client()
            .await
            .fetch_x509svid(asks(X509svidRequest {}))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            ids(&next(&mut stream).await.unwrap().unwrap()),
            ["spiffe://example.org/n"]
        );
        assert_eq!(
            stage.fake.issued.load(Ordering::SeqCst),
            before,
            "it was there already"
        );
        serials.push(fs::read(data.join("agent-svid.json")).unwrap());
        agent.tasks.drain(Duration::from_secs(5)).await;
    }
    assert_eq!(serials[0], serials[1], "attested once");
    assert!(
        fs::metadata(data.join("agent.key"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
            == 0o600
    );
    assert_eq!(*stage.fake.faults.load(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_process_is_reported_with_what_it_held() {
    let stage = Stage::new();
    stage.fake.set_entries(vec![ours("a", |_| ())]);
    let agent = stage.agent(|_| ()).await;
    agent.synced(1).await;
    // A foreign process connects by a plain HTTP/2 call and ends.
    let socket = agent.socket.to_str().unwrap();
    let call = format!(
        "import socket,struct,time\n\
         s=socket.socket(socket.AF_UNIX);s.connect('{socket}')\n\
         def lit(n,v): return b'\\x00'+bytes([len(n)])+n+bytes([len(v)])+v\n\
         def frame(t,f,i,p): return struct.pack('>I',len(p))[1:]+bytes([t,f])+struct.pack('>I',i)+p\n\
         h=b'\\x83\\x86'+lit(b':path',b'/SpiffeWorkloadAPI/FetchX509SVID')+lit(b':authority',b'w')+lit(b'content-type',b'application/grpc')+lit(b'te',b'trailers')+lit(b'workload.spiffe.io',b'true')\n\
         s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'+frame(4,0,0,b'')+frame(1,4,1,h)+frame(0,1,1,b'\\0\\0\\0\\0\\0'))\n\
         d=b''\n\
         while len(d)<600:\n\x20d+=s.recv(65536)\n"
    );
    let child = tokio::process::Command::new("python3")
        .arg("-c")
        .arg(call)
        .output();
    let Ok(output) = within(child).await else {
        eprintln!("skipped: python3 is not present");
        return;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ended = stage.fake.ended.reader();
    let mut version = ended.version();
    while ended.load().is_empty() {
        version = within(ended.changed(version)).await;
    }
    let endings = ended.load();
    assert_eq!((endings.len(), endings[0].credential_ids.len()), (1, 1));
    assert_eq!(stage.fake.issued.load(Ordering::SeqCst), 1);
    stage.end(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_only_spire_is_polled_and_asked_by_entry() {
    let stage = Stage::new();
    stage.fake.plain.store(1, Ordering::SeqCst);
    stage.fake.set_entries(vec![ours("a", |_| ())]);
    let agent = stage
        .agent(|s| s.sync_interval = Duration::from_millis(50))
        .await;
    agent.synced(1).await;
    let mut client = agent.client().await;
    let mut stream = client
        .fetch_x509svid(asks(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(ids(&first), ["spiffe://example.org/a"]);
    // Enough entries that only revisions are told first.
    stage.fake.set_entries(vec![
        ours("a", |_| ()),
        ours("b", |_| ()),
        entry("c", &["unix:uid:4294967294"], |_| ()),
    ]);
    let second = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(
        ids(&second),
        ["spiffe://example.org/a", "spiffe://example.org/b"]
    );
    assert_eq!(second.svids[0], first.svids[0], "not fetched again");
    let wanted = JwtsvidRequest {
        audience: vec!["x".to_owned()],
        spiffe_id: String::new(),
    };
    let tokens = client.fetch_jwtsvid(asks(wanted)).await.unwrap();
    assert_eq!(tokens.into_inner().svids.len(), 2);
    stage
        .fake
        .set_entries(vec![entry("c", &["unix:uid:4294967294"], |_| ())]);
    let end = next(&mut stream).await.unwrap_err();
    assert_eq!(end.code(), Code::PermissionDenied);
    stage.end(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_svid_is_renewed_and_streams_do_not_notice() {
    let stage = Stage::new();
    stage.fake.agent_ttl.store(2, Ordering::SeqCst);
    stage.fake.set_entries(vec![ours("a", |_| ())]);
    let agent = stage.agent(|_| ()).await;
    agent.synced(1).await;
    let mut stream = agent
        .client()
        .await
        .fetch_x509svid(asks(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    next(&mut stream).await.unwrap().unwrap();
    let mut version = agent.status.version();
    while stage.fake.renewed.load(Ordering::SeqCst) < 2 {
        version = within(agent.status.changed(version)).await;
    }
    assert_eq!(stage.fake.attested.load(Ordering::SeqCst), 1);
    // Pushes go on over the new connection.
    stage
        .fake
        .set_entries(vec![ours("a", |_| ()), ours("b", |_| ())]);
    assert_eq!(next(&mut stream).await.unwrap().unwrap().svids.len(), 2);
    stage.end(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_node_forgets_its_svid_and_serves_what_it_holds() {
    let stage = Stage::new();
    stage.fake.set_entries(vec![ours("a", |_| ())]);
    let data = stage.dir.path().join("data");
    let agent = stage.agent(|s| s.data_dir = Some(data.clone())).await;
    agent.synced(1).await;
    let mut client = agent.client().await;
    let mut stream = client
        .fetch_x509svid(asks(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut stream).await.unwrap().unwrap();
    assert!(data.join("agent-svid.json").exists());
    stage.fake.banned.store(1, Ordering::SeqCst);
    stage.fake.set_entries(vec![ours("a", |_| ())]);
    let mut version = agent.status.version();
    while agent.status.load().expires_at.is_some() {
        version = within(agent.status.changed(version)).await;
    }
    while data.join("agent-svid.json").exists() {
        tokio::task::yield_now().await;
    }
    let said = agent.status.load().last_error.clone().unwrap_or_default();
    assert!(said.contains("banned"), "{said}");
    let again = client
        .fetch_x509svid(asks(X509svidRequest {}))
        .await
        .unwrap();
    assert_eq!(next(&mut again.into_inner()).await.unwrap().unwrap(), first);
    stage.end(agent).await;
}
