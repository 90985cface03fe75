//! `openssl` with the files of `attesta fetch x509 --write`, and nothing of SPIFFE in it.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::harness::{Client, Directory, Lines, Running, installed, quiet, succeed, text, word};

fn openssl(arguments: &[&str]) -> Command {
    let mut command = quiet(Command::new("openssl"));
    command.args(arguments);
    command
}

/// A server with two identities for our own command, each written into a directory of its own.
fn written(dir: &Directory) -> Running {
    let run = Running::start(&["--ephemeral"]);
    let us = Path::new(env!("CARGO_BIN_EXE_attesta"));
    for (name, more) in [
        ("orders", &["--dns-name", "orders.example"][..]),
        ("payments", &[]),
    ] {
        let id = format!("spiffe://example.org/{name}");
        run.entry(&id, us, more);
        run.answer(&[
            "fetch",
            "x509",
            "--timeout",
            "10s",
            "--spiffe-id",
            &id,
            "--write",
            &dir.text(name),
        ]);
    }
    run
}

#[test]
fn openssl_verifies_what_was_written() {
    if !installed("openssl", "version", "openssl verify") {
        return;
    }
    let dir = Directory::new("openssl-verify");
    let run = written(&dir);
    let orders = dir.path("orders");
    let file = |name: &str| word(&orders.join(name)).to_owned();
    assert_eq!(
        fs::metadata(file("svid.key")).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let (bundle, svid, key) = (file("bundle.pem"), file("svid.pem"), file("svid.key"));

    for purpose in ["sslserver", "sslclient"] {
        let out = succeed(openssl(&[
            "verify",
            "-x509_strict",
            "-check_ss_sig",
            "-purpose",
            purpose,
            "-CAfile",
            &bundle,
            &svid,
        ]));
        assert!(text(&out.stdout).ends_with(": OK\n"), "{purpose}: {out:?}");
    }
    let names = succeed(openssl(&[
        "x509",
        "-in",
        &svid,
        "-noout",
        "-ext",
        "subjectAltName,keyUsage,basicConstraints",
    ]));
    let names = text(&names.stdout);
    for expect in [
        "URI:spiffe://example.org/orders",
        "DNS:orders.example",
        "CA:FALSE",
        "Digital Signature",
    ] {
        assert!(names.contains(expect), "{expect}: {names}");
    }
    // The key is whole, and the certificate's.
    succeed(openssl(&["pkey", "-in", &key, "-check", "-noout"]));
    let of_key = succeed(openssl(&["pkey", "-in", &key, "-pubout"])).stdout;
    let of_svid = succeed(openssl(&["x509", "-in", &svid, "-pubkey", "-noout"])).stdout;
    assert_eq!(text(&of_key), text(&of_svid));

    // Another deployment of the same trust domain's name is a stranger.
    let other = Running::start(&["--ephemeral"]);
    let out = openssl(&["verify", "-CAfile", &other.field("bundle"), &svid])
        .output()
        .unwrap();
    assert!(!out.status.success(), "{out:?}");
    other.stop();
    run.stop();
}

#[test]
fn openssl_speaks_mutual_tls_with_what_was_written() {
    if !installed("openssl", "version", "openssl s_server, s_client") {
        return;
    }
    let dir = Directory::new("openssl-tls");
    let run = written(&dir);
    let file = |of: &str, name: &str| word(&dir.path(of).join(name)).to_owned();

    let mut server = openssl(&[
        "s_server",
        "-accept",
        "127.0.0.1:0",
        "-rev",
        "-Verify",
        "1",
        "-verify_return_error",
        "-CAfile",
        &file("orders", "bundle.pem"),
        "-cert",
        &file("orders", "svid.pem"),
        "-key",
        &file("orders", "svid.key"),
    ]);
    let mut server = Client(server.stdin(Stdio::piped()).spawn().unwrap());
    let served = Lines::of(server.0.stdout.take().unwrap());
    let address = served.find("address", |line| {
        Some(line.strip_prefix("ACCEPT ")?.to_owned())
    });

    let payments = |host: &str| {
        openssl(&[
            "s_client",
            "-connect",
            &address,
            "-quiet",
            "-verify",
            "1",
            "-verify_return_error",
            "-verify_hostname",
            host,
            "-CAfile",
            &file("payments", "bundle.pem"),
        ])
    };
    let identify = |mut command: Command| {
        command.args(["-cert", &file("payments", "svid.pem")]);
        command.args(["-key", &file("payments", "svid.key")]);
        command
    };
    let mut client = Client(
        identify(payments("orders.example"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let answers = Lines::of(client.0.stdout.take().unwrap());
    let mut stdin = client.0.stdin.take().unwrap();
    stdin.write_all(b"attesta\n").unwrap();
    answers.find("answer", |line| (line == "atsetta").then_some(()));
    drop(client);

    // A client without a certificate, and a server whose name is not the one that was meant.
    for (what, mut command) in [
        ("no certificate", payments("orders.example")),
        ("other name", identify(payments("payments.example"))),
    ] {
        let out = command.output().unwrap();
        assert!(!out.status.success(), "{what}: {out:?}");
        assert!(!text(&out.stdout).contains("atsetta"), "{what}: {out:?}");
    }
    run.stop();
}
