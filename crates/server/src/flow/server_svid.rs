//! The server's own SVID, asked for by a System actor on the same path as everyone's.

use std::time::Duration;

use attesta_authority::{Credential, SubjectKey};
use attesta_model::{Action, Actor, Code, Denial, Reason, attested::SERVER_PATH};
use attesta_policy::{About, Want};
use attesta_tls::Identity;
use jiff::Timestamp;

use crate::core::Core;

/// The server's identity and when it is due to be replaced.
pub(crate) struct ServerSvid {
    pub(crate) identity: Identity,
    pub(crate) due_at: Timestamp,
}

/// Issues one, with a key that never leaves memory.
pub(crate) async fn issue(core: &Core) -> Result<ServerSvid, Denial> {
    core.check_time()?;
    let internal = |why: String| Denial::new(Code::Internal, Reason::Signing, why);
    let id = core
        .trust_domain
        .with_path(SERVER_PATH)
        .map_err(|e| internal(e.to_string()))?;
    let request = core.request(Actor::System("server-svid"), Action::ServerSvid)?;
    let pair = SubjectKey::generate().map_err(|e| internal(e.to_string()))?;
    let want = Want::X509 {
        ttl: Duration::ZERO,
        dns_names: Vec::new(),
    };
    let (permit, record) = core.decide(
        &request,
        About::System {
            id: Some(&id),
            want,
        },
    )?;
    let ring = core.ring.load();
    let prepared = ring.prepare_x509(permit, &pair.public, &core.drawn(request.at)?, None)?;
    let receipt = core.receipt(prepared.describe(record)).await?;
    let Credential::X509(svid) = ring.sign(prepared, receipt).await? else {
        return Err(internal(
            "the server's certificate came out as a token".to_owned(),
        ));
    };
    let half = svid.expires_at.duration_since(svid.issued_at) / 2;
    let identity = Identity::new(vec![svid.certificate.into()], &pair.private_pkcs8)
        .map_err(|e| internal(e.to_string()))?;
    Ok(ServerSvid {
        identity,
        due_at: svid.issued_at.checked_add(half).unwrap_or(svid.issued_at),
    })
}
