//! Every bound of the domain in one place. A value over its bound is refused at the door, never cut.

use std::time::Duration;

/// Most selectors of one entry.
pub const ENTRY_SELECTORS: usize = 64;
/// Longest selector, `type:value`, in bytes.
pub const SELECTOR_BYTES: usize = 2048;
/// Most facts of one attestation.
pub const FACTS: usize = 256;
/// Most values of one fact: Linux allows 65,536 supplementary groups; a process with more than this is not ours to name.
pub const FACT_VALUES: usize = 1024;
/// Longest value of a fact, in bytes.
pub const FACT_VALUE_BYTES: usize = 1024;
/// Most DNS names of one entry.
pub const DNS_NAMES: usize = 64;
/// Longest hint, in bytes (SPIFFE Workload API section 8, C186).
pub const HINT_BYTES: usize = 1024;
/// Longest entry id chosen by a caller, in bytes (SPIRE's own bound).
pub const ENTRY_ID_BYTES: usize = 255;
/// Most labels of one entry.
pub const LABELS: usize = 32;
/// Longest label name or value, owner or purpose, in bytes.
pub const LABEL_BYTES: usize = 256;
/// Most trust domains one entry federates with.
pub const FEDERATES_WITH: usize = 64;
/// Most audiences of one token.
pub const AUDIENCES: usize = 16;
/// Longest audience, in bytes.
pub const AUDIENCE_BYTES: usize = 1024;
/// Longest free text from outside that a record keeps, in bytes.
pub const TEXT_BYTES: usize = 512;
/// Longest lifetime an entry may ask for; the authority's ceiling is lower and applies as well.
pub const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Most entries that are looked at for those that came near; who has more gets a partial answer.
pub const NEAREST_SCAN: usize = 10_000;
/// Deepest chain of entries whose ids are parents of entries.
pub const PARENT_DEPTH: usize = 16;
