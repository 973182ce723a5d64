//! cdi gives a disk image back as the disk it was: read-only, with the right bytes where there are bytes and an I/O
//! error exactly where the disk had one.
//!
//! The modules in reading order; `docs/ARCHITECTURE.md` is the map with the rules that hold between them.

pub mod error;
pub mod parallel;
pub mod units;

pub mod image;

pub mod disk;

pub mod capture;

pub mod cli;
pub mod cmd;
pub mod ui;
