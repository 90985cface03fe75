//! The one sentence, once per thing that can be asked: attest, identify, decide, record, issue.

pub(crate) mod attest;
pub(crate) mod authorities;
pub(crate) mod ended;
pub(crate) mod entries;
pub(crate) mod forget;
pub(crate) mod issue;
pub(crate) mod nodes;
pub(crate) mod renew;
pub(crate) mod server_svid;
