//! Reads disk images of many formats as the disks they were, bad sectors included.
//!
//! ```no_run
//! use std::io::Read;
//!
//! use cdi_image::Disk;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Any format: .cdimg, E01, AFF4, dmg, qcow2, VMDK, raw with a ddrescue mapfile next to it, …
//! let disk = Disk::open("disk.E01")?;
//! println!("{} bytes in sectors of {} bytes", disk.size(), disk.sector());
//!
//! // Exactly these bytes, or an error: a read that touches a bad sector fails.
//! let mut boot = [0; 512];
//! disk.read_at(&mut boot, 0)?;
//!
//! // Which sectors are bad.
//! for (first, count) in disk.bad_sectors() {
//!     println!("{count} bad sectors from {first} on");
//! }
//!
//! // As a stream; only the first partition, with zeros for bad sectors.
//! use cdi_image::disk::BadPolicy;
//! let part = Disk::options().bad_sectors(BadPolicy::Zero).part(1 << 20..101 << 20).open("disk.E01")?;
//! let mut start = Vec::new();
//! part.reader().take(4096).read_to_end(&mut start)?;
//! # Ok(())
//! # }
//! ```
//!
//! The crate `cdi-fs` lists the partitions and files of a disk. The `examples` are small programs: one reads a sector, one
//! copies around bad ones; one in `cdi-fs` lists them by partition. An [`Error`] has a message, `{:#}` with its causes,
//! and [`Advice`] that a program puts in its own terms.
//!
//! Images are only read, never written. A disk may be read by many threads at once. Memory is bounded by
//! [`DiskOptions::cache`], not by what an image claims, and every length and offset in a file is checked: images may be
//! damaged, or made to do harm. Only the image is opened, and files next to it that it is made of; see
//! [`DiskOptions::allow_directory`].
//!
//! # Features
//!
//! Each leaves out formats with dependencies of their own; all are on by default. `.cdimg`, raw images with their maps, iBored's
//! images, Android's sparse images and zstd's seekable format are always there.
//!
//! | feature | formats |
//! |---|---|
//! | `aff` | AFF, AFD, AFM |
//! | `aff4` | AFF4 |
//! | `apple` | dmg, sparse images and sparse bundles, also encrypted ones; ASIF; DiskCopy 4.2 and 6 |
//! | `chd` | CHD |
//! | `ewf` | E01, S01, also encrypted by X-Ways; Ex01 |
//! | `packed` | raw disks, and images in other formats, compressed by gzip, xz, zstd, bzip2 or lz4; directories by Clonezilla |
//! | `vm` | qcow, qcow2, QED, VHD, VHDX, VMDK, VDI, Parallels, VMA |
//!
//! # What is stable
//!
//! Before version 1.0 a minor version may change anything. What is meant to stay as it is: [`Disk`], [`DiskOptions`],
//! [`DiskReader`], [`badmap::BadBlocks`] and its ranges, [`metadata::Metadata`], and the names of
//! [`open::FORMATS`]. The other modules are public for the other crates of the workspace and for tests; they follow the
//! program's needs.

// What formats share is not all used where some of them are left out.
#![cfg_attr(
    not(all(
        feature = "aff",
        feature = "aff4",
        feature = "apple",
        feature = "chd",
        feature = "ewf",
        feature = "packed",
        feature = "vm"
    )),
    allow(dead_code)
)]

pub mod badmap;
mod bytes;
pub mod cdimg;
pub mod codec;
#[cfg(any(feature = "apple", feature = "ewf"))]
mod crypto;
pub mod details;
pub mod disk;
pub mod document;
pub mod extent;
pub mod formats;
pub mod image;
pub mod indexes;
pub mod input;
pub mod memory;
pub mod metadata;
pub mod open;
#[cfg(feature = "packed")]
pub mod packed;
pub mod part;
pub mod partial;
pub mod passphrase;
pub mod reader;
pub mod stored_hashes;
pub mod text;

pub use cdi_base::advice::Advice;
pub use cdi_base::error::{ErrnoStyle, Error, Kind, ReadError};
#[doc(inline)]
pub use disk::Disk;
#[doc(inline)]
pub use open::DiskOptions;
#[doc(inline)]
pub use passphrase::Passphrase;
#[doc(inline)]
pub use reader::DiskReader;
