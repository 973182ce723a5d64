//! cdi's own format, `.cdimg`, which is specified in `docs/FORMAT.md`.

mod append;
pub mod index;
pub mod layout;
pub mod nodes;
pub mod reader;
pub mod record;
mod reserve;
pub mod scan;
pub mod store;
pub mod superblock;
pub mod writer;

pub use reader::FORMAT;
