//! The part of `FakeServer` that only SPIRE's services need: bundles and entries.

pub(super) use attesta_wire::proto::spire::api::server::entry::v1::entry_server::EntryServer;
use attesta_wire::proto::spire::api::server::{bundle::v1 as bundle, entry::v1 as entry};

use super::*;

#[async_trait]
impl bundle::bundle_server::Bundle for Shared {
    async fn get_bundle(
        &self,
        _: Request<bundle::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Ok(Response::new(self.0.bundle()))
    }

    async fn count_bundles(
        &self,
        _: Request<bundle::CountBundlesRequest>,
    ) -> Result<Response<bundle::CountBundlesResponse>, Status> {
        Err(self.0.fault("count_bundles"))
    }

    async fn append_bundle(
        &self,
        _: Request<bundle::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(self.0.fault("append_bundle"))
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<bundle::PublishJwtAuthorityRequest>,
    ) -> Result<Response<bundle::PublishJwtAuthorityResponse>, Status> {
        Err(self.0.fault("publish_jwt_authority"))
    }

    async fn publish_wit_authority(
        &self,
        _: Request<bundle::PublishWitAuthorityRequest>,
    ) -> Result<Response<bundle::PublishWitAuthorityResponse>, Status> {
        Err(self.0.fault("publish_wit_authority"))
    }

    async fn list_federated_bundles(
        &self,
        _: Request<bundle::ListFederatedBundlesRequest>,
    ) -> Result<Response<bundle::ListFederatedBundlesResponse>, Status> {
        Err(self.0.fault("list_federated_bundles"))
    }

    async fn get_federated_bundle(
        &self,
        _: Request<bundle::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(self.0.fault("get_federated_bundle"))
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<bundle::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchCreateFederatedBundleResponse>, Status> {
        Err(self.0.fault("batch_create_federated_bundle"))
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<bundle::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchUpdateFederatedBundleResponse>, Status> {
        Err(self.0.fault("batch_update_federated_bundle"))
    }

    async fn batch_set_federated_bundle(
        &self,
        _: Request<bundle::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchSetFederatedBundleResponse>, Status> {
        Err(self.0.fault("batch_set_federated_bundle"))
    }

    async fn batch_delete_federated_bundle(
        &self,
        _: Request<bundle::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchDeleteFederatedBundleResponse>, Status> {
        Err(self.0.fault("batch_delete_federated_bundle"))
    }
}

/// From so many entries on only revisions are told first (SPIRE: 500).
const FEW: usize = 2;

#[async_trait]
impl entry::entry_server::Entry for Shared {
    type SyncAuthorizedEntriesStream = Responses<entry::SyncAuthorizedEntriesResponse>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<entry::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let mut asked = request.into_inner();
        let first = asked.message().await?.unwrap_or_default();
        let mask = first.output_mask.filter(|m| m.revision_number);
        let mask = mask.ok_or_else(|| self.0.fault("a mask without the revision"))?;
        let entries = self.0.pushed.load();
        let wire = move |e: &Arc<Entry>| attesta_wire::entry::to_wire(e, &domain(), Some(&mask));
        if entries.len() <= FEW {
            let answer = entry::SyncAuthorizedEntriesResponse {
                entries: entries.iter().map(wire).collect(),
                ..entry::SyncAuthorizedEntriesResponse::default()
            };
            return Ok(Response::new(Box::pin(stream::iter([Ok(answer)]))));
        }
        // One revision a page.
        let last = entries.len() - 1;
        let pages: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(i, e)| {
                let revision = entry::EntryRevision {
                    id: e.id().to_string(),
                    revision_number: i64::try_from(e.revision()).unwrap(),
                    created_at: e.created_at().as_second(),
                };
                Ok(entry::SyncAuthorizedEntriesResponse {
                    entry_revisions: vec![revision],
                    entries: Vec::new(),
                    more: i != last,
                })
            })
            .collect();
        let whole = stream::unfold(asked, move |mut asked| {
            let entries = Arc::clone(&entries);
            async move {
                let wanted = asked.message().await.ok()??;
                let answer = entry::SyncAuthorizedEntriesResponse {
                    entries: entries
                        .iter()
                        .filter(|e| wanted.ids.contains(&e.id().to_string()))
                        .map(wire)
                        .collect(),
                    ..entry::SyncAuthorizedEntriesResponse::default()
                };
                Some((Ok(answer), asked))
            }
        });
        Ok(Response::new(Box::pin(stream::iter(pages).chain(whole))))
    }

    async fn count_entries(
        &self,
        _: Request<entry::CountEntriesRequest>,
    ) -> Result<Response<entry::CountEntriesResponse>, Status> {
        Err(self.0.fault("count_entries"))
    }

    async fn list_entries(
        &self,
        _: Request<entry::ListEntriesRequest>,
    ) -> Result<Response<entry::ListEntriesResponse>, Status> {
        Err(self.0.fault("list_entries"))
    }

    async fn get_entry(
        &self,
        _: Request<entry::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        Err(self.0.fault("get_entry"))
    }

    async fn batch_create_entry(
        &self,
        _: Request<entry::BatchCreateEntryRequest>,
    ) -> Result<Response<entry::BatchCreateEntryResponse>, Status> {
        Err(self.0.fault("batch_create_entry"))
    }

    async fn batch_update_entry(
        &self,
        _: Request<entry::BatchUpdateEntryRequest>,
    ) -> Result<Response<entry::BatchUpdateEntryResponse>, Status> {
        Err(self.0.fault("batch_update_entry"))
    }

    async fn batch_delete_entry(
        &self,
        _: Request<entry::BatchDeleteEntryRequest>,
    ) -> Result<Response<entry::BatchDeleteEntryResponse>, Status> {
        Err(self.0.fault("batch_delete_entry"))
    }

    async fn get_authorized_entries(
        &self,
        _: Request<entry::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<entry::GetAuthorizedEntriesResponse>, Status> {
        Err(self.0.fault("get_authorized_entries"))
    }
}
