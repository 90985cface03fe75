//! `attesta agent`: the nodes, as the server knows them; `run` is another room of this binary.
//!
//! Must not know how a node attests.

use std::process::ExitCode;

use attesta_runtime::Clock;
use attesta_spiffe::SpiffeId;
use attesta_wire::{
    id,
    proto::spire::api::{
        server::agent::v1::{self as api, agent_client::AgentClient},
        types,
    },
};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::dial::{self, MESSAGE, answer};
use crate::{
    args::{Global, Output},
    output::{Block, emit, moment, say, shown, unix_time},
};

/// `attesta agent …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run an agent on this machine
    Run(crate::serve::AgentRun),
    /// List the agents that have attested
    #[command(after_help = "Example:\n  attesta agent list --attestor x509pop --output json")]
    List(List),
    /// Show one agent
    #[command(
        after_help = "Example:\n  attesta agent show spiffe://example.org/spire/agent/local/node"
    )]
    Show(Which),
    /// Ban an agent: it gets nothing any more, and may not attest again
    #[command(
        after_help = "Example:\n  attesta agent ban spiffe://example.org/spire/agent/x509pop/0a1b2c"
    )]
    Ban(Which),
    /// Evict an agent: it must attest again; a banned one may then, too
    #[command(
        after_help = "Example:\n  attesta agent evict spiffe://example.org/spire/agent/x509pop/0a1b2c"
    )]
    Evict(Which),
}

/// Which agents to list; what is given must hold.
#[derive(Args)]
pub(crate) struct List {
    /// That attested this way: local, join_token, x509pop, …
    #[arg(long, value_name = "NAME")]
    attestor: Option<String>,
    /// Only banned ones
    #[arg(long)]
    banned: bool,
}

/// One agent.
#[derive(Args)]
pub(crate) struct Which {
    /// The agent's SPIFFE ID
    #[arg(value_name = "SPIFFE_ID", value_parser = SpiffeId::parse)]
    id: SpiffeId,
}

impl Which {
    fn wire(&self) -> Option<types::Spiffeid> {
        Some(id::to_wire(&self.id))
    }
}

/// Runs the command.
pub(super) async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => return crate::serve::agent_run(args, global).await,
        Command::List(list) => {
            let agents = list.agents(&client(global).await?).await?;
            match global.output {
                Output::Json => {
                    emit(&json!({ "agents": agents.iter().map(value).collect::<Vec<_>>() }))?
                }
                Output::Text => {
                    let now = Clock::system().now();
                    say(format!(
                        "Found {} {}",
                        agents.len(),
                        if agents.len() == 1 { "agent" } else { "agents" }
                    ))?;
                    for agent in &agents {
                        say(format!("\n{}", block(agent, now).to_string().trim_end()))?;
                    }
                }
            }
        }
        Command::Show(which) => {
            let request = api::GetAgentRequest {
                id: which.wire(),
                output_mask: None,
            };
            let agent = answer(client(global).await?.get_agent(request)).await?;
            match global.output {
                Output::Json => emit(&value(&agent))?,
                Output::Text => say(block(&agent, Clock::system().now()).to_string().trim_end())?,
            }
        }
        Command::Ban(which) => {
            answer(
                client(global)
                    .await?
                    .ban_agent(api::BanAgentRequest { id: which.wire() }),
            )
            .await?;
            done("banned", &which.id, global.output)?;
        }
        Command::Evict(which) => {
            answer(
                client(global)
                    .await?
                    .delete_agent(api::DeleteAgentRequest { id: which.wire() }),
            )
            .await?;
            done("evicted", &which.id, global.output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn client(global: &Global) -> anyhow::Result<AgentClient<Channel>> {
    Ok(AgentClient::new(dial::admin(global).await?).max_decoding_message_size(MESSAGE))
}

impl List {
    async fn agents(self, client: &AgentClient<Channel>) -> anyhow::Result<Vec<types::Agent>> {
        let filter = api::list_agents_request::Filter {
            by_attestation_type: self.attestor.unwrap_or_default(),
            by_banned: self.banned.then_some(true),
            ..Default::default()
        };
        let mut agents = Vec::new();
        let mut next = String::new();
        loop {
            let request = api::ListAgentsRequest {
                filter: Some(filter.clone()),
                output_mask: None,
                page_size: 500,
                page_token: next,
            };
            let page = answer(client.clone().list_agents(request)).await?;
            agents.extend(page.agents);
            if page.next_page_token.is_empty() {
                return Ok(agents);
            }
            next = page.next_page_token;
        }
    }
}

fn done(what: &str, id: &SpiffeId, output: Output) -> std::io::Result<()> {
    match output {
        Output::Json => emit(&json!({ "ok": true, "spiffe_id": id.as_str() })),
        Output::Text => say(format!("{what} agent {}", shown(id.as_str()))),
    }
}

/// SPIRE's API has serials in decimal; ours, and our log, have them as whole bytes in hexadecimal.
fn serial(decimal: &str) -> String {
    match decimal.parse::<u128>() {
        Ok(n) => {
            let hex = format!("{n:x}");
            if hex.len() % 2 == 0 {
                hex
            } else {
                format!("0{hex}")
            }
        }
        Err(_) => decimal.to_owned(),
    }
}

fn selectors(agent: &types::Agent) -> Vec<String> {
    agent
        .selectors
        .iter()
        .map(|s| format!("{}:{}", s.r#type, s.value))
        .collect()
}

fn value(agent: &types::Agent) -> Value {
    json!({
        "spiffe_id": agent.id.as_ref().map(id::text),
        "attestation_type": agent.attestation_type,
        "serial_number": serial(&agent.x509svid_serial_number),
        "expires_at": unix_time(agent.x509svid_expires_at).map(|t| t.to_string()),
        "banned": agent.banned,
        "can_reattest": agent.can_reattest,
        "agent_version": agent.agent_version,
        "selectors": selectors(agent),
    })
}

fn block(agent: &types::Agent, now: Timestamp) -> Block {
    let mut b = Block::default();
    b.line(
        "SPIFFE ID",
        agent.id.as_ref().map(id::text).unwrap_or_default(),
    )
    .line("Attestation type", &agent.attestation_type)
    .some(
        "Expiration time",
        unix_time(agent.x509svid_expires_at)
            .map(|t| moment(t, now))
            .unwrap_or_default(),
    )
    .some("Serial number", serial(&agent.x509svid_serial_number))
    .line("Can re-attest", agent.can_reattest.to_string())
    .some("Banned", if agent.banned { "true" } else { "" })
    .some("Agent version", &agent.agent_version);
    for selector in selectors(agent) {
        b.line("Selector", selector);
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_whole_bytes_in_hex() {
        for (decimal, expect) in [
            ("0", "00"),
            ("15", "0f"),
            ("256", "0100"),
            (
                "340282366920938463463374607431768211455",
                "ffffffffffffffffffffffffffffffff",
            ),
            ("", ""),
            (
                "340282366920938463463374607431768211456",
                "340282366920938463463374607431768211456",
            ),
        ] {
            assert_eq!(serial(decimal), expect, "{decimal}");
        }
    }
}
