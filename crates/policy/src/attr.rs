//! The names of what policies can read, each a bit, and the kinds of entities that carry them. The schema says the same
//! in Cedar; a test compares them.

/// An attribute of an entity or of the context. A name means the same wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Attr {
    SpiffeId,
    Path,
    Parent,
    Owner,
    Purpose,
    Labels,
    Selectors,
    Admin,
    Downstream,
    Template,
    ExpiresS,
    Id,
    Attestor,
    Known,
    Banned,
    Uid,
    Program,
    Task,
    From,
    Name,
    NowS,
    Actor,
    Facts,
    UnixUid,
    UnixGid,
    Node,
    NodeBanned,
    ByEntry,
    Instance,
    TtlS,
    DnsNames,
    Audience,
    Algorithm,
    Before,
}

impl Attr {
    pub(crate) const ALL: [Self; 34] = [
        Self::SpiffeId,
        Self::Path,
        Self::Parent,
        Self::Owner,
        Self::Purpose,
        Self::Labels,
        Self::Selectors,
        Self::Admin,
        Self::Downstream,
        Self::Template,
        Self::ExpiresS,
        Self::Id,
        Self::Attestor,
        Self::Known,
        Self::Banned,
        Self::Uid,
        Self::Program,
        Self::Task,
        Self::From,
        Self::Name,
        Self::NowS,
        Self::Actor,
        Self::Facts,
        Self::UnixUid,
        Self::UnixGid,
        Self::Node,
        Self::NodeBanned,
        Self::ByEntry,
        Self::Instance,
        Self::TtlS,
        Self::DnsNames,
        Self::Audience,
        Self::Algorithm,
        Self::Before,
    ];

    /// What entries carry, and identities with them.
    pub(crate) const OF_ENTRY: [Self; 11] = [
        Self::SpiffeId,
        Self::Path,
        Self::Parent,
        Self::Owner,
        Self::Purpose,
        Self::Labels,
        Self::Selectors,
        Self::Admin,
        Self::Downstream,
        Self::Template,
        Self::ExpiresS,
    ];

    /// The name in the schema, in records and in denials.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SpiffeId => "spiffe_id",
            Self::Path => "path",
            Self::Parent => "parent",
            Self::Owner => "owner",
            Self::Purpose => "purpose",
            Self::Labels => "labels",
            Self::Selectors => "selectors",
            Self::Admin => "admin",
            Self::Downstream => "downstream",
            Self::Template => "template",
            Self::ExpiresS => "expires_s",
            Self::Id => "id",
            Self::Attestor => "attestor",
            Self::Known => "known",
            Self::Banned => "banned",
            Self::Uid => "uid",
            Self::Program => "program",
            Self::Task => "task",
            Self::From => "from",
            Self::Name => "name",
            Self::NowS => "now_s",
            Self::Actor => "actor",
            Self::Facts => "facts",
            Self::UnixUid => "unix_uid",
            Self::UnixGid => "unix_gid",
            Self::Node => "node",
            Self::NodeBanned => "node_banned",
            Self::ByEntry => "by_entry",
            Self::Instance => "instance",
            Self::TtlS => "ttl_s",
            Self::DnsNames => "dns_names",
            Self::Audience => "audience",
            Self::Algorithm => "algorithm",
            Self::Before => "before",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    pub(crate) fn bit(self) -> Attrs {
        Attrs(1 << (self as u64))
    }
}

/// A set of attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attrs(u64);

impl Attrs {
    pub(crate) const ALL: Self = Self(u64::MAX);

    pub(crate) fn has(self, attr: Attr) -> bool {
        self.0 & attr.bit().0 != 0
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn of(attrs: &[Attr]) -> Self {
        Self(attrs.iter().fold(0, |all, a| all | a.bit().0))
    }

    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        Attr::ALL
            .into_iter()
            .filter(move |a| self.has(*a))
            .map(Attr::name)
    }
}

/// The kinds of entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Identity,
    Entry,
    Node,
    Admin,
    Local,
    System,
    Stranger,
    Target,
    Server,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Identity,
        Self::Entry,
        Self::Node,
        Self::Admin,
        Self::Local,
        Self::System,
        Self::Stranger,
        Self::Target,
        Self::Server,
    ];

    /// Those who ask, for every action but issuance.
    pub(crate) const ACTORS: [Self; 5] = [
        Self::Node,
        Self::Admin,
        Self::Local,
        Self::System,
        Self::Stranger,
    ];

    /// The type's name in Cedar.
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            Self::Identity => "Attesta::Identity",
            Self::Entry => "Attesta::Entry",
            Self::Node => "Attesta::Node",
            Self::Admin => "Attesta::Admin",
            Self::Local => "Attesta::Local",
            Self::System => "Attesta::System",
            Self::Stranger => "Attesta::Stranger",
            Self::Target => "Attesta::Target",
            Self::Server => "Attesta::Server",
        }
    }
}
