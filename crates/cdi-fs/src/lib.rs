//! Lists the files of a disk that may be damaged: which blocks each has, and what is lost of it.
//!
//! [`layout`](volumes::layout) finds the volumes of a disk, and what is on each. A
//! [`FileSystem`](file_system::FileSystem) reports its records and which blocks are free; a
//! [`Catalogue`](catalogue::Catalogue) makes a tree with paths and losses of them, and [`Contents`](contents::Contents) reads
//! a file. Reads of the disk may fail: what cannot be read costs what is in it, and nothing else.

#![allow(clippy::single_range_in_vec_init)] // lists of ranges, of which there is often one

mod apfs;
#[allow(dead_code)] // each file system uses some
mod bytes;
pub mod catalogue;
pub mod contents;
mod exfat;
mod ext;
mod fat;
pub mod file_system;
mod hfsplus;
mod idset;
mod iso9660;
pub mod loss;
pub mod lznt1;
pub mod names;
pub mod ntfs;
pub mod partitions;
pub mod pattern;
pub mod recognize;
pub mod search;
mod signatures;
#[cfg(test)]
mod skip;
mod suffix;
pub mod volume;
pub mod volumes;
