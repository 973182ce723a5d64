//! Attaches a mounted disk as a block device, and detaches it.

mod apple;
mod attacher;
mod attachers;
mod diskutil;
mod hdiutil;
#[cfg(target_os = "linux")]
pub mod losetup;
mod macos_output;

pub use attacher::{Attacher, Request, sector_size};
pub use attachers::{attach, candidates, named, ready};
