//! A mount from its beginning to its end: the process that serves it, what is recorded of it, and its teardown.

pub mod daemon;
pub mod record;
mod self_test;
pub mod teardown;
