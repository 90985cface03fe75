//! `attesta health`: whether server and agent answer, and are well.
//!
//! Must not know what makes them well: they say so themselves.

use std::process::ExitCode;

use attesta_wire::proto::{
    attesta::admin::v1::{GetStatusRequest, admin_client::AdminClient},
    workload::{X509BundlesRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use clap::Args;
use serde_json::{Value, json};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    dial::{self, CALL, answer},
    endpoint::Endpoint,
    fetch,
};
use crate::{
    args::{Global, Output},
    output::{Exit, Failure, emit, say, shown},
};
use attesta_runtime::Clock;

/// Whether server and agent are well.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  attesta health\n  attesta health --agent --output json\n\n\
    Exit code: 0 all that was asked is well, 1 something is not, 3 something does not answer."
)]
pub(crate) struct Health {
    /// Only the server, by its admin socket
    #[arg(long)]
    server: bool,
    /// Only the agent, by its Workload API
    #[arg(long)]
    agent: bool,
}

/// How one of them is.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Well,
    /// It answers, and says why not.
    Unwell(String),
    /// It does not answer.
    Away(String),
}

impl State {
    fn word(&self) -> &'static str {
        match self {
            Self::Well => "serving",
            Self::Unwell(_) => "not_serving",
            Self::Away(_) => "unreachable",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Well => "",
            Self::Unwell(why) | Self::Away(why) => why,
        }
    }
}

/// Runs the command.
pub(super) async fn run(health: Health, global: &Global) -> anyhow::Result<ExitCode> {
    let both = health.server == health.agent;
    let mut found: Vec<(&str, String, State)> = Vec::new();
    if both || health.server {
        found.push((
            "server",
            global.admin_socket().display().to_string(),
            server(global).await,
        ));
    }
    if both || health.agent {
        let endpoint = Endpoint::of(global)?;
        found.push(("agent", endpoint.to_string(), agent(&endpoint).await));
    }
    match global.output {
        Output::Json => emit(&value(&found))?,
        Output::Text => {
            for (who, at, state) in &found {
                let detail = match state.detail() {
                    "" => String::new(),
                    detail => format!(": {}", shown(detail)),
                };
                say(format!(
                    "{who:<6} {:<11} {}{detail}",
                    state.word(),
                    shown(at)
                ))?;
            }
        }
    }
    Ok(exit(&found))
}

fn value(found: &[(&str, String, State)]) -> Value {
    let mut out = json!({ "healthy": found.iter().all(|(_, _, s)| *s == State::Well) });
    if let Some(map) = out.as_object_mut() {
        for (who, at, state) in found {
            map.insert(
                (*who).to_owned(),
                json!({ "status": state.word(), "detail": state.detail(), "address": at }),
            );
        }
    }
    out
}

fn exit(found: &[(&str, String, State)]) -> ExitCode {
    match code(found) {
        None => ExitCode::SUCCESS,
        Some(exit) => exit.into(),
    }
}

fn code(found: &[(&str, String, State)]) -> Option<Exit> {
    let any = |pick: fn(&State) -> bool| found.iter().any(|(_, _, s)| pick(s));
    if any(|s| matches!(s, State::Away(_))) {
        Some(Exit::Unreachable)
    } else if any(|s| matches!(s, State::Unwell(_))) {
        Some(Exit::Failed)
    } else {
        None
    }
}

async fn server(global: &Global) -> State {
    let channel = match dial::admin(global).await {
        Ok(channel) => channel,
        Err(failure) => return State::Away(failure.to_string()),
    };
    let check = HealthClient::new(channel.clone())
        .check(HealthCheckRequest {
            service: String::new(),
        })
        .await;
    match check {
        Err(status) if dial::is_broken(&status) => State::Away(status.message().to_owned()),
        Err(status) => State::Unwell(dial::refused(&status).to_string()),
        Ok(response) if response.get_ref().status() == ServingStatus::Serving => State::Well,
        Ok(_) => {
            // Which trouble it is, where the server tells.
            let status = answer(AdminClient::new(channel).get_status(GetStatusRequest {})).await;
            let trouble: Result<String, Failure> = status.map(|s| s.trouble);
            State::Unwell(
                trouble
                    .ok()
                    .filter(|t| !t.is_empty())
                    .unwrap_or_else(|| "does not issue".to_owned()),
            )
        }
    }
}

/// Asks for bundles, which needs no identity: an agent that refuses is as well as one that answers.
async fn agent(endpoint: &Endpoint) -> State {
    let channel = match dial::workload(endpoint).await {
        Ok(channel) => channel,
        Err(failure) => return State::Away(failure.to_string()),
    };
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let first = async {
        let mut stream = client
            .fetch_x509_bundles(fetch::request(X509BundlesRequest {}))
            .await?
            .into_inner();
        stream.message().await
    };
    match Clock::system().timeout(CALL, first).await {
        Err(_) => State::Unwell(format!("no answer within {} s", CALL.as_secs())),
        Ok(Ok(_)) => State::Well,
        Ok(Err(status)) if dial::is_broken(&status) => State::Away(status.message().to_owned()),
        Ok(Err(status)) if status.code() == Code::PermissionDenied => State::Well,
        Ok(Err(status)) => State::Unwell(dial::refused(&status).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_decides() {
        let well = || State::Well;
        let unwell = || State::Unwell("clock".to_owned());
        let away = || State::Away("gone".to_owned());
        for (states, expect) in [
            (vec![well(), well()], None),
            (vec![well(), unwell()], Some(Exit::Failed)),
            (vec![away(), unwell()], Some(Exit::Unreachable)),
            (vec![well(), away()], Some(Exit::Unreachable)),
        ] {
            let found: Vec<_> = states
                .into_iter()
                .map(|s| ("server", "/a".to_owned(), s))
                .collect();
            assert_eq!(code(&found), expect, "{found:?}");
            assert_eq!(value(&found)["healthy"], expect.is_none());
        }
    }
}
