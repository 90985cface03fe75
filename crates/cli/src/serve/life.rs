//! How a serving process begins, waits and ends: its clock, its tasks, its signals.

use std::{future::Future, process::ExitCode, time::Duration};

use anyhow::Context;
use attesta_agent::AgentStatus;
use attesta_runtime::{Clock, Live, Readiness, ReadyGuards, TaskFailure, Tasks, readiness};
use attesta_store::Ledger;
use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, getrlimit, setrlimit, umask},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Failure;

/// How long what is under way gets to end after the stop signal.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the ledger gets to write what it took.
const CLOSE: Duration = Duration::from_secs(10);
/// After which it is said what a start waits for.
const SLOW: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Life {
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    pub(super) guards: ReadyGuards,
    readiness: Readiness,
    signals: Signals,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Why it ends.
pub(super) enum End {
    /// It was told to.
    Stopped(&'static str),
    /// It was told to before it was ready.
    TooEarly(&'static str),
    /// A task failed.
    Failed(TaskFailure),
}

impl End {
    pub(super) fn code(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Stopped(signal) => {
                tracing::info!(signal, "stopped");
                Ok(ExitCode::SUCCESS)
            }
            Self::TooEarly(signal) => {
                Err(Failure::failed(format!("stopped by {signal} before it was ready")).into())
            }
            Self::Failed(failure) => Err(Failure::failed(failure.to_string()).into()),
        }
    }
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

impl Life {
    /// Takes the signals over, lets nobody but us and our group at new files, and takes as many file descriptors as the
    /// system gives.
    pub(super) fn begin() -> anyhow::Result<Self> {
        umask(Mode::from_raw_mode(0o027));
        let limit = getrlimit(Resource::Nofile);
        if let Err(e) = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        ) {
            tracing::debug!(error = %e, "the limit of open files stays as it is");
        }
        let take = |kind, name| signal(kind).with_context(|| format!("{name} cannot be handled"));
        let signals = Signals {
            terminate: take(SignalKind::terminate(), "SIGTERM")?,
            interrupt: take(SignalKind::interrupt(), "SIGINT")?,
        };
        let clock = Clock::system();
        let (guards, readiness) = readiness();
        Ok(Self {
            tasks: Tasks::new(clock.clone()),
            clock,
            guards,
            readiness,
            signals,
        })
    }

    /// Runs `build`, unless the process is told to stop first.
    pub(super) async fn unless_stopped<T>(
        &self,
        build: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        // Own receivers: `build` borrows the rest of us.
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?,
        };
        tokio::select! {
            built = build => Ok(built),
            name = signals.next() => Err(Failure::failed(format!("stopped by {name} before it was ready")).into()),
        }
    }

    /// Waits until all is ready and the agent, if there is one, has its identity; or something ends before.
    pub(super) async fn ready(&mut self, agent: Option<&Live<AgentStatus>>) -> Option<End> {
        let readiness = &self.readiness;
        let ready = async {
            readiness.ready().await;
            if let Some(agent) = agent {
                let mut seen = agent.version();
                while agent.load().id.is_none() {
                    seen = agent.changed(seen).await;
                }
            }
        };
        let clock = self.clock.clone();
        let slow = async {
            loop {
                clock.sleep(SLOW).await;
                let trouble = agent
                    .and_then(|agent| agent.load().last_error.clone())
                    .unwrap_or_default();
                tracing::warn!(
                    waiting_for = readiness.waiting_for().join(", "),
                    trouble,
                    "not ready yet"
                );
            }
        };
        tokio::select! {
            () = ready => None,
            () = slow => None,
            name = self.signals.next() => Some(End::TooEarly(name)),
            failure = self.tasks.failed() => Some(End::Failed(failure)),
        }
    }

    /// Waits for the end.
    pub(super) async fn end(&mut self) -> End {
        tokio::select! {
            name = self.signals.next() => End::Stopped(name),
            failure = self.tasks.failed() => End::Failed(failure),
        }
    }

    /// Gives the stop signal and waits for what is under way; a second signal ends the wait.
    pub(super) async fn drain(&mut self) {
        tracing::info!("stopping");
        tokio::select! {
            drained = self.tasks.drain(DRAIN) => if !drained.aborted.is_empty() {
                tracing::warn!(tasks = drained.aborted.join(", "), "did not end in time");
            },
            name = self.signals.next() => tracing::warn!(signal = name, "stopped at once"),
        }
    }

    /// Closes the ledger, last.
    pub(super) async fn close(&mut self, ledger: Ledger) {
        if self.clock.timeout(CLOSE, ledger.close()).await.is_err() {
            tracing::error!(
                "the ledger did not close in time; what was answered is durable all the same"
            );
        }
    }
}
