//! The commands that ask a running server or agent: one file each.
//!
//! Must not know how servers and agents work inside: everything here goes through their sockets, and holds no state.

mod agent;
mod audit;
mod bundle;
mod dial;
mod docs;
mod endpoint;
mod entry;
mod explain;
mod fetch;
mod health;
mod token;
mod validate;
mod values;

use std::process::ExitCode;

use clap::Subcommand;

use crate::args::Global;

/// What can be asked.
#[derive(Subcommand)]
pub(crate) enum Ask {
    /// Who gets which SPIFFE ID: create, show, list, change and delete entries
    #[command(subcommand)]
    Entry(entry::Command),
    /// Run an agent; list, show, ban and evict agents
    #[command(subcommand)]
    Agent(agent::Command),
    /// Join tokens, by which a node may attest once
    #[command(subcommand)]
    Token(token::Command),
    /// The trust bundle
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Fetch this process's own identity from the Workload API
    #[command(subcommand)]
    Fetch(fetch::Command),
    /// Check an identity that someone else has shown
    #[command(subcommand)]
    Validate(validate::Command),
    /// What was written down: issued, refused, changed
    #[command(subcommand)]
    Audit(audit::Command),
    /// Why a process gets an identity, or does not
    Explain(explain::Explain),
    /// Whether server and agent are well
    Health(health::Health),
    /// Completions for a shell
    Completions(docs::Completions),
    /// Generated pages
    #[command(subcommand, hide = true)]
    Docs(docs::Docs),
}

/// Asks.
///
/// # Errors
/// A [`crate::output::Failure`] that knows its exit code, or an error of this machine (a file, a closed stdout).
pub(crate) async fn run(ask: Ask, global: &Global) -> anyhow::Result<ExitCode> {
    match ask {
        Ask::Entry(command) => entry::run(command, global).await,
        Ask::Agent(command) => agent::run(command, global).await,
        Ask::Token(command) => token::run(command, global).await,
        Ask::Bundle(command) => bundle::run(command, global).await,
        Ask::Fetch(command) => fetch::run(command, global).await,
        Ask::Validate(command) => validate::run(command, global).await,
        Ask::Audit(command) => audit::run(command, global).await,
        Ask::Explain(explain) => explain::run(explain, global).await,
        Ask::Health(health) => health::run(health, global).await,
        Ask::Completions(completions) => docs::completions(&completions),
        Ask::Docs(docs) => docs::run(&docs),
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn leaves(command: &Command, path: &str, check: &mut impl FnMut(&str, &Command)) {
        if !command.has_subcommands() {
            check(path, command);
        }
        for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            leaves(sub, &format!("{path} {}", sub.get_name()), check);
        }
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        let root = <crate::Cli as clap::CommandFactory>::command();
        root.clone().debug_assert();
        let mut examples = 0;
        leaves(
            &Ask::augment_subcommands(Command::new("attesta")),
            "attesta",
            &mut |path, command| {
                // What serves is another file's.
                if path == "attesta agent run" {
                    return;
                }
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.starts_with("Example"), "{path} has no example");
                for line in help.lines() {
                    assert!(line.chars().count() < 100, "{path}: wraps: {line}");
                }
                for line in help
                    .lines()
                    .map(str::trim)
                    .filter(|l| l.starts_with("attesta "))
                {
                    let words = line.split([';', '|', '>', '<']).next().unwrap_or(line);
                    let parsed = root.clone().try_get_matches_from(
                        words.split_whitespace().map(|w| w.trim_matches('\'')),
                    );
                    assert!(parsed.is_ok(), "{path}: {line}: {parsed:?}");
                    examples += 1;
                }
            },
        );
        assert!(examples > 15, "{examples}");
    }
}
