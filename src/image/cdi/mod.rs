//! Our own format, `.cdimg`: specified in `docs/FORMAT.md`.

pub mod index;
pub mod layout;
pub mod nodes;
pub mod read;
pub mod record;
pub mod resume;
pub mod scan;
pub mod store;
mod superblock;
pub mod write;

pub use read::FORMAT;
