//! What the agent reads from a certificate it was issued: whose, for which key, until when.
//!
//! Must not know whether it is trusted: that is asked of the bundle where it matters.

use std::time::Duration;

use attesta_model::request::serial_time;
use attesta_spiffe::{SpiffeId, X509Error, leaf_id};
use der::{Decode, Encode};
use jiff::Timestamp;
use x509_cert::{Certificate, ext::pkix::AuthorityKeyIdentifier, time::Time};

use crate::moments;

/// How long before it is issued a certificate may begin (SPIRE's begin 10 s before).
const BACKDATED: Duration = Duration::from_secs(120);

/// Why a certificate is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeafError {
    /// Nothing came.
    #[error("the server sent no certificate")]
    Empty,
    /// It is no X.509-SVID.
    #[error("the server sent no X.509-SVID: {0}")]
    Svid(#[from] X509Error),
    /// It cannot be read.
    #[error("the server sent a malformed certificate")]
    Malformed,
    /// It is someone else's.
    #[error("the server sent the certificate of {found} where {expected} was asked for")]
    Another {
        /// Whose it is.
        found: SpiffeId,
        /// Whose it should be.
        expected: SpiffeId,
    },
    /// It is for another key.
    #[error("the server sent a certificate for another key")]
    Key,
}

/// One issued certificate, the first of its chain.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    /// Lower-case hex, whole bytes.
    pub(crate) serial: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) spki: Vec<u8>,
    /// Key id of whoever signed the last certificate of the chain: the authority in the bundle.
    pub(crate) authority: Option<Vec<u8>>,
}

impl Leaf {
    /// Reads a chain, leaf first, that must be for this key.
    pub(crate) fn read(chain: &[impl AsRef<[u8]>], spki: &[u8]) -> Result<Self, LeafError> {
        let (first, last) = match chain {
            [] => return Err(LeafError::Empty),
            [one] => (one, one),
            [first, .., last] => (first, last),
        };
        let id = leaf_id(first.as_ref())?;
        let malformed = |_| LeafError::Malformed;
        let certificate = Certificate::from_der(first.as_ref()).map_err(malformed)?;
        let tbs = certificate.tbs_certificate();
        let leaf = Self {
            id,
            serial: hex::encode(tbs.serial_number().as_bytes()),
            not_before: timestamp(tbs.validity().not_before)?,
            not_after: timestamp(tbs.validity().not_after)?,
            spki: tbs.subject_public_key_info().to_der().map_err(malformed)?,
            authority: authority(last.as_ref()),
        };
        if leaf.spki != spki {
            return Err(LeafError::Key);
        }
        Ok(leaf)
    }

    /// When it was issued by the server's clock, as near as can be told: our serials begin with that moment; others are
    /// random, and then it was just before it came, unless the clocks do not agree.
    pub(crate) fn issued_at(&self, came_at: Timestamp) -> Timestamp {
        let latest = moments::after(self.not_before, BACKDATED);
        let told = serial_time(&self.serial).into_iter().chain([came_at]);
        let mut plausible = told.filter(|at| self.not_before <= *at && *at <= latest);
        plausible.next().unwrap_or(self.not_before)
    }

    /// That it is this id's.
    pub(crate) fn expect(self, id: &SpiffeId) -> Result<Self, LeafError> {
        if self.id == *id {
            return Ok(self);
        }
        Err(LeafError::Another {
            found: self.id,
            expected: id.clone(),
        })
    }
}

fn timestamp(time: Time) -> Result<Timestamp, LeafError> {
    let seconds =
        i64::try_from(time.to_unix_duration().as_secs()).map_err(|_| LeafError::Malformed)?;
    Timestamp::from_second(seconds).map_err(|_| LeafError::Malformed)
}

fn authority(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    let (_, aki) = certificate
        .tbs_certificate()
        .get_extension::<AuthorityKeyIdentifier>()
        .ok()??;
    Some(aki.key_identifier?.as_bytes().to_vec())
}
