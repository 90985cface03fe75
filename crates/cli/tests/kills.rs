//! `kill -9` at random points of a busy server: afterwards every credential that a client received has its record, every
//! change that was acknowledged is there, and nothing is half.
//!
//! A dozen kills in the normal run; `ATTESTA_TEST_KILLS=200` for the long one.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that fails says so by panicking, and waits in real time"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use attesta_wire::proto::{
    attesta::admin::v1::{ListEntriesRequest, ListRecordsRequest, admin_client::AdminClient},
    spire::api::{
        server::entry::v1::{BatchCreateEntryRequest, entry_client::EntryClient},
        types,
    },
    workload::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

struct Server(Child);

impl Server {
    async fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_attesta"))
            .args(["run", "--output", "json", "--data-dir"])
            .arg(dir)
            .env_remove("ATTESTA_DATA_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let ready = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = tokio::time::timeout(Duration::from_secs(60), ready)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(line.contains("\"node\""), "not ready: {line:?}");
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn connect(path: PathBuf) -> Channel {
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move {
            tokio::net::UnixStream::connect(path)
                .await
                .map(TokioIo::new)
        }
    });
    Endpoint::try_from("http://socket.invalid")
        .unwrap()
        .connect_with_connector(connector)
        .await
        .unwrap()
}

fn entry(path: String) -> types::Entry {
    use std::os::unix::fs::MetadataExt;
    let uid = fs::metadata("/proc/self").unwrap().uid();
    let id = |path: String| {
        Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path,
        })
    };
    types::Entry {
        spiffe_id: id(path),
        parent_id: id("/spire/agent/local/node".into()),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: format!("uid:{uid}"),
        }],
        x509_svid_ttl: 60,
        ..types::Entry::default()
    }
}

/// The serials of all certificates in a message.
fn serials(svids: &[attesta_wire::proto::workload::X509svid]) -> impl Iterator<Item = String> {
    use der::Decode;
    svids.iter().map(|s| {
        let certificate = x509_cert::Certificate::from_der(&s.x509_svid).unwrap();
        let serial = certificate.tbs_certificate().serial_number().as_bytes();
        serial.iter().map(|b| format!("{b:02x}")).collect()
    })
}

/// What clients were told.
#[derive(Default)]
struct Told {
    entries: BTreeSet<String>,
    credentials: BTreeSet<String>,
}

/// Creates entries and reads SVIDs until the server goes.
async fn busy(dir: &Path, round: u32, told: &mut Told) {
    let mut entries = EntryClient::new(connect(dir.join("admin.sock")).await);
    let mut workload = SpiffeWorkloadApiClient::new(connect(dir.join("workload.sock")).await);
    for n in 0.. {
        let request = BatchCreateEntryRequest {
            entries: vec![
                entry(format!("/k/{round}/{}", n % 3)),
                entry(format!("/k/{round}/x{n}")),
            ],
            output_mask: None,
        };
        let Ok(answer) = entries.batch_create_entry(request).await else {
            return;
        };
        let made = answer.into_inner().results.into_iter();
        told.entries.extend(
            made.filter(|r| r.status.as_ref().is_some_and(|s| s.code == 0))
                .filter_map(|r| Some(r.entry?.id)),
        );
        let mut request = tonic::Request::new(X509svidRequest {});
        request
            .metadata_mut()
            .insert("workload.spiffe.io", "true".parse().unwrap());
        match workload.fetch_x509svid(request).await {
            Ok(stream) => match stream.into_inner().message().await {
                Ok(Some(message)) => told.credentials.extend(serials(&message.svids)),
                Ok(None) => {}
                Err(e) if e.code() == tonic::Code::PermissionDenied => {}
                Err(_) => return,
            },
            Err(e) if e.code() == tonic::Code::PermissionDenied => {}
            Err(_) => return,
        }
    }
}

async fn check(dir: &Path, told: &Told) {
    let mut admin =
        AdminClient::new(connect(dir.join("admin.sock")).await).max_decoding_message_size(64 << 20);
    let mut there = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest {
            page_token,
            ..ListEntriesRequest::default()
        };
        let page = admin.list_entries(request).await.unwrap().into_inner();
        there.extend(page.entries.into_iter().filter_map(|e| Some(e.base?.id)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let lost: Vec<_> = told.entries.difference(&there).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    let (mut recorded, mut created, mut seqs) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let mut page_token = String::new();
    loop {
        let request = ListRecordsRequest {
            page_token,
            page_size: 1000,
            ..ListRecordsRequest::default()
        };
        let page = admin.list_records(request).await.unwrap().into_inner();
        for record in page.records {
            let body: serde_json::Value = serde_json::from_slice(&record.body_json).unwrap();
            seqs.push(record.seq);
            if let Some(credential) = body["credential"].as_str() {
                recorded.insert(credential.to_owned());
            }
            if body["action"] == "entry_create" && body["outcome"] == "permitted" {
                created.insert(body["entry"].as_str().unwrap().to_owned());
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let unrecorded: Vec<_> = told.credentials.difference(&recorded).collect();
    assert!(
        unrecorded.is_empty(),
        "issued without a record: {unrecorded:?}"
    );
    assert_eq!(
        there, created,
        "every entry has its record, and every record its entry"
    );
    seqs.sort_unstable();
    for (i, seq) in seqs.iter().enumerate() {
        assert_eq!(*seq, i as u64 + 1, "records are gap-free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_told_survives_a_kill() {
    let kills: u32 = std::env::var("ATTESTA_TEST_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(12);
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut told = Told::default();
    let mut random = u64::from(std::process::id());
    for round in 0..kills {
        let mut server = Server::start(dir.path()).await;
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_millis(5 + (random >> 33) % 250);
        let work = busy(dir.path(), round, &mut told);
        let kill = async {
            tokio::time::sleep(after).await;
            server.kill();
        };
        // The clients are at work when it happens, and stop when nobody answers.
        tokio::join!(work, kill);
    }
    let server = Server::start(dir.path()).await;
    check(dir.path(), &told).await;
    assert!(
        told.entries.len() > 10 && told.credentials.len() > 2,
        "the clients were busy: {} entries, {} credentials",
        told.entries.len(),
        told.credentials.len()
    );
    drop(server);
}
