//! Facts, instances and selectors on the wire.

use attesta_model::{Fact, Facts, FieldError, Instance, fact::Selector};

use crate::proto::{
    attesta::types::v1::{self, instance::Kind},
    spire::api::types,
};

/// Facts for the wire.
#[must_use]
pub fn facts_to_wire(facts: &Facts) -> Vec<v1::Fact> {
    facts
        .iter()
        .map(|f| v1::Fact {
            namespace: f.namespace().to_owned(),
            key: f.key().to_owned(),
            values: f.values().map(str::to_owned).collect(),
        })
        .collect()
}

/// Facts from the wire.
///
/// # Errors
/// Names the fact that is outside its bounds.
pub fn facts_from_wire(facts: &[v1::Fact]) -> Result<Facts, FieldError> {
    facts
        .iter()
        .map(|f| Fact::new(&f.namespace, &f.key, &f.values))
        .collect::<Result<Vec<_>, _>>()
        .and_then(Facts::new)
        .map_err(|e| FieldError::new("facts", "", e))
}

/// An instance for the wire.
#[must_use]
pub fn instance_to_wire(instance: &Instance) -> v1::Instance {
    let kind = match instance {
        Instance::Process { boot, pid, start } => Kind::Process(v1::Process {
            boot_id: boot.to_string(),
            pid: *pid,
            start_time: *start,
        }),
        Instance::Container(id) => Kind::Container(v1::Container { id: id.to_string() }),
        Instance::Node => Kind::Node(v1::Node {}),
    };
    v1::Instance { kind: Some(kind) }
}

/// An instance from the wire.
///
/// # Errors
/// Names what is wrong with it.
pub fn instance_from_wire(instance: Option<&v1::Instance>) -> Result<Instance, FieldError> {
    match instance.and_then(|i| i.kind.as_ref()) {
        Some(Kind::Process(p)) => Instance::process(&p.boot_id, p.pid, p.start_time)
            .map_err(|why| FieldError::new("instance.process", "", why)),
        Some(Kind::Container(c)) => Instance::container(&c.id)
            .map_err(|why| FieldError::new("instance.container", &c.id, why)),
        Some(Kind::Node(_)) => Ok(Instance::Node),
        None => Err(FieldError::new("instance", "", "is missing")),
    }
}

/// A selector for the wire.
#[must_use]
pub fn selector_to_wire(selector: &str) -> types::Selector {
    let (kind, value) = selector.split_once(':').unwrap_or((selector, ""));
    types::Selector {
        r#type: kind.to_owned(),
        value: value.to_owned(),
    }
}

/// A selector from the wire, as `type:value`.
///
/// # Errors
/// Names what is wrong with it.
pub fn selector_from_wire(
    field: &'static str,
    selector: &types::Selector,
) -> Result<String, FieldError> {
    let text = format!("{}:{}", selector.r#type, selector.value);
    if selector.r#type.contains(':') {
        return Err(FieldError::new(field, &text, "has a type with a colon"));
    }
    Selector::parse(&text).map_err(|why| FieldError::new(field, &text, why))?;
    Ok(text)
}
