//! What all of cdi is built on, and what knows nothing of disks: errors, units, worker threads, text for terminals.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("offsets on a disk are 64 bits, and so must be a pointer");

pub mod advice;
pub mod error;
pub mod printable;
pub mod units;
pub mod workers;
