//! A file read against the table of keys: values with their lines, and everything that is wrong, at once.
//!
//! Must not know what a key is for; what two keys have to agree on is here, though.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use attesta_authority::Lifetimes;
use attesta_model::{KeyAlgorithm, text};
use attesta_spiffe::{SpiffeId, TrustDomain};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    keys::{self, KEYS, Role},
    longest,
    nearest::nearest,
    read_file,
    value::{Value, show},
};
use crate::output::Failure;

/// Longest file, in bytes.
const FILE_BYTES: u64 = 1 << 20;
/// Most problems that are told of one file.
const PROBLEMS: usize = 100;

/// What flags gave: it stands above the file.
pub(crate) type Given = BTreeMap<&'static str, Value>;

/// The values that hold: from flags, the file, and defaults.
#[derive(Debug, PartialEq)]
pub(crate) struct Values(BTreeMap<&'static str, (Value, Option<usize>)>);

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    line: usize,
    key: String,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)?;
        if !self.key.is_empty() {
            write!(f, " ({})", self.key)?;
        }
        Ok(())
    }
}

/// A line of what is told, above the others.
#[derive(Debug)]
struct Line {
    text: String,
    below: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Line {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.below.as_ref())
    }
}

/// The command that a file's sections are for.
pub(super) fn role_of(path: &Path) -> Result<Role, Failure> {
    let source = read_text(path)?;
    let (table, _) = DeTable::parse_recoverable(&source);
    let has = |section: &str| table.get_ref().get(section).is_some();
    Ok(match (has("server"), has("agent")) {
        (true, false) => Role::Server,
        (false, true) => Role::Agent,
        _ => Role::Run,
    })
}

impl Values {
    /// Reads the file, if there is one, for this role.
    ///
    /// # Errors
    /// Everything that is wrong, each with file, line, what is allowed, and the key.
    pub(crate) fn load(path: Option<&Path>, role: Role, given: Given) -> anyhow::Result<Self> {
        let (source, name, base) = match path {
            None => (String::new(), String::new(), PathBuf::from(".")),
            Some(path) => {
                let base = path
                    .parent()
                    .filter(|p| !p.as_os_str().is_empty())
                    .unwrap_or(Path::new("."));
                (
                    read_text(path)?,
                    path.display().to_string(),
                    base.to_owned(),
                )
            }
        };
        Self::read(&source, &base, role, given).map_err(|problems| {
            let count = problems.len();
            let mut details: Vec<String> = problems.iter().take(PROBLEMS).map(|p| if path.is_some() { format!("{name}:{p}") } else { p.what.clone() }).collect();
            if count > PROBLEMS {
                details.push(format!("and {} more", count - PROBLEMS));
            }
            let what = match (path, count) {
                (None, _) => format!("`{}` is not told enough", role.command()),
                (Some(_), 1) => format!("{name} has a mistake"),
                (Some(_), n) => format!("{name} has {n} mistakes"),
            };
            let hint = "`attesta config reference` has every key; `attesta config check -c FILE` checks a file";
            // Each mistake is the cause of the one above it, so that every one gets its line, however many there are.
            let last = Failure::usage(details.pop().unwrap_or_default()).with_hint(hint);
            let below: Box<dyn Error + Send + Sync> = Box::new(last);
            let below = details.into_iter().rev().fold(below, |below, text| Box::new(Line { text, below }));
            anyhow::Error::new(Line { text: what, below })
        })
    }

    fn read(source: &str, base: &Path, role: Role, given: Given) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader {
            source,
            base,
            role,
            values: BTreeMap::new(),
            problems: Vec::new(),
        };
        let (table, errors) = DeTable::parse_recoverable(source);
        for error in errors {
            let line = reader.line(error.span().map_or(0, |span| span.start));
            reader.problems.push(Problem {
                line,
                key: String::new(),
                what: text::printable(error.message()),
            });
        }
        let broken: BTreeSet<usize> = reader.problems.iter().map(|p| p.line).collect();
        reader.table(table.get_ref(), "");
        // What a parser made of a broken line says nothing more.
        let mut seen = BTreeSet::new();
        reader
            .problems
            .retain(|p| (p.key.is_empty() && seen.insert(p.line)) || !broken.contains(&p.line));
        let mut problems = reader.problems;
        let mut values = Self(reader.values);
        values
            .0
            .extend(given.into_iter().map(|(key, value)| (key, (value, None))));
        values.defaults(base);
        values.required(role, &mut problems);
        values.agree(role, &mut problems);
        problems.sort();
        if problems.is_empty() {
            Ok(values)
        } else {
            Err(problems)
        }
    }

    fn defaults(&mut self, base: &Path) {
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            if !self.0.contains_key(key.path)
                && let Ok(value) = DeValue::parse(key.default)
                && let Ok(value) = key.kind.check(value.get_ref(), base)
            {
                self.0.insert(key.path, (value, None));
            }
        }
    }

    fn required(&self, role: Role, problems: &mut Vec<Problem>) {
        for key in KEYS
            .iter()
            .filter(|key| key.required && role != Role::Run && key.roles.contains(&role))
        {
            if !self.0.contains_key(key.path) && !problems.iter().any(|p| p.key == key.path) {
                let name = key.path.rsplit('.').next().unwrap_or(key.path);
                let what = format!(
                    "`{}` needs {name}, by this key or by --{}",
                    role.command(),
                    name.replace('_', "-")
                );
                problems.push(Problem {
                    line: 1,
                    key: key.path.to_owned(),
                    what,
                });
            }
        }
    }

    /// What keys have to agree on.
    fn agree(&self, role: Role, problems: &mut Vec<Problem>) {
        let mut wrong = |keys: &[&'static str], what: String| {
            let at = |key: &&'static str| self.0.get(*key).and_then(|(_, line)| *line);
            let key = keys
                .iter()
                .find(|key| at(key).is_some())
                .or(keys.first())
                .copied()
                .unwrap_or_default();
            problems.push(Problem {
                line: at(&key).unwrap_or(1),
                key: key.to_owned(),
                what,
            });
        };
        if role.sections().contains(&"server")
            && let (Some(ca_ttl), Some(propagation)) = (
                self.duration("server.ca_ttl"),
                self.duration("server.propagation"),
            )
        {
            let most = longest(ca_ttl);
            for key in [
                "server.default_x509_svid_ttl",
                "server.longest_x509_svid_ttl",
                "server.agent_ttl",
            ] {
                if let Some(ttl) = self.duration(key).filter(|ttl| *ttl > most) {
                    wrong(
                        &[key, "server.ca_ttl"],
                        format!(
                            "{} is longer than authorities of {} allow: at most {}, or a longer ca_ttl",
                            show(ttl),
                            show(ca_ttl),
                            show(most)
                        ),
                    );
                }
            }
            for (default, longest) in [
                (
                    "server.default_x509_svid_ttl",
                    "server.longest_x509_svid_ttl",
                ),
                ("server.default_jwt_svid_ttl", "server.longest_jwt_svid_ttl"),
            ] {
                if let (Some(d), Some(l)) = (self.duration(default), self.duration(longest))
                    && d > l
                {
                    wrong(
                        &[longest, default],
                        format!(
                            "the default of {} is longer than the longest, {}",
                            show(d),
                            show(l)
                        ),
                    );
                }
            }
            let lifetimes = Lifetimes {
                authority: ca_ttl,
                propagation,
            };
            let between = lifetimes
                .prepare_before()
                .saturating_sub(lifetimes.activate_before());
            if propagation > between {
                wrong(
                    &["server.propagation", "server.ca_ttl"],
                    format!(
                        "with authorities of {} a new one is published {} before it signs, which is less than {}",
                        show(ca_ttl),
                        show(between),
                        show(propagation)
                    ),
                );
            }
            if !self.flag("server.default_policies") && self.paths("server.policy_files").is_empty()
            {
                wrong(
                    &["server.default_policies"],
                    "without the built-in policies and without policy_files nothing is permitted"
                        .to_owned(),
                );
            }
        }
        if role == Role::Agent {
            let both = |a, b| self.0.contains_key(a) && self.0.contains_key(b);
            if self.flag("agent.insecure_bootstrap")
                && self.0.contains_key("agent.bootstrap_bundle")
            {
                wrong(
                    &["agent.insecure_bootstrap", "agent.bootstrap_bundle"],
                    "insecure_bootstrap and bootstrap_bundle contradict each other: leave one out"
                        .to_owned(),
                );
            }
            let (certificate, key) = (
                "agent.x509pop.certificate_path",
                "agent.x509pop.private_key_path",
            );
            if self.0.contains_key(certificate) != self.0.contains_key(key) {
                wrong(
                    &[certificate, key],
                    "x509pop needs both, certificate_path and private_key_path".to_owned(),
                );
            }
            if both("agent.join_token.path", certificate) {
                wrong(
                    &["agent.join_token.path"],
                    "a node attests in one way: either join_token or x509pop".to_owned(),
                );
            }
        }
    }
}

struct Reader<'a> {
    source: &'a str,
    base: &'a Path,
    role: Role,
    values: BTreeMap<&'static str, (Value, Option<usize>)>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, prefix: &str) {
        for (name, value) in table {
            let path = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let line = self.line(name.span().start);
            if let Some(key) = keys::find(&path) {
                self.key(key, value, line);
            } else if KEYS.iter().any(|key| {
                key.path
                    .strip_prefix(path.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
            }) {
                match value.get_ref() {
                    DeValue::Table(table) => self.table(table, &path),
                    other => {
                        let what = format!(
                            "{} where a section is wanted: write [{path}] and its keys below",
                            other.type_str()
                        );
                        self.problem(line, &path, what);
                    }
                }
            } else {
                let what = unknown(name, prefix, matches!(value.get_ref(), DeValue::Table(_)));
                self.problem(line, &path, what);
            }
        }
    }

    fn key(&mut self, key: &'static keys::Key, value: &Spanned<DeValue<'_>>, line: usize) {
        let section = key.path.split('.').next().unwrap_or_default();
        if self.role.sections().contains(&section) && !key.roles.contains(&self.role) {
            let readers: Vec<_> = key
                .roles
                .iter()
                .map(|role| format!("`{}`", role.command()))
                .collect();
            self.problem(
                line,
                key.path,
                format!(
                    "means nothing to `{}`, only to {}",
                    self.role.command(),
                    readers.join(" and ")
                ),
            );
            return;
        }
        match key.kind.check(value.get_ref(), self.base) {
            Ok(value) => {
                self.values.insert(key.path, (value, Some(line)));
            }
            Err(why) => {
                let span = value.span();
                let found =
                    text::bounded(self.source.get(span.clone()).unwrap_or_default().trim(), 80);
                let why = why
                    .map(|why| format!(" ({})", text::printable(&why)))
                    .unwrap_or_default();
                let what = format!(
                    "{found} is not allowed{why}: it must be {}",
                    key.kind.allowed()
                );
                let line = self.line(span.start);
                self.problem(line, key.path, what);
            }
        }
    }

    fn problem(&mut self, line: usize, key: &str, what: String) {
        self.problems.push(Problem {
            line,
            key: text::printable(key),
            what,
        });
    }

    /// The line of a byte, counted from 1.
    fn line(&self, at: usize) -> usize {
        1 + self.source.bytes().take(at).filter(|b| *b == b'\n').count()
    }
}

/// What is said of a name nobody knows.
fn unknown(name: &Spanned<DeString<'_>>, prefix: &str, is_table: bool) -> String {
    let name: &str = name.get_ref();
    let child = |key: &'static keys::Key| match prefix {
        "" => key.path.split('.').next(),
        prefix => key
            .path
            .strip_prefix(prefix)?
            .strip_prefix('.')?
            .split('.')
            .next(),
    };
    let here: BTreeSet<&str> = KEYS.iter().filter_map(child).collect();
    let what = if is_table { "section" } else { "key" };
    let word = text::bounded(name, 80);
    if let Some(meant) = nearest(name, here.iter().copied()) {
        return format!("unknown {what} `{word}`: did you mean `{meant}`?");
    }
    // Right name, wrong place.
    if let Some(key) = KEYS
        .iter()
        .find(|key| key.path.rsplit('.').next() == Some(name))
    {
        let section = key.path.rsplit_once('.').map_or("", |(section, _)| section);
        return format!("unknown {what} `{word}` here: it belongs into [{section}]");
    }
    format!(
        "unknown {what} `{word}`: known here are {}",
        here.iter().copied().collect::<Vec<_>>().join(", ")
    )
}

fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read_file(path, FILE_BYTES)?).map_err(|e| {
        let good = e.utf8_error().valid_up_to();
        let line = 1 + e
            .as_bytes()
            .iter()
            .take(good)
            .filter(|b| **b == b'\n')
            .count();
        Failure::usage(format!("{}:{line}: not UTF-8", path.display()))
    })
}

/// What a value of another kind than its key's would mean: a mistake in the table.
macro_rules! reading {
    ($($(#[$doc:meta])* $name:ident: $variant:ident($type:ty) -> $out:ty, $make:expr;)+) => {
        impl Values {$(
            $(#[$doc])*
            pub(crate) fn $name(&self, path: &'static str) -> $out {
                debug_assert!(keys::find(path).is_some(), "{path} is in no table");
                let value: Option<&$type> = match self.0.get(path) {
                    Some((Value::$variant(value), _)) => Some(value),
                    _ => None,
                };
                let make: fn(Option<&$type>) -> $out = $make;
                make(value)
            }
        )+}
    };
}

reading! {
    trust_domain: TrustDomain(TrustDomain) -> Option<TrustDomain>, |v| v.cloned();
    path: Path(PathBuf) -> Option<PathBuf>, |v| v.cloned();
    paths: Paths(Vec<PathBuf>) -> Vec<PathBuf>, |v| v.cloned().unwrap_or_default();
    address: Address(SocketAddr) -> Option<SocketAddr>, |v| v.copied();
    text: Text(String) -> Option<String>, |v| v.cloned();
    duration: Duration(Duration) -> Option<Duration>, |v| v.copied();
    number: Number(u64) -> u64, |v| v.copied().unwrap_or_default();
    count: Number(u64) -> usize, |v| v.and_then(|n| usize::try_from(*n).ok()).unwrap_or_default();
    flag: Bool(bool) -> bool, |v| v.copied().unwrap_or_default();
    keys: Keys(Vec<KeyAlgorithm>) -> Vec<KeyAlgorithm>, |v| v.cloned().unwrap_or_default();
    ids: SpiffeIds(Vec<SpiffeId>) -> Vec<SpiffeId>, |v| v.cloned().unwrap_or_default();
}

#[cfg(test)]
impl Values {
    /// The problems of a text, as lines.
    pub(super) fn problems(source: &str, role: Role) -> Vec<String> {
        match Self::read(source, Path::new("/base"), role, Given::default()) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    /// The values of a good text.
    pub(super) fn good(source: &str, role: Role) -> Self {
        Self::read(source, Path::new("/base"), role, Given::default()).unwrap()
    }
}
