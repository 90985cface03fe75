//! One file per gRPC service. A door parses, calls a flow, and renders; it decides nothing.

pub(crate) mod admin;
pub(crate) mod agent;
pub(crate) mod bundle;
pub(crate) mod entry;
pub(crate) mod health;
pub(crate) mod link;
pub(crate) mod svid;

use attesta_authority::{Credential, IssuedX509, SubjectKey};
use attesta_model::{Code, Denial, FieldError, Reason};
use attesta_wire::{id, proto::spire::api::types, status};

/// A call's refusal, whole: for admins and for agents about what is theirs.
pub(crate) fn refusal(denial: &Denial) -> tonic::Status {
    let mut out = status::call(denial, denial.to_string());
    if let Some(decision) = denial.decision
        && let Ok(value) = decision.to_string().parse()
    {
        out.metadata_mut().insert("attesta-decision-id", value);
    }
    out
}

/// A refusal to a stranger: a sentence without rule or attribute, and the decision's id.
pub(crate) fn stranger(denial: &Denial) -> tonic::Status {
    let mut out = status::call(denial, denial.message.clone());
    if let Some(decision) = denial.decision
        && let Ok(value) = decision.to_string().parse()
    {
        out.metadata_mut().insert("attesta-decision-id", value);
    }
    out
}

/// A malformed field of a request, with its value, bounded and printable.
pub(crate) fn malformed(
    field: &'static str,
    value: impl ToString,
    why: &'static str,
) -> tonic::Status {
    tonic::Status::invalid_argument(FieldError::new(field, value.to_string(), why).to_string())
}

/// A token that no page of ours ended with.
pub(crate) fn foreign_page_token(token: &str) -> tonic::Status {
    malformed("page_token", token, "is none of this server's")
}

/// A request's key, once its signature has proven possession; SPIRE's words where it has some.
pub(crate) fn subject_key(csr: &[u8]) -> Result<SubjectKey, Denial> {
    if csr.is_empty() {
        return Err(Denial::field("csr", "missing CSR"));
    }
    SubjectKey::from_csr(csr).map_err(|e| Denial::field("csr", e.to_string()))
}

/// An X.509-SVID for the wire; the chain has no self-signed root.
pub(crate) fn x509_to_wire(svid: IssuedX509, hint: String) -> types::X509svid {
    types::X509svid {
        id: svid.id.as_ref().map(id::to_wire),
        expires_at: svid.expires_at.as_second(),
        cert_chain: vec![svid.certificate],
        hint,
    }
}

/// The X.509-SVID of a credential.
pub(crate) fn x509_of(credential: Credential) -> Result<IssuedX509, Denial> {
    match credential {
        Credential::X509(svid) => Ok(svid),
        Credential::Jwt(_) => Err(Denial::new(
            Code::Internal,
            Reason::Signing,
            "a certificate was asked for and a token came",
        )),
    }
}
