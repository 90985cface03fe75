//! Random bits and ids, drawn before a command runs and passed in: commands are functions of their arguments.
//!
//! Ids begin with time, so that indexes only append (DESIGN section 9).

use attesta_model::{CorrelationId, DecisionId, request::serial_at};
use aws_lc_rs::rand::fill;
use jiff::Timestamp;
use uuid::Uuid;

/// The system's randomness failed: nothing may be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source failed; nothing can be issued until it works")]
pub struct NoRandomness;

/// Random bytes.
///
/// # Errors
/// The system's source failed.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut out = [0; N];
    fill(&mut out).map_err(|_| NoRandomness)?;
    Ok(out)
}

/// A certificate's serial: 48 bits of milliseconds, 80 random bits.
///
/// # Errors
/// The system's source failed.
pub fn serial(at: Timestamp) -> Result<[u8; 16], NoRandomness> {
    Ok(serial_at(at, bytes()?))
}

/// A UUIDv7 at this time (RFC 9562 section 5.7).
///
/// # Errors
/// The system's source failed.
pub fn uuid(at: Timestamp) -> Result<Uuid, NoRandomness> {
    let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &bytes()?).into_uuid())
}

/// A decision's id.
///
/// # Errors
/// The system's source failed.
pub fn decision(at: Timestamp) -> Result<DecisionId, NoRandomness> {
    Ok(DecisionId(uuid(at)?.into_bytes()))
}

/// A correlation id.
///
/// # Errors
/// The system's source failed.
pub fn correlation(at: Timestamp) -> Result<CorrelationId, NoRandomness> {
    Ok(CorrelationId::from_uuid(uuid(at)?))
}

impl From<NoRandomness> for attesta_model::Denial {
    fn from(e: NoRandomness) -> Self {
        Self::new(
            attesta_model::Code::Unavailable,
            attesta_model::Reason::Signing,
            e.to_string(),
        )
    }
}
