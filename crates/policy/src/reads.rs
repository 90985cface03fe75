//! What a policy reads, so that nothing else need be built for it. Sound, not exact: it may name too much, never too
//! little; a differential test holds that.

use cedar_policy::Policy;
use serde_json::Value;

use crate::attr::{Attr, Attrs};

/// The attributes policies read, by variable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) principal: Attrs,
    pub(crate) resource: Attrs,
    pub(crate) context: Attrs,
    /// Whether an identity's entry matters: some `in` is there.
    pub(crate) above: bool,
}

impl Reads {
    pub(crate) const ALL: Self = Self {
        principal: Attrs::ALL,
        resource: Attrs::ALL,
        context: Attrs::ALL,
        above: true,
    };

    /// What one policy reads.
    pub(crate) fn of(policy: &Policy) -> Self {
        let Ok(json) = policy.to_json() else {
            return Self::ALL;
        };
        let mut reads = Self::default();
        for part in ["principal", "resource", "conditions"] {
            match json.get(part) {
                Some(value) => reads.walk(value),
                None => return Self::ALL,
            }
        }
        reads
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.principal.add(other.principal);
        self.resource.add(other.resource);
        self.context.add(other.context);
        self.above |= other.above;
    }

    /// What is in both.
    pub(crate) fn both(&self, other: &Self) -> Self {
        Self {
            principal: self.principal.both(other.principal),
            resource: self.resource.both(other.resource),
            context: self.context.both(other.context),
            above: self.above && other.above,
        }
    }

    /// The names, as policies write them.
    pub(crate) fn names(&self) -> Vec<String> {
        let of = |variable: &'static str, attrs: Attrs| {
            attrs.names().map(move |name| format!("{variable}.{name}"))
        };
        of("principal", self.principal)
            .chain(of("resource", self.resource))
            .chain(of("context", self.context))
            .collect()
    }

    // Bounded: `source` refuses texts that nest deeper than its limits.
    fn walk(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    match key.as_str() {
                        "." | "has" => self.access(inner),
                        "Var" if inner == "context" => self.context.add(Attrs::ALL),
                        // A scope's operator, or an operator of an expression.
                        "in" => {
                            self.above = true;
                            self.walk(inner);
                        }
                        "op" if inner == "in" => self.above = true,
                        _ => self.walk(inner),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// `left.attr` or `left has attr`. (A record literal may have a key of that name: then the shape is another.)
    fn access(&mut self, value: &Value) {
        let (Some(left), Some(attr)) = (value.get("left"), value.get("attr")) else {
            return self.walk(value);
        };
        let mut named = Attrs::default();
        match attr {
            Value::String(name) => {
                named.add(Attr::by_name(name).map_or(Attrs::default(), Attr::bit))
            }
            Value::Array(names) => {
                for name in names {
                    named.add(
                        name.as_str()
                            .and_then(Attr::by_name)
                            .map_or(Attrs::default(), Attr::bit),
                    );
                }
            }
            _ => named = Attrs::ALL,
        }
        match left.get("Var").and_then(Value::as_str) {
            Some("principal") => self.principal.add(named),
            Some("resource") => self.resource.add(named),
            Some("context") => self.context.add(named),
            // Through an `if`, or one deeper: whatever it is, all three may have it.
            _ => {
                self.principal.add(named);
                self.resource.add(named);
                self.context.add(named);
                self.walk(left);
            }
        }
    }
}
