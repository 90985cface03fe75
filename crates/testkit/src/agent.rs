//! A world with an agent in it: its workloads are this very process and the children it starts.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use attesta_agent::{Agent, AgentLimits, AgentSettings, AgentStatus, Bootstrap, Dial};
use attesta_attest::{
    node::{ServerSettings as Attestors, local},
    workload::{WorkloadSettings, Workloads, unix},
};
use attesta_model::KeyAlgorithm;
use attesta_runtime::{Live, Tasks};
use attesta_spiffe::{SpiffeId, TrustDomain};
use attesta_wire::proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{Options, World};

/// An agent of a [`World`], built and running.
pub struct AgentWorld {
    /// The world it lives in.
    pub world: World,
    /// The Workload API.
    pub socket: PathBuf,
    /// The node it attested as.
    pub node: SpiffeId,
    /// How it is doing.
    pub status: Live<AgentStatus>,
    /// Its tasks.
    pub tasks: Tasks,
}

impl AgentWorld {
    /// A world whose agent attested by the attestor `local`.
    ///
    /// # Errors
    /// Server or agent could not be built.
    pub async fn start() -> Result<Self> {
        Self::with(Options::default(), |_| ()).await
    }

    /// [`AgentWorld::start`] with options, and the agent's settings changed.
    ///
    /// # Errors
    /// Server or agent could not be built.
    pub async fn with(
        mut options: Options,
        change: impl FnOnce(&mut AgentSettings),
    ) -> Result<Self> {
        let (verify, collect) = local::pair([9; 32]);
        let mut attestors = Attestors::none(TrustDomain::parse("example.org")?);
        attestors.join_token = true;
        attestors.local = Some(verify);
        options.attestors = Some(attestors);
        let world = World::with(options).await?;
        let socket = world.path("workload.sock");
        let mut settings = AgentSettings {
            trust_domain: world.trust_domain.clone(),
            server: Dial::Local(world.started.inside.clone()),
            bootstrap: Bootstrap::Bundle(world.started.bundle.load().as_ref().clone()),
            data_dir: None,
            workload_socket: socket.clone(),
            admin_socket: Some(world.path("agent-admin.sock")),
            collect: Arc::new(collect),
            workloads: Workloads::new(&WorkloadSettings {
                unix: Some(unix::Settings::default()),
            }),
            sync_interval: Duration::from_secs(5),
            workload_key: KeyAlgorithm::EcP256,
            limits: AgentLimits::default(),
        };
        change(&mut settings);
        let tasks = Tasks::new(world.clock.clone());
        let agent = Agent::build(settings, world.clock.clone(), &tasks, &world.guards).await?;
        let status = agent.status();
        agent.run(&tasks);
        world
            .clock
            .timeout(Duration::from_secs(10), world.readiness.ready())
            .await
            .context("the agent was not ready in 10 s")?;
        let node = world.id("/spire/agent/local/node")?;
        Ok(Self {
            world,
            socket,
            node,
            status,
            tasks,
        })
    }

    /// A fresh connection of this process to the Workload API.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(&self) -> Result<SpiffeWorkloadApiClient<Channel>> {
        let path = self.socket.clone();
        let connector = service_fn(move |_| {
            let path = path.clone();
            async move {
                tokio::net::UnixStream::connect(path)
                    .await
                    .map(TokioIo::new)
            }
        });
        Ok(SpiffeWorkloadApiClient::new(
            Endpoint::try_from("http://workload.invalid")?
                .connect_with_connector(connector)
                .await?,
        ))
    }

    /// Stops agent and server.
    pub async fn stop(self) {
        self.tasks.drain(Duration::from_secs(2)).await;
        self.world.stop().await;
    }
}

/// A request with the security header every Workload API call carries (C162).
pub fn workload<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(
        "workload.spiffe.io",
        tonic::metadata::MetadataValue::from_static("true"),
    );
    request
}
