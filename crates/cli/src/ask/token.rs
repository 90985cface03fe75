//! `attesta token`: join tokens, each of which lets one node in, once.
//!
//! A token is shown once and kept nowhere here.

use std::{process::ExitCode, time::Duration};

use attesta_runtime::Clock;
use attesta_spiffe::SpiffeId;
use attesta_wire::{
    id,
    proto::spire::api::server::agent::v1::{CreateJoinTokenRequest, agent_client::AgentClient},
};
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    dial::{self, answer},
    values,
};
use crate::{
    args::{Global, Output},
    output::{Failure, moment, note, raw, unix_time},
};

/// `attesta token …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a join token: it is printed once, on stdout alone
    #[command(after_help = "Example:\n  \
        attesta token generate --ttl 10m --spiffe-id spiffe://example.org/build-node > token")]
    Generate(Generate),
}

/// A new token.
#[derive(Args)]
pub(crate) struct Generate {
    /// How long it may be used
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = values::duration)]
    ttl: Duration,
    /// A second name of the node, by which entries find it
    #[arg(long, value_name = "SPIFFE_ID", value_parser = SpiffeId::parse)]
    spiffe_id: Option<SpiffeId>,
}

/// Runs the command.
pub(super) async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let Command::Generate(generate) = command;
    let ttl = i32::try_from(generate.ttl.as_secs())
        .ok()
        .filter(|s| *s > 0);
    let ttl = ttl.ok_or_else(|| Failure::usage("--ttl is at least 1s and at most 68 years"))?;
    let request = CreateJoinTokenRequest {
        ttl,
        token: String::new(),
        agent_id: generate.spiffe_id.as_ref().map(id::to_wire),
    };
    let made =
        answer(AgentClient::new(dial::admin(global).await?).create_join_token(request)).await?;
    let token = Zeroizing::new(made.value);
    let expires_at = unix_time(made.expires_at);
    match global.output {
        Output::Json => {
            let value = json!({
                "token": token.as_str(),
                "expires_at": expires_at.map(|t| t.to_string()),
                "spiffe_id": generate.spiffe_id.as_ref().map(SpiffeId::as_str),
            });
            raw(Zeroizing::new(format!("{value}\n")).as_bytes())?;
        }
        Output::Text => {
            raw(Zeroizing::new(format!("{}\n", token.as_str())).as_bytes())?;
            if let Some(at) = expires_at {
                note(format!(
                    "good for one node, until {}; it is not shown again",
                    moment(at, Clock::system().now())
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
