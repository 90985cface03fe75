//! The keys that sign now. A ring is made from a snapshot and is never changed: when authorities change, another takes
//! its place, and what was prepared on the old one may still be signed by it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use attesta_model::{
    Action, AuthorityKey, AuthorityState, Code, CredentialId, Denial, KeyAlgorithm, KeyId, KeyKind,
    Reason, Record, Snapshot,
};
use attesta_policy::{Permit, Want};
use attesta_spiffe::{SpiffeId, TrustDomain};
use attesta_store::{LedgerId, Receipt};
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{Keys, SignError, Signer, SubjectKey, jwt, x509};

/// Default and longest lifetimes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// X.509-SVIDs of entries that do not say; SPIRE's `default_x509_svid_ttl`.
    pub default_x509: Duration,
    /// JWT-SVIDs of entries that do not say; SPIRE's `default_jwt_svid_ttl`.
    pub default_jwt: Duration,
    /// Longest X.509-SVID.
    pub longest_x509: Duration,
    /// Longest JWT-SVID.
    pub longest_jwt: Duration,
    /// How far `notBefore` lies before the moment of issuance, for clocks that lag.
    pub backdate: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            default_x509: Duration::from_secs(3600),
            default_jwt: Duration::from_secs(300),
            longest_x509: Duration::from_secs(4 * 3600),
            longest_jwt: Duration::from_secs(3600),
            backdate: Duration::from_secs(10),
        }
    }
}

/// Why nothing was prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// No authority of this kind is active.
    #[error("no active {0} authority; the server is starting, or its keys could not be opened")]
    NoAuthority(&'static str),
    /// The active authority has ended.
    #[error("the active authority {0} has ended; none may sign until the next is active")]
    Ended(KeyId),
    /// The permit is for something else.
    #[error("this permit is for {0}, which needs no signature of this kind")]
    Permit(&'static str),
    /// A document could not be encoded; never by input that passed its parsers.
    #[error("the document could not be encoded: {0}")]
    Encode(String),
    /// Our own lints refused the document.
    #[error("the certificate fails its lint and is not signed: {0}")]
    Lint(String),
}

impl From<PrepareError> for Denial {
    fn from(e: PrepareError) -> Self {
        let code = match e {
            PrepareError::NoAuthority(_) | PrepareError::Ended(_) => Code::Unavailable,
            _ => Code::Internal,
        };
        Self::new(code, Reason::Signing, e.to_string())
    }
}

impl From<der::Error> for PrepareError {
    fn from(e: der::Error) -> Self {
        Self::Encode(e.to_string())
    }
}

/// The document to be signed, its id and digest. Made from a permit, consumed by [`Ring::sign`]; not Clone.
#[must_use = "a prepared document is recorded and signed, or dropped on purpose"]
pub struct Prepared {
    document: Document,
    subject: Option<SpiffeId>,
    credential: CredentialId,
    key: KeyId,
    algorithm: KeyAlgorithm,
    signer: Arc<dyn Signer>,
    digest: [u8; 32],
    issued_at: Timestamp,
    expires_at: Timestamp,
    audience: Vec<String>,
}

enum Document {
    X509(Vec<u8>),
    Jwt(String),
}

impl Prepared {
    /// The credential's id, known before it is signed.
    #[must_use]
    pub fn credential(&self) -> &CredentialId {
        &self.credential
    }

    /// When the credential ends.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Writes down what will be signed: its record must carry the digest, or no receipt of it fits.
    #[must_use]
    pub fn describe(&self, mut record: Record) -> Record {
        record.subject.clone_from(&self.subject);
        record.credential = Some(self.credential.clone());
        record.expires_at = Some(self.expires_at);
        record.digest = Some(self.digest);
        record.key = Some(self.key.clone());
        record.audience.clone_from(&self.audience);
        record
    }
}

/// What was issued.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the type of its name")]
pub enum Credential {
    X509(IssuedX509),
    Jwt(IssuedJwt),
}

/// An X.509-SVID, or an authority's own certificate.
#[derive(Clone, Debug)]
pub struct IssuedX509 {
    /// The subject; none for an authority's certificate.
    pub id: Option<SpiffeId>,
    /// DER.
    pub certificate: Vec<u8>,
    /// Its serial.
    pub credential: CredentialId,
    /// When it was issued; `notBefore` lies a little earlier.
    pub issued_at: Timestamp,
    /// `notAfter`.
    pub expires_at: Timestamp,
}

/// A JWT-SVID.
#[derive(Clone)]
pub struct IssuedJwt {
    /// The subject.
    pub id: SpiffeId,
    /// The compact token: a bearer secret, absent from Debug.
    pub token: String,
    /// Its `jti`.
    pub credential: CredentialId,
    /// `iat`.
    pub issued_at: Timestamp,
    /// `exp`.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedJwt({} for {})", self.credential, self.id)
    }
}

/// Bits drawn before the command ran.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// For a certificate.
    pub serial: [u8; 16],
    /// For a token.
    pub token: Uuid,
}

/// See the module.
pub struct Ring {
    ledger: LedgerId,
    trust_domain: TrustDomain,
    limits: Limits,
    signing: Vec<Arc<Signing>>,
    opened: HashMap<KeyId, Arc<dyn Signer>>,
}

struct Signing {
    key: Arc<AuthorityKey>,
    signer: Arc<dyn Signer>,
    issuer: Vec<u8>,
    issuer_key_id: [u8; 20],
}

impl Ring {
    /// Opens what the snapshot says is active or prepared. Keys that `previous` has open are not opened again.
    ///
    /// # Errors
    /// A seal that does not open: nothing is replaced silently.
    pub fn open(
        snapshot: &Snapshot,
        keys: &dyn Keys,
        ledger: LedgerId,
        limits: Limits,
        previous: Option<&Self>,
    ) -> Result<Self, SignError> {
        let mut ring = Self {
            ledger,
            trust_domain: snapshot.trust_domain().clone(),
            limits,
            signing: Vec::new(),
            opened: HashMap::new(),
        };
        for key in snapshot
            .authorities()
            .filter(|a| a.state != AuthorityState::Old)
        {
            let signer = match previous.and_then(|p| p.opened.get(&key.id)) {
                Some(open) => Arc::clone(open),
                None => keys.open(snapshot.trust_domain(), key)?,
            };
            ring.opened.insert(key.id.clone(), Arc::clone(&signer));
            if key.state == AuthorityState::Active {
                let malformed = || SignError::Malformed(key.id.clone());
                let issuer = key
                    .certificate
                    .as_deref()
                    .map(x509::subject_of)
                    .transpose()
                    .map_err(|_| malformed())?
                    .unwrap_or_default();
                let issuer_key_id = SubjectKey::own(&key.public_key)
                    .map_err(|_| malformed())?
                    .key_id();
                ring.signing.push(Arc::new(Signing {
                    key: Arc::clone(key),
                    signer,
                    issuer,
                    issuer_key_id,
                }));
            }
        }
        Ok(ring)
    }

    /// The lifetimes it was made with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether an authority of this kind can sign.
    #[must_use]
    pub fn can_sign(&self, kind: KeyKind, now: Timestamp) -> bool {
        self.signing
            .iter()
            .any(|s| s.key.kind == kind && s.key.not_after > now)
    }

    fn active(
        &self,
        kind: KeyKind,
        algorithm: Option<KeyAlgorithm>,
        now: Timestamp,
    ) -> Result<&Signing, PrepareError> {
        let candidates = self
            .signing
            .iter()
            .filter(|s| s.key.kind == kind && algorithm.is_none_or(|a| a == s.key.algorithm));
        let best = candidates
            .max_by_key(|s| s.key.not_after)
            .ok_or(PrepareError::NoAuthority(kind.as_str()))?;
        if best.key.not_after <= now {
            return Err(PrepareError::Ended(best.key.id.clone()));
        }
        Ok(best)
    }

    /// Prepares an X.509-SVID for a key whose possession was proven. The serial may not lie before `valid_from`, where
    /// the subject is a node that has one.
    ///
    /// # Errors
    /// [`PrepareError`]: nothing can sign, or the permit is for something else.
    pub fn prepare_x509(
        &self,
        permit: Permit,
        key: &SubjectKey,
        drawn: &Drawn,
        valid_from: Option<Timestamp>,
    ) -> Result<Prepared, PrepareError> {
        let now = permit.at();
        let (Some(subject), Want::X509 { ttl, dns_names }) = (permit.subject(), permit.want())
        else {
            return Err(PrepareError::Permit(permit.action().as_str()));
        };
        let authority = self.active(KeyKind::X509, None, now)?;
        let ttl = effective(*ttl, self.limits.default_x509, self.limits.longest_x509);
        let expires_at = end(now, ttl, authority.key.not_after);
        let serial = valid_from
            .filter(|from| *from > now)
            .map_or(drawn.serial, |from| reserialled(drawn.serial, from));
        let contents = x509::Contents {
            serial,
            issuer: authority.issuer.clone(),
            issuer_key_id: Some(authority.issuer_key_id),
            algorithm: authority.key.algorithm,
            not_before: now.checked_sub(signed(self.limits.backdate)).unwrap_or(now),
            not_after: expires_at,
            spki: key.spki(),
            key_id: key.key_id(),
            subject: x509::leaf_subject(dns_names.first().map(String::as_str))?,
            uri: x509::leaf_uri(subject),
            dns_names,
            authority: false,
        };
        let tbs = x509::encode(&contents)?;
        attesta_spiffe::x509svid::lint_leaf_tbs(&tbs, subject)
            .map_err(|e| PrepareError::Lint(e.to_string()))?;
        Ok(Prepared {
            digest: sha256(&tbs),
            document: Document::X509(tbs),
            subject: Some(subject.clone()),
            credential: CredentialId::from_serial(&serial),
            key: authority.key.id.clone(),
            algorithm: authority.key.algorithm,
            signer: Arc::clone(&authority.signer),
            issued_at: now,
            expires_at,
            audience: Vec::new(),
        })
    }

    /// Prepares a JWT-SVID.
    ///
    /// # Errors
    /// [`PrepareError`]: nothing can sign with this algorithm, or the permit is for something else.
    pub fn prepare_jwt(&self, permit: Permit, drawn: &Drawn) -> Result<Prepared, PrepareError> {
        let now = permit.at();
        let (
            Some(subject),
            Want::Jwt {
                audience,
                ttl,
                algorithm,
            },
        ) = (permit.subject(), permit.want())
        else {
            return Err(PrepareError::Permit(permit.action().as_str()));
        };
        let authority = self.active(KeyKind::Jwt, Some(*algorithm), now)?;
        let ttl = effective(*ttl, self.limits.default_jwt, self.limits.longest_jwt);
        let expires_at = end(now, ttl, authority.key.not_after);
        let credential = CredentialId::from_uuid(drawn.token);
        let input = jwt::encode(&jwt::Contents {
            key: &authority.key.id,
            algorithm: authority.key.algorithm,
            subject,
            audience,
            issued_at: now,
            expires_at,
            id: credential.as_str(),
        })
        .map_err(|e| PrepareError::Encode(e.to_string()))?;
        Ok(Prepared {
            digest: sha256(input.as_bytes()),
            document: Document::Jwt(input),
            subject: Some(subject.clone()),
            credential,
            key: authority.key.id.clone(),
            algorithm: authority.key.algorithm,
            signer: Arc::clone(&authority.signer),
            issued_at: now,
            expires_at,
            audience: audience.clone(),
        })
    }

    /// Prepares the self-signed certificate of a new X.509 authority whose key was just made.
    ///
    /// # Errors
    /// [`PrepareError`]: the permit is for something else, or our own lint refuses.
    pub fn prepare_authority(
        &self,
        permit: Permit,
        authority: &AuthorityKey,
        signer: Arc<dyn Signer>,
        drawn: &Drawn,
    ) -> Result<Prepared, PrepareError> {
        if permit.action() != Action::AuthorityPrepare || authority.kind != KeyKind::X509 {
            return Err(PrepareError::Permit(permit.action().as_str()));
        }
        let key = SubjectKey::own(&authority.public_key)
            .map_err(|e| PrepareError::Encode(e.to_string()))?;
        let subject = x509::authority_subject(&drawn.serial)?;
        let tbs = x509::encode(&x509::Contents {
            serial: drawn.serial,
            issuer: subject.clone(),
            issuer_key_id: None,
            algorithm: authority.algorithm,
            not_before: authority.not_before,
            not_after: authority.not_after,
            spki: &authority.public_key,
            key_id: key.key_id(),
            subject,
            uri: x509::authority_uri(&self.trust_domain),
            dns_names: &[],
            authority: true,
        })?;
        attesta_spiffe::x509svid::lint_authority_tbs(&tbs, &self.trust_domain)
            .map_err(|e| PrepareError::Lint(e.to_string()))?;
        Ok(Prepared {
            digest: sha256(&tbs),
            document: Document::X509(tbs),
            subject: None,
            credential: CredentialId::from_serial(&drawn.serial),
            key: authority.id.clone(),
            algorithm: authority.algorithm,
            signer,
            issued_at: permit.at(),
            expires_at: authority.not_after,
            audience: Vec::new(),
        })
    }

    /// Signs what was prepared, against the receipt of its record.
    ///
    /// # Errors
    /// A receipt of another ledger or another document, or the key refuses. The record stays: a record without its
    /// signature is allowed and visible as such; the reverse never happens.
    pub async fn sign(&self, prepared: Prepared, receipt: Receipt) -> Result<Credential, Denial> {
        if receipt.ledger() != self.ledger || receipt.digest() != Some(prepared.digest) {
            return Err(Denial::new(
                Code::Internal,
                Reason::Signing,
                "the receipt is not this document's; nothing was signed",
            ));
        }
        let Prepared {
            document,
            subject,
            credential,
            algorithm,
            signer,
            issued_at,
            expires_at,
            ..
        } = prepared;
        let bytes = match &document {
            Document::X509(tbs) => tbs.as_slice(),
            Document::Jwt(input) => input.as_bytes(),
        };
        let refused = |e: &dyn std::fmt::Display| {
            Denial::new(
                Code::Unavailable,
                Reason::Signing,
                format!("signing failed: {e}"),
            )
        };
        let signature = signer.sign(bytes).await.map_err(|e| refused(&e))?;
        Ok(match document {
            Document::X509(tbs) => Credential::X509(IssuedX509 {
                id: subject,
                certificate: x509::assemble(&tbs, algorithm, &signature)
                    .map_err(|e| refused(&e))?,
                credential,
                issued_at,
                expires_at,
            }),
            Document::Jwt(input) => Credential::Jwt(IssuedJwt {
                id: subject.ok_or_else(|| refused(&"a token needs a subject"))?,
                token: jwt::assemble(input, &signature),
                credential,
                issued_at,
                expires_at,
            }),
        })
    }
}

/// The name of an authority with this public key: the subject key id in hex for X.509, the `kid` for JWT.
#[must_use]
pub fn authority_name(kind: KeyKind, spki: &[u8]) -> Option<KeyId> {
    match kind {
        KeyKind::X509 => SubjectKey::own(spki)
            .ok()
            .and_then(|k| KeyId::parse(&hex::encode(k.key_id())).ok()),
        KeyKind::Jwt => KeyId::parse(&jwt::key_id(spki)).ok(),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn effective(wanted: Duration, default: Duration, longest: Duration) -> Duration {
    if wanted.is_zero() {
        default.min(longest)
    } else {
        wanted.min(longest)
    }
}

fn end(now: Timestamp, ttl: Duration, not_after: Timestamp) -> Timestamp {
    let end = now
        .checked_add(signed(ttl))
        .unwrap_or(not_after)
        .min(not_after);
    // Certificates and tokens count seconds: what is written is what is recorded.
    Timestamp::from_second(end.as_second()).unwrap_or(end)
}

fn signed(d: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(d).unwrap_or(jiff::SignedDuration::MAX)
}

/// The same random bits under a later time.
fn reserialled(serial: [u8; 16], at: Timestamp) -> [u8; 16] {
    let mut random = [0; 10];
    random.copy_from_slice(serial.last_chunk::<10>().unwrap_or(&[0; 10]));
    attesta_model::request::serial_at(at, random)
}
