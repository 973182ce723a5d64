//! Imaging a disk that may be failing.
mod alive;
pub mod areas;
pub mod passes;
