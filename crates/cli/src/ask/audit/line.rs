//! A record for people: one line of what matters, or all of it.
//!
//! Pure. Reads only what is there: a record without a field, or with one that is not known, is still shown.

use attesta_wire::proto::attesta::admin::v1::Record;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::output::{Block, shown};

/// `time action outcome subject by=… …`
pub(super) fn line(record: &Record) -> String {
    let at = time(record.at_ms);
    let Ok(Value::Object(body)) = serde_json::from_slice(&record.body_json) else {
        return format!(
            "{at} {}",
            shown(&String::from_utf8_lossy(&record.body_json))
        );
    };
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut out = format!(
        "{at} {:<13} {:<9}",
        shown(text("action")),
        shown(text("outcome"))
    );
    if !text("subject").is_empty() {
        out.push_str(&format!(" {}", shown(text("subject"))));
    }
    if let Some(actor) = body
        .get("actor")
        .map(actor)
        .filter(|a| a != text("subject"))
    {
        out.push_str(&format!(" by={}", shown(&actor)));
    }
    for (label, key) in [
        ("credential", "credential"),
        ("instance", "instance"),
        ("entry", "entry"),
    ] {
        if !text(key).is_empty() {
            out.push_str(&format!(" {label}={}", shown(text(key))));
        }
    }
    let changes = body
        .get("changes")
        .and_then(Value::as_array)
        .map(|c| c.iter().map(value).collect::<Vec<_>>().join(", "));
    if let Some(changes) = changes.filter(|_| text("entry").is_empty()) {
        out.push_str(&format!(" changes=[{}]", shown(&changes)));
    }
    if let Some(count) = body.get("count").and_then(Value::as_u64) {
        out.push_str(&format!(" count={count}"));
    }
    if let Some(Value::Object(denial)) = body.get("denial") {
        out.push_str(&format!(
            " decision={} reason={}",
            shown(text("decision")),
            shown(&denied(denial))
        ));
    } else if !text("note").is_empty() {
        out.push_str(&format!(" {}", shown(text("note"))));
    }
    out.trim_end().to_owned()
}

/// All of it, one line per field.
pub(super) fn block(record: &Record) -> Block {
    let mut block = Block::default();
    block
        .line("time", time(record.at_ms))
        .line("position", format!("{} {}", record.writer, record.seq));
    match serde_json::from_slice(&record.body_json) {
        Ok(Value::Object(body)) => {
            for (key, found) in body
                .iter()
                .filter(|(key, _)| !matches!(key.as_str(), "v" | "at"))
            {
                match (key.as_str(), found) {
                    ("actor", found) => block.line(key, actor(found)),
                    ("expires_at", found) => {
                        block.line(key, found.as_i64().map_or_else(|| value(found), time))
                    }
                    ("facts" | "denial", Value::Object(inner)) => {
                        for (name, inner) in inner {
                            block.line(
                                &shown(&format!("{}.{name}", key.trim_end_matches('s'))),
                                value(inner),
                            );
                        }
                        &mut block
                    }
                    (_, found) => block.line(&shown(key), value(found)),
                };
            }
        }
        _ => {
            block.line("body", String::from_utf8_lossy(&record.body_json));
        }
    }
    block
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| format!("{t:.3}"))
}

/// Strings without their quotes, lists with commas.
fn value(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Array(list) => list.iter().map(self::value).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn actor(actor: &Value) -> String {
    let text = |key: &str| actor.get(key).and_then(Value::as_str).unwrap_or_default();
    match text("kind") {
        "local" => {
            let number = |key: &str| actor.get(key).map(Value::to_string).unwrap_or_default();
            format!(
                "local:uid:{}:pid:{}:{}",
                number("uid"),
                number("pid"),
                text("path")
            )
        }
        "system" => format!("system:{}", text("task")),
        "stranger" => format!("stranger:{}", text("from")),
        "admin" | "node" => text("id").to_owned(),
        _ => actor.to_string(),
    }
}

/// `policy (rule x, attribute y): message; hint`
fn denied(denial: &Map<String, Value>) -> String {
    let text = |key: &str| denial.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut out = text("reason").to_owned();
    let named: Vec<_> = ["rule", "attribute"]
        .iter()
        .filter(|k| !text(k).is_empty())
        .map(|k| format!("{k} {}", text(k)))
        .collect();
    if !named.is_empty() {
        out.push_str(&format!(" ({})", named.join(", ")));
    }
    out.push_str(&format!(": {}", text("message")));
    if !text("hint").is_empty() {
        out.push_str(&format!("; {}", text("hint")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &str) -> Record {
        Record {
            writer: "main".to_owned(),
            seq: 7,
            at_ms: 1_764_000_000_001,
            body_json: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn one_line_each() {
        for (body, expect) in [
            (
                r#"{"v":1,"action":"issue_x509","actor":{"id":"spiffe://td/n","kind":"node","serial":"01"},"credential":"0199","entry":"e1","instance":"process:b:1:2","outcome":"permitted","subject":"spiffe://td/a"}"#,
                "2025-11-24T16:00:00.001Z issue_x509    permitted spiffe://td/a by=spiffe://td/n credential=0199 instance=process:b:1:2 entry=e1",
            ),
            (
                r#"{"action":"entry_create","actor":{"kind":"local","path":"/bin/a","pid":3,"uid":0},"changes":["put entry e1"],"outcome":"permitted"}"#,
                "2025-11-24T16:00:00.001Z entry_create  permitted by=local:uid:0:pid:3:/bin/a changes=[put entry e1]",
            ),
            (
                r#"{"action":"issue_jwt","actor":{"kind":"stranger","from":"a\u001b[31m"},"count":4,"decision":"01ab","denial":{"attribute":"unix.uid","message":"no","reason":"policy","rule":"base"},"outcome":"denied"}"#,
                "2025-11-24T16:00:00.001Z issue_jwt     denied    by=stranger:a\\u{1b}[31m count=4 decision=01ab reason=policy (rule base, attribute unix.uid): no",
            ),
            ("not json\n", "2025-11-24T16:00:00.001Z not json\\u{a}"),
            ("{}", "2025-11-24T16:00:00.001Z"),
        ] {
            assert_eq!(line(&record(body)), expect);
        }
    }

    #[test]
    fn all_of_it() {
        let text = block(&record(r#"{"action":"x","actor":{"kind":"system","task":"keys"},"expires_at":1764000000001,"facts":{"unix.uid":["1","2"]},"new":{"a":1},"v":1}"#))
            .to_string();
        for line in [
            "time             : 2025",
            "position         : main 7",
            "actor            : system:keys",
            "fact.unix.uid    : 1, 2",
            "new              : {\"a\":1}",
            "expires_at       : 2025",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
