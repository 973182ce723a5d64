//! Basics that all of cdi uses and that are independent of disks: errors, units, worker threads, text for terminals.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("unsupported target: disk offsets have 64 bits, so pointers must have 64 bits, too");

pub mod advice;
pub mod error;
pub mod printable;
pub mod readable;
pub mod units;
pub mod workers;
