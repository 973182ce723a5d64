//! cdi's own format, `.cdimg`, which is specified in `docs/FORMAT.md`.

mod append;
pub mod chain;
pub mod events;
pub mod index;
pub mod layout;
mod live;
pub mod nodes;
pub mod parity;
pub mod reader;
pub mod record;
mod reserve;
pub mod scan;
pub mod seal;
pub mod store;
pub mod superblock;
pub mod writer;
mod written_end;

pub use reader::FORMAT;
