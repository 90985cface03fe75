//! Clients of a world: an administrator on the socket, a stranger, and nodes that joined.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use attesta_runtime::live;
use attesta_spiffe::SpiffeId;
use attesta_tls::{CertificateDer, Identity, client_config, connect};
use attesta_wire::proto::spire::api::{
    server::{
        agent::v1::{
            AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest,
            agent_client::AgentClient, attest_agent_request, attest_agent_response,
        },
        entry::v1::{BatchCreateEntryRequest, entry_client::EntryClient},
    },
    types,
};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::World;

/// A node that attested: its id, its certificate, and a connection that presents it.
pub struct NodeClient {
    /// `spiffe://example.org/spire/agent/join_token/<token>`.
    pub id: SpiffeId,
    /// Presents the node's certificate.
    pub channel: Channel,
    /// The node's certificate.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: KeyPair,
}

/// A fresh key and a request for it.
///
/// # Errors
/// The library could not make them.
pub fn csr() -> Result<(KeyPair, Vec<u8>)> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::new(Vec::<String>::new())?.serialize_request(&key)?;
    Ok((key, request.der().to_vec()))
}

impl World {
    /// A connection to the admin socket.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn admin(&self) -> Result<Channel> {
        let path = self.path("admin.sock");
        let connector = service_fn(move |_| {
            let path = path.clone();
            async move {
                tokio::net::UnixStream::connect(path)
                    .await
                    .map(TokioIo::new)
            }
        });
        Ok(Endpoint::try_from("http://admin.invalid")?
            .connect_with_connector(connector)
            .await?)
    }

    /// A TLS connection that presents this identity, or nothing.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn tls(&self, identity: Option<Identity>) -> Result<Channel> {
        let (writer, identity) = live(identity);
        drop(writer);
        let server = self.trust_domain.with_path("/spire/server")?;
        let config = client_config(
            identity,
            self.started.bundle.clone(),
            server,
            self.clock.clone(),
        )?;
        let inside = self.started.inside.clone();
        let connector = service_fn(move |_| {
            let (config, inside) = (config.clone(), inside.clone());
            async move {
                let (ours, theirs) = tokio::io::duplex(256 * 1024);
                inside
                    .send(theirs)
                    .await
                    .map_err(|_| std::io::Error::other("the server is gone"))?;
                let stream = connect(config, "server.invalid", ours, Duration::from_secs(5))
                    .await
                    .map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Ok(Endpoint::try_from("http://server.invalid")?
            .connect_with_connector(connector)
            .await?)
    }

    /// A connection with this certificate and key.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn with_certificate(&self, certificate: &[u8], key: &KeyPair) -> Result<Channel> {
        let identity = Identity::new(
            vec![CertificateDer::from(certificate.to_vec())],
            key.serialize_der(),
        )?;
        self.tls(Some(identity)).await
    }

    /// A fresh join token.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn token(&self, ttl: i32) -> Result<String> {
        let request = CreateJoinTokenRequest {
            ttl,
            ..Default::default()
        };
        Ok(AgentClient::new(self.admin().await?)
            .create_join_token(request)
            .await?
            .into_inner()
            .value)
    }

    /// Attests with this evidence and key; the certificate, or the refusal.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn attest(
        &self,
        kind: &str,
        payload: &[u8],
        csr: &[u8],
    ) -> Result<Result<types::X509svid, tonic::Status>> {
        let params = attest_agent_request::Params {
            data: Some(types::AttestationData {
                r#type: kind.to_owned(),
                payload: payload.to_vec(),
            }),
            params: Some(AgentX509svidParams { csr: csr.to_vec() }),
        };
        let first = AttestAgentRequest {
            step: Some(attest_agent_request::Step::Params(params)),
        };
        let mut client = AgentClient::new(self.tls(None).await?);
        let mut answers = match client.attest_agent(tokio_stream::once(first)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        match answers.message().await {
            Err(status) => Ok(Err(status)),
            Ok(Some(answer)) => match answer.step {
                Some(attest_agent_response::Step::Result(result)) => {
                    Ok(Ok(result.svid.context("no SVID in the result")?))
                }
                other => bail!("unexpected {other:?}"),
            },
            Ok(None) => bail!("no answer"),
        }
    }

    /// A node that joins with a fresh token.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn join(&self) -> Result<NodeClient> {
        let token = self.token(600).await?;
        let (key, request) = csr()?;
        let svid = self
            .attest("join_token", token.as_bytes(), &request)
            .await??;
        let certificate = svid
            .cert_chain
            .into_iter()
            .next()
            .context("no certificate")?;
        let channel = self.with_certificate(&certificate, &key).await?;
        Ok(NodeClient {
            id: self.id(&format!("/spire/agent/join_token/{token}"))?,
            channel,
            certificate,
            key,
        })
    }

    /// Creates an entry through SPIRE's API; its id.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn entry(&self, parent: &SpiffeId, path: &str, selectors: &[&str]) -> Result<String> {
        let entry = types::Entry {
            spiffe_id: Some(types::Spiffeid {
                trust_domain: self.trust_domain.to_string(),
                path: path.to_owned(),
            }),
            parent_id: Some(attesta_wire::id::to_wire(parent)),
            selectors: selectors
                .iter()
                .map(|s| attesta_wire::fact::selector_to_wire(s))
                .collect(),
            ..Default::default()
        };
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let mut results = EntryClient::new(self.admin().await?)
            .batch_create_entry(request)
            .await?
            .into_inner()
            .results;
        let result = results.pop().context("no result")?;
        let status = result.status.unwrap_or_default();
        if status.code != 0 {
            bail!("{}: {}", status.code, status.message);
        }
        Ok(result.entry.context("no entry")?.id)
    }
}
