//! `spire.api.server.bundle.v1.Bundle`: the trust bundle, for anyone.

use std::sync::Arc;

use attesta_authority::lifecycle::refresh_hint;
use attesta_wire::{
    bundle,
    proto::spire::api::{
        server::bundle::v1::{self as api, bundle_server::Bundle},
        types,
    },
};
use tonic::{Request, Response, Status};

use crate::core::Core;

pub(crate) struct Door(pub(crate) Arc<Core>);

/// What is not served yet says so by gRPC's own word.
fn unserved<T>(method: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!(
        "{method} is not served: this server holds no bundles of other trust domains"
    )))
}

#[tonic::async_trait]
impl Bundle for Door {
    async fn get_bundle(
        &self,
        request: Request<api::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let mask = request.into_inner().output_mask;
        Ok(Response::new(bundle::to_wire(
            &self.0.ledger.snapshot(),
            refresh_hint(&self.0.lifetimes),
            mask.as_ref(),
        )))
    }

    async fn count_bundles(
        &self,
        _: Request<api::CountBundlesRequest>,
    ) -> Result<Response<api::CountBundlesResponse>, Status> {
        unserved("count_bundles")
    }

    async fn append_bundle(
        &self,
        _: Request<api::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        unserved("append_bundle")
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<api::PublishJwtAuthorityRequest>,
    ) -> Result<Response<api::PublishJwtAuthorityResponse>, Status> {
        unserved("publish_jwt_authority")
    }

    async fn publish_wit_authority(
        &self,
        _: Request<api::PublishWitAuthorityRequest>,
    ) -> Result<Response<api::PublishWitAuthorityResponse>, Status> {
        unserved("publish_wit_authority")
    }

    async fn list_federated_bundles(
        &self,
        _: Request<api::ListFederatedBundlesRequest>,
    ) -> Result<Response<api::ListFederatedBundlesResponse>, Status> {
        unserved("list_federated_bundles")
    }

    async fn get_federated_bundle(
        &self,
        _: Request<api::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        unserved("get_federated_bundle")
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<api::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<api::BatchCreateFederatedBundleResponse>, Status> {
        unserved("batch_create_federated_bundle")
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<api::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<api::BatchUpdateFederatedBundleResponse>, Status> {
        unserved("batch_update_federated_bundle")
    }

    async fn batch_set_federated_bundle(
        &self,
        _: Request<api::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<api::BatchSetFederatedBundleResponse>, Status> {
        unserved("batch_set_federated_bundle")
    }

    async fn batch_delete_federated_bundle(
        &self,
        _: Request<api::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<api::BatchDeleteFederatedBundleResponse>, Status> {
        unserved("batch_delete_federated_bundle")
    }
}
