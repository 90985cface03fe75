//! Handshakes over a pipe, both ways, and each way to be refused.

use std::sync::LazyLock;
use std::time::Duration;

use attesta_runtime::{Clock, ClockHand, Live, Writer, live};
use attesta_spiffe::{Bundle, SpiffeId, TrustDomain, X509Authority};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

const SERVER: &str = "spiffe://example.org/spire/server";
const CLIENT: &str = "spiffe://example.org/spire/agent/local/one";
const LIMIT: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

static TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
static TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// When all certificates of these tests begin; they end an hour later.
static START: LazyLock<Timestamp> = LazyLock::new(|| "2030-01-01T00:00:00Z".parse().unwrap());

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params.not_before = rcgen::date_time_ymd(2030, 1, 1);
    params.not_after = params.not_before + HOUR;
    params.use_authority_key_identifier_extension = true;
    params
}

impl Authority {
    fn new(domain: &str) -> Self {
        let mut params = params(&[domain]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn issue(&self, uris: &[&str]) -> Identity {
        let mut params = params(uris);
        params.serial_number = Some(SerialNumber::from(vec![0x01, 0x94, 0xab, 0x00]));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Identity::new(vec![leaf.der().clone()], key.serialize_der()).unwrap()
    }

    fn bundle(&self, domain: &str) -> Bundle {
        bundle(domain, &[self])
    }
}

fn bundle(domain: &str, authorities: &[&Authority]) -> Bundle {
    let authorities = authorities
        .iter()
        .map(|authority| X509Authority::from_der(&authority.certificate).unwrap())
        .collect();
    let domain = TrustDomain::parse(domain).unwrap();
    Bundle::new(domain, authorities, Vec::new(), 1, None).unwrap()
}

fn id(uri: &str) -> SpiffeId {
    SpiffeId::parse(uri).unwrap()
}

/// A server and a client of one trust domain; each test changes one thing.
struct Pair {
    clock: Clock,
    hand: ClockHand,
    authority: Authority,
    server: Writer<Identity>,
    server_bundle: Writer<Bundle>,
    client: Writer<Option<Identity>>,
    client_bundle: Writer<Bundle>,
    ask: ClientAuth,
    expected: SpiffeId,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
}

type Ends = (
    Result<ServerStream<DuplexStream>, HandshakeError>,
    Result<ClientStream<DuplexStream>, HandshakeError>,
);

impl Pair {
    fn new() -> Self {
        let (clock, hand) = Clock::manual(*START + HOUR / 2);
        let authority = Authority::new("spiffe://example.org");
        let client = Some(authority.issue(&[CLIENT]));
        Self {
            clock,
            hand,
            server: live(authority.issue(&[SERVER])).0,
            server_bundle: live(authority.bundle("example.org")).0,
            client: live(client).0,
            client_bundle: live(authority.bundle("example.org")).0,
            authority,
            ask: ClientAuth::Optional,
            expected: id(SERVER),
            versions: rustls::ALL_VERSIONS,
        }
    }

    async fn shake(&self) -> Ends {
        let server = server_config(
            self.server.reader(),
            self.server_bundle.reader(),
            self.clock.clone(),
            self.ask,
        )
        .unwrap();
        let client: Live<Option<Identity>> = self.client.reader();
        let client = client_config(
            client,
            self.client_bundle.reader(),
            self.expected.clone(),
            self.clock.clone(),
        )
        .unwrap();
        assert!(
            !client.alpn_protocols.is_empty() && server.alpn_protocols == client.alpn_protocols
        );
        let client = if self.versions.len() == rustls::ALL_VERSIONS.len() {
            client
        } else {
            self.client_of_one_version()
        };
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::join!(
            accept(server, near, LIMIT),
            connect(client, "server.test", far, LIMIT)
        )
    }

    /// The same client, limited to what `versions` says.
    fn client_of_one_version(&self) -> Arc<ClientConfig> {
        let both = client_config(
            self.client.reader(),
            self.client_bundle.reader(),
            self.expected.clone(),
            self.clock.clone(),
        )
        .unwrap();
        let mut one = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(client::check(
                self.client_bundle.reader(),
                self.expected.clone(),
                self.clock.clone(),
            ))
            .with_client_cert_resolver(Arc::clone(&both.client_auth_cert_resolver));
        one.alpn_protocols.clone_from(&both.alpn_protocols);
        Arc::new(one)
    }

    /// The client refuses the server; gives its words.
    async fn client_refuses(&self) -> PeerError {
        match self.shake().await {
            (Err(HandshakeError::Refused(_)), Err(HandshakeError::Peer(error))) => error,
            (server, client) => panic!("{:?}, {:?}", server.err(), client.err()),
        }
    }

    /// The server refuses the client; gives its words. The client finds out here or at its first read.
    async fn server_refuses(&self) -> PeerError {
        let (server, client) = self.shake().await;
        if let Ok(mut client) = client {
            let error = client.read_u8().await.unwrap_err();
            assert!(error.to_string().contains("alert"), "{error}");
        }
        match server {
            Err(HandshakeError::Peer(error)) => error,
            other => panic!("{:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn both_ends_prove_themselves() {
    let mut pair = Pair::new();
    for versions in [rustls::ALL_VERSIONS, TLS13, TLS12] {
        pair.versions = versions;
        let (server, client) = pair.shake().await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        let peer = peer_of(server.get_ref().1).unwrap();
        let leaf = pair.client.load().as_ref().as_ref().unwrap().chain()[0].clone();
        assert_eq!(
            (peer.id, peer.leaf, peer.serial_hex.as_str()),
            (id(CLIENT), leaf, "0194ab00")
        );
        assert_eq!((peer.not_before, peer.not_after), (*START, *START + HOUR));
        assert_eq!(peer.spki.first(), Some(&0x30));
        assert_eq!(server.get_ref().1.alpn_protocol(), Some(ALPN));

        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        let mut heard = [0; 4];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
    }
}

#[tokio::test]
async fn nothing_is_resumed() {
    let pair = Pair::new();
    for _ in 0..2 {
        let (server, client) = pair.shake().await;
        let (server, client) = (server.unwrap(), client.unwrap());
        for kind in [
            server.get_ref().1.handshake_kind(),
            client.get_ref().1.handshake_kind(),
        ] {
            assert!(
                !matches!(kind, None | Some(rustls::HandshakeKind::Resumed)),
                "{kind:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_client_without_certificate_is_nobody() {
    let mut pair = Pair::new();
    pair.client.publish(None);
    let (server, client) = pair.shake().await;
    assert!(client.is_ok());
    assert_eq!(peer_of(server.unwrap().get_ref().1), None);

    // Nor is one that is not asked.
    pair.client.publish(Some(pair.authority.issue(&[CLIENT])));
    pair.ask = ClientAuth::None;
    let (server, client) = pair.shake().await;
    assert!(client.is_ok());
    assert_eq!(peer_of(server.unwrap().get_ref().1), None);
}

#[tokio::test]
async fn another_id_is_named() {
    let pair = Pair::new();
    let other = "spiffe://example.org/web";
    pair.server.publish(pair.authority.issue(&[other]));
    let error = pair.client_refuses().await;
    assert_eq!(
        error,
        PeerError::Another {
            found: id(other),
            expected: id(SERVER)
        }
    );
    assert_eq!(
        error.to_string(),
        "the peer is spiffe://example.org/web, and we expected spiffe://example.org/spire/server"
    );
}

#[tokio::test]
async fn an_unknown_authority_is_named() {
    let pair = Pair::new();
    let stranger = Authority::new("spiffe://example.org");
    pair.client_bundle.publish(stranger.bundle("example.org"));
    let error = pair.client_refuses().await;
    let PeerError::UnknownAuthority {
        found,
        authority,
        known,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(found, &id(SERVER));
    assert!(
        !authority.is_empty() && !known.is_empty() && authority != known,
        "{error}"
    );

    // A bundle without authorities trusts nobody (C115).
    pair.client_bundle.publish(bundle("example.org", &[]));
    let error = pair.client_refuses().await;
    assert!(error.to_string().contains("keys there: none"), "{error}");

    // The other way round.
    pair.client_bundle
        .publish(pair.authority.bundle("example.org"));
    pair.client.publish(Some(stranger.issue(&[CLIENT])));
    let error = pair.server_refuses().await;
    assert!(
        matches!(&error, PeerError::UnknownAuthority { found, .. } if *found == id(CLIENT)),
        "{error:?}"
    );
}

#[tokio::test]
async fn another_trust_domain_is_named() {
    let pair = Pair::new();
    let foreign = Authority::new("spiffe://other.org");
    let client = "spiffe://other.org/spire/agent/x";
    pair.client.publish(Some(foreign.issue(&[client])));
    let error = pair.server_refuses().await;
    assert_eq!(
        error,
        PeerError::Foreign {
            found: id(client),
            trust_domain: TrustDomain::parse("example.org").unwrap()
        }
    );
    // Our own authority does not make it ours.
    pair.client.publish(Some(pair.authority.issue(&[client])));
    assert_eq!(pair.server_refuses().await, error);
}

#[tokio::test]
async fn time_is_named() {
    let pair = Pair::new();
    pair.hand.set(*START + 3 * HOUR);
    let error = pair.client_refuses().await.to_string();
    assert!(
        error.contains("expired at 2030-01-01T01:00:00Z, 2h before our time 2030-01-01T03:00:00Z"),
        "{error}"
    );
    pair.hand.set(*START - Duration::from_secs(90));
    let error = pair.client_refuses().await.to_string();
    assert!(
        error.contains("valid from 2030-01-01T00:00:00Z, 1m 30s after our time"),
        "{error}"
    );
    pair.hand.set(*START + HOUR / 2);
    assert!(pair.shake().await.1.is_ok());
}

#[tokio::test]
async fn what_is_no_svid_is_refused() {
    let pair = Pair::new();
    let refused: &[&[&str]] = &[
        // C024, also where one of them is the right one.
        &[SERVER, "https://example.org"],
        &[SERVER, "spiffe://example.org/web"],
        // C023, C046, C027.
        &[],
        &["https://example.org/spire/server"],
        &["spiffe://example.org"],
    ];
    for uris in refused {
        pair.server.publish(pair.authority.issue(uris));
        let error = pair.client_refuses().await;
        assert!(
            matches!(error, PeerError::Invalid(_)),
            "{uris:?}: {error:?}"
        );
    }
    pair.server.publish(pair.authority.issue(&[SERVER]));
    pair.client
        .publish(Some(pair.authority.issue(&[CLIENT, SERVER])));
    assert!(matches!(pair.server_refuses().await, PeerError::Invalid(_)));
}

#[tokio::test]
async fn identities_and_bundles_are_taken_as_they_are_at_each_handshake() {
    let pair = Pair::new();
    let server = server_config(
        pair.server.reader(),
        pair.server_bundle.reader(),
        pair.clock.clone(),
        pair.ask,
    )
    .unwrap();
    let client = client_config(
        pair.client.reader(),
        pair.client_bundle.reader(),
        pair.expected.clone(),
        pair.clock.clone(),
    )
    .unwrap();
    let shake = || async {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::join!(
            accept(Arc::clone(&server), near, LIMIT),
            connect(Arc::clone(&client), "127.0.0.1", far, LIMIT)
        )
    };
    assert!(shake().await.0.is_ok());
    let next = Authority::new("spiffe://example.org");
    pair.server.publish(next.issue(&[SERVER]));
    assert!(shake().await.1.is_err());
    pair.client_bundle
        .publish(bundle("example.org", &[&pair.authority, &next]));
    let (near, far) = shake().await;
    assert!(near.is_ok() && far.is_ok());
    assert_eq!(
        far.unwrap().get_ref().1.peer_certificates().unwrap(),
        pair.server.load().chain()
    );
}

#[tokio::test]
async fn the_deadline_holds_against_a_silent_peer() {
    let pair = Pair::new();
    let server = server_config(
        pair.server.reader(),
        pair.server_bundle.reader(),
        pair.clock.clone(),
        pair.ask,
    )
    .unwrap();
    let (near, _far) = tokio::io::duplex(64);
    let limit = Duration::from_millis(10);
    assert!(matches!(
        accept(Arc::clone(&server), near, limit).await,
        Err(HandshakeError::Deadline(elapsed)) if elapsed.0 == limit
    ));
    let (near, mut far) = tokio::io::duplex(64);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(
        accept(Arc::clone(&server), near, LIMIT).await,
        Err(HandshakeError::Tls(_))
    ));
    let (near, far) = tokio::io::duplex(64);
    drop(far);
    assert!(matches!(
        accept(server, near, LIMIT).await,
        Err(HandshakeError::Io(_))
    ));
}

#[test]
fn an_identity_is_whole_or_none() {
    let authority = Authority::new("spiffe://example.org");
    let identity = authority.issue(&[SERVER]);
    let chain = identity.chain().to_vec();
    let other = KeyPair::generate().unwrap().serialize_der();
    assert_eq!(
        Identity::new(Vec::new(), &other).unwrap_err(),
        IdentityError::NoCertificate
    );
    assert_eq!(
        Identity::new(chain.clone(), b"no key").unwrap_err(),
        IdentityError::Key
    );
    assert!(matches!(
        Identity::new(chain, &other).unwrap_err(),
        IdentityError::Mismatch(_)
    ));
    assert_eq!(format!("{identity:?}"), "Identity(1 certificates)");
}
