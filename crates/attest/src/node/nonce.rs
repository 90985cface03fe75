//! Random bits for challenges, injected so that a test can hold them in its hand.

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Length of a nonce in bytes, as SPIRE's `x509pop` has it.
pub const NONCE_BYTES: usize = 32;

/// A source of nonces; none comes when the system has no random numbers.
#[derive(Clone)]
pub struct Nonce(Arc<dyn Fn() -> Option<[u8; NONCE_BYTES]> + Send + Sync>);

impl Nonce {
    /// The system's random numbers.
    #[must_use]
    pub fn system() -> Self {
        let random = SystemRandom::new();
        Self::new(move || {
            let mut nonce = [0; NONCE_BYTES];
            random.fill(&mut nonce).ok()?;
            Some(nonce)
        })
    }

    /// Another source. Whoever can foretell a challenge can replay its answer.
    #[must_use]
    pub fn new(source: impl Fn() -> Option<[u8; NONCE_BYTES]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    pub(crate) fn draw(&self) -> Option<[u8; NONCE_BYTES]> {
        (self.0)()
    }
}
