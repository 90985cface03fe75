//! An input in Cedar's types: entities, context, request. Only what is read is built; building is most of a decision's
//! cost.

use std::collections::{HashMap, HashSet};

use attesta_model::Action;
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
    Schema,
};

use crate::{
    PolicyError,
    attr::{Attr, Attrs, Kind},
    input::{Bag, Input, Thing, Value},
    reads::Reads,
};

/// Cedar's names for our words, parsed once.
#[derive(Debug)]
pub(crate) struct Words {
    actions: HashMap<Action, EntityUid>,
    kinds: HashMap<Kind, EntityTypeName>,
}

/// Who, on what, and the entry above: what policies' scopes name.
pub(crate) struct Uids {
    pub(crate) principal: EntityUid,
    pub(crate) above: Option<EntityUid>,
    pub(crate) resource: EntityUid,
}

impl Words {
    pub(crate) fn new() -> Result<Self, PolicyError> {
        let bad = |what: &str| PolicyError::Schema(what.to_owned());
        let parse = |name: &str| name.parse::<EntityTypeName>().map_err(|_| bad(name));
        let action_type = parse("Attesta::Action")?;
        let actions = Action::ALL
            .into_iter()
            .map(|a| {
                (
                    a,
                    EntityUid::from_type_name_and_id(
                        action_type.clone(),
                        EntityId::new(a.as_str()),
                    ),
                )
            })
            .collect();
        let kinds = Kind::ALL
            .into_iter()
            .map(|k| Ok((k, parse(k.type_name())?)))
            .collect::<Result<_, PolicyError>>()?;
        Ok(Self { actions, kinds })
    }

    pub(crate) fn action(&self, action: Action) -> Option<&EntityUid> {
        self.actions.get(&action)
    }

    pub(crate) fn kind(&self, kind: Kind) -> Option<&EntityTypeName> {
        self.kinds.get(&kind)
    }

    fn uid(&self, kind: Kind, id: &str) -> Result<EntityUid, RenderError> {
        let name = self.kind(kind).ok_or(RenderError("unknown kind"))?;
        Ok(EntityUid::from_type_name_and_id(
            name.clone(),
            EntityId::new(id),
        ))
    }

    pub(crate) fn uids(&self, input: &Input<'_>) -> Result<Uids, RenderError> {
        Ok(Uids {
            principal: self.uid(input.principal.kind, &input.principal.id)?,
            above: input
                .above
                .as_deref()
                .map(|id| self.uid(Kind::Entry, id))
                .transpose()?,
            resource: self.uid(input.resource.kind, &input.resource.id)?,
        })
    }
}

/// An input that Cedar refused to hold. No input of ours does that; it is a refusal all the same.
#[derive(Debug, thiserror::Error)]
#[error("the request could not be put to the policies: {0}")]
pub(crate) struct RenderError(&'static str);

/// Cedar's request and entities. With a schema they are checked against it; tests do that, decisions need not.
pub(crate) fn render(
    input: &Input<'_>,
    reads: &Reads,
    words: &Words,
    uids: &Uids,
    schema: Option<&Schema>,
) -> Result<(Request, Entities), RenderError> {
    let mut entities = Vec::with_capacity(2);
    let above = if reads.above {
        uids.above.clone()
    } else {
        None
    };
    let same = uids.principal == uids.resource;
    let principal_reads = if same {
        union(reads.principal, reads.resource)
    } else {
        reads.principal
    };
    entities.extend(entity(
        &input.principal,
        &uids.principal,
        principal_reads,
        above,
    )?);
    if !same {
        entities.extend(entity(
            &input.resource,
            &uids.resource,
            reads.resource,
            None,
        )?);
    }
    let entities = if entities.is_empty() && schema.is_none() {
        Entities::empty()
    } else {
        Entities::from_entities(entities, schema).map_err(|_| RenderError("entities"))?
    };
    let context = Context::from_pairs(pairs(&input.context, reads.context))
        .map_err(|_| RenderError("context"))?;
    let action = words
        .action(input.action)
        .ok_or(RenderError("unknown action"))?;
    let request = Request::new(
        uids.principal.clone(),
        action.clone(),
        uids.resource.clone(),
        context,
        schema,
    )
    .map_err(|_| RenderError("request"))?;
    Ok((request, entities))
}

fn union(a: Attrs, b: Attrs) -> Attrs {
    let mut all = a;
    all.add(b);
    all
}

/// The entity, unless policies can see no difference between it and none.
fn entity(
    thing: &Thing<'_>,
    uid: &EntityUid,
    reads: Attrs,
    above: Option<EntityUid>,
) -> Result<Option<Entity>, RenderError> {
    let attrs: HashMap<_, _> = pairs(&thing.attrs, reads).collect();
    if attrs.is_empty() && above.is_none() {
        return Ok(None);
    }
    let parents: HashSet<_> = above.into_iter().collect();
    Entity::new(uid.clone(), attrs, parents)
        .map(Some)
        .map_err(|_| RenderError("entity"))
}

fn pairs<'b>(
    bag: &'b Bag<'_>,
    reads: Attrs,
) -> impl Iterator<Item = (String, RestrictedExpression)> + 'b {
    bag.iter()
        .filter(move |(attr, _)| reads.has(*attr))
        .map(|(attr, value)| (attr.name().to_owned(), expression(value)))
}

fn expression(value: &Value<'_>) -> RestrictedExpression {
    match value {
        Value::Text(text) => RestrictedExpression::new_string(text.as_ref().to_owned()),
        Value::Long(long) => RestrictedExpression::new_long(*long),
        Value::Flag(flag) => RestrictedExpression::new_bool(*flag),
        Value::Texts(texts) => RestrictedExpression::new_set(
            texts
                .strings()
                .into_iter()
                .map(RestrictedExpression::new_string),
        ),
        // Names are distinct, so this does not fail; if it did, the whole request would be refused for its lack.
        Value::Record(bag) => record(bag),
    }
}

fn record(bag: &[(Attr, Value<'_>)]) -> RestrictedExpression {
    let fields = bag
        .iter()
        .map(|(attr, value)| (attr.name().to_owned(), expression(value)));
    RestrictedExpression::new_record(fields)
        .unwrap_or_else(|_| RestrictedExpression::new_bool(false))
}
