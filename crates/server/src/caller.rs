//! Who calls: from the socket's peer or the certificate, held against the snapshot on each call.

use std::{net::SocketAddr, sync::Arc};

use attesta_model::{Actor, Code, Denial, Node, Reason, Snapshot, request::serial_time, text};
use attesta_spiffe::SpiffeId;
use attesta_tls::Peer;
use jiff::Timestamp;

/// Where a connection comes from: what the acceptor learned of it.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The admin socket; the kernel told who.
    Admin { uid: u32, pid: u32, path: Arc<str> },
    /// TLS, with or without a certificate that verified.
    Tls { peer: Option<Arc<Peer>>, from: From },
}

/// The other end of a TLS connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    Address(SocketAddr),
    /// The agent in this process.
    Inside,
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // The port changes with each connection: refusals are folded by address.
            Self::Address(a) => write!(f, "{}", a.ip()),
            Self::Inside => f.write_str("inside"),
        }
    }
}

/// What a caller must be for a call; a call's levels are alternatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Anyone.
    Any,
    /// Whoever opened the admin socket.
    Local,
    /// A SPIFFE ID that administers, over mTLS.
    Admin,
    /// An attested node's agent, neither banned nor replaced.
    Agent,
}

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever opened the admin socket.
    Local {
        /// User id.
        uid: u32,
        /// Process id.
        pid: u32,
        /// Its program.
        path: Arc<str>,
    },
    /// An administrator by SPIFFE ID.
    Admin(SpiffeId),
    /// A node's agent.
    Agent {
        /// The node, as the snapshot has it.
        node: Arc<Node>,
        /// The certificate it came with.
        serial: String,
        /// When that ends.
        expires_at: Timestamp,
    },
    /// Nobody in particular; an address, or an SVID that has no business here.
    Stranger(String),
}

impl Caller {
    /// The actor that records name.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self {
            Self::Local { uid, pid, path } => Actor::Local {
                uid: *uid,
                pid: *pid,
                path: text::printable(path),
            },
            Self::Admin(id) => Actor::Admin(id.clone()),
            Self::Agent { node, serial, .. } => Actor::Node {
                id: node.id.clone(),
                serial: serial.clone(),
            },
            Self::Stranger(from) => Actor::Stranger(from.clone()),
        }
    }
}

/// Finds the level by which this origin may make a call that asks for one of `levels`.
pub(crate) fn admit(
    origin: &Origin,
    levels: &[Level],
    admin_ids: &[SpiffeId],
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Caller, Denial> {
    let (peer, from) = match origin {
        Origin::Admin { uid, pid, path } => {
            return if levels
                .iter()
                .any(|l| matches!(l, Level::Local | Level::Any))
            {
                Ok(Caller::Local {
                    uid: *uid,
                    pid: *pid,
                    path: Arc::clone(path),
                })
            } else {
                Err(denied(
                    "this call is for agents; the admin socket has no node's identity",
                ))
            };
        }
        Origin::Tls { peer, from } => (peer.as_deref(), from),
    };
    let Some(peer) = peer else {
        return if levels.contains(&Level::Any) {
            Ok(Caller::Stranger(from.to_string()))
        } else {
            Err(denied("this call needs a client certificate"))
        };
    };
    if levels.contains(&Level::Admin)
        && (admin_ids.contains(&peer.id) || snapshot.is_admin(&peer.id))
    {
        return if peer.not_after > now {
            Ok(Caller::Admin(peer.id.clone()))
        } else {
            Err(expired(peer))
        };
    }
    if levels.contains(&Level::Agent) {
        let node = standing(peer, snapshot, now)?;
        return Ok(Caller::Agent {
            node,
            serial: peer.serial_hex.clone(),
            expires_at: peer.not_after,
        });
    }
    if levels.contains(&Level::Any) {
        return Ok(match standing(peer, snapshot, now) {
            Ok(node) => Caller::Agent {
                node,
                serial: peer.serial_hex.clone(),
                expires_at: peer.not_after,
            },
            Err(_) => Caller::Stranger(format!("{} as {}", from, peer.id)),
        });
    }
    Err(denied("this call is for administrators"))
}

/// Whether a certificate still stands for its node: known, not banned, not replaced, not ended.
pub(crate) fn standing(
    peer: &Peer,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Arc<Node>, Denial> {
    if peer.not_after <= now {
        return Err(expired(peer));
    }
    still_standing(&peer.id, &peer.serial_hex, snapshot)
}

/// Whether a node's certificate stands on this snapshot. A call's body may come long after its head was let through:
/// whatever decides asks again, on the snapshot it decides on.
pub(crate) fn still_standing(
    id: &SpiffeId,
    serial: &str,
    snapshot: &Snapshot,
) -> Result<Arc<Node>, Denial> {
    let refuse = |reason, why: &str| {
        Denial::new(Code::PermissionDenied, reason, format!("agent {id}: {why}"))
    };
    let node = snapshot
        .node(id)
        .ok_or_else(|| refuse(Reason::NotAttested, "is not attested, or was evicted"))?;
    if node.banned {
        return Err(refuse(Reason::Banned, "is banned"));
    }
    // A serial that is none of ours has no time and never stands.
    match serial_time(serial) {
        Some(at) if at >= node.valid_from => Ok(Arc::clone(node)),
        _ => Err(refuse(
            Reason::NotActive,
            "came with a certificate that was replaced",
        )),
    }
}

fn expired(peer: &Peer) -> Denial {
    Denial::new(
        Code::PermissionDenied,
        Reason::Expired,
        format!("{}: its certificate has ended", peer.id),
    )
}

fn denied(why: &str) -> Denial {
    Denial::new(Code::PermissionDenied, Reason::NotAuthorized, why)
}
