//! What became of each entry of a batch, and the exit code that follows.
//!
//! Must not know how it was asked for.

use std::process::ExitCode;

use attesta_runtime::Clock;
use attesta_wire::proto::{attesta::admin::v1 as api, spire::api::types};
use serde_json::{Value, json};

use super::render;
use crate::{
    args::Output,
    ask::dial,
    output::{emit, note, say, shown},
};

/// What became of one entry.
pub(super) struct Outcome {
    status: types::Status,
    /// As it is now, or was there already.
    present: Option<api::Entry>,
    asked: api::Entry,
}

impl Outcome {
    pub(super) fn new(result: api::EntryResult, asked: api::Entry) -> Self {
        Self {
            status: result.status.unwrap_or_default(),
            present: result.entry,
            asked,
        }
    }

    pub(super) fn missing(id: &str) -> Self {
        let base = types::Entry {
            id: id.to_owned(),
            ..Default::default()
        };
        let status = types::Status {
            code: tonic::Code::NotFound.into(),
            message: "entry not found".to_owned(),
        };
        Self {
            status,
            present: None,
            asked: api::Entry {
                base: Some(base),
                extras: None,
            },
        }
    }

    fn ok(&self) -> bool {
        self.status.code == 0
    }

    fn code(&self) -> &'static str {
        dial::word(tonic::Code::from(self.status.code))
    }

    /// By what the caller knows it.
    fn name(&self) -> String {
        match render::spiffe_id(&self.asked) {
            id if id.is_empty() => self
                .asked
                .base
                .as_ref()
                .map(|b| b.id.clone())
                .unwrap_or_default(),
            id => id,
        }
    }

    fn json(&self) -> Value {
        json!({
            "ok": self.ok(),
            "code": self.code(),
            "message": if self.ok() { "" } else { self.status.message.as_str() },
            "entry": self.present.as_ref().map_or_else(|| render::json(&self.asked), render::json),
        })
    }
}

/// Prints results; the exit code says whether all went well.
pub(super) fn tell(
    results: &[Outcome],
    done: &str,
    one: bool,
    output: Output,
) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => {
            emit(&json!({ "results": results.iter().map(Outcome::json).collect::<Vec<_>>() }))?
        }
        Output::Text => {
            for result in results {
                match &result.present {
                    Some(entry) if result.ok() && one => {
                        say(render::block(entry, Clock::system().now())
                            .to_string()
                            .trim_end())?
                    }
                    Some(entry) if result.ok() => {
                        let id = entry
                            .base
                            .as_ref()
                            .map(|b| b.id.as_str())
                            .unwrap_or_default();
                        say(format!(
                            "{}  {}",
                            shown(id),
                            shown(&render::spiffe_id(entry))
                        ))?;
                    }
                    _ if result.ok() => say(shown(&result.name()))?,
                    present => {
                        note(format!(
                            "error: {} was not {done}: {} ({})",
                            shown(&result.name()),
                            shown(&result.status.message),
                            result.code()
                        ));
                        if let Some(id) = present
                            .as_ref()
                            .and_then(|e| e.base.as_ref())
                            .map(|b| &b.id)
                        {
                            note(format!("hint: it is there as entry {}", shown(id)));
                        }
                    }
                }
            }
            if !one {
                note(format!(
                    "{} of {} {done}",
                    results.iter().filter(|r| r.ok()).count(),
                    results.len()
                ));
            }
        }
    }
    Ok(ExitCode::from(u8::from(!results.iter().all(Outcome::ok))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_what_was_asked_and_what_is_there() {
        let entry = |id: &str| api::Entry {
            base: Some(types::Entry {
                id: id.to_owned(),
                ..Default::default()
            }),
            extras: None,
        };
        let status = |code: tonic::Code| {
            Some(types::Status {
                code: code.into(),
                message: "m".to_owned(),
            })
        };
        let made = api::EntryResult {
            status: status(tonic::Code::Ok),
            entry: Some(entry("new")),
        };
        let there = api::EntryResult {
            status: status(tonic::Code::AlreadyExists),
            entry: Some(entry("old")),
        };
        let bad = api::EntryResult {
            status: status(tonic::Code::InvalidArgument),
            entry: None,
        };
        for (result, ok, code, message, id) in [
            (made, true, "OK", "", "new"),
            (there, false, "AlreadyExists", "m", "old"),
            (bad, false, "InvalidArgument", "m", "asked"),
        ] {
            let value = Outcome::new(result, entry("asked")).json();
            assert_eq!(
                (value["ok"].as_bool(), value["code"].as_str()),
                (Some(ok), Some(code))
            );
            assert_eq!(
                (
                    value["message"].as_str(),
                    value["entry"]["entry_id"].as_str()
                ),
                (Some(message), Some(id))
            );
        }
        assert_eq!(Outcome::missing("x").name(), "x");
    }
}
