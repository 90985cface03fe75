//! `attesta audit`: what was written down. With `--output json` the records' own bytes, one a line.
//!
//! Must not know what a record may hold: newer servers write more, and older records less.

mod line;

use std::{process::ExitCode, time::Duration};

use attesta_model::Action;
use attesta_runtime::Clock;
use attesta_wire::proto::attesta::admin::v1::{
    Cursor, ListRecordsRequest, Record, TailRecordsRequest, admin_client::AdminClient,
};
use clap::{Args, Subcommand};
use serde_json::Value;
use tonic::transport::Channel;

use super::{
    dial::{self, MESSAGE, answer},
    values::Moment,
};
use crate::{
    args::{Global, Output},
    output::{Failure, note, raw, say, shown},
};

/// Largest page asked for.
const PAGE: u32 = 1000;
/// How many of the newest records are looked through for a decision that is not found by its name.
const SEARCHED: u32 = 20_000;
/// The first wait after a broken stream; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// `attesta audit …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List records, the newest first
    #[command(after_help = "Examples:\n  \
        attesta audit list --since 1h --subject spiffe://example.org/payments\n  \
        attesta audit list --action issue_x509 --limit 10 --output json")]
    List(List),
    /// Show everything about a credential, a decision or a correlation id
    ///
    /// A certificate's id is its serial in lower-case hexadecimal, whole bytes; a token's is its jti.
    #[command(after_help = "Example:\n  attesta audit show 0199d2c17b7a4f3e8a1b2c3d4e5f6071")]
    Show(Show),
    /// Follow the log
    #[command(after_help = "Example:\n  attesta audit tail -n 5 --action issue_x509")]
    Tail(Tail),
}

/// What is given must hold.
#[derive(Args, Clone)]
pub(crate) struct Filters {
    /// About this SPIFFE ID
    #[arg(long, value_name = "SPIFFE_ID")]
    subject: Option<String>,
    /// About this instance: process:BOOT:PID:START, container:ID or node
    #[arg(long)]
    instance: Option<String>,
    /// Of this credential: a serial in hexadecimal, or a jti
    #[arg(long, value_name = "ID")]
    credential: Option<String>,
    /// Of this correlation id
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Of this action: issue_x509, issue_jwt, attest_node, entry_create, …
    #[arg(long, value_parser = action)]
    action: Option<String>,
}

/// Which records to list.
#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    filters: Filters,
    /// Not before: 1h ago, or 2026-01-02T15:04:05Z
    #[arg(long, value_name = "WHEN")]
    since: Option<Moment>,
    /// Before
    #[arg(long, value_name = "WHEN")]
    until: Option<Moment>,
    /// At most so many; 0 is all
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

/// Which records to show.
#[derive(Args)]
pub(crate) struct Show {
    /// A credential's, a decision's or a correlation's id
    id: String,
}

/// Which records to follow.
#[derive(Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    filters: Filters,
    /// First the newest so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    lines: u32,
}

fn action(text: &str) -> Result<String, String> {
    if Action::ALL.iter().any(|a| a.as_str() == text) {
        return Ok(text.to_owned());
    }
    let known: Vec<_> = Action::ALL.iter().map(|a| a.as_str()).collect();
    Err(format!("no such action; there are {}", known.join(", ")))
}

impl Filters {
    fn query(self) -> ListRecordsRequest {
        ListRecordsRequest {
            subject: self.subject.unwrap_or_default(),
            instance: self.instance.unwrap_or_default(),
            credential_id: self.credential.unwrap_or_default(),
            correlation_id: self.correlation.unwrap_or_default(),
            kind: self.action.unwrap_or_default(),
            newest_first: true,
            ..Default::default()
        }
    }
}

/// Runs the command.
pub(super) async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let channel = dial::admin(global).await?;
    let log = Log {
        channel,
        output: global.output,
    };
    match command {
        Command::List(list) => {
            let now = Clock::system().now();
            let ms = |m: Option<Moment>| m.map_or(0, |m| m.behind(now).as_millisecond());
            let query = ListRecordsRequest {
                since_ms: ms(list.since),
                until_ms: ms(list.until),
                ..list.filters.query()
            };
            log.each(query, list.limit, |record| log.print(record))
                .await?;
        }
        Command::Show(show) => log.show(&show.id).await?,
        Command::Tail(tail) => log.tail(tail, global).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A record as one line, safe on a terminal.
pub(super) fn line(record: &Record) -> String {
    line::line(record)
}

/// Whether a record is that of a refusal.
pub(super) fn is_refusal(record: &Record) -> bool {
    let body: Value = serde_json::from_slice(&record.body_json).unwrap_or_default();
    body.get("outcome").and_then(Value::as_str) == Some("denied")
}

/// The log of one server, and how it is printed.
struct Log {
    channel: Channel,
    output: Output,
}

impl Log {
    fn client(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE)
    }

    /// Gives the records of a query page by page; `limit` 0 is all. Says how many there were.
    async fn each(
        &self,
        query: ListRecordsRequest,
        limit: u32,
        mut take: impl FnMut(&Record) -> anyhow::Result<()>,
    ) -> anyhow::Result<u32> {
        let mut left = if limit == 0 { u32::MAX } else { limit };
        let mut next = String::new();
        loop {
            let page_size = i32::try_from(left.min(PAGE)).unwrap_or(i32::MAX);
            let request = ListRecordsRequest {
                page_token: next,
                page_size,
                ..query.clone()
            };
            let page = answer(self.client().list_records(request)).await?;
            for record in &page.records {
                take(record)?;
                left = left.saturating_sub(1);
                if left == 0 {
                    break;
                }
            }
            if left == 0 || page.next_page_token.is_empty() {
                return Ok(if limit == 0 {
                    u32::MAX - left
                } else {
                    limit - left
                });
            }
            next = page.next_page_token;
        }
    }

    fn print(&self, record: &Record) -> anyhow::Result<()> {
        match self.output {
            Output::Json => raw(&[record.body_json.as_slice(), b"\n"].concat())?,
            Output::Text => say(line::line(record))?,
        }
        Ok(())
    }

    fn print_whole(&self, record: &Record) -> anyhow::Result<()> {
        match self.output {
            Output::Json => self.print(record),
            Output::Text => Ok(say(format!(
                "{}\n",
                line::block(record).to_string().trim_end()
            ))?),
        }
    }

    async fn show(&self, id: &str) -> anyhow::Result<()> {
        let by_name = ListRecordsRequest {
            credential_id: id.to_owned(),
            ..Default::default()
        };
        let by_correlation = ListRecordsRequest {
            correlation_id: id.to_owned(),
            ..Default::default()
        };
        for query in [by_name, by_correlation] {
            if self
                .each(query, 0, |record| self.print_whole(record))
                .await?
                > 0
            {
                return Ok(());
            }
        }
        // The record of a credential is filed under the credential's name; its decision stands inside.
        let mut found = false;
        let newest = ListRecordsRequest {
            newest_first: true,
            ..Default::default()
        };
        let searched = self
            .each(newest, SEARCHED, |record| {
                let body: Value = serde_json::from_slice(&record.body_json).unwrap_or_default();
                if body.get("decision").and_then(Value::as_str) == Some(id) {
                    found = true;
                    self.print_whole(record)?;
                }
                Ok(())
            })
            .await?;
        if found {
            return Ok(());
        }
        Err(Failure::failed(format!("no record of {id}"))
            .with_hint(format!("looked for it as credential and correlation id, and among the newest {searched} records as decision id"))
            .into())
    }

    /// Follows the log until the process is ended; goes on where it was when the server comes back.
    async fn tail(mut self, tail: Tail, global: &Global) -> anyhow::Result<()> {
        let query = tail.filters.query();
        let mut request = TailRecordsRequest {
            after: Vec::new(),
            subject: query.subject.clone(),
            instance: query.instance.clone(),
            credential_id: query.credential_id.clone(),
            correlation_id: query.correlation_id.clone(),
            kind: query.kind.clone(),
        };
        if tail.lines > 0 {
            let mut newest = Vec::new();
            self.each(query, tail.lines, |record| {
                newest.push(record.clone());
                Ok(())
            })
            .await?;
            for record in newest.iter().rev() {
                self.print(record)?;
            }
            // Nothing between the two calls is missed.
            if let Some(last) = newest.first() {
                request.after = vec![Cursor {
                    writer: last.writer.clone(),
                    seq: last.seq,
                }];
            }
        }
        let mut wait = FIRST;
        let mut said = false;
        loop {
            let broken = match self.follow(&mut request, &mut wait, &mut said).await? {
                None => "the server ended the stream".to_owned(),
                Some(why) => why,
            };
            if !said {
                note(format!("{}; trying again", shown(&broken)));
                said = true;
            }
            Clock::system().sleep(wait).await;
            wait = (wait * 2).min(LONGEST);
            if let Ok(channel) = dial::admin(global).await {
                self.channel = channel;
            }
        }
    }

    /// One stream, until it ends; gives why, where the call broke.
    async fn follow(
        &self,
        request: &mut TailRecordsRequest,
        wait: &mut Duration,
        said: &mut bool,
    ) -> anyhow::Result<Option<String>> {
        let later = |status: tonic::Status| -> Result<Option<String>, Failure> {
            if dial::is_broken(&status) {
                return Ok(Some("the connection to the server broke".to_owned()));
            }
            if status.code() == tonic::Code::Unavailable {
                return Ok(Some(status.message().to_owned()));
            }
            Err(dial::refused(&status))
        };
        // Not `answer`: a quiet log sends nothing, perhaps not even headers.
        let mut stream = match self.client().tail_records(request.clone()).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(later(status)?),
        };
        loop {
            match stream.message().await {
                Ok(None) => return Ok(None),
                Err(status) => return Ok(later(status)?),
                Ok(Some(batch)) => {
                    (*wait, *said) = (FIRST, false);
                    for record in &batch.records {
                        self.print(record)?;
                        request.after.retain(|c| c.writer != record.writer);
                        request.after.push(Cursor {
                            writer: record.writer.clone(),
                            seq: record.seq,
                        });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_known_words() {
        assert_eq!(action("issue_x509").as_deref(), Ok("issue_x509"));
        assert!(
            action("issue")
                .unwrap_err()
                .contains("issue_x509, issue_jwt")
        );
    }
}
