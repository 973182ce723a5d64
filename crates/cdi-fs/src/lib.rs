//! Lists the files of a disk that may be damaged: which blocks each has, and what is lost of it.
//!
//! [`recognize`](recognize::recognize) finds out what is on a [`Volume`](volume::Volume). A
//! [`FileSystem`](file_system::FileSystem) reports its records and which blocks are free.

#[allow(dead_code)] // each file system uses some
mod bytes;
mod exfat;
mod fat;
pub mod file_system;
mod iso9660;
pub mod recognize;
pub mod volume;
