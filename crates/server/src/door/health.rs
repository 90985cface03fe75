//! `grpc.health.v1.Health`: healthy while the server can sign and write down what it signs.

use std::{sync::Arc, time::Duration};

use attesta_runtime::{Outcome, Task, TaskError};
use jiff::Timestamp;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{core::Core, flow::issue};

/// Keeps the answer of the health service current.
pub(crate) struct Health {
    pub(crate) core: Arc<Core>,
    pub(crate) reporter: HealthReporter,
}

impl Task for Health {
    const NAME: &'static str = "health";
    const EVERY: Duration = Duration::from_secs(1);

    async fn tick(&mut self, _: Timestamp) -> Result<Outcome, TaskError> {
        let well = self.core.ledger.healthy().is_none()
            && self.core.check_time().is_ok()
            && issue::can_issue(&self.core);
        let status = if well {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        // The empty name is the server as a whole, the only one SPIRE's tools ask for.
        self.reporter.set_service_status("", status).await;
        Ok(Outcome::Idle)
    }
}
