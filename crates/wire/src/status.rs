//! Denials on the wire: gRPC statuses, SPIRE's per-item statuses, and the detail by which its agents know why.

use attesta_model::{Code, Denial, Reason};
use prost::Message;

use crate::proto::spire::api::types::{self, PermissionDeniedDetails, permission_denied_details};

/// A code's number, the same for gRPC and for SPIRE's batch answers.
#[must_use]
pub fn code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::Aborted => tonic::Code::Aborted,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::Unimplemented => tonic::Code::Unimplemented,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::Internal => tonic::Code::Internal,
    }
}

/// An item that went well.
#[must_use]
pub fn ok() -> types::Status {
    types::Status {
        code: 0,
        message: "OK".to_owned(),
    }
}

/// An item's refusal, whole: for admins and for agents about what is theirs.
#[must_use]
pub fn item(denial: &Denial) -> types::Status {
    types::Status {
        code: code(denial.code) as i32,
        message: denial.to_string(),
    }
}

/// A call's refusal. Where SPIRE's agents must know why, the detail they read is in `grpc-status-details-bin`.
#[must_use]
pub fn call(denial: &Denial, message: String) -> tonic::Status {
    let reason = match denial.reason {
        Reason::Expired => permission_denied_details::Reason::AgentExpired,
        Reason::NotAttested => permission_denied_details::Reason::AgentNotAttested,
        Reason::NotActive => permission_denied_details::Reason::AgentNotActive,
        Reason::Banned => permission_denied_details::Reason::AgentBanned,
        Reason::MustReattest => permission_denied_details::Reason::AgentMustReattest,
        _ => return tonic::Status::new(code(denial.code), message),
    };
    let detail = PermissionDeniedDetails {
        reason: reason as i32,
    };
    let Ok(any) = prost_types::Any::from_msg(&detail) else {
        return tonic::Status::new(code(denial.code), message);
    };
    // google.rpc.Status: code 1, message 2, details 3.
    let status = RpcStatus {
        code: code(denial.code) as i32,
        message: message.clone(),
        details: vec![any],
    };
    tonic::Status::with_details(code(denial.code), message, status.encode_to_vec().into())
}

/// Why an agent was refused, read from a call's status.
#[must_use]
pub fn agent_reason(status: &tonic::Status) -> Option<Reason> {
    let rpc = RpcStatus::decode(status.details()).ok()?;
    let detail = rpc
        .details
        .iter()
        .find_map(|any| any.to_msg::<PermissionDeniedDetails>().ok())?;
    match permission_denied_details::Reason::try_from(detail.reason).ok()? {
        permission_denied_details::Reason::AgentExpired => Some(Reason::Expired),
        permission_denied_details::Reason::AgentNotAttested => Some(Reason::NotAttested),
        permission_denied_details::Reason::AgentNotActive => Some(Reason::NotActive),
        permission_denied_details::Reason::AgentBanned => Some(Reason::Banned),
        permission_denied_details::Reason::AgentMustReattest => Some(Reason::MustReattest),
        permission_denied_details::Reason::Unknown => None,
    }
}

/// `google.rpc.Status`, of which tonic keeps only the bytes.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}
