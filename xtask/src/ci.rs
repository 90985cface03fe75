//! The steps that must hold, in order, each with its name and time.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::testenv::TestEnv;
use crate::{Workspace, call, tidy};

/// Runs all steps; stops at the first that fails.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let start = now();
    step("format", || {
        call(workspace.cargo().args(["fmt", "--all", "--check"]))
    })?;
    step("clippy", || {
        call(workspace.cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    step("tidy", || tidy::run(workspace))?;
    step("build", || {
        call(
            workspace
                .cargo()
                .args(["build", "--workspace", "--all-targets", "--locked"]),
        )
    })?;
    let skipped = test(workspace, &[])?;
    finish(&skipped);
    println!("ci: all steps passed in {}", seconds(start.elapsed()));
    Ok(())
}

/// Runs the tests, with `arguments` for `cargo test` when there are any, else all and the doc tests. Gives what was
/// skipped for want of a tool.
pub(crate) fn test(workspace: &Workspace, arguments: &[OsString]) -> Result<Vec<String>> {
    let mut environment = TestEnv::default();
    step("test environment", || {
        environment = TestEnv::prepare(workspace)?;
        Ok(())
    })?;
    step("tests", || {
        let mut command = workspace.cargo();
        command.args(["test", "--locked"]);
        if arguments.is_empty() {
            command.args(["--workspace", "--lib", "--bins", "--tests"]);
        }
        call(command.args(arguments).envs(environment.variables()))
    })?;
    if arguments.is_empty() {
        step("doc tests", || {
            call(
                workspace
                    .cargo()
                    .args(["test", "--locked", "--workspace", "--doc"])
                    .envs(environment.variables()),
            )
        })?;
    }
    Ok(environment.into_missing())
}

/// Says once more, where the eye is at the end, what did not run.
pub(crate) fn finish(skipped: &[String]) {
    for what in skipped {
        println!("SKIPPED: {what}");
    }
}

fn step(name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("==> {name}");
    let start = now();
    work().with_context(|| format!("step '{name}' after {}", seconds(start.elapsed())))?;
    println!("<== {name}: ok, {}", seconds(start.elapsed()));
    Ok(())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures how long a step of the build took; no product code runs here"
)]
fn now() -> Instant {
    Instant::now()
}
