//! Lists the files of a disk that may be damaged: which blocks each has, and what is lost of it.
//!
//! [`recognize`](recognize::recognize) finds out what is on a [`Volume`](volume::Volume). A
//! [`FileSystem`](file_system::FileSystem) reports its records and which blocks are free.

mod apfs;
#[allow(dead_code)] // each file system uses some
mod bytes;
pub mod file_system;
mod hfsplus;
mod idset;
pub mod recognize;
pub mod volume;
