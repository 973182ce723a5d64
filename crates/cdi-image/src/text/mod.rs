//! Long texts that are never in memory as a whole: read line by line, and made while they are read.

pub(crate) mod lines;
pub mod listing;
