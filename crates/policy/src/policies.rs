//! A set of policies, parsed, validated and sliced once; and the decision. It must not know where the texts come from.

use std::sync::Arc;

use attesta_model::{Code, Denial, Reason, text};
use cedar_policy::{
    AuthorizationError, Authorizer, Decision, EvaluationError, PolicySet, Schema, ValidationMode,
    ValidationWarning, Validator,
};

use crate::{
    About, Permit, PolicyError, Question,
    attr::Kind,
    input::Input,
    reads::Reads,
    render::{Words, render},
    slices::Slices,
    source::{self, Statement},
};

/// The schema's text.
pub(crate) const SCHEMA: &str = include_str!("schema.cedarschema");

/// An immutable set of policies. Cheap to share behind an `Arc`; to change policies, parse another set and publish it.
#[derive(Debug)]
pub struct Policies {
    statements: Vec<Statement>,
    slices: Slices,
    words: Words,
    digest: Arc<str>,
    authorizer: Authorizer,
}

impl Policies {
    /// The text of the built-in policies.
    pub const DEFAULT: &str = include_str!("default.cedar");

    /// The built-in policies.
    ///
    /// # Errors
    /// None in a program that passed its tests.
    pub fn default_set() -> Result<Self, PolicyError> {
        Self::parse(&[("default.cedar", Self::DEFAULT)])
    }

    /// A set from named texts. [`Policies::DEFAULT`] is not implied: a caller that adds to it passes it too.
    ///
    /// Every policy is strictly validated: it names only what the schema has, and guards what is optional with `has`.
    /// At most 10,000 policies; a file has at most 1 MiB, a policy at most 64 KiB, 16 nested brackets, 64 operators and 256 dots.
    ///
    /// # Errors
    /// The first fault, with the file's name, line and column.
    pub fn parse(texts: &[(&str, &str)]) -> Result<Self, PolicyError> {
        let statements = source::statements(texts)?;
        validate(&statements)?;
        Self::build(statements)
    }

    fn build(statements: Vec<Statement>) -> Result<Self, PolicyError> {
        let words = Words::new()?;
        let slices = Slices::new(&statements, &words).map_err(PolicyError::Schema)?;
        let digest = digest(&statements).into();
        Ok(Self {
            statements,
            slices,
            words,
            digest,
            authorizer: Authorizer::new(),
        })
    }

    /// SHA-256 of the schema and of every policy as written, in the order of their ids, in hex. Names of files,
    /// their order and what stands between policies do not change it.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The policies' ids and texts, sorted by id.
    pub fn list(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.statements
            .iter()
            .map(|s| (s.id.as_str(), s.text.as_str()))
    }

    /// Whether. A forbid beats every permit, what nothing permits is refused, and so is whatever a policy fails on.
    ///
    /// Needs a stack of at least 2 MiB.
    ///
    /// # Errors
    /// A [`Denial`] with the request's decision id: [`Reason::Policy`] names the forbidding policy as its rule, or says
    /// that none permits; [`Reason::PolicyError`] names the policy that failed and, where one was missing, the attribute.
    pub fn decide(&self, question: &Question<'_>) -> Result<Permit, Denial> {
        let request = question.request;
        let refuse = |denial: Denial| denial.with_decision(request.decision);
        let input = Input::of(question).map_err(refuse)?;
        let verdict = self.evaluate(&input);
        match verdict.refusal(&input) {
            Some(denial) => Err(refuse(denial)),
            None => {
                let (subject, want) = granted(&question.about);
                Ok(Permit::new(
                    request.action,
                    subject,
                    want,
                    request.at,
                    Arc::clone(&self.digest),
                    verdict.permits,
                ))
            }
        }
    }

    /// What policies of the slices say.
    pub(crate) fn evaluate(&self, input: &Input<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        let uids = match self.words.uids(input) {
            Ok(uids) => uids,
            Err(e) => return Verdict::fault(e.to_string()),
        };
        let parts = self.slices.parts(input.action, input.principal.kind, &uids);
        let mut reads = Reads::default();
        for part in &parts {
            reads.add(&part.reads);
        }
        verdict.reads = reads;
        let (request, entities) = match render(input, &reads, &self.words, &uids, None) {
            Ok(rendered) => rendered,
            Err(e) => return Verdict::fault(e.to_string()),
        };
        for part in parts {
            verdict.add(
                &self
                    .authorizer
                    .is_authorized(&request, &part.set, &entities),
            );
        }
        verdict.sort();
        verdict
    }

    /// A set that was not validated, to see what its errors do.
    #[cfg(test)]
    pub(crate) fn unchecked(texts: &[(&str, &str)]) -> Result<Self, PolicyError> {
        Self::build(source::statements(texts)?)
    }

    /// What the whole set says, with everything built: what slices must agree with.
    #[cfg(test)]
    pub(crate) fn evaluate_whole(&self, input: &Input<'_>, schema: Option<&Schema>) -> Verdict {
        let uids = self.words.uids(input).unwrap();
        let (request, entities) = render(input, &Reads::ALL, &self.words, &uids, schema).unwrap();
        let set =
            PolicySet::from_policies(self.statements.iter().map(|s| s.policy.clone())).unwrap();
        let mut verdict = Verdict::default();
        verdict.add(&self.authorizer.is_authorized(&request, &set, &entities));
        verdict.sort();
        verdict
    }
}

/// The subject and the credential a permit carries.
fn granted(about: &About<'_>) -> (Option<attesta_spiffe::SpiffeId>, crate::Want) {
    match about {
        About::Issue { id, want, .. } | About::Node { id, want, .. } => {
            (Some((*id).clone()), want.clone())
        }
        About::Entry { entry, .. } => (entry.spiffe_id().exact().cloned(), crate::Want::Nothing),
        About::Target(_) => (None, crate::Want::Nothing),
        About::System { id, want } => (id.cloned(), want.clone()),
    }
}

/// Which policies allowed, forbade, failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) permits: Vec<String>,
    pub(crate) forbids: Vec<String>,
    /// The policy, what went wrong, and the attribute that was missing.
    pub(crate) errors: Vec<(String, String, Option<String>)>,
    /// What the evaluated policies read.
    pub(crate) reads: Reads,
}

impl Verdict {
    fn fault(why: String) -> Self {
        Self {
            errors: vec![(String::new(), why, None)],
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, response: &cedar_policy::Response) {
        // On Allow the reasons are permits; on Deny they are forbids, or none.
        let ids = response
            .diagnostics()
            .reason()
            .map(|id| AsRef::<str>::as_ref(id).to_owned());
        match response.decision() {
            Decision::Allow => self.permits.extend(ids),
            Decision::Deny => self.forbids.extend(ids),
        }
        for error in response.diagnostics().errors() {
            let AuthorizationError::PolicyEvaluationError(error) = error;
            self.errors.push((
                error.policy_id().to_string(),
                error.inner().to_string(),
                missing(error.inner()),
            ));
        }
    }

    pub(crate) fn sort(&mut self) {
        self.permits.sort_unstable();
        self.forbids.sort_unstable();
        self.errors.sort_unstable();
    }

    pub(crate) fn permitted(&self) -> bool {
        self.errors.is_empty() && self.forbids.is_empty() && !self.permits.is_empty()
    }

    fn refusal(&self, input: &Input<'_>) -> Option<Denial> {
        let action = input.action.as_str();
        let who = &input.principal.id;
        let refused =
            |reason, message: String| Some(Denial::new(Code::PermissionDenied, reason, message));
        if let Some((policy, why, attribute)) = self.errors.first() {
            let why = text::bounded(why, 256);
            let message =
                format!("policy {policy} could not be evaluated for {action} by {who}: {why}");
            let mut denial = Denial::new(Code::PermissionDenied, Reason::PolicyError, message);
            if !policy.is_empty() {
                denial = denial.with_rule(policy.as_str());
            }
            if let Some(attribute) = attribute {
                denial = denial.with_attribute(attribute.as_str());
            }
            return Some(denial.with_hint("a policy that fails refuses; correct it"));
        }
        if let Some(first) = self.forbids.first() {
            let message = format!(
                "policy {} forbids {action} for {who}",
                self.forbids.join(", ")
            );
            return refused(Reason::Policy, message).map(|denial| denial.with_rule(first.as_str()));
        }
        if self.permits.is_empty() {
            return refused(
                Reason::Policy,
                format!(
                    "no policy permits {action} for {} {who}",
                    kind_word(input.principal.kind)
                ),
            );
        }
        None
    }
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Identity => "workload",
        Kind::Entry => "entry",
        Kind::Node => "node",
        Kind::Admin => "admin",
        Kind::Local => "local user",
        Kind::System => "system task",
        Kind::Stranger => "stranger",
        Kind::Target => "target",
        Kind::Server => "server",
    }
}

/// The attribute an evaluation lacked. Cedar names it only in its sentence, as the last word in backticks.
fn missing(error: &EvaluationError) -> Option<String> {
    match error {
        EvaluationError::EntityAttrDoesNotExist(_) | EvaluationError::RecordAttrDoesNotExist(_) => {
            error.to_string().rsplit('`').nth(1).map(str::to_owned)
        }
        _ => None,
    }
}

fn validate(statements: &[Statement]) -> Result<(), PolicyError> {
    let (schema, _) =
        Schema::from_cedarschema_str(SCHEMA).map_err(|e| PolicyError::Schema(e.to_string()))?;
    let set = PolicySet::from_policies(statements.iter().map(|s| s.policy.clone()))
        .map_err(|e| PolicyError::Schema(e.to_string()))?;
    // One level: attributes of the principal and the resource are given, those of entities a policy names are not.
    let result = Validator::new(schema).validate_with_level(&set, ValidationMode::Strict, 1);
    let mut faults: Vec<_> = result
        .validation_errors()
        .map(|e| {
            let id = e.policy_id().to_string();
            (statements.iter().find(|s| s.id == id), id, e.to_string())
        })
        .collect();
    // A policy that can never apply is most likely a forbid with a slip in it.
    faults.extend(result.validation_warnings().filter_map(|w| match w {
        ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_) => {
            let id = w.policy_id().to_string();
            Some((statements.iter().find(|s| s.id == id), id, w.to_string()))
        }
        _ => None,
    }));
    faults.sort_by(|a, b| (a.0.map(|s| &s.id), &a.2).cmp(&(b.0.map(|s| &s.id), &b.2)));
    match faults.into_iter().next() {
        None => Ok(()),
        Some((Some(statement), id, why)) => Err(PolicyError::Invalid {
            place: statement.place.clone(),
            id,
            why: text::printable(&why),
        }),
        Some((None, id, why)) => Err(PolicyError::Schema(format!("{id}: {why}"))),
    }
}

fn digest(statements: &[Statement]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in std::iter::once(SCHEMA).chain(
        statements
            .iter()
            .flat_map(|s| [s.id.as_str(), s.text.as_str()]),
    ) {
        // Lengths first, so that no two sets have the same bytes.
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    hex::encode(context.finish())
}
