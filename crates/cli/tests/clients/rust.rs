//! crates.io's `spiffe` and `spiffe-rustls`: mutual TLS between two identities of this very process.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use spiffe_client::{X509Source, X509Svid, x509_source::SvidPicker};
use spiffe_rustls::{LocalOnly, authorizer, mtls_client, mtls_server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::{PATIENCE, Running};

const ORDERS: &str = "spiffe://example.org/orders";
const PAYMENTS: &str = "spiffe://example.org/payments";
/// Replaced at half of it, give or take; the agent looks each second, so 20 of them need 40 to 60 seconds.
const TTL: &str = "4s";
const ROTATIONS: usize = 20;

/// Takes the identity of that name, of the two that this process has.
struct Named(&'static str);

impl SvidPicker for Named {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        svids
            .iter()
            .position(|svid| svid.spiffe_id().to_string() == self.0)
    }
}

async fn source(endpoint: &str, id: &'static str) -> X509Source {
    X509Source::builder()
        .endpoint(endpoint)
        .picker(Named(id))
        .initial_sync_timeout(PATIENCE)
        .build()
        .await
        .unwrap()
}

fn connector(source: &X509Source, peer: &str) -> TlsConnector {
    let config = mtls_client(source.clone())
        .authorize(authorizer::exact([peer]).unwrap())
        .trust_domain_policy(LocalOnly("example.org".try_into().unwrap()))
        .build()
        .unwrap();
    TlsConnector::from(Arc::new(config))
}

/// The certificate that the peer showed.
fn shown(chain: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> Vec<u8> {
    chain.unwrap()[0].to_vec()
}

/// Answers each caller that is payments with what it says; counts those turned away. Ends with the test's runtime.
async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    refused: Arc<AtomicUsize>,
    seen: tokio::sync::mpsc::Sender<Vec<u8>>,
) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        match acceptor.accept(tcp).await {
            Ok(mut tls) => {
                seen.send(shown(tls.get_ref().1.peer_certificates()))
                    .await
                    .unwrap();
                let mut word = [0; 4];
                tls.read_exact(&mut word).await.unwrap();
                tls.write_all(&word).await.unwrap();
                tls.shutdown().await.ok();
            }
            Err(_) => {
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// One connection, one word there and back; gives the certificate of the other end.
async fn call(connector: &TlsConnector, address: std::net::SocketAddr) -> std::io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("not.looked.at").unwrap();
    let mut tls = connector.connect(name, tcp).await?;
    let certificate = shown(tls.get_ref().1.peer_certificates());
    tls.write_all(b"ping").await?;
    let mut word = [0; 4];
    tls.read_exact(&mut word).await?;
    assert_eq!(&word, b"ping");
    Ok(certificate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_spiffe_speaks_mutual_tls_through_twenty_rotations() {
    let run = Running::start(&["--ephemeral"]);
    let us = std::env::current_exe().unwrap();
    for id in [ORDERS, PAYMENTS] {
        run.entry(id, &us, &["--x509-svid-ttl", TTL]);
    }
    let endpoint = run.field("workload_api");
    let orders = source(&endpoint, ORDERS).await;
    let payments = source(&endpoint, PAYMENTS).await;
    assert_eq!(orders.svid().unwrap().spiffe_id().to_string(), ORDERS);

    let config = mtls_server(orders.clone())
        .authorize(authorizer::exact([PAYMENTS]).unwrap())
        .trust_domain_policy(LocalOnly("example.org".try_into().unwrap()))
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let (tell, mut told) = tokio::sync::mpsc::channel(64);
    let serving = tokio::spawn(serve(
        listener,
        TlsAcceptor::from(Arc::new(config)),
        Arc::clone(&refused),
        tell,
    ));

    let caller = connector(&payments, ORDERS);
    let (mut servers, mut clients) = (HashSet::new(), HashSet::new());
    let (mut calls, begun) = (0_u32, Instant::now());
    while servers.len() <= ROTATIONS || clients.len() <= ROTATIONS {
        let answer = timeout(PATIENCE, call(&caller, address)).await.unwrap();
        match answer {
            Ok(certificate) => servers.insert(certificate),
            Err(error) => panic!(
                "handshake {calls} failed after {} rotations: {error}",
                servers.len()
            ),
        };
        clients.insert(told.recv().await.unwrap());
        calls += 1;
        assert!(
            begun.elapsed() < 2 * PATIENCE,
            "{} and {} certificates after {calls} handshakes",
            servers.len(),
            clients.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(refused.load(Ordering::Relaxed), 0, "no handshake failed");
    eprintln!("{calls} handshakes in {:?}", begun.elapsed());

    // Orders itself is not among its callers, and payments looks for nobody but orders.
    call(&connector(&orders, ORDERS), address)
        .await
        .unwrap_err();
    call(&connector(&payments, PAYMENTS), address)
        .await
        .unwrap_err();
    for _ in 0..100 {
        if refused.load(Ordering::Relaxed) == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(refused.load(Ordering::Relaxed), 2);
    serving.abort();
    run.stop();
}

/// Rust's source goes on by itself too, when its server comes back as another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_spiffe_outlives_its_server() {
    let dir = crate::harness::Directory::new("rust-restart");
    let data = dir.text("data");
    let run = Running::start(&["--data-dir", &data]);
    run.entry(PAYMENTS, &std::env::current_exe().unwrap(), &[]);
    let held = source(&run.field("workload_api"), PAYMENTS).await;
    let first = held.svid().unwrap().leaf().as_bytes().to_vec();
    let mut updates = held.updated();
    run.kill();
    assert!(held.is_healthy(), "what is held is held on to");
    let run = Running::start(&["--data-dir", &data]);
    timeout(PATIENCE, updates.changed()).await.unwrap().unwrap();
    assert_ne!(held.svid().unwrap().leaf().as_bytes(), first);
    run.stop();
}
