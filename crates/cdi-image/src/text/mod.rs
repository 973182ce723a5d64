//! Texts: long ones, read line by line or generated while they are read and never held in memory as a whole; and the
//! commands that hints suggest.

pub(crate) mod command;
pub(crate) mod lines;
pub mod listing;
