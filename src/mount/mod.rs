//! The life of a mount: the process that serves it, its record, and its teardown.

pub mod automount;
pub mod background;
pub mod confined;
pub mod daemon;
pub mod helper;
pub mod inherited;
pub mod record;
mod self_test;
pub mod teardown;
pub mod volumes;
