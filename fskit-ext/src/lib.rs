//! The FSKit extension of cdi: `mount -F -t cdi IMAGE DIR` on macOS, without a kernel extension and without root.
//!
//! FSKit speaks Objective-C; what it asks is answered by plain Rust ([`volume`], [`directory`], [`identity`],
//! [`errno`]), which is built and tested on every system. `glue` translates between the two, on macOS only, and
//! decides nothing.

pub mod directory;
pub mod errno;
pub mod identity;
pub mod volume;

#[cfg(target_os = "macos")]
pub mod glue;
