//! Connections to the sockets of servers and agents, and what their refusals mean to who asked.
//!
//! Must not know what is asked.

use std::{error::Error, future::Future, io, path::Path, time::Duration};

use attesta_runtime::Clock;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint as Target},
};
use tower::service_fn;

use super::endpoint::Endpoint;
use crate::{args::Global, output::Failure};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for one answer.
pub(super) const CALL: Duration = Duration::from_secs(30);
/// Largest message that is taken: a page of entries is far smaller.
pub(super) const MESSAGE: usize = 64 * 1024 * 1024;
/// Under which a refusal names its record.
const DECISION: &str = "attesta-decision-id";

/// What to try when the server's socket does not answer.
pub(super) const ADMIN_HINT: &str = "is 'attesta run' running? (--admin / ATTESTA_ADMIN)";
/// What to try when the Workload API's socket does not answer.
pub(super) const WORKLOAD_HINT: &str =
    "is 'attesta run' running? (--workload-api / SPIFFE_ENDPOINT_SOCKET)";

/// A connection to the server's admin socket.
pub(super) async fn admin(global: &Global) -> Result<Channel, Failure> {
    unix(&global.admin_socket(), ADMIN_HINT).await
}

/// A connection to the Workload API, wherever it is.
pub(super) async fn workload(endpoint: &Endpoint) -> Result<Channel, Failure> {
    match endpoint {
        Endpoint::Unix(path) => unix(path, WORKLOAD_HINT).await,
        Endpoint::Tcp(address) => {
            let target = Target::from_shared(format!("http://{address}"))
                .map_err(|e| Failure::usage(e.to_string()))?;
            reached(target.connect(), &format!("tcp://{address}"), WORKLOAD_HINT).await
        }
    }
}

/// A connection to a unix socket.
pub(super) async fn unix(path: &Path, hint: &str) -> Result<Channel, Failure> {
    let socket = path.to_owned();
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The name is never resolved; HTTP wants one.
    let target = Target::from_static("http://localhost");
    reached(
        target.connect_with_connector(connector),
        &path.display().to_string(),
        hint,
    )
    .await
}

async fn reached(
    connecting: impl Future<Output = Result<Channel, tonic::transport::Error>>,
    at: &str,
    hint: &str,
) -> Result<Channel, Failure> {
    let nobody = Failure::unreachable(format!("no answer at {at}"));
    match Clock::system().timeout(CONNECT, connecting).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(match io_cause(&error) {
            Some(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                nobody.with_cause(e).with_hint(
                    "the socket is for its owner and group; run this as one of them (or with sudo)",
                )
            }
            Some(e) => nobody.with_cause(e).with_hint(hint),
            None => nobody.with_cause(error).with_hint(hint),
        }),
        Err(_) => Err(nobody
            .with_cause(format!("no connection within {} s", CONNECT.as_secs()))
            .with_hint(hint)),
    }
}

fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    std::iter::successors(Some(error), |e| (*e).source()).find_map(|e| e.downcast_ref())
}

/// Waits for an answer, for as long as [`CALL`].
pub(super) async fn answer<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match Clock::system().timeout(CALL, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(Failure::unreachable(format!(
            "no answer within {} s",
            CALL.as_secs()
        ))),
    }
}

/// Whether the call itself broke: nobody at the other end has said this.
pub(super) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// What a refusal means.
pub(super) fn refused(status: &Status) -> Failure {
    if is_broken(status) {
        return Failure::unreachable("the connection broke").with_cause(status.message());
    }
    let message = if status.message().is_empty() {
        word(status.code())
    } else {
        status.message()
    };
    let decision = status
        .metadata()
        .get(DECISION)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    Failure::failed(message)
        .with_code(word(status.code()))
        .with_decision(decision)
}

/// A gRPC code's own word.
pub(super) fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_code_and_decision() {
        let mut status = Status::permission_denied("no identity issued");
        status
            .metadata_mut()
            .insert(DECISION, "0101".parse().unwrap());
        let failure = refused(&status);
        assert_eq!(failure.to_string(), "no identity issued");
        let shown = format!("{failure:?}");
        assert!(
            shown.contains("0101") && shown.contains("PermissionDenied"),
            "{shown}"
        );
        let broken = Status::from_error(Box::new(io::Error::other("reset")));
        assert!(is_broken(&broken));
        assert!(format!("{:?}", refused(&broken)).contains("Unreachable"));
    }

    #[tokio::test]
    async fn nobody_there_names_the_path_and_the_hint() {
        let failure = unix(Path::new("/nonexistent/admin.sock"), ADMIN_HINT)
            .await
            .unwrap_err();
        let shown = format!("{failure:?}");
        for part in [
            "Unreachable",
            "/nonexistent/admin.sock",
            "No such file",
            ADMIN_HINT,
        ] {
            assert!(shown.contains(part), "{shown}");
        }
    }
}
