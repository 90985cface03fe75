//! The project's own commands. `cargo xtask ci` is what CI and a laptop both run.
//!
//! Must not know the product: it calls cargo and reads the tree.
#![expect(
    clippy::print_stdout,
    reason = "a command for people: its output is its product"
)]

mod ci;
mod testenv;
mod tidy;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Attesta's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold: format, clippy, tidy, build, tests, doc tests. Stops at the first failure.
    Ci,
    /// What no compiler checks: the arrows of ARCHITECTURE.md, file lengths, module docs, words, generated files, links.
    Tidy,
    /// All tests and doc tests, and before them what they need: a Python venv and the probe driver.
    Test {
        /// Passed on to `cargo test`, e.g. `-p attesta-store` (then the doc tests are left out).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Where we are.
struct Workspace {
    root: PathBuf,
    target: PathBuf,
    metadata: Metadata,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::find()?;
    match &arguments.command {
        Task::Ci => ci::run(&workspace),
        Task::Tidy => tidy::run(&workspace),
        Task::Test { arguments } => {
            ci::finish(&ci::test(&workspace, arguments)?);
            Ok(())
        }
    }
}

impl Workspace {
    fn find() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .no_deps()
            .other_options(vec!["--locked".to_owned()])
            .exec()
            .context("cargo metadata")?;
        Ok(Self {
            root: metadata.workspace_root.clone().into_std_path_buf(),
            target: metadata.target_directory.clone().into_std_path_buf(),
            metadata,
        })
    }

    /// A cargo command at the workspace's root; cargo says by `CARGO` which one started us.
    fn cargo(&self) -> Command {
        let mut command =
            Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        command.current_dir(&self.root);
        command
    }
}

/// Runs a command with our output as its own; anything but success is an error.
fn call(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{} {status}", words(command));
    }
    Ok(())
}

fn words(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let mut words = vec![program.file_name().map_or_else(
        || program.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
