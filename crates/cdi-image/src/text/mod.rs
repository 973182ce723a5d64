//! Long texts that are never held in memory as a whole: read line by line, and generated while they are read.

pub(crate) mod lines;
pub mod listing;
