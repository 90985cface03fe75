//! The server: SPIRE's APIs and ours over the one sentence attest, identify, decide, record, issue.
