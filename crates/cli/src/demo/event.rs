//! What a service of the demo says to the stage: one JSON object a line on its stdout.

use serde::{Deserialize, Serialize};

use crate::output;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// It has an identity, or a new one.
    Identity,
    /// It listens; the text is the address.
    Listening,
    /// A call to another service succeeded.
    Called,
    /// It answered a caller.
    Served,
    /// It turned a caller away.
    TurnedAway,
    /// It was refused an identity.
    Refused,
    /// It was turned away by another service.
    Rejected,
    /// Something else went wrong; it tries again.
    Trouble,
}

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) what: What,
    pub(super) text: String,
}

/// Says it. With nobody listening the service ends soon by itself: its stdin is closed, too.
pub(super) fn tell(what: What, text: impl Into<String>) {
    if let Ok(line) = serde_json::to_string(&Event {
        what,
        text: text.into(),
    }) {
        drop(output::say(line));
    }
}
