//! The process's own log, on stderr: text on a terminal, a JSON object a line elsewhere. No secret reaches it: what is
//! secret has no `Debug`.

use std::io::{IsTerminal, stderr};

use clap::Args;
use tracing_subscriber::{EnvFilter, fmt};

use crate::output::Failure;

/// The flags.
#[derive(Args, Clone, Debug)]
pub(crate) struct Log {
    /// What is logged to stderr: error, warn, info, debug, trace, or directives such as `info,attesta_agent=debug`
    #[arg(
        long,
        global = true,
        env = "ATTESTA_LOG",
        value_name = "LEVEL",
        help_heading = "Global options"
    )]
    log_level: Option<String>,
}

impl Log {
    /// Starts the log, once; `quiet` is the level where nobody says.
    ///
    /// # Errors
    /// A level that is none.
    pub(crate) fn start(&self, quiet: &str) -> Result<(), Failure> {
        let wanted = self
            .log_level
            .as_deref()
            .filter(|level| !level.is_empty())
            .unwrap_or(quiet);
        let filter = EnvFilter::builder().parse(wanted).map_err(|e| {
            Failure::usage(format!("--log-level {wanted:?}: {e}"))
                .with_hint("one of error, warn, info, debug, trace, or directives such as info,attesta_agent=debug")
        })?;
        let log = fmt().with_env_filter(filter).with_writer(stderr);
        let started = if stderr().is_terminal() {
            log.try_init()
        } else {
            log.json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .try_init()
        };
        started.map_err(|e| Failure::failed(format!("the log could not be started: {e}")))
    }
}
