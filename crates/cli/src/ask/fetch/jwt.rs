//! `attesta fetch jwt`: a token for an audience, once or renewed at half of its life.

use std::{process::ExitCode, time::Duration};

use attesta_runtime::Clock;
use attesta_spiffe::SpiffeId;
use attesta_wire::proto::workload::{
    JwtsvidRequest, JwtsvidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use clap::Args;
use jiff::Timestamp;
use tonic::Code;
use zeroize::Zeroizing;

use super::{Common, Patience, may_retry, refused, render, request, svid::Token};
use crate::{
    args::{Global, Output},
    ask::{dial, endpoint::Endpoint},
    output::{Failure, raw, say},
};

/// The shortest time between two tokens while watching.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long a token without an end is taken to be good.
const UNKNOWN: Duration = Duration::from_secs(60);

/// What to fetch.
#[derive(Args)]
pub(crate) struct Jwt {
    #[command(flatten)]
    common: Common,
    /// Whom it is for; may be given more than once
    #[arg(long, required = true)]
    audience: Vec<String>,
}

impl Jwt {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let endpoint = Endpoint::of(global)?;
        let mut patience = Patience::new(&self.common);
        loop {
            match self.fetch(&endpoint, &patience).await {
                Ok(tokens) => {
                    print(&tokens, global.output)?;
                    patience.fed();
                    if !self.common.watch {
                        return Ok(ExitCode::SUCCESS);
                    }
                    let wait = tokens
                        .iter()
                        .map(|t| half(t, patience.clock.now()))
                        .min()
                        .unwrap_or(UNKNOWN);
                    drop(tokens);
                    patience.clock.sleep(wait).await;
                }
                Err((failure, code)) => {
                    if !may_retry(code) {
                        return Err(failure.into());
                    }
                    patience.tell(&failure);
                    if !patience.again().await {
                        return Err(failure.into());
                    }
                }
            }
        }
    }

    async fn fetch(
        &self,
        endpoint: &Endpoint,
        patience: &Patience,
    ) -> Result<Vec<Token>, (Failure, Code)> {
        let channel = dial::workload(endpoint)
            .await
            .map_err(|f| (f, Code::Unavailable))?;
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let message = JwtsvidRequest {
            audience: self.audience.clone(),
            spiffe_id: self
                .common
                .spiffe_id
                .as_ref()
                .map(|id| id.as_str().to_owned())
                .unwrap_or_default(),
        };
        match patience
            .clock
            .timeout(patience.left(), client.fetch_jwtsvid(request(message)))
            .await
        {
            Ok(Ok(response)) => tokens(response.into_inner(), self.common.spiffe_id.as_ref())
                .map_err(|why| {
                    (
                        Failure::failed("the agent's message is not usable").with_cause(why),
                        Code::InvalidArgument,
                    )
                }),
            Ok(Err(status)) => Err((refused(&status), status.code())),
            Err(elapsed) => Err((
                Failure::unreachable(format!("no answer from the agent at {endpoint}"))
                    .with_cause(elapsed),
                Code::DeadlineExceeded,
            )),
        }
    }
}

/// Reads a message whole; a later identity with the hint of an earlier one is left out (C185, C194).
fn tokens(response: JwtsvidResponse, wanted: Option<&SpiffeId>) -> Result<Vec<Token>, String> {
    if response.svids.is_empty() {
        return Err("it has no SVID".to_owned());
    }
    let mut out: Vec<Token> = Vec::new();
    for mut svid in response.svids {
        let text = Zeroizing::new(std::mem::take(&mut svid.svid));
        let token = Token::read(&svid.spiffe_id, text, svid.hint)?;
        if wanted.is_some_and(|id| *id != token.id) {
            return Err(format!(
                "it has a token of {}, which was not asked for",
                token.id
            ));
        }
        if token.hint.is_empty() || !out.iter().any(|t| t.hint == token.hint) {
            out.push(token);
        }
    }
    Ok(out)
}

/// How long until half of what is left of its life, counted from its issuance where that is known.
fn half(token: &Token, now: Timestamp) -> Duration {
    let Some(end) = token.expires_at else {
        return UNKNOWN;
    };
    let start = token.issued_at.unwrap_or(now).as_second();
    let due = start.saturating_add(end.as_second().saturating_sub(start) / 2);
    let wait = u64::try_from(due.saturating_sub(now.as_second())).unwrap_or(0);
    Duration::from_secs(wait).max(SHORTEST)
}

fn print(tokens: &[Token], output: Output) -> std::io::Result<()> {
    match output {
        Output::Json => raw(Zeroizing::new(format!("{}\n", render::jwt_json(tokens))).as_bytes()),
        Output::Text => {
            let now = Clock::system().now();
            tokens
                .iter()
                .try_for_each(|token| say(render::jwt(token, now)))
        }
    }
}

#[cfg(test)]
mod tests {
    use attesta_wire::proto::workload::Jwtsvid;
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    fn svid(id: &str, sub: &str, hint: &str) -> Jwtsvid {
        let body =
            serde_json::json!({ "sub": sub, "jti": "j", "iat": 1000, "exp": 1600 }).to_string();
        Jwtsvid {
            spiffe_id: id.to_owned(),
            svid: format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(body)),
            hint: hint.to_owned(),
        }
    }

    #[test]
    fn messages_are_checked_and_hints_are_unique() {
        let (a, b) = ("spiffe://td/a", "spiffe://td/b");
        let read = |svids: Vec<Jwtsvid>, wanted: Option<&str>| {
            let wanted = wanted.map(|id| SpiffeId::parse(id).unwrap());
            tokens(JwtsvidResponse { svids }, wanted.as_ref())
                .map(|t| t.iter().map(|t| t.id.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(
            read(vec![svid(a, a, "x"), svid(b, b, "x"), svid(b, b, "")], None).unwrap(),
            [a, b]
        );
        assert_eq!(read(vec![svid(a, a, "")], Some(a)).unwrap(), [a]);
        for (svids, wanted, expect) in [
            (vec![], None, "no SVID"),
            (vec![svid(a, b, "")], None, "another's"),
            (vec![svid("x", "x", "")], None, "x: "),
            (vec![svid(b, b, "")], Some(a), "not asked for"),
            (
                vec![Jwtsvid {
                    spiffe_id: a.to_owned(),
                    ..Default::default()
                }],
                None,
                "no JWT",
            ),
            (
                vec![Jwtsvid {
                    spiffe_id: a.to_owned(),
                    svid: "a.b.c.d".to_owned(),
                    hint: String::new(),
                }],
                None,
                "no JWT",
            ),
        ] {
            let error = read(svids, wanted).unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn half_of_a_life() {
        let token = |iat: Option<i64>, exp: Option<i64>| {
            let time = |s: Option<i64>| s.map(|s| Timestamp::from_second(s).unwrap());
            let mut t = tokens(
                JwtsvidResponse {
                    svids: vec![svid("spiffe://td/a", "spiffe://td/a", "")],
                },
                None,
            )
            .unwrap()
            .remove(0);
            (t.issued_at, t.expires_at) = (time(iat), time(exp));
            t
        };
        let now = Timestamp::from_second(1100).unwrap();
        for (iat, exp, expect) in [
            (Some(1000), Some(1600), 200),
            (None, Some(1600), 250),
            (Some(1000), Some(1100), 1),
            (Some(1000), None, 60),
        ] {
            assert_eq!(
                half(&token(iat, exp), now).as_secs(),
                expect,
                "{iat:?} {exp:?}"
            );
        }
    }
}
