//! A node renews: a record and a certificate. Not a change (DESIGN section 4).

use std::sync::Arc;

use attesta_authority::{Credential, IssuedX509, SubjectKey};
use attesta_model::{Action, Attested, Code, Denial, Instance, Node, Parent, Reason, Record};
use attesta_policy::{About, Want};

use crate::{
    caller::{Caller, still_standing},
    core::{AFTER_SIGN, Core},
};

/// A new certificate for a node whose present one stands.
pub(crate) async fn renew(
    core: &Core,
    caller: &Caller,
    node: &Arc<Node>,
    key: &SubjectKey,
) -> Result<IssuedX509, Denial> {
    core.check_time()?;
    let request = core.request(caller.actor(), Action::RenewNode)?;
    let snapshot = core.ledger.snapshot();
    let Caller::Agent { serial, .. } = caller else {
        return Err(Denial::new(
            Code::Internal,
            Reason::NotAuthorized,
            "only an agent renews",
        ));
    };
    let node = &still_standing(&node.id, serial, &snapshot)?;
    let evidence = Attested::new(Parent::Server, node.facts.clone(), Instance::Node, None);
    let complete = |mut record: Record| {
        record = record.about(&evidence);
        record.subject = Some(node.id.clone());
        record.revision = snapshot.revision().0;
        record
    };
    let about = About::Node {
        id: &node.id,
        attestor: &node.attestor,
        facts: &node.facts,
        known: Some(node),
        want: Want::X509 {
            ttl: core.agent_ttl,
            dns_names: Vec::new(),
        },
    };
    let (permit, record) = match core.decide(&request, about) {
        Ok(decided) => decided,
        Err(denial) => {
            let folded = core.refusals.fold(&request, node.id.as_str(), denial);
            core.note(folded.record.into_iter().map(complete).collect())
                .await;
            return Err(folded.denial);
        }
    };
    let drawn = core.drawn(request.at)?;
    let ring = core.ring.load();
    let prepared = ring.prepare_x509(permit, key, &drawn, Some(node.valid_from))?;
    let receipt = core.receipt(prepared.describe(complete(record))).await?;
    match ring.sign(prepared, receipt).await? {
        Credential::X509(svid) => {
            core.failpoints.hit(AFTER_SIGN);
            core.seen
                .certificate(&node.id, svid.credential.clone(), svid.expires_at);
            Ok(svid)
        }
        Credential::Jwt(_) => Err(Denial::new(
            Code::Internal,
            Reason::Signing,
            "a node's certificate came out as a token",
        )),
    }
}
