//! The stage: entries for two services, three processes, and what they do told as it happens.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context;
use attesta_model::text;
use attesta_runtime::{CancellationToken, Clock, Tasks};
use attesta_spiffe::{SpiffeId, TrustDomain};
use attesta_wire::proto::{
    attesta::{
        admin::v1::{
            CreateEntriesRequest, DeleteEntriesRequest, Entry, ExplainRequest, Observed,
            admin_client::AdminClient, explain_request,
        },
        agent::v1::{ExplainPidRequest, agent_admin_client::AgentAdminClient},
        types::v1::Fact,
    },
    spire::api::types,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
};
use tonic::{Code, transport::Channel};

use super::{
    event::{Event, What},
    holder::connect,
};
use crate::{
    args::Output,
    output::{self, Failure},
};

/// How long `--once` waits for everything to be shown.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the demo's SVIDs live, in seconds: short, so that a rotation is seen.
const TTL: i32 = 60;
/// Events that wait to be told.
const EVENTS: usize = 64;
/// Successful calls that `--once` waits for.
const CALLS: usize = 2;

/// Where the demo plays.
pub(crate) struct Stage<'a> {
    /// Where the copies of this program go; made, and removed at the end.
    pub(crate) dir: PathBuf,
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) node: Option<SpiffeId>,
    pub(crate) workload_socket: PathBuf,
    pub(crate) admin_socket: PathBuf,
    pub(crate) agent_admin_socket: PathBuf,
    pub(crate) bundle: PathBuf,
    pub(crate) output: Output,
    pub(crate) once: bool,
}

/// What has been shown.
#[derive(Debug, Default)]
struct Shown {
    calls: usize,
    refused: bool,
    explained: bool,
    rejected: bool,
}

impl Shown {
    fn is_all(&self) -> bool {
        self.missing().is_empty()
    }

    fn missing(&self) -> Vec<&'static str> {
        [
            (self.calls >= CALLS, "payments called orders"),
            (self.refused, "the impostor was refused an identity"),
            (self.explained, "the operator was told why"),
            (self.rejected, "orders turned the impostor away"),
        ]
        .into_iter()
        .filter_map(|(shown, what)| (!shown).then_some(what))
        .collect()
    }
}

/// Plays until stopped, or with `once` until all is shown.
///
/// # Errors
/// A service could not be started or ended, or with `once` not all was shown in time.
pub(crate) async fn play(
    stage: &Stage<'_>,
    tasks: &Tasks,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let programs = Programs::copy(&stage.dir)
        .with_context(|| format!("cannot copy this program to {}", stage.dir.display()))?;
    let mut admin = AdminClient::new(connect(stage.admin_socket.clone()).await?);
    let entries = create(stage, &programs, &mut admin).await?;
    let played = tokio::select! {
        played = perform(stage, &programs, tasks) => played,
        () = stop.cancelled() => Ok(()),
    };
    if let Err(e) = admin
        .delete_entries(DeleteEntriesRequest { ids: entries })
        .await
    {
        tracing::warn!(error = e.message(), "the demo's entries stay");
    }
    played
}

async fn perform(stage: &Stage<'_>, programs: &Programs, tasks: &Tasks) -> anyhow::Result<()> {
    let clock = Clock::system();
    let (events_in, mut events) = mpsc::channel(EVENTS);
    let orders = Actor::start(
        stage,
        &programs.orders,
        "orders",
        &[],
        tasks,
        events_in.clone(),
    )?;
    let address = clock
        .timeout(PATIENCE, first_address(stage, &mut events))
        .await
        .context("orders has no identity yet")??;
    let at = ["--orders".to_owned(), address];
    let payments = Actor::start(
        stage,
        &programs.payments,
        "payments",
        &at,
        tasks,
        events_in.clone(),
    )?;
    let with_bundle = [
        &at[..],
        &["--bundle".to_owned(), stage.bundle.display().to_string()],
    ]
    .concat();
    let impostor = Actor::start(
        stage,
        &programs.impostor,
        "impostor",
        &with_bundle,
        tasks,
        events_in,
    )?;
    let mut shown = Shown::default();
    let mut told = BTreeSet::new();
    let story = async {
        while let Some((name, event)) = events.recv().await {
            let Some(event) = event else {
                return Err(Failure::failed(format!("{name} ended by itself")).into());
            };
            stage.tell(name, &event);
            match (name, event.what) {
                ("payments", What::Called) => shown.calls += 1,
                ("impostor", What::Rejected) => shown.rejected = true,
                ("impostor", What::Refused) => {
                    shown.refused = true;
                    let why = explain(stage, &programs.impostor, impostor.pid).await?;
                    // Once is enough, as long as it is the same.
                    if told.insert(why.clone()) {
                        stage.tell(
                            "operator",
                            &Event {
                                what: What::Refused,
                                text: why,
                            },
                        );
                    }
                    shown.explained = true;
                }
                _ => {}
            }
            if stage.once && shown.is_all() {
                return Ok(());
            }
        }
        anyhow::Ok(())
    };
    let result = if stage.once {
        clock.timeout(PATIENCE, story).await.unwrap_or_else(|_| {
            Err(Failure::failed(format!(
                "the demo did not show everything within {} s",
                PATIENCE.as_secs()
            ))
            .with_cause(format!("missing: {}", shown.missing().join(", ")))
            .into())
        })
    } else {
        story.await
    };
    for actor in [orders, payments, impostor] {
        actor.stop().await;
    }
    if stage.once && result.is_ok() {
        stage.tell(
            "operator",
            &Event {
                what: What::Served,
                text: "all shown: payments was served because of what it is, the impostor was not"
                    .to_owned(),
            },
        );
    }
    result
}

async fn first_address(
    stage: &Stage<'_>,
    events: &mut mpsc::Receiver<(&'static str, Option<Event>)>,
) -> anyhow::Result<String> {
    while let Some((name, event)) = events.recv().await {
        let Some(event) = event else { break };
        stage.tell(name, &event);
        if event.what == What::Listening {
            return Ok(event.text);
        }
    }
    Err(Failure::failed("orders ended by itself").into())
}

impl Stage<'_> {
    /// Nobody reading is no reason to stop.
    fn tell(&self, name: &str, event: &Event) {
        let words = text::printable(&event.text);
        let said = match self.output {
            Output::Text if event.what == What::Listening => {
                output::say(format!("{name:<9} listens on {words}"))
            }
            Output::Text => output::say(format!("{name:<9} {words}")),
            Output::Json => {
                output::emit(&json!({"demo": name, "event": event.what, "text": words}))
            }
        };
        if let Err(e) = said {
            tracing::debug!(error = %e, "nobody reads stdout");
        }
    }
}

/// Three copies of this program, so that their paths tell them apart; the impostor's has other bytes, too.
struct Programs {
    dir: PathBuf,
    orders: PathBuf,
    payments: PathBuf,
    impostor: PathBuf,
}

impl Programs {
    fn copy(dir: &Path) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        fs::create_dir(dir)?;
        let programs = Self {
            orders: dir.join("orders"),
            payments: dir.join("payments"),
            impostor: dir.join("impostor"),
            dir: dir.to_owned(),
        };
        for path in [&programs.orders, &programs.payments, &programs.impostor] {
            fs::copy(&own, path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        // Behind the program's end: it runs as before, and is another.
        fs::OpenOptions::new()
            .append(true)
            .open(&programs.impostor)?
            .write_all(b"impostor")?;
        Ok(programs)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            tracing::debug!(error = %e, "the demo's programs stay");
        }
    }
}

/// One process of the demo; killed when this is dropped.
struct Actor {
    pid: u32,
    child: Child,
    /// Closed, it tells the process that the stage has gone.
    _stdin: Option<ChildStdin>,
}

impl Actor {
    fn start(
        stage: &Stage<'_>,
        program: &Path,
        name: &'static str,
        more: &[String],
        tasks: &Tasks,
        events: mpsc::Sender<(&'static str, Option<Event>)>,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args([
                "demo-service",
                name,
                "--trust-domain",
                stage.trust_domain.as_str(),
            ])
            .args(more)
            .env(
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix:{}", stage.workload_socket.display()),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id().unwrap_or_default();
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            tasks.spawn("demo-events", async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(event) = serde_json::from_str(&line)
                        && events.send((name, Some(event))).await.is_err()
                    {
                        return;
                    }
                }
                // With the stage gone nobody has to know.
                drop(events.send((name, None)).await);
            });
        }
        Ok(Self {
            pid,
            child,
            _stdin: stdin,
        })
    }

    async fn stop(mut self) {
        if let Err(e) = self.child.kill().await {
            tracing::debug!(error = %e, "a process of the demo had ended");
        }
    }
}

/// Two entries; their ids.
async fn create(
    stage: &Stage<'_>,
    programs: &Programs,
    admin: &mut AdminClient<Channel>,
) -> anyhow::Result<Vec<String>> {
    let node = stage
        .node
        .as_ref()
        .ok_or_else(|| Failure::failed("the node has no identity"))?;
    let id = |path: &str| types::Spiffeid {
        trust_domain: stage.trust_domain.as_str().to_owned(),
        path: path.to_owned(),
    };
    let uid = rustix::process::geteuid().as_raw();
    let selector = |value: String| types::Selector {
        r#type: "unix".to_owned(),
        value,
    };
    let entry = |name: &str, program: &Path| Entry {
        base: Some(types::Entry {
            spiffe_id: Some(id(&format!("/demo/{name}"))),
            parent_id: Some(id(node.path())),
            selectors: vec![
                selector(format!("uid:{uid}")),
                selector(format!("path:{}", program.display())),
            ],
            x509_svid_ttl: TTL,
            ..types::Entry::default()
        }),
        extras: None,
    };
    let entries = vec![
        entry("orders", &programs.orders),
        entry("payments", &programs.payments),
    ];
    let response = admin
        .create_entries(CreateEntriesRequest { entries })
        .await
        .map_err(|e| Failure::failed(e.message()))?;
    let mut ids = Vec::new();
    for result in response.into_inner().results {
        let status = result.status.unwrap_or_default();
        // What a killed demo left is as good.
        if status.code != Code::Ok as i32 && status.code != Code::AlreadyExists as i32 {
            return Err(Failure::failed(format!(
                "an entry of the demo was refused: {}",
                status.message
            ))
            .into());
        }
        ids.extend(
            result
                .entry
                .and_then(|entry| entry.base)
                .map(|base| base.id),
        );
    }
    Ok(ids)
}

/// Why the impostor gets nothing, as the operator learns it: of the agent, which looks at the process.
async fn explain(stage: &Stage<'_>, program: &Path, pid: u32) -> anyhow::Result<String> {
    let mut agent = AgentAdminClient::new(connect(stage.agent_admin_socket.clone()).await?);
    let (candidates, summary) = match agent.explain(ExplainPidRequest { pid }).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            (answer.candidates, answer.summary)
        }
        // An agent that cannot look at a process that did not connect: the server says what it makes of what we know.
        Err(status) if status.code() == Code::Unimplemented => {
            let fact = |key: &str, value: String| Fact {
                namespace: "unix".to_owned(),
                key: key.to_owned(),
                values: vec![value],
            };
            let facts = vec![
                fact("uid", rustix::process::geteuid().as_raw().to_string()),
                fact("path", program.display().to_string()),
            ];
            let node = stage
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let mut admin = AdminClient::new(connect(stage.admin_socket.clone()).await?);
            let what = Some(explain_request::What::Observed(Observed { node, facts }));
            let answer = admin
                .explain(ExplainRequest { what })
                .await
                .map_err(|e| Failure::failed(e.message()))?
                .into_inner();
            (answer.candidates, answer.summary)
        }
        Err(status) => return Err(Failure::failed(status.message()).into()),
    };
    let nearest = candidates
        .iter()
        .find(|candidate| !candidate.missing_selectors.is_empty());
    Ok(match nearest {
        Some(nearest) => format!(
            "impostor (pid {pid}) is nearest to {} and lacks {}",
            nearest.spiffe_id,
            nearest.missing_selectors.join(", ")
        ),
        None => format!("impostor (pid {pid}): {summary}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_waits_for_everything() {
        let mut shown = Shown::default();
        assert_eq!(shown.missing().len(), 4);
        shown = Shown {
            calls: CALLS,
            refused: true,
            explained: true,
            rejected: false,
        };
        assert!(!shown.is_all());
        shown.rejected = true;
        assert!(shown.is_all());
    }
}
