//! Parity of a `.cdimg` file: Reed-Solomon codes over the blocks of the file, from which damaged blocks are restored.
//!
//! `docs/FORMAT.md`, "Parity", has the specification. Everything from the first record to the end of the records is
//! never overwritten, so it can be protected as a range of bytes, whatever is in it. The two superblocks do change: the
//! description of the parity has a copy of the one that it was made for.

mod check;
mod code;
mod find;
pub mod layout;
pub mod make;
mod restore;
mod view;

pub use find::{Effort, find};
pub use view::{Purpose, with_parity};
