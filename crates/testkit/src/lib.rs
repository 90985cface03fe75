//! The whole system in one process with a hand-turned clock, for tests.
