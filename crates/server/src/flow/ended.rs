//! An instance ended: its agent says so, and it is written down. Only for credentials that were issued through that agent.

use std::sync::Arc;

use attesta_model::{Action, Attested, Denial, Facts, Instance, Node, Parent};
use attesta_policy::About;
use attesta_store::RecordQuery;

use crate::{caller::Caller, core::Core};

/// Most credentials of one ending.
pub(crate) const CREDENTIALS: usize = 256;

/// One end.
pub(crate) struct Ending {
    pub(crate) instance: Instance,
    pub(crate) credentials: Vec<String>,
}

/// Records an instance's end.
pub(crate) async fn ended(
    core: &Core,
    caller: &Caller,
    node: &Arc<Node>,
    ending: Ending,
) -> Result<(), Denial> {
    if ending.credentials.len() > CREDENTIALS {
        return Err(Denial::field(
            "credential_ids",
            format!("at most {CREDENTIALS} credentials of one instance are taken in one call"),
        ));
    }
    let key = ending.instance.key();
    for id in &ending.credentials {
        let query = RecordQuery {
            name: Some(id.clone()),
            limit: 1,
            ..RecordQuery::default()
        };
        let page = core.ledger.query(query).await?;
        let body: serde_json::Value = page
            .records
            .first()
            .and_then(|r| serde_json::from_slice(&r.body).ok())
            .unwrap_or_default();
        let fits = body.pointer("/actor/id").and_then(|v| v.as_str()) == Some(node.id.as_str())
            && body.get("instance").and_then(|v| v.as_str()) == Some(key.as_str());
        if !fits {
            return Err(Denial::not_found(
                "no such credential was issued to this instance through this agent",
            )
            .with_attribute(attesta_model::text::bounded(id, 64)));
        }
    }
    let request = core.request(caller.actor(), Action::InstanceEnded)?;
    let (permit, record) = core.decide(&request, About::Target(key.as_str()))?;
    drop(permit.spend());
    let evidence = Attested::new(
        Parent::Id(node.id.clone()),
        Facts::default(),
        ending.instance,
        None,
    );
    let mut record = record.about(&evidence);
    record.note = format!("held {}", ending.credentials.join(" "));
    core.receipt(record).await.map(|_| ())
}
