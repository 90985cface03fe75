//! Whether: Cedar policies over facts and entries; the only maker of a Permit.
