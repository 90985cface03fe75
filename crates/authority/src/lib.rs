//! The room with the keys: prepares documents from permits and signs them against receipts.
//!
//! Absent on purpose: HTTP, gRPC, SQL, attestors, clocks. No signature without a decision and none without a record
//! are compile errors, since [`prepare`](Ring::prepare) consumes a `Permit` and [`sign`](Ring::sign) a `Prepared` and
//! a `Receipt`, and neither can be made here, copied, or used twice:
//!
//! ```compile_fail,E0451
//! use attesta_policy::Permit;
//! // A permit has no public field and no constructor but `decide`.
//! let forged = Permit { action: attesta_model::Action::IssueX509 };
//! ```
//! ```compile_fail,E0382
//! # async fn f(ring: attesta_authority::Ring, prepared: attesta_authority::Prepared, a: attesta_store::Receipt, b: attesta_store::Receipt) {
//! let first = ring.sign(prepared, a).await;
//! let second = ring.sign(prepared, b).await; // the document was consumed
//! # }
//! ```
//! ```compile_fail,E0382
//! # async fn f(ring: attesta_authority::Ring, one: attesta_authority::Prepared, two: attesta_authority::Prepared, receipt: attesta_store::Receipt) {
//! let first = ring.sign(one, receipt).await;
//! let second = ring.sign(two, receipt).await; // the receipt was consumed
//! # }
//! ```
//! The same call with both, once each, compiles:
//! ```
//! # async fn f(ring: attesta_authority::Ring, one: attesta_authority::Prepared, receipt: attesta_store::Receipt) {
//! let credential = ring.sign(one, receipt).await;
//! # }
//! ```

pub mod csr;
pub mod draw;
pub mod jwt;
pub mod kek;
pub mod keys;
pub mod lifecycle;
pub mod ring;
pub mod x509;

pub use csr::{CsrError, SubjectKey};
pub use kek::{Kek, KekError};
pub use keys::{Generated, Keys, SealedKeys, SignError, Signer};
pub use lifecycle::{Due, Lifetimes};
pub use ring::{Credential, Drawn, IssuedJwt, IssuedX509, Limits, PrepareError, Prepared, Ring};
