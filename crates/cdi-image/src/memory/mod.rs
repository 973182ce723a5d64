//! Memory for what is decompressed: a cache with a budget, and buffers that are used again.

pub mod buffers;
pub mod cache;
