//! What is wrong with policies as they are written, with its place; and how large they may be.

use attesta_model::{Action, Reason};

use super::{World, agent, decide};
use crate::{Policies, PolicyError};

#[test]
fn faults_of_policies_are_named_with_their_place() {
    let place = |e: &PolicyError| e.to_string().split(": ").next().unwrap().to_owned();
    let check = |text: &str, expect: &str, at: &str| {
        let e = Policies::parse(&[("f.cedar", text)]).unwrap_err();
        let kind = format!("{e:?}")
            .split([' ', '('])
            .next()
            .unwrap()
            .to_owned();
        assert_eq!(
            (kind.as_str(), place(&e).as_str()),
            (expect, at),
            "{text}: {e}"
        );
    };
    let ok = r#"@id("a") permit (principal, action, resource);"#;
    check(
        "permit (principal, action, resource);",
        "NoId",
        "f.cedar:1:1",
    );
    check(
        &format!("// x; y\n{ok}\n  permit (principal, action, resource);"),
        "NoId",
        "f.cedar:3:3",
    );
    check(&format!("{ok}\n\n{ok}"), "Duplicate", "f.cedar:3:1");
    check(
        r#"@id("a b") permit (principal, action, resource);"#,
        "BadId",
        "f.cedar:1:1",
    );
    check(
        r#"@id("") permit (principal, action, resource);"#,
        "BadId",
        "f.cedar:1:1",
    );
    check(&ok.replace(';', ""), "Syntax", "f.cedar:1:1");
    check(&format!("{ok} permit"), "Syntax", "f.cedar:1:48");
    check(
        r#"@id("t") permit (principal == ?principal, action, resource);"#,
        "Syntax",
        "f.cedar:1:1",
    );
    check(
        "@id(\"a\") permit (principal, action, resource) // \u{202e}\n;",
        "Syntax",
        "f.cedar:1:1",
    );
    for bad in [
        "context.nothing == 1",
        "principal.labels.contains(\"x\")",
        "context.unix_uid == 0",
        "Attesta::Entry::\"e\".owner == \"x\"",
        "context.now_s",
        "context.now_s == \"x\"",
    ] {
        check(
            &format!(r#"@id("v") permit (principal, action, resource) when {{ {bad} }};"#),
            "Invalid",
            "f.cedar:1:1",
        );
    }
    check(
        r#"@id("v") permit (principal, action == Attesta::Action::"issue", resource);"#,
        "Invalid",
        "f.cedar:1:1",
    );
    check(
        r#"@id("v") permit (principal is Attesta::Robot, action, resource);"#,
        "Invalid",
        "f.cedar:1:1",
    );
    check(
        r#"@id("v") forbid (principal is Attesta::Local, action == Attesta::Action::"issue_jwt", resource);"#,
        "Invalid",
        "f.cedar:1:1",
    );
    let deep = format!("{}true{}", "(".repeat(17), ")".repeat(17));
    check(
        &format!(r#"@id("v") permit (principal, action, resource) when {{ {deep} }};"#),
        "TooLarge",
        "f.cedar:1:1",
    );
    for chain in [
        vec!["true"; 200].join(" && "),
        vec!["true"; 200].join(" || "),
        format!("{} true", "if true then false else ".repeat(65)),
        format!("context{} == 1", ".a".repeat(257)),
    ] {
        check(
            &format!(r#"@id("v") permit (principal, action, resource) when {{ {chain} }};"#),
            "TooLarge",
            "f.cedar:1:1",
        );
    }
    check(
        &format!(
            r#"@id("v") permit (principal, action, resource) when {{ "{}" == "" }};"#,
            "x".repeat(65536)
        ),
        "TooLarge",
        "f.cedar:1:1",
    );
    // Semicolons and braces in strings and comments end nothing.
    assert!(Policies::parse(&[("f", "@id(\"a\") permit (principal, action, resource) // ; } \n when { context.now_s > 1 || \"; \\\" {\" == \"\" };")]).is_ok());
    assert!(Policies::parse(&[("f", "// nothing\n")]).is_ok());
}

#[test]
fn the_largest_policy_fits_the_smallest_stack() {
    let policy = |condition: &str| {
        format!(r#"@id("big") permit (principal, action, resource) when {{ {condition} }};"#)
    };
    let deep = format!("{}(context.now_s > 1){}", "(!".repeat(14), ")".repeat(14));
    let ifs = format!(
        "{} true",
        "if context.now_s > 1 then false else ".repeat(64)
    );
    for condition in [
        vec!["context.now_s > 1"; 64].join(" && "),
        vec!["context.now_s < 1"; 64].join(" || "),
        deep,
        ifs,
    ] {
        let text = policy(&condition);
        // Frames of an unoptimised build are several times larger.
        let megabytes = if cfg!(debug_assertions) { 8 } else { 2 };
        let thread = std::thread::Builder::new().stack_size(megabytes << 20);
        let join = thread.spawn(move || {
            let set = Policies::parse(&[("f", &text)]).unwrap();
            if let Err(denial) = decide(&set, &World::new(), agent(), Action::IssueX509) {
                assert_eq!(denial.reason, Reason::Policy, "{denial}");
            }
            let dots = format!("context{} == 1", ".a".repeat(256));
            let dotted =
                text.split(" when ").next().unwrap().to_owned() + &format!(" when {{ {dots} }};");
            assert!(matches!(
                Policies::parse(&[("f", &dotted)]),
                Err(PolicyError::Invalid { .. })
            ));
        });
        join.unwrap().join().unwrap();
    }
}
