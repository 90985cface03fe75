//! It is written down: the ledger, its one writer, and the backends under it.
