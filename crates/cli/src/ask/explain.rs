//! `attesta explain`: why a process gets an identity, or does not. Issues nothing.
//!
//! Must not know how entries are matched: the agent and the server say what each of them sees; here they are compared.

mod verdict;

use std::{path::Path, process::ExitCode};

use attesta_spiffe::SpiffeId;
use attesta_wire::proto::attesta::{
    admin::v1::{
        ExplainRequest, ExplainResponse, ListEntriesRequest, ListRecordsRequest, Observed, Record,
        admin_client::AdminClient, explain_request::What,
    },
    agent::v1::{ExplainPidRequest, ExplainPidResponse, agent_admin_client::AgentAdminClient},
    types::v1::Candidate,
};
use clap::Args;
use serde_json::{Value, json};

use self::verdict::Verdict;
use super::{
    audit,
    dial::{self, MESSAGE, answer},
    entry,
};
use crate::{
    args::{Global, Output},
    output::{Failure, emit, note, say, shown},
};

/// Most refusals that are shown.
const REFUSALS: usize = 3;

/// What to explain.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  attesta explain 4711\n  attesta explain spiffe://example.org/payments"
)]
pub(crate) struct Explain {
    /// A process of this machine by its id, or a SPIFFE ID
    #[arg(value_name = "PID | SPIFFE_ID", value_parser = Target::parse)]
    target: Target,
    /// The agent's own admin socket [default: agent-admin.sock beside the Workload API's]
    #[arg(long, env = "ATTESTA_AGENT_ADMIN", value_name = "SOCKET")]
    agent_admin: Option<String>,
    /// The node the process runs on, where it is not the server's own
    #[arg(long, value_name = "SPIFFE_ID", value_parser = SpiffeId::parse)]
    node: Option<SpiffeId>,
}

/// A process or an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Pid(u32),
    Id(SpiffeId),
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("spiffe://") {
            return SpiffeId::parse(text)
                .map(Self::Id)
                .map_err(|e| e.to_string());
        }
        match text.parse() {
            Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
            _ => Err("neither a process id nor a SPIFFE ID (spiffe://…)".to_owned()),
        }
    }
}

/// Runs the command.
pub(super) async fn run(explain: Explain, global: &Global) -> anyhow::Result<ExitCode> {
    match explain.target {
        Target::Id(id) => identity(&id, global).await?,
        Target::Pid(pid) => {
            let socket = match explain.agent_admin.as_deref().filter(|s| !s.is_empty()) {
                Some(address) => crate::args::socket_path(address),
                None => global.agent_admin_socket(),
            };
            let seen = agent(pid, &socket).await?;
            let server = match server(&seen, explain.node.as_ref(), global).await {
                Ok(told) => Some(told),
                Err(failure) => {
                    note(format!("note: the server was not asked: {failure}"));
                    None
                }
            };
            tell(pid, &seen, server.as_ref(), global.output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Which entries give an identity, to whom, and what was refused to it of late.
async fn identity(id: &SpiffeId, global: &Global) -> anyhow::Result<()> {
    let mut client =
        AdminClient::new(dial::admin(global).await?).max_decoding_message_size(MESSAGE);
    let what = Some(What::SpiffeId(id.as_str().to_owned()));
    let told = answer(client.explain(ExplainRequest { what })).await?;
    let entries = ListEntriesRequest {
        spiffe_id: id.as_str().to_owned(),
        ..Default::default()
    };
    let entries = answer(client.list_entries(entries)).await?.entries;
    let records = ListRecordsRequest {
        subject: id.as_str().to_owned(),
        newest_first: true,
        page_size: 200,
        ..Default::default()
    };
    let records = answer(client.list_records(records)).await?.records;
    let refusals: Vec<Record> = records
        .into_iter()
        .filter(audit::is_refusal)
        .take(REFUSALS)
        .collect();
    let asks = |c: &Candidate| {
        let of = entries
            .iter()
            .find(|e| e.base.as_ref().is_some_and(|b| b.id == c.entry_id));
        of.map(entry::selectors).unwrap_or_default()
    };
    match global.output {
        Output::Json => {
            let candidates = told.candidates.iter().map(|c| {
                let mut value = value(c);
                if let Some(map) = value.as_object_mut() {
                    // Nobody's facts were looked at.
                    map.remove("matches");
                    map.remove("missing_selectors");
                    map.insert("selectors".to_owned(), json!(asks(c)));
                }
                value
            });
            emit(&json!({
                "spiffe_id": id.as_str(),
                "candidates": candidates.collect::<Vec<_>>(),
                "refusals": refusals.iter().filter_map(|r| serde_json::from_slice::<Value>(&r.body_json).ok()).collect::<Vec<_>>(),
                "summary": told.summary,
            }))?;
        }
        Output::Text => {
            say(shown(&told.summary))?;
            for c in &told.candidates {
                say(format!(
                    "  entry {} under {}",
                    shown(&c.entry_id),
                    shown(&c.parent_id)
                ))?;
                say(format!("    asks for {}", shown(&asks(c).join(", "))))?;
                for words in [&c.denial, &c.note].into_iter().filter(|w| !w.is_empty()) {
                    say(format!("    {}", shown(words)))?;
                }
            }
            if !refusals.is_empty() {
                say("Refused of late")?;
            }
            for record in &refusals {
                say(format!("  {}", audit::line(record)))?;
            }
        }
    }
    Ok(())
}

async fn agent(pid: u32, socket: &Path) -> Result<ExplainPidResponse, Failure> {
    let hint = "is 'attesta run' running, and may you open the agent's socket? (--agent-admin / ATTESTA_AGENT_ADMIN)";
    let mut client =
        AgentAdminClient::new(dial::unix(socket, hint).await?).max_decoding_message_size(MESSAGE);
    answer(client.explain(ExplainPidRequest { pid })).await
}

/// What the server makes of the same facts.
async fn server(
    seen: &ExplainPidResponse,
    node: Option<&SpiffeId>,
    global: &Global,
) -> Result<ExplainResponse, Failure> {
    let channel = dial::admin(global).await?;
    let node = match node {
        Some(node) => node.as_str().to_owned(),
        None => entry::local_node(&channel).await?,
    };
    let observed = Observed {
        node,
        facts: seen.facts.clone(),
    };
    let mut client = AdminClient::new(channel).max_decoding_message_size(MESSAGE);
    answer(client.explain(ExplainRequest {
        what: Some(What::Observed(observed)),
    }))
    .await
}

fn tell(
    pid: u32,
    seen: &ExplainPidResponse,
    server: Option<&ExplainResponse>,
    output: Output,
) -> std::io::Result<()> {
    let verdict = Verdict::of(&seen.candidates, server.map(|s| s.candidates.as_slice()));
    match output {
        Output::Json => emit(&json!({
            "pid": pid,
            "selectors": seen.found.iter().map(|f| json!({ "selector": f.selector, "attestor": f.attestor })).collect::<Vec<_>>(),
            "facts": seen.facts.iter().map(|f| json!({ "namespace": f.namespace, "key": f.key, "values": f.values })).collect::<Vec<_>>(),
            "agent": { "candidates": seen.candidates.iter().map(value).collect::<Vec<_>>(), "summary": seen.summary },
            "server": server.map(|s| json!({ "candidates": s.candidates.iter().map(value).collect::<Vec<_>>(), "summary": s.summary })),
            "verdict": verdict.word(),
            "summary": verdict.to_string(),
        })),
        Output::Text => {
            say(format!(
                "Process {pid}: {} selectors found",
                seen.found.len()
            ))?;
            let width = seen
                .found
                .iter()
                .map(|f| shown(&f.selector).chars().count())
                .max()
                .unwrap_or(0)
                .min(60);
            for found in &seen.found {
                say(format!(
                    "  {:<width$}  by {}",
                    shown(&found.selector),
                    shown(&found.attestor)
                ))?;
            }
            say("Nearest entries, as the agent sees them")?;
            print(&seen.candidates)?;
            if let Some(server) = server {
                say("Nearest entries, as the server sees them")?;
                print(&server.candidates)?;
            }
            for summary in [Some(&seen.summary), server.map(|s| &s.summary)]
                .into_iter()
                .flatten()
                .filter(|s| !s.is_empty())
            {
                say(shown(summary))?;
            }
            say(format!("=> {}", shown(&verdict.to_string())))
        }
    }
}

fn print(candidates: &[Candidate]) -> std::io::Result<()> {
    if candidates.is_empty() {
        return say("  none");
    }
    for c in candidates {
        say(format!("  {}", shown(&c.spiffe_id)))?;
        say(format!(
            "    entry {} under {}",
            shown(&c.entry_id),
            shown(&c.parent_id)
        ))?;
        say(format!("    {}", shown(&state(c))))?;
    }
    Ok(())
}

/// What stands between an entry and a credential, as a phrase.
fn state(c: &Candidate) -> String {
    let mut parts = Vec::new();
    if !c.missing_selectors.is_empty() {
        parts.push(format!("missing {}", c.missing_selectors.join(", ")));
    }
    if !c.denial.is_empty() {
        parts.push(format!("refused: {}", c.denial));
    }
    if c.matches && parts.is_empty() {
        parts.push("matches".to_owned());
    }
    if !c.note.is_empty() {
        parts.push(c.note.clone());
    }
    parts.join("; ")
}

fn value(c: &Candidate) -> Value {
    json!({
        "entry_id": c.entry_id,
        "spiffe_id": c.spiffe_id,
        "parent_id": c.parent_id,
        "matches": c.matches,
        "missing_selectors": c.missing_selectors,
        "denial": c.denial,
        "note": c.note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(Target::parse("12"), Ok(Target::Pid(12)));
        assert!(matches!(Target::parse("spiffe://td/a"), Ok(Target::Id(_))));
        for bad in ["0", "-1", "x", "spiffe://", "", "4294967296"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn states() {
        let c = |matches, missing: &[&str], denial: &str, note: &str| Candidate {
            matches,
            missing_selectors: missing.iter().map(|s| (*s).to_owned()).collect(),
            denial: denial.to_owned(),
            note: note.to_owned(),
            ..Default::default()
        };
        for (candidate, expect) in [
            (c(true, &[], "", ""), "matches"),
            (
                c(false, &["unix:uid:0", "unix:gid:0"], "", ""),
                "missing unix:uid:0, unix:gid:0",
            ),
            (
                c(false, &[], "policy: no", "has expired"),
                "refused: policy: no; has expired",
            ),
        ] {
            assert_eq!(state(&candidate), expect);
        }
    }
}
