//! cdi gives a disk image back as the disk it was: read-only, with the right bytes where there are bytes and an I/O
//! error exactly where the disk had one.
//!
//! The modules in reading order; `docs/ARCHITECTURE.md` is the map with the rules that hold between them.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("offsets on a disk are 64 bits, and so must be a pointer");

pub mod error;
pub mod parallel;
pub mod plain;
pub mod system;
pub mod units;

pub mod image;

pub mod disk;

pub mod capture;

pub mod serve;

pub mod ffi;

pub mod attach;

pub mod daemon;
pub mod down;
pub mod mounts;

pub mod cli;
pub mod cmd;
pub mod service;
pub mod ui;
