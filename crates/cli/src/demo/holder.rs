//! How a service holds its identity: it follows the Workload API's stream, so that each rotation is used from the next
//! handshake on.

use std::{io, path::PathBuf, time::Duration};

use attesta_runtime::{Clock, Live, Tasks, Writer, live};
use attesta_spiffe::{Bundle, SpiffeId, X509Authority};
use attesta_tls::{CertificateDer, Identity};
use attesta_wire::proto::workload::{
    X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::event::{What, tell};

/// How long after a refusal it asks again.
const AGAIN: Duration = Duration::from_millis(200);

/// An identity that is kept current.
pub(super) struct Holder {
    pub(super) identity: Live<Identity>,
    pub(super) maybe: Live<Option<Identity>>,
    pub(super) bundle: Live<Bundle>,
}

/// What the Workload API gave.
struct Held {
    id: SpiffeId,
    serial: String,
    identity: Identity,
    bundle: Bundle,
}

/// A connection to a socket.
pub(super) async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The name is never resolved; HTTP wants one.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
}

/// A request as the Workload API wants it (C162).
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(
        "workload.spiffe.io",
        tonic::metadata::MetadataValue::from_static("true"),
    );
    request
}

/// Waits for the first identity, then keeps it current.
///
/// # Errors
/// The socket does not answer.
pub(super) async fn hold(socket: PathBuf, clock: &Clock, tasks: &Tasks) -> anyhow::Result<Holder> {
    let mut client = SpiffeWorkloadApiClient::new(connect(socket).await?);
    let (stream, first) = loop {
        let asked = client.fetch_x509svid(request(X509svidRequest {})).await;
        let said = match asked {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                match stream.message().await {
                    Ok(Some(response)) => break (stream, response),
                    Ok(None) => "the stream ended".to_owned(),
                    Err(status) => status.message().to_owned(),
                }
            }
            Err(status) => status.message().to_owned(),
        };
        // The entry may only just have been made.
        tracing::debug!(said, "no identity yet");
        clock.sleep(AGAIN).await;
    };
    let held = read(&first)?;
    announce(&held);
    let (identity_writer, identity) = live(held.identity.clone());
    let (maybe_writer, maybe) = live(Some(held.identity));
    let (bundle_writer, bundle) = live(held.bundle);
    let mut writers = Writers {
        identity: identity_writer,
        maybe: maybe_writer,
        bundle: bundle_writer,
    };
    let (clock, mut stream, stop) = (clock.clone(), stream, tasks.stopping());
    tasks.spawn("identity", async move {
        while !stop.is_cancelled() {
            match stream.message().await {
                Ok(Some(response)) => writers.take(&response),
                ended => {
                    tell(
                        What::Trouble,
                        ended.err().map_or_else(
                            || "the stream ended".to_owned(),
                            |s: Status| s.message().to_owned(),
                        ),
                    );
                    loop {
                        clock.sleep(AGAIN).await;
                        if let Ok(new) = client.fetch_x509svid(request(X509svidRequest {})).await {
                            stream = new.into_inner();
                            break;
                        }
                    }
                }
            }
        }
    });
    Ok(Holder {
        identity,
        maybe,
        bundle,
    })
}

struct Writers {
    identity: Writer<Identity>,
    maybe: Writer<Option<Identity>>,
    bundle: Writer<Bundle>,
}

impl Writers {
    fn take(&mut self, response: &X509svidResponse) {
        match read(response) {
            Ok(held) => {
                announce(&held);
                self.bundle.publish(held.bundle);
                self.maybe.publish(Some(held.identity.clone()));
                self.identity.publish(held.identity);
            }
            Err(e) => tell(What::Trouble, format!("{e:#}")),
        }
    }
}

fn announce(held: &Held) {
    tell(
        What::Identity,
        format!("is {} (serial {})", held.id, held.serial),
    );
}

fn read(response: &X509svidResponse) -> anyhow::Result<Held> {
    let svid = response
        .svids
        .first()
        .ok_or_else(|| anyhow::anyhow!("the answer has no SVID"))?;
    let id = SpiffeId::parse(&svid.spiffe_id)?;
    let chain: Vec<_> = certificates(&svid.x509_svid)
        .into_iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let authorities = certificates(&svid.bundle)
        .into_iter()
        .map(X509Authority::from_der)
        .collect::<Result<Vec<_>, _>>()?;
    let bundle = Bundle::new(id.trust_domain(), authorities, Vec::new(), 0, None)?;
    let verified = attesta_spiffe::verify_chain(&chain, &bundle, Clock::system().now())?;
    let serial = verified.serial_hex().to_owned();
    Ok(Held {
        id,
        serial,
        identity: Identity::new(chain, &svid.x509_svid_key)?,
        bundle,
    })
}

/// DER values that stand one after the other, each a SEQUENCE; what is left over is left out, and the chain then fails.
fn certificates(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some((one, rest)) = sequence(bytes) {
        all.push(one);
        bytes = rest;
    }
    all
}

fn sequence(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&tag, &first) = (bytes.first()?, bytes.get(1)?);
    if tag != 0x30 {
        return None;
    }
    let (head, len) = if first < 0x80 {
        (2, usize::from(first))
    } else {
        let count = usize::from(first & 0x7f);
        let digits = bytes
            .get(2..2 + count)
            .filter(|_| (1..=4).contains(&count))?;
        (
            2 + count,
            digits
                .iter()
                .fold(0, |len, digit| (len << 8) | usize::from(*digit)),
        )
    };
    bytes.split_at_checked(head.checked_add(len)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_stand_one_after_the_other() {
        let long = [&[0x30, 0x81, 0x80][..], &[7; 0x80]].concat();
        let both = [&[0x30, 1, 5][..], &long, &[0x30, 0]].concat();
        assert_eq!(certificates(&both), [&[0x30, 1, 5][..], &long, &[0x30, 0]]);
        for broken in [
            &[][..],
            &[0x30],
            &[0x31, 0],
            &[0x30, 2, 1],
            &[0x30, 0x80],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x30, 0x84, 255, 255, 255, 255],
        ] {
            assert!(certificates(broken).is_empty(), "{broken:?}");
        }
    }
}
