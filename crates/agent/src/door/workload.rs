//! The SPIFFE Workload API (checks C159 to C201), with SPIRE's texts.
//!
//! Must not know sockets. Nothing of ours is added to the service (C175); the WIT profile is not supported (C201).

use std::{collections::BTreeMap, sync::Arc};

use attesta_model::limits;
use attesta_spiffe::{SpiffeId, UnverifiedJwt};
use attesta_wire::proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse,
    WitsvidRequest, WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse, spiffe_workload_api_server::SpiffeWorkloadApi,
};
use prost_types::{ListValue, Struct, Value as ProtoValue, value::Kind};
use serde_json::{Map, Value};
use tonic::{Request, Response, Status, async_trait};

use super::{
    caller::Reception,
    streams::{self, Responses},
};
use crate::trust::Trust;

/// The metadata that every call carries, so that no browser or proxy can be made to call (C162).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Refuses a call without the security header (C163).
///
/// # Errors
/// `InvalidArgument`, after which clients do not try again.
pub(crate) fn check_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(request),
        _ => Err(Status::invalid_argument(
            "security header missing from request",
        )),
    }
}

/// The service.
pub(crate) struct WorkloadDoor(pub(crate) Arc<Reception>);

#[async_trait]
impl SpiffeWorkloadApi for WorkloadDoor {
    type FetchX509SVIDStream = Responses<X509svidResponse>;
    type FetchX509BundlesStream = Responses<X509BundlesResponse>;
    type FetchJWTBundlesStream = Responses<JwtBundlesResponse>;
    type FetchWITSVIDStream = Responses<WitsvidResponse>;
    type FetchWITBundlesStream = Responses<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let (uid, peer) = self.0.peer(&request)?;
        Ok(Response::new(
            streams::x509_svids(Arc::clone(&self.0), uid, peer).await?,
        ))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let (uid, peer) = self.0.peer(&request)?;
        let render = |trust: &Trust| X509BundlesResponse {
            crl: Vec::new(),
            bundles: by_domain(trust, trust.x509()),
        };
        Ok(Response::new(
            streams::bundles(Arc::clone(&self.0), uid, peer, Trust::x509, render).await?,
        ))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let (uid, peer) = self.0.peer(&request)?;
        let render = |trust: &Trust| JwtBundlesResponse {
            bundles: by_domain(trust, trust.jwks()),
        };
        Ok(Response::new(
            streams::bundles(Arc::clone(&self.0), uid, peer, Trust::jwks, render).await?,
        ))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let (_, peer) = self.0.peer(&request)?;
        let wanted = request.into_inner();
        let audience = audience(wanted.audience)?;
        let only = requested(&wanted.spiffe_id)?;
        let who = self.0.attest(&peer).await?;
        let mut matches = self.0.identify(&who, &self.0.authorized.load()).await?;
        if let Some(id) = only {
            matches = self.0.only(matches, &id)?;
        }
        let tokens = self.0.tokens(&who, &peer, matches, audience).await?;
        let svid = |(found, token): (attesta_model::Match, Arc<crate::jwt::Token>)| Jwtsvid {
            spiffe_id: found.id.as_str().to_owned(),
            svid: token.token.to_string(),
            hint: found.entry.hint().to_owned(),
        };
        Ok(Response::new(JwtsvidResponse {
            svids: tokens.into_iter().map(svid).collect(),
        }))
    }

    /// Needs no identity: what is used is public, and the answer is about the token alone (as SPIRE has it).
    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let asked = request.into_inner();
        if asked.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if asked.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let trust = self.0.trust(&self.0.authorized.load())?;
        let verified = UnverifiedJwt::parse(&asked.svid).and_then(|token| {
            // C200: the bundle of the subject's trust domain; `verify` refuses a subject of another.
            token.verify(
                trust.bundle(),
                &[asked.audience.as_str()],
                self.0.clock.now(),
            )
        });
        let svid = verified.map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(ValidateJwtsvidResponse {
            spiffe_id: svid.id().as_str().to_owned(),
            claims: Some(to_struct(svid.claims())),
        }))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(no_wit())
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(no_wit())
    }
}

fn no_wit() -> Status {
    Status::unimplemented("WIT-SVIDs are not supported")
}

/// Keyed by the trust domain's id (C190, C197).
fn by_domain(trust: &Trust, bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([(
        trust.bundle().trust_domain().id().to_string(),
        bytes.to_vec(),
    )])
}

/// The audiences, sorted, each once (C191).
fn audience(mut audience: Vec<String>) -> Result<Vec<String>, Status> {
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if audience.len() > limits::AUDIENCES
        || audience.iter().any(|a| a.len() > limits::AUDIENCE_BYTES)
    {
        let (most, bytes) = (limits::AUDIENCES, limits::AUDIENCE_BYTES);
        return Err(Status::invalid_argument(format!(
            "at most {most} audiences of {bytes} bytes are allowed"
        )));
    }
    audience.sort_unstable();
    audience.dedup();
    Ok(audience)
}

fn requested(id: &str) -> Result<Option<SpiffeId>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    SpiffeId::parse(id)
        .map(Some)
        .map_err(|e| Status::invalid_argument(format!("invalid requested SPIFFE ID: {e}")))
}

fn to_struct(claims: &Map<String, Value>) -> Struct {
    Struct {
        fields: claims
            .iter()
            .map(|(name, value)| (name.clone(), to_value(value)))
            .collect(),
    }
}

fn to_value(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        // As JSON in protobuf has it: every number is a double.
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(all) => Kind::ListValue(ListValue {
            values: all.iter().map(to_value).collect(),
        }),
        Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    ProtoValue { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
