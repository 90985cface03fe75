//! Which policies can matter to which requests. Cedar has no index: every policy it is given costs about a microsecond,
//! even when its scope does not match.
//!
//! INVARIANT: a policy is left out of a slice only where its scope rules the request out. Policies are independent of
//! each other, so parts may be evaluated one by one and their verdicts joined.

use std::collections::HashMap;

use attesta_model::Action;
use cedar_policy::{
    ActionConstraint, Effect, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint,
    ResourceConstraint,
};

use crate::{
    attr::Kind,
    input::{acted_on, askers},
    reads::Reads,
    render::{Uids, Words},
    source::{Statement, conditions},
};

/// Policies that are evaluated together, and what they read.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) set: PolicySet,
    pub(crate) reads: Reads,
}

impl Part {
    fn add(&mut self, policy: &Policy, reads: &Reads) -> Result<(), String> {
        self.set.add(policy.clone()).map_err(|e| e.to_string())?;
        self.reads.add(reads);
        Ok(())
    }
}

/// The policies for one action of one kind of principal.
#[derive(Debug, Default)]
struct Slice {
    /// Those that name no one.
    base: Part,
    /// Those that name one entity, by it: `principal == X`, `principal in X`, `resource == X`, `resource in X`.
    named: HashMap<EntityUid, Part>,
}

/// All slices of a set.
#[derive(Debug, Default)]
pub(crate) struct Slices(HashMap<(Action, Kind), Slice>);

impl Slices {
    /// # Errors
    /// A sentence of Cedar's; none for policies with ids of their own.
    pub(crate) fn new(statements: &[Statement], words: &Words) -> Result<Self, String> {
        let mut slices: HashMap<(Action, Kind), Slice> = HashMap::new();
        for statement in statements {
            let policy = &statement.policy;
            let reads = Reads::of(policy);
            let bare = without_what_slices_check(policy, &statement.text)?;
            for action in Action::ALL {
                if !words
                    .action(action)
                    .is_some_and(|uid| allows_action(&policy.action_constraint(), uid))
                {
                    continue;
                }
                for kind in askers(action) {
                    let (Some(principal), Some(resource)) =
                        (words.kind(*kind), words.kind(acted_on(action)))
                    else {
                        continue;
                    };
                    let slice = slices.entry((action, *kind)).or_default();
                    let above = words.kind(Kind::Entry).filter(|_| *kind == Kind::Identity);
                    match place(policy, principal, above, resource) {
                        Place::Out => {}
                        Place::Base => slice.base.add(&bare, &reads)?,
                        Place::Named(uid) => {
                            slice.named.entry(uid).or_default().add(&bare, &reads)?
                        }
                    }
                }
            }
        }
        Ok(Self(slices))
    }

    /// The parts that can matter to this request.
    pub(crate) fn parts(&self, action: Action, kind: Kind, uids: &Uids) -> Vec<&Part> {
        let Some(slice) = self.0.get(&(action, kind)) else {
            return Vec::new();
        };
        let mut parts = Vec::with_capacity(4);
        if !slice.base.set.is_empty() {
            parts.push(&slice.base);
        }
        if slice.named.is_empty() {
            return parts;
        }
        parts.extend(slice.named.get(&uids.principal));
        if uids.resource != uids.principal {
            parts.extend(slice.named.get(&uids.resource));
        }
        if let Some(above) = &uids.above
            && *above != uids.resource
        {
            parts.extend(slice.named.get(above));
        }
        parts
    }
}

enum Place {
    Out,
    Base,
    Named(EntityUid),
}

/// The policy without its action, its `is` and its annotations: a slice has one action and one kind of each, and Cedar
/// spends more on checking them than on most conditions. Names stay: two kinds of names share a file.
fn without_what_slices_check(policy: &Policy, text: &str) -> Result<Policy, String> {
    let conditions =
        conditions(text).ok_or_else(|| format!("policy {} has no scope", policy.id()))?;
    let effect = match policy.effect() {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    };
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => String::new(),
        PrincipalConstraint::Eq(uid) => format!(" == {uid}"),
        PrincipalConstraint::In(uid) => format!(" in {uid}"),
        PrincipalConstraint::IsIn(kind, uid) => format!(" is {kind} in {uid}"),
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::Any | ResourceConstraint::Is(_) => String::new(),
        ResourceConstraint::Eq(uid) => format!(" == {uid}"),
        ResourceConstraint::In(uid) => format!(" in {uid}"),
        ResourceConstraint::IsIn(kind, uid) => format!(" is {kind} in {uid}"),
    };
    let text = format!("{effect} (principal{principal}, action, resource{resource}){conditions}");
    Policy::parse(Some(policy.id().clone()), text).map_err(|e| e.to_string())
}

fn allows_action(constraint: &ActionConstraint, uid: &EntityUid) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(one) => one == uid,
        // The schema has no groups of actions, so `in` is equality with one of them.
        ActionConstraint::In(list) => list.contains(uid),
    }
}

/// Where a policy is filed for requests of this kind. With two names it is filed under the principal's: Cedar still
/// checks the other.
fn place(
    policy: &Policy,
    principal: &EntityTypeName,
    above: Option<&EntityTypeName>,
    resource: &EntityTypeName,
) -> Place {
    let of = |uid: &EntityUid, kind: &EntityTypeName| uid.type_name() == kind;
    let by_principal = match policy.principal_constraint() {
        PrincipalConstraint::Any => None,
        PrincipalConstraint::Is(kind) if kind == *principal => None,
        PrincipalConstraint::Eq(uid) if of(&uid, principal) => Some(uid),
        PrincipalConstraint::In(uid)
            if of(&uid, principal) || above.is_some_and(|kind| of(&uid, kind)) =>
        {
            Some(uid)
        }
        PrincipalConstraint::IsIn(kind, uid)
            if kind == *principal
                && (of(&uid, principal) || above.is_some_and(|kind| of(&uid, kind))) =>
        {
            Some(uid)
        }
        _ => return Place::Out,
    };
    // What is acted on has nothing above it.
    let by_resource = match policy.resource_constraint() {
        ResourceConstraint::Any => None,
        ResourceConstraint::Is(kind) if kind == *resource => None,
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) if of(&uid, resource) => {
            Some(uid)
        }
        ResourceConstraint::IsIn(kind, uid) if kind == *resource && of(&uid, resource) => Some(uid),
        _ => return Place::Out,
    };
    match by_principal.or(by_resource) {
        None => Place::Base,
        Some(uid) => Place::Named(uid),
    }
}
