//! Python's SPIFFE client, and PyJWT with our bundle document.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{ChildStdin, Command, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{Client, Directory, Lines, Running, quiet, succeed, text, tool, word};

const ID: &str = "spiffe://example.org/python";

fn script(python: &Path, name: &str) -> Command {
    let mut command = quiet(Command::new(python));
    command.args(["-W", "ignore::DeprecationWarning"]).arg(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/clients")
            .join(name),
    );
    command
}

#[test]
fn python_spiffe_has_svids_sources_and_validation() {
    let Some(python) = tool("ATTESTA_TEST_PYTHON", "PyPI spiffe") else {
        return;
    };
    let run = Running::start(&["--ephemeral"]);
    run.entry(ID, &python, &["--x509-svid-ttl", "3s", "--hint", "main"]);

    // It is another program with the same user: the operator's own command is nobody.
    let refused = run.command(&["fetch", "x509"]).output().unwrap();
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("PermissionDenied"),
        "{}",
        text(&refused.stderr)
    );

    let mut command = script(&python, "spiffe_sdk.py");
    command.arg(ID).arg(run.field("bundle"));
    command.env("SPIFFE_ENDPOINT_SOCKET", run.field("workload_api"));
    let said = text(&succeed(command).stdout);
    let result: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert!(result["rotations"].as_u64().unwrap() >= 3, "{said}");

    // Each certificate that it saw has its record, under the serial that the record's id is.
    for serial in result["serials"].as_array().unwrap() {
        let found = run.answer(&["audit", "show", serial.as_str().unwrap()]);
        assert!(found.to_string().contains(ID), "{found}");
    }
    run.stop();
}

#[test]
fn python_spiffe_is_told_who_it_is_not() {
    let Some(python) = tool("ATTESTA_TEST_PYTHON", "PyPI spiffe without an entry") else {
        return;
    };
    let run = Running::start(&["--ephemeral"]);
    let mut command = script(&python, "spiffe_nobody.py");
    command.env("SPIFFE_ENDPOINT_SOCKET", run.field("workload_api"));
    succeed(command);
    run.stop();
}

#[test]
fn python_sources_outlive_their_server() {
    let Some(python) = tool("ATTESTA_TEST_PYTHON", "PyPI spiffe over restarts") else {
        return;
    };
    let dir = Directory::new("python-restart");
    let data = dir.path("data");
    let start = || Running::start(&["--data-dir", word(&data)]);
    let first = start();
    first.entry(ID, &python, &["--x509-svid-ttl", "60s"]);
    let mut command = script(&python, "spiffe_stays.py");
    command
        .env("SPIFFE_ENDPOINT_SOCKET", first.field("workload_api"))
        .stdin(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut client = Client(command.spawn().unwrap());
    let mut stdin = client.0.stdin.take().unwrap();
    let lines = Lines::of(client.0.stdout.take().unwrap());

    let (mut serial, authority) = update(&lines, "");
    ask(&mut stdin, &lines);
    let mut run = first;
    for killed in [false, true] {
        if killed {
            run.kill();
        } else {
            run.stop();
        }
        // It is away: what is held is held on to.
        tell(&mut stdin, "held");
        lines.find("what is held", |line| {
            (line == format!("held {serial}")).then_some(())
        });
        run = start();
        let (renewed, by) = update(&lines, &serial);
        assert_eq!(by, authority, "killed: {killed}: the same authority");
        serial = renewed;
        ask(&mut stdin, &lines);
    }
    drop(stdin);
    assert!(client.0.wait().unwrap().success());
    run.stop();
}

/// The next certificate that is not `former`: its serial, and its authority's digest.
fn update(lines: &Lines, former: &str) -> (String, String) {
    lines.find("update", |line| {
        let mut words = line.strip_prefix("update ")?.split(' ');
        let (serial, authority) = (words.next()?.to_owned(), words.next()?.to_owned());
        (serial != former).then_some((serial, authority))
    })
}

/// It gets a JWT-SVID, and has it validated.
fn ask(stdin: &mut ChildStdin, lines: &Lines) {
    tell(stdin, "jwt");
    lines.find("JWT-SVID", |line| {
        (line == format!("jwt {ID}")).then_some(())
    });
}

fn tell(stdin: &mut ChildStdin, what: &str) {
    writeln!(stdin, "{what}").unwrap();
    stdin.flush().unwrap();
}

#[test]
fn pyjwt_verifies_a_jwt_svid_by_the_bundle_document() {
    let Some(python) = tool("ATTESTA_TEST_PYTHON", "PyJWT") else {
        return;
    };
    let dir = Directory::new("pyjwt");
    for (algorithm, kind) in [
        ("ES256", "ec-p256"),
        ("ES384", "ec-p384"),
        ("RS256", "rsa-2048"),
    ] {
        let file = dir.path("server.toml");
        fs::write(&file, format!("[server]\njwt_key_types = [\"{kind}\"]\n")).unwrap();
        let run = Running::start(&["--ephemeral", "-c", word(&file)]);
        let us = Path::new(env!("CARGO_BIN_EXE_attesta"));
        run.entry("spiffe://example.org/caller", us, &[]);
        let fetched = run.answer(&["fetch", "jwt", "--audience", "orders"]);
        let document = run.answer(&["bundle", "show", "--format", "spiffe"]);
        let token = fetched["svids"][0]["token"].as_str().unwrap();
        let case = json!({
            "token": token,
            "bundle": document,
            "algorithm": algorithm,
            "audience": "orders",
            "subject": "spiffe://example.org/caller",
            "jti": fetched["svids"][0]["jti"],
        });
        let mut command = script(&python, "pyjwt_verifies.py");
        command.arg(case.to_string());
        succeed(command);

        let valid = run.answer(&["validate", "jwt", "--audience", "orders", token]);
        assert!(
            valid.to_string().contains("spiffe://example.org/caller"),
            "{valid}"
        );
        run.stop();
    }
}
