//! JSON from strangers: duplicate members are refused, whatever features serde_json was built
//! with. Knows nothing of what the documents mean.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use thiserror::Error;

use crate::text::shown;

/// Why bytes are not the JSON that we take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not usable as JSON: {reason} (line {line}, column {column})")]
pub struct JsonError {
    reason: String,
    line: usize,
    column: usize,
}

/// Parses one document; every object in it has each member once (SPIFFE bundle 6.3, C122).
/// Nesting is bounded by serde_json (128 levels), size by the caller.
pub(crate) fn parse(json: &[u8]) -> Result<Value, JsonError> {
    serde_json::from_slice::<Strict>(json)
        .map(|strict| strict.0)
        .map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let text = error.to_string();
            let place = format!(" at line {line} column {column}");
            JsonError {
                reason: text.strip_suffix(&place).unwrap_or(&text).to_owned(),
                line,
                column,
            }
        })
}

/// Parses one document that must be an object.
pub(crate) fn parse_object(json: &[u8]) -> Result<Map<String, Value>, JsonError> {
    match parse(json)? {
        Value::Object(members) => Ok(members),
        _ => Err(JsonError {
            reason: "an object is needed".to_owned(),
            line: 1,
            column: 1,
        }),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                let name = shown(&name);
                return Err(A::Error::custom(format!("member \"{name}\" appears twice")));
            }
            let Strict(value) = map.next_value()?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_refused_at_any_depth() {
        for json in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"[{"a":1,"\u0061":2}]"#,
        ] {
            let error = parse(json.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("twice"), "{error}");
        }
        let value = parse(br#"{"a":[{"a":{"a":18446744073709551615}}],"b":null}"#).unwrap();
        assert_eq!(value["a"][0]["a"]["a"].as_u64(), Some(u64::MAX));
    }

    #[test]
    fn the_rest_is_plain_json() {
        for json in [
            "",
            "{",
            "{}x",
            "nul",
            "[1,]",
            "{'a':1}",
            "\u{feff}{}",
            "1e999",
        ] {
            assert!(parse(json.as_bytes()).is_err(), "{json:?}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_err());
        assert!(parse("[".repeat(10_000).as_bytes()).is_err());
        assert!(parse_object(b"[]").is_err());
        let name = "\u{1b}".repeat(500);
        let json = serde_json::json!({ name.clone(): 1 }).to_string();
        let twice = format!(
            "{},{}",
            json.trim_end_matches('}'),
            json.trim_start_matches('{')
        );
        let text = parse(twice.as_bytes()).unwrap_err().to_string();
        assert!(text.is_ascii() && text.len() < 600, "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
