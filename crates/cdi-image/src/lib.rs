//! Reads disk images of many formats as the disks they were, bad sectors included.

// What formats share is not all used where some of them are left out.
#![cfg_attr(
    not(all(feature = "aff4", feature = "apple", feature = "chd", feature = "ewf", feature = "vm")),
    allow(dead_code)
)]

pub mod badmap;
mod bytes;
pub mod cdimg;
pub mod codec;
pub mod details;
pub mod disk;
pub mod extent;
pub mod formats;
pub mod image;
pub mod input;
pub mod metadata;
pub mod open;
pub mod part;
pub mod partitions;
pub mod reader;
pub mod stored_hashes;
pub mod text;
