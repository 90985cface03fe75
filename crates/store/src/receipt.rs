//! Proof that something is durable. Made by the ledger alone; consumed by whoever signs.

use crate::{LedgerId, Position};

/// Proof that one record, with all that was committed beside it, will survive a crash. It can be neither copied nor
/// made outside of this room, so a function that consumes one cannot be called without a record:
///
/// ```
/// fn sign(_receipt: attesta_store::Receipt) {}
/// fn once(receipt: attesta_store::Receipt) {
///     sign(receipt);
/// }
/// ```
///
/// ```compile_fail
/// fn sign(_receipt: attesta_store::Receipt) {}
/// fn twice(receipt: attesta_store::Receipt) {
///     sign(receipt);
///     sign(receipt);
/// }
/// ```
///
/// ```compile_fail
/// fn sign(_receipt: attesta_store::Receipt) {}
/// fn copied(receipt: attesta_store::Receipt) {
///     sign(receipt.clone());
///     sign(receipt);
/// }
/// ```
///
/// Its parts can be read, and not put together:
///
/// ```
/// fn read(receipt: &attesta_store::Receipt) -> (attesta_store::LedgerId, attesta_store::Position) {
///     (receipt.ledger(), receipt.position().clone())
/// }
/// ```
///
/// ```compile_fail
/// fn forged(ledger: attesta_store::LedgerId, position: attesta_store::Position) -> attesta_store::Receipt {
///     attesta_store::Receipt { ledger, position, digest: None, rests_on: attesta_store::RestsOn::Database }
/// }
/// ```
#[must_use = "a receipt is what a signature needs"]
#[derive(Debug)]
pub struct Receipt {
    ledger: LedgerId,
    position: Position,
    digest: Option<[u8; 32]>,
    rests_on: RestsOn,
}

/// Where a record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestsOn {
    /// In the ledger's database, fsynced.
    Database,
}

impl Receipt {
    // INVARIANT: called by the ledger's writer after the backend said that the record is durable, and nowhere else.
    pub(crate) fn new(ledger: LedgerId, position: Position, digest: Option<[u8; 32]>) -> Self {
        Self {
            ledger,
            position,
            digest,
            rests_on: RestsOn::Database,
        }
    }

    /// The ledger that holds the record.
    #[must_use]
    pub fn ledger(&self) -> LedgerId {
        self.ledger
    }

    /// Where the record stands.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The record's `digest`: SHA-256 of the bytes that may be signed for this receipt.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// Where the record is durable.
    #[must_use]
    pub fn rests_on(&self) -> RestsOn {
        self.rests_on
    }
}
