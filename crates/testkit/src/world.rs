//! A server, built and running.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use attesta_attest::node::{ServerSettings as Attestors, Verifiers};
use attesta_authority::{Kek, Lifetimes, ring::Limits};
use attesta_model::{KeyAlgorithm, KeyKind};
use attesta_policy::Policies;
use attesta_runtime::{Clock, ClockHand, Readiness, ReadyGuards, Tasks, readiness};
use attesta_server::{AdminSocket, Server, ServerSettings, Started};
use attesta_spiffe::{SpiffeId, TrustDomain};
use attesta_store::{Backend, Failpoints, Memory, OpenRecords, Retention};
use jiff::Timestamp;
use tempfile::TempDir;

/// What a world is made of; the default is what most tests want.
pub struct Options {
    /// Lifetimes of authorities.
    pub lifetimes: Lifetimes,
    /// Lifetimes of SVIDs.
    pub limits: Limits,
    /// Key of the X.509 authority.
    pub ca_key: KeyAlgorithm,
    /// Keys of the JWT authorities.
    pub jwt_keys: Vec<KeyAlgorithm>,
    /// Policies beside the default ones: name and text.
    pub policies: Vec<(String, String)>,
    /// SPIFFE IDs that administer.
    pub admin_ids: Vec<SpiffeId>,
    /// Where a crash test stops.
    pub failpoints: Failpoints,
    /// The backend; none is a fresh one in memory.
    pub backend: Option<(Box<dyn Backend>, OpenRecords)>,
    /// Node attestors; none is join tokens alone.
    pub attestors: Option<Attestors>,
    /// The key-encryption key's bytes.
    pub kek: [u8; 32],
    /// When it begins.
    pub start: Timestamp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            limits: Limits::default(),
            ca_key: KeyAlgorithm::EcP256,
            jwt_keys: vec![KeyAlgorithm::EcP256],
            policies: Vec::new(),
            admin_ids: Vec::new(),
            failpoints: Failpoints::default(),
            backend: None,
            attestors: None,
            kek: [7; 32],
            start: Timestamp::from_second(1_795_000_000).unwrap_or_default(),
        }
    }
}

/// See the module.
pub struct World {
    /// The trust domain, `example.org`.
    pub trust_domain: TrustDomain,
    /// The clock everyone reads.
    pub clock: Clock,
    /// The hand that turns it.
    pub hand: ClockHand,
    /// The tasks of the server.
    pub tasks: Tasks,
    /// What the server is known by.
    pub started: Started,
    /// Whether it is ready.
    pub readiness: Readiness,
    /// To hold it back.
    pub guards: ReadyGuards,
    lifetimes: Lifetimes,
    wanted: Vec<(KeyKind, KeyAlgorithm)>,
    dir: TempDir,
}

impl World {
    /// A world with everything as usual.
    ///
    /// # Errors
    /// The server could not be built.
    pub async fn start() -> Result<Self> {
        Self::with(Options::default()).await
    }

    /// A world of these options.
    ///
    /// # Errors
    /// The server could not be built.
    pub async fn with(options: Options) -> Result<Self> {
        let (clock, hand) = Clock::manual(options.start);
        let trust_domain = TrustDomain::parse("example.org")?;
        let dir = tempfile::Builder::new()
            .prefix("attesta-world-")
            .tempdir()?;
        let tasks = Tasks::new(clock.clone());
        let (guards, readiness) = readiness();
        let (backend, records) = options.backend.unwrap_or_else(|| {
            let memory = Memory::new();
            let records = memory.records();
            (Box::new(memory), records)
        });
        let attestors = options.attestors.unwrap_or_else(|| {
            let mut a = Attestors::none(trust_domain.clone());
            a.join_token = true;
            a
        });
        let lifetimes = options.lifetimes;
        let mut wanted = vec![(KeyKind::X509, options.ca_key)];
        wanted.extend(options.jwt_keys.iter().map(|a| (KeyKind::Jwt, *a)));
        let mut texts = vec![("default.cedar", Policies::DEFAULT)];
        texts.extend(
            options
                .policies
                .iter()
                .map(|(n, t)| (n.as_str(), t.as_str())),
        );
        let settings = ServerSettings {
            trust_domain: trust_domain.clone(),
            listen: None,
            admin_socket: Some(AdminSocket {
                path: dir.path().join("admin.sock"),
            }),
            kek: Kek::new(&options.kek)?,
            ca_key: options.ca_key,
            jwt_keys: options.jwt_keys,
            lifetimes: options.lifetimes,
            limits: options.limits,
            agent_ttl: Duration::ZERO,
            policies: Policies::parse(&texts)?,
            attestors: Verifiers::new(attestors)?,
            admin_ids: options.admin_ids,
            retention: Retention {
                age: None,
                bytes: None,
                revisions: Some(10_000),
            },
            connections: 100,
        };
        let (server, started) = Server::build(
            settings,
            backend,
            records,
            options.failpoints,
            clock.clone(),
        )
        .await
        .context("the server")?;
        server.run(&tasks, &guards)?;
        Ok(Self {
            trust_domain,
            clock,
            hand,
            tasks,
            started,
            readiness,
            guards,
            lifetimes,
            wanted,
            dir,
        })
    }

    /// Waits until the server's tasks have done what the clock asks for: authorities turned over, and its own certificate
    /// good. Should a task have looked at the clock just before it was turned, it is turned by one more of its periods.
    ///
    /// # Errors
    /// They have not within ten seconds.
    pub async fn settle(&self) -> Result<()> {
        let settled = async {
            for round in 1u32.. {
                if round.is_multiple_of(30) {
                    self.hand.advance(Duration::from_secs(11));
                }
                let due = attesta_authority::lifecycle::due(
                    &self.started.snapshot.load(),
                    &self.wanted,
                    &self.lifetimes,
                    self.clock.now(),
                );
                if due.is_empty() && self.tls(None).await.is_ok() {
                    return;
                }
                let rest = self
                    .clock
                    .timeout(Duration::from_millis(1), std::future::pending::<()>());
                rest.await.err();
            }
        };
        self.clock
            .timeout(Duration::from_secs(10), settled)
            .await
            .context("the server's tasks did not settle")
    }

    /// A path in this world's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The id of something in this trust domain.
    ///
    /// # Errors
    /// It is no path.
    pub fn id(&self, path: &str) -> Result<SpiffeId> {
        Ok(self.trust_domain.with_path(path)?)
    }

    /// Every record, oldest first, as JSON lines.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub async fn records(&self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        let mut after = None;
        loop {
            let query = attesta_store::RecordQuery {
                order: attesta_store::Order::Oldest,
                after,
                limit: 1000,
                ..Default::default()
            };
            let page = self.started.ledger.query(query).await?;
            out.extend(
                page.records
                    .into_iter()
                    .map(|r| String::from_utf8_lossy(&r.body).into_owned()),
            );
            after = page.next;
            if after.is_none() {
                return Ok(out);
            }
        }
    }

    /// Stops the server and closes the ledger.
    pub async fn stop(self) {
        self.tasks.drain(Duration::from_secs(2)).await;
        self.started.ledger.close().await;
    }
}
