//! `spire.api.server.svid.v1.SVID`: a spire-agent's way to credentials, by entry and for the node as a whole.

use std::sync::Arc;

use attesta_authority::Credential;
use attesta_model::{Code, Denial, EntryId, FieldError, Reason, limits};
use attesta_wire::{
    id,
    proto::spire::api::{
        server::svid::v1::{self as api, svid_server::Svid},
        types,
    },
    status,
};
use tonic::{Request, Response, Status};

use super::{refusal, subject_key, x509_of, x509_to_wire};
use crate::{
    caller::Caller,
    core::Core,
    flow::issue::{Ask, Shown, What, issue},
    guard,
};

/// Most requests of one batch, as SPIRE's agents send them.
const BATCH: usize = 500;

pub(crate) struct Door(pub(crate) Arc<Core>);

/// Audiences as a token may carry them.
pub(crate) fn audience(audience: Vec<String>) -> Result<Vec<String>, Denial> {
    if audience.is_empty() {
        return Err(Denial::field(
            "audience",
            "at least one audience is required",
        ));
    }
    if audience.len() > limits::AUDIENCES {
        return Err(Denial::field(
            "audience",
            format!("at most {} audiences are allowed", limits::AUDIENCES),
        ));
    }
    for a in &audience {
        if a.is_empty()
            || a.len() > limits::AUDIENCE_BYTES
            || a.chars().any(attesta_model::text::is_unsafe)
        {
            return Err(FieldError::new(
                "audience",
                a,
                "must be 1 to 1024 bytes without control characters",
            )
            .into());
        }
    }
    Ok(audience)
}

fn entry_id(text: &str) -> Result<EntryId, Denial> {
    if text.is_empty() {
        return Err(Denial::field("entry_id", "missing entry ID"));
    }
    EntryId::parse(text).map_err(|why| FieldError::new("entry_id", text, why).into())
}

#[tonic::async_trait]
impl Svid for Door {
    async fn batch_new_x509svid(
        &self,
        request: Request<api::BatchNewX509svidRequest>,
    ) -> Result<Response<api::BatchNewX509svidResponse>, Status> {
        let Caller::Agent { node, serial, .. } = guard::agent(&request)? else {
            return Err(Status::internal("no agent"));
        };
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        if params.len() > BATCH {
            return Err(Status::invalid_argument(format!(
                "params: {} requests in one batch; at most {BATCH} are taken",
                params.len()
            )));
        }
        let asks = params
            .iter()
            .map(|p| {
                let entry = entry_id(&p.entry_id)?;
                Ok(Ask {
                    entry,
                    shown: Shown::Entry,
                    what: What::X509(subject_key(&p.csr)?),
                    correlation: None,
                })
            })
            .collect();
        let issued = issue(&self.0, &node, &serial, asks)
            .await
            .map_err(|d| refusal(&d))?;
        let snapshot = self.0.ledger.snapshot();
        let results = issued
            .outcomes
            .into_iter()
            .zip(&params)
            .map(|(outcome, p)| match outcome.and_then(x509_of) {
                Ok(svid) => {
                    let hint = EntryId::parse(&p.entry_id)
                        .ok()
                        .and_then(|id| snapshot.entry(&id).map(|e| e.hint().to_owned()))
                        .unwrap_or_default();
                    api::batch_new_x509svid_response::Result {
                        status: Some(status::ok()),
                        svid: Some(x509_to_wire(svid, hint)),
                    }
                }
                Err(denial) => api::batch_new_x509svid_response::Result {
                    status: Some(status::item(&denial)),
                    svid: None,
                },
            });
        Ok(Response::new(api::BatchNewX509svidResponse {
            results: results.collect(),
        }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<api::NewJwtsvidRequest>,
    ) -> Result<Response<api::NewJwtsvidResponse>, Status> {
        let Caller::Agent { node, serial, .. } = guard::agent(&request)? else {
            return Err(Status::internal("no agent"));
        };
        let request = request.into_inner();
        let ask = (|| {
            Ok(Ask {
                entry: entry_id(&request.entry_id)?,
                shown: Shown::Entry,
                what: What::Jwt(audience(request.audience)?),
                correlation: None,
            })
        })();
        let issued = issue(&self.0, &node, &serial, vec![ask])
            .await
            .map_err(|d| refusal(&d))?;
        match issued.outcomes.into_iter().next() {
            Some(Ok(Credential::Jwt(jwt))) => {
                let hint = EntryId::parse(&request.entry_id)
                    .ok()
                    .and_then(|id| {
                        self.0
                            .ledger
                            .snapshot()
                            .entry(&id)
                            .map(|e| e.hint().to_owned())
                    })
                    .unwrap_or_default();
                let svid = types::Jwtsvid {
                    token: jwt.token,
                    id: Some(id::to_wire(&jwt.id)),
                    expires_at: jwt.expires_at.as_second(),
                    issued_at: jwt.issued_at.as_second(),
                    hint,
                };
                Ok(Response::new(api::NewJwtsvidResponse { svid: Some(svid) }))
            }
            Some(Err(denial)) => Err(refusal(&denial)),
            _ => Err(refusal(&Denial::new(
                Code::Internal,
                Reason::Signing,
                "a token was asked for and none came",
            ))),
        }
    }

    async fn mint_x509svid(
        &self,
        _: Request<api::MintX509svidRequest>,
    ) -> Result<Response<api::MintX509svidResponse>, Status> {
        Err(Status::unimplemented(
            "minting is not served: an identity is attested, not written",
        ))
    }

    async fn mint_jwtsvid(
        &self,
        _: Request<api::MintJwtsvidRequest>,
    ) -> Result<Response<api::MintJwtsvidResponse>, Status> {
        Err(Status::unimplemented(
            "minting is not served: an identity is attested, not written",
        ))
    }

    async fn mint_witsvid(
        &self,
        _: Request<api::MintWitsvidRequest>,
    ) -> Result<Response<api::MintWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT functionality is disabled"))
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<api::BatchNewWitsvidRequest>,
    ) -> Result<Response<api::BatchNewWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT functionality is disabled"))
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<api::NewDownstreamX509caRequest>,
    ) -> Result<Response<api::NewDownstreamX509caResponse>, Status> {
        Err(Status::unimplemented(
            "downstream authorities are not served",
        ))
    }
}
