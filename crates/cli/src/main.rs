//! The binary `attesta`: what is on the command line, who does it, and how the process ends.
//!
//! The only room that knows arguments, environment and exit codes.

mod args;
mod ask;
mod config;
mod demo;
mod log;
mod output;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand, error::ErrorKind};

use crate::{
    args::{Global, Output},
    log::Log,
    output::{Failure, report},
};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Short-lived, attested identities for workloads
#[derive(Parser)]
#[command(name = "attesta", version, after_help = EXITS, after_long_help = EXITS, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    log: Log,
}

const EXITS: &str = "\
Start here:
  attesta run --demo --once

Exit codes:
  0  done
  1  refused, or failed
  2  the command line or the configuration is wrong
  3  nobody answers: no server, no agent
Errors are on stderr: `error:`, then `cause:` and `hint:` lines; with --output json one JSON object.";

#[derive(Subcommand)]
enum Command {
    /// Run server and agent in one process; needs no configuration
    Run(serve::RunArgs),
    /// Run a server
    #[command(subcommand)]
    Server(ServerCommand),
    /// Check the configuration, or print its reference
    #[command(subcommand)]
    Config(config::ConfigCommand),
    #[command(flatten)]
    Ask(ask::Ask),
    /// One service of `attesta run --demo`
    #[command(hide = true)]
    DemoService(demo::DemoService),
}

/// Commands of a server's own process; the others are asked through its admin socket.
#[derive(Subcommand)]
enum ServerCommand {
    /// Run a server; agents run elsewhere
    Run(serve::ServerRun),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    let output = cli.global.output;
    match start(cli) {
        Ok(code) => code,
        Err(error) => report(&error, output),
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let quiet = match cli.command {
        Command::Server(_) | Command::Ask(ask::Ask::Agent(_)) => "info",
        _ => "warn",
    };
    cli.log.start(quiet)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(run(cli.command, &cli.global));
    // Whatever still blocks (a name service, a disk) does not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => serve::run(args, global).await,
        Command::Server(ServerCommand::Run(args)) => serve::server_run(args, global).await,
        Command::Config(command) => config::command(&command, global),
        Command::Ask(ask) => ask::run(ask, global).await,
        Command::DemoService(service) => demo::service(service, global).await,
    }
}

/// Help, the version, or a command line that cannot be understood.
fn unparsed(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // With stdout closed nobody reads it.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if wants_json() {
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let (what, rest) = text.split_once("\n\n").unwrap_or((text, ""));
        let failure = Failure::usage(what.trim().replace('\n', " "));
        let rest = rest.trim().replace('\n', " ");
        return report(
            &if rest.is_empty() {
                failure
            } else {
                failure.with_hint(rest)
            }
            .into(),
            Output::Json,
        );
    }
    drop(error.print());
    // What clap's own exit has as well: wrong use.
    ExitCode::from(2)
}

/// Whether JSON is asked for by a command line that could not be parsed.
fn wants_json() -> bool {
    let mut words = std::env::args_os().skip(1).peekable();
    while let Some(word) = words.next() {
        if word == "--output=json"
            || (word == "--output" && words.peek().is_some_and(|next| next == "json"))
        {
            return true;
        }
    }
    false
}
