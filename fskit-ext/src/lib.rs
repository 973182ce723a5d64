//! The FSKit extension of cdi: `mount -F -t cdi IMAGE DIR` on macOS, without a kernel extension and without root.
//!
//! FSKit is an Objective-C framework. Its requests are answered by plain Rust ([`volume`], [`directory`], [`identity`],
//! [`errno`]), which is built and tested on every system. `glue` only converts between the two, on macOS only.

pub mod directory;
pub mod errno;
pub mod identity;
pub mod opening;
pub mod volume;

#[cfg(target_os = "macos")]
pub mod glue;
