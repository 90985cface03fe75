//! `attesta validate`: whether what someone showed is an identity, as the Workload API's agent sees it.
//!
//! Checks nothing by itself: keys and rules are the agent's.

use std::{io::Read, process::ExitCode};

use attesta_runtime::Clock;
use attesta_spiffe::{SpiffeId, jwtsvid::MAX_JWT_BYTES};
use attesta_wire::proto::workload::{
    ValidateJwtsvidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    dial::{self, answer},
    endpoint::Endpoint,
    fetch,
};
use crate::{
    args::{Global, Output},
    output::{Block, Failure, emit, moment, say},
};

/// `attesta validate …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check a JWT-SVID that someone else has shown
    ///
    /// Give the token on stdin: what stands on the command line is visible to every user of the machine.
    #[command(after_help = "Examples:\n  \
        attesta validate jwt --audience orders < token\n  \
        attesta validate jwt --audience orders --output json -")]
    Jwt(Jwt),
}

/// A token to check.
#[derive(Args)]
pub(crate) struct Jwt {
    /// Whom the token must be meant for
    #[arg(long)]
    audience: String,
    /// The token; `-`, or nothing, is stdin
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
}

/// Runs the command.
pub(super) async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let Command::Jwt(jwt) = command;
    let token = match jwt.token {
        Some(token) if token != "-" => Zeroizing::new(token),
        _ => stdin()?,
    };
    let endpoint = Endpoint::of(global)?;
    let mut client = SpiffeWorkloadApiClient::new(dial::workload(&endpoint).await?);
    let request = ValidateJwtsvidRequest {
        audience: jwt.audience,
        svid: token.trim().to_owned(),
    };
    let valid = answer(client.validate_jwtsvid(fetch::request(request))).await?;
    // C181: what the standard asks for must be there.
    let id = SpiffeId::parse(&valid.spiffe_id)
        .map_err(|e| Failure::failed("the agent's answer has no SPIFFE ID").with_cause(e))?;
    let claims = object(valid.claims.unwrap_or_default());
    match global.output {
        Output::Json => {
            emit(&json!({ "valid": true, "spiffe_id": id.as_str(), "claims": claims }))?
        }
        Output::Text => {
            let mut block = Block::default();
            block.line("Valid", "true").line("SPIFFE ID", id.as_str());
            if let Some(at) = claims
                .get("exp")
                .and_then(Value::as_i64)
                .and_then(|s| Timestamp::from_second(s).ok())
            {
                block.line("Expires", moment(at, Clock::system().now()));
            }
            block.line("Claims", claims.to_string());
            say(block.to_string().trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn stdin() -> anyhow::Result<Zeroizing<String>> {
    // Room for all of it: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_JWT_BYTES + 3));
    let most = u64::try_from(MAX_JWT_BYTES).unwrap_or(u64::MAX);
    std::io::stdin()
        .lock()
        .take(most + 2)
        .read_to_end(&mut bytes)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::usage("stdin holds no token"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A protobuf struct as JSON. Its numbers are floating; whole ones are written as integers again, as claims have them.
fn object(claims: prost_types::Struct) -> Value {
    Value::Object(
        claims
            .fields
            .into_iter()
            .map(|(k, v)| (k, json_value(v)))
            .collect(),
    )
}

fn json_value(value: prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(n)) => number(n),
        Some(Kind::StringValue(s)) => Value::String(s),
        Some(Kind::BoolValue(b)) => Value::Bool(b),
        Some(Kind::StructValue(s)) => object(s),
        Some(Kind::ListValue(l)) => Value::Array(l.values.into_iter().map(json_value).collect()),
    }
}

fn number(n: f64) -> Value {
    // Up to 2^53 a whole number in a double is exact; its digits then are those of the integer.
    if n.fract() == 0.0
        && n.abs() <= 9_007_199_254_740_992.0
        && let Ok(whole) = format!("{n:.0}").parse::<i64>()
    {
        return Value::from(whole);
    }
    Value::from(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_integers_again() {
        for (n, expect) in [
            (1_764_000_000.0, "1764000000"),
            (0.0, "0"),
            (-3.0, "-3"),
            (1.5, "1.5"),
            (1e300, "1e300"),
            (f64::NAN, "null"),
        ] {
            let text = number(n).to_string();
            assert_eq!(text.replace('+', ""), expect, "{n}");
        }
    }
}
