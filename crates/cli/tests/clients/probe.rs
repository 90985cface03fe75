//! The probe driver: simulated agents, operators and workloads that speak SPIRE's and SPIFFE's APIs from Go.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::harness::{Directory, Running, quiet, succeed, text, tool, word};

/// Runs one bench; each of its results must count some work and no error.
fn bench(probe: &Path, run: &Running, arguments: &[&str], results: &[&str]) {
    let mut command = quiet(Command::new(probe));
    command
        .args(arguments)
        .args(["-admin", &run.field("admin")])
        .args(["-server", &run.field("server")])
        .args(["-workload", &run.field("workload_api")])
        .args(["-parent", &run.field("node")])
        .args(["-pid", &run.pid().to_string()]);
    let said = text(&succeed(command).stdout);
    let mut found: Vec<String> = Vec::new();
    for line in said.lines() {
        let result: Value = serde_json::from_str(line).unwrap();
        assert_eq!(result["errors"], 0, "{arguments:?}: {line}");
        assert!(result["ops"].as_u64().unwrap() > 0, "{arguments:?}: {line}");
        found.push(result["bench"].as_str().unwrap().to_owned());
    }
    // The driver goes through a map of Go, which has no order.
    found.sort();
    assert_eq!(found, results, "{arguments:?}: {said}");
}

#[test]
fn the_probe_driver_finds_what_spire_would_give() {
    let Some(probe) = tool("ATTESTA_TEST_PROBE", "the probe driver") else {
        return;
    };
    let dir = Directory::new("probe");
    let mut mkca = quiet(Command::new(&probe));
    mkca.args(["mkca", "-dir", &dir.text("")]);
    succeed(mkca);
    let config = dir.path("server.toml");
    fs::write(
        &config,
        "[server.x509pop]\nca_bundle_paths = [\"ca.pem\"]\n",
    )
    .unwrap();
    let run = Running::start(&["--data-dir", &dir.text("data"), "-c", word(&config)]);
    let bench = |arguments: &[&str], results: &[&str]| bench(&probe, &run, arguments, results);

    bench(&["wait"], &["wait"]);
    for kind in ["join_token", "x509pop"] {
        let at = dir.text("");
        bench(
            &["attest", "-type", kind, "-dir", &at, "-n", "24", "-c", "8"],
            &["attest"],
        );
    }
    bench(
        &["issue", "-agents", "4", "-batch", "10", "-seconds", "1"],
        &["issue"],
    );
    bench(&["jwt", "-agents", "4", "-seconds", "1"], &["jwt"]);
    bench(
        &["entries", "-n", "1200", "-batch", "50", "-c", "4"],
        &["entries"],
    );
    bench(&["list"], &["list"]);
    bench(
        &["propagate", "-n", "5"],
        &["propagate-create", "propagate-delete"],
    );
    bench(
        &["workload", "-n", "3", "-c", "8", "-seconds", "1"],
        &[
            "workload-jwt-cached",
            "workload-jwt-cold",
            "workload-x509",
            "workload-x509",
        ],
    );
    run.stop();
}
