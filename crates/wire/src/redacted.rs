//! Debug for the messages that carry a private key, a bearer token or a join secret: it names the field and hides it.
//!
//! `build.rs` lists these messages; one that is listed there and forgotten here does not compile once a message
//! that contains it derives its own Debug.

use std::fmt;

use crate::proto::{
    spiffe::broker,
    spire::api::{agent::delegatedidentity::v1 as delegated, server::agent::v1 as agent, types},
    workload,
};

/// Stands for a secret: how long it is, and nothing of it.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes hidden>", self.0)
    }
}

/// One Debug per message: the fields shown, then the fields hidden.
macro_rules! redacted {
    ($($message:path { $($shown:ident),* ; $($hidden:ident),+ })+) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(stringify!($hidden), &Hidden(self.$hidden.len())))+
                    .finish()
            }
        }
    )+};
}

redacted! {
    workload::X509svid { spiffe_id, x509_svid, bundle, hint; x509_svid_key }
    workload::Jwtsvid { spiffe_id, hint; svid }
    workload::ValidateJwtsvidRequest { audience; svid }
    workload::Witsvid { spiffe_id, hint; wit_svid, wit_svid_key }
    broker::X509svid { spiffe_id, x509_svid, bundle, hint; x509_svid_key }
    broker::Jwtsvid { spiffe_id, hint; svid }
    delegated::X509svidWithKey { x509_svid; x509_svid_key }
    agent::CreateJoinTokenRequest { ttl, agent_id; token }
    types::AttestationData { r#type; payload }
    types::Jwtsvid { id, expires_at, issued_at, hint; token }
    types::JoinToken { expires_at; value }
    types::Witsvid { id, expires_at, issued_at, hint; token }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown_not_even_by_what_contains_it() {
        let svid = workload::X509svid {
            spiffe_id: "spiffe://example.org/a".to_owned(),
            x509_svid_key: vec![211, 212, 213],
            ..workload::X509svid::default()
        };
        let response = workload::X509svidResponse {
            svids: vec![svid],
            ..workload::X509svidResponse::default()
        };
        let shown = format!("{response:?}");
        assert!(
            shown.contains("spiffe://example.org/a") && shown.contains("<3 bytes hidden>"),
            "{shown}"
        );
        assert!(!shown.contains("211"), "{shown}");

        let token = types::JoinToken {
            value: "a-join-token".to_owned(),
            expires_at: 7,
        };
        let jwt = types::Jwtsvid {
            token: "a.b.c".to_owned(),
            ..types::Jwtsvid::default()
        };
        let evidence = types::AttestationData {
            r#type: "join_token".to_owned(),
            payload: b"secret".to_vec(),
        };
        let shown = format!("{token:?} {jwt:?} {evidence:?}");
        assert!(
            shown.contains("join_token") && shown.contains("<12 bytes hidden>"),
            "{shown}"
        );
        for secret in ["a-join-token", "a.b.c", "115, 101"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
