//! What the tests need that cargo does not bring: a Python venv with pinned SPIFFE clients, and the probe driver.
//!
//! Everything goes under the target directory. What cannot be had is said loudly, and fails when `CI=true`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{Workspace, call};

/// What the tests import; `spiffe` is SPIFFE's client as people use it, unmodified.
const PYTHON_PACKAGES: &[&str] = &[
    "spiffe==0.3.2",
    "spiffe-tls==0.4.0",
    "PyJWT[crypto]==2.15.1",
    "cryptography==50.0.2",
];
/// Python with [`PYTHON_PACKAGES`].
const PYTHON: &str = "ATTESTA_TEST_PYTHON";
/// The foreign SPIFFE client that measures servers; its source lies beside the checkout, not in it.
const PROBE: &str = "ATTESTA_TEST_PROBE";

/// What was found or made.
#[derive(Default)]
pub(crate) struct TestEnv {
    variables: Vec<(&'static str, OsString)>,
    missing: Vec<String>,
}

impl TestEnv {
    /// Finds or makes all of it.
    pub(crate) fn prepare(workspace: &Workspace) -> Result<Self> {
        let home = workspace.target.join("testenv");
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let mut environment = Self::default();
        let mut lacking = Vec::new();

        match python(&home) {
            Ok(python) => environment.set(PYTHON, python),
            Err(why) => lacking.push(format!("tests with Python clients: {why:#}")),
        }
        let source = workspace.root.join("../shared/probe");
        if source.is_dir() {
            match probe(&source, &home) {
                Ok(probe) => environment.set(PROBE, probe),
                Err(why) => lacking.push(format!("tests with the probe driver: {why:#}")),
            }
        } else {
            // Not part of the project, so that a checkout alone can still pass: the empty value says that it was seen.
            environment.variables.push((PROBE, OsString::new()));
            environment.miss(format!(
                "tests with the probe driver: no {}",
                source.display()
            ));
        }
        if !starts("openssl", "version") {
            lacking.push("tests with openssl: no openssl found".to_owned());
        }

        for what in lacking.iter().cloned() {
            environment.miss(what);
        }
        if !lacking.is_empty() && std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            bail!(
                "with CI=true nothing may be missing: {}",
                lacking.join("; ")
            );
        }
        Ok(environment)
    }

    /// For the tests' environment.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, &OsString)> {
        self.variables.iter().map(|(name, value)| (*name, value))
    }

    /// What will be skipped.
    pub(crate) fn into_missing(self) -> Vec<String> {
        self.missing
    }

    fn set(&mut self, name: &'static str, path: PathBuf) {
        println!("    {name}={}", path.display());
        self.variables.push((name, path.into_os_string()));
    }

    fn miss(&mut self, what: String) {
        println!("    SKIPPED: {what}");
        self.missing.push(what);
    }
}

/// A venv with the packages; made anew when their list has changed or a former try did not finish.
fn python(home: &Path) -> Result<PathBuf> {
    let venv = home.join("python");
    let python = venv.join("bin/python");
    let stamp = venv.join("packages.txt");
    let wanted = PYTHON_PACKAGES.join("\n");
    if python.is_file() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    if !starts("python3", "--version") {
        bail!("no python3 found");
    }
    call(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
    )
    .context("cannot make a venv")?;
    call(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .arg("--disable-pip-version-check")
            .args(PYTHON_PACKAGES),
    )
    .context("pip cannot install the packages")?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// The driver, built by Go, whose cache makes a second time cheap.
fn probe(source: &Path, home: &Path) -> Result<PathBuf> {
    if !starts("go", "version") {
        bail!("no go found");
    }
    let probe = home.join("probe");
    call(
        Command::new("go")
            .current_dir(source)
            .args(["build", "-buildvcs=false", "-o"])
            .arg(&probe)
            .arg("."),
    )
    .context("it does not build")?;
    Ok(probe)
}

fn starts(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
