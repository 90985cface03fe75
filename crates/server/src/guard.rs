//! The one table of who may call what, and the layer that holds every call against it before a door sees it.
//!
//! An RPC that is not in the table is not served.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use attesta_model::{Action, Actor, Denial};
use attesta_wire::status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{
    caller::{Caller, Level, Origin, admit},
    core::{BEFORE_SEND, Core},
};

use Level::{Admin, Agent, Any, Local};

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Rpc {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Any one of these suffices.
    pub levels: &'static [Level],
}

const fn rpc(path: &'static str, levels: &'static [Level]) -> Rpc {
    Rpc { path, levels }
}

/// Every call this server answers.
pub const RPCS: &[Rpc] = &[
    rpc("/spire.api.server.agent.v1.Agent/AttestAgent", &[Any]),
    rpc("/spire.api.server.agent.v1.Agent/RenewAgent", &[Agent]),
    rpc("/spire.api.server.agent.v1.Agent/PostStatus", &[Agent]),
    rpc(
        "/spire.api.server.agent.v1.Agent/CountAgents",
        &[Local, Admin],
    ),
    rpc(
        "/spire.api.server.agent.v1.Agent/ListAgents",
        &[Local, Admin],
    ),
    rpc("/spire.api.server.agent.v1.Agent/GetAgent", &[Local, Admin]),
    rpc(
        "/spire.api.server.agent.v1.Agent/DeleteAgent",
        &[Local, Admin],
    ),
    rpc("/spire.api.server.agent.v1.Agent/BanAgent", &[Local, Admin]),
    rpc(
        "/spire.api.server.agent.v1.Agent/CreateJoinToken",
        &[Local, Admin],
    ),
    rpc("/spire.api.server.bundle.v1.Bundle/GetBundle", &[Any]),
    rpc(
        "/spire.api.server.entry.v1.Entry/CountEntries",
        &[Local, Admin],
    ),
    rpc(
        "/spire.api.server.entry.v1.Entry/ListEntries",
        &[Local, Admin],
    ),
    rpc("/spire.api.server.entry.v1.Entry/GetEntry", &[Local, Admin]),
    rpc(
        "/spire.api.server.entry.v1.Entry/BatchCreateEntry",
        &[Local, Admin],
    ),
    rpc(
        "/spire.api.server.entry.v1.Entry/BatchUpdateEntry",
        &[Local, Admin],
    ),
    rpc(
        "/spire.api.server.entry.v1.Entry/BatchDeleteEntry",
        &[Local, Admin],
    ),
    rpc(
        "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries",
        &[Agent],
    ),
    rpc(
        "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",
        &[Agent],
    ),
    rpc("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", &[Agent]),
    rpc("/spire.api.server.svid.v1.SVID/NewJWTSVID", &[Agent]),
    rpc("/attesta.agent.v1.AgentLink/Issue", &[Agent]),
    rpc("/attesta.agent.v1.AgentLink/Ended", &[Agent]),
    rpc("/attesta.agent.v1.AgentLink/Watch", &[Agent]),
    rpc("/attesta.admin.v1.Admin/CreateEntries", &[Local, Admin]),
    rpc("/attesta.admin.v1.Admin/UpdateEntries", &[Local, Admin]),
    rpc("/attesta.admin.v1.Admin/DeleteEntries", &[Local, Admin]),
    rpc("/attesta.admin.v1.Admin/ListEntries", &[Local, Admin]),
    rpc("/attesta.admin.v1.Admin/ListRecords", &[Local, Admin]),
    rpc("/attesta.admin.v1.Admin/TailRecords", &[Local, Admin]),
    rpc("/attesta.admin.v1.Admin/Explain", &[Local, Admin]),
    rpc("/attesta.admin.v1.Admin/GetStatus", &[Local, Admin]),
    rpc("/grpc.health.v1.Health/Check", &[Local]),
    rpc("/grpc.health.v1.Health/Watch", &[Local]),
];

/// Puts the guard before the doors.
#[derive(Clone)]
pub(crate) struct Guard(pub(crate) Arc<Core>);

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            core: Arc::clone(&self.0),
            inner,
        }
    }
}

/// A door behind the guard: every request that comes through carries its [`Caller`].
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    core: Arc<Core>,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let Some(rpc) = RPCS.iter().find(|r| r.path == path) else {
            let status = tonic::Status::unimplemented(format!(
                "{} is not served here",
                attesta_model::text::bounded(path, 128)
            ));
            return Box::pin(std::future::ready(Ok(status.into_http())));
        };
        let Some(origin) = request.extensions().get::<Origin>().cloned() else {
            return Box::pin(std::future::ready(Ok(tonic::Status::internal(
                "the connection has no origin",
            )
            .into_http())));
        };
        match admit(
            &origin,
            rpc.levels,
            &self.core.admin_ids,
            &self.core.ledger.snapshot(),
            self.core.clock.now(),
        ) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                let (answer, failpoints) = (self.inner.call(request), self.core.failpoints.clone());
                Box::pin(async move {
                    let answer = answer.await;
                    // A conversation's head says nothing yet; its door passes the place itself.
                    if !rpc.path.ends_with("/AttestAgent") {
                        failpoints.hit(BEFORE_SEND);
                    }
                    answer
                })
            }
            Err(denial) => {
                let core = Arc::clone(&self.core);
                Box::pin(async move { Ok(refused(&core, &origin, rpc, denial).await.into_http()) })
            }
        }
    }
}

/// A refusal at the door: recorded, folded, and answered with SPIRE's words.
async fn refused(core: &Core, origin: &Origin, rpc: &Rpc, denial: Denial) -> tonic::Status {
    let source = match origin {
        Origin::Admin { uid, .. } => format!("uid {uid}"),
        Origin::Tls {
            peer: Some(peer),
            from,
        } => format!("{from} as {}", peer.id),
        Origin::Tls { peer: None, from } => from.to_string(),
    };
    let denial = denial.with_rule(rpc.path);
    match core.request(Actor::Stranger(source.clone()), action(rpc.path)) {
        Ok(request) => {
            let folded = core.refusals.fold(&request, &source, denial.clone());
            core.note(folded.record.into_iter().collect()).await;
        }
        Err(e) => tracing::error!(error = %e, "a refusal could not be recorded"),
    }
    status::call(
        &denial,
        format!("authorization denied for method {}", rpc.path),
    )
}

/// What a call asks for, in the words of records.
fn action(path: &str) -> Action {
    let method = path.rsplit('/').next().unwrap_or_default();
    match method {
        "AttestAgent" => Action::AttestNode,
        "RenewAgent" | "PostStatus" => Action::RenewNode,
        "DeleteAgent" => Action::NodeEvict,
        "BanAgent" => Action::NodeBan,
        "CreateJoinToken" => Action::TokenCreate,
        "NewJWTSVID" => Action::IssueJwt,
        "BatchNewX509SVID" | "Issue" => Action::IssueX509,
        "Ended" => Action::InstanceEnded,
        "BatchCreateEntry" | "CreateEntries" => Action::EntryCreate,
        "BatchUpdateEntry" | "UpdateEntries" => Action::EntryUpdate,
        "BatchDeleteEntry" | "DeleteEntries" => Action::EntryDelete,
        _ => Action::Read,
    }
}

/// The caller the guard let through.
pub(crate) fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, tonic::Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| tonic::Status::internal("the call passed no guard"))
}

/// The node's agent the guard let through.
pub(crate) fn agent<T>(request: &tonic::Request<T>) -> Result<Caller, tonic::Status> {
    match caller(request)? {
        agent @ Caller::Agent { .. } => Ok(agent),
        _ => Err(tonic::Status::internal(
            "the guard let a caller through that is no agent",
        )),
    }
}
