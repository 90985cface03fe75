//! Connections as clients begin them, cut anywhere: what may change, and what may not.

use super::*;

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    [&head, payload].concat()
}

fn literal(first: u8, name: Option<&str>, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len();
        let mut out = if length < 127 {
            vec![u8::try_from(length).unwrap()]
        } else {
            let rest = u16::try_from(length - 127).unwrap();
            assert!(rest < 1 << 14);
            let [low, high] = [rest & 0x7f | 0x80, rest >> 7];
            vec![
                0x7f,
                u8::try_from(low).unwrap(),
                u8::try_from(high).unwrap(),
            ]
        };
        out.extend(text.bytes());
        out
    };
    let mut out = vec![first];
    out.extend(name.map(text).unwrap_or_default());
    out.extend(text(value));
    out
}

/// The connection's bytes, cut after each `step`.
fn passed(bytes: &[u8], step: usize) -> Vec<u8> {
    let (mut host, mut bytes) = (Host::new(), bytes.to_vec());
    for piece in bytes.chunks_mut(step) {
        host.pass(piece);
    }
    bytes
}

fn check(name: &str, frames: &[Vec<u8>], expect: &[Vec<u8>]) {
    let all = |frames: &[Vec<u8>]| [PREFACE, SETTINGS, &frames.concat()].concat();
    for step in [1, 2, 3, 7, 1 << 20] {
        assert!(
            passed(&all(frames), step) == all(expect),
            "{name}, {step} bytes at once"
        );
    }
}

#[test]
fn paths_become_hosts_and_nothing_else_changes() {
    let same = |name, frames: &[Vec<u8>]| check(name, frames, frames);
    let headers = |fields: &[Vec<u8>]| frame(1, 4, &fields.concat());
    let path = literal(0x40, Some(":path"), "/a%2Fb");
    let long = "x/".repeat(200);
    for (name, first, field, before, after) in [
        (
            "gRPC's C core",
            0x40,
            Some(":authority"),
            "run%2Fw.sock",
            "run-2Fw.sock",
        ),
        ("Java", 0x41, None, "/run/w.sock", "-run-w.sock"),
        ("never indexed", 0x11, None, "/a", "-a"),
        (
            "without indexing",
            0x00,
            Some(":authority"),
            "a@b[c]",
            "a-b-c-",
        ),
        ("long", 0x01, None, &long, &long.replace('/', "-")),
        ("Go", 0x41, None, "localhost:80", "localhost:80"),
        ("empty", 0x41, None, "", ""),
    ] {
        let host = |value| literal(first, field, value);
        let around = |value| {
            [
                headers(&[
                    vec![0x3f, 0xe1, 0x1f, 0x83],
                    path.clone(),
                    host(value),
                    path.clone(),
                ]),
                frame(0, 1, b"\x41\x02//"),
                headers(&[vec![0xbe, 0xff, 0x80, 0x01], host(value)]),
            ]
        };
        check(name, &around(before), &around(after));
    }
    same(
        "another header",
        &[headers(&[literal(0x40, Some(":authoritz"), "/a")])],
    );
    same(
        "its beginning",
        &[headers(&[literal(0x40, Some(":author"), "/a")])],
    );
    same(
        "another index",
        &[headers(&[
            literal(0x44, None, "/a"),
            literal(0x7f, None, ""),
        ])],
    );
    // `:authority: /a` in Huffman's code is no text.
    same("coded", &[headers(&[vec![0x41, 0x82, 0x60, 0xff]])]);
}

#[test]
fn padding_priority_and_continuations_are_passed_over() {
    let lead: &[u8] = &[3, 0, 0, 0, 0, 7];
    let pad: &[u8] = b"\x41/\x41";
    let host = |value| literal(0x41, None, value);
    let cut = |value| {
        let host = host(value);
        let (a, b) = host.split_at(3);
        [
            frame(1, 0x28, &[lead, a, pad].concat()),
            frame(9, 0, b),
            frame(9, 4, &host),
            frame(6, 0, b"\x41\x01/////"),
        ]
    };
    check("cut", &cut("/a/b"), &cut("-a-b"));
}

#[test]
fn what_is_broken_is_left_to_the_server() {
    let host = frame(1, 4, &literal(0x41, None, "/a"));
    for (name, bytes) in [
        (
            "no preface",
            [b"GET / HTTP/1.1\r\n\r\n", &host[..]].concat(),
        ),
        (
            "more padding than frame",
            [PREFACE, &frame(1, 0xc, &[9, 0x82])[..], &host].concat(),
        ),
        (
            "endless length",
            [
                PREFACE,
                &frame(1, 4, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff])[..],
                &host,
            ]
            .concat(),
        ),
    ] {
        assert_eq!(passed(&bytes, 5), bytes, "{name}");
    }
}
