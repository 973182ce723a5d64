//! Readers for other programs' image formats, one module each, and the code they share.

#[cfg(feature = "aff")]
pub mod aff;
#[cfg(feature = "aff4")]
pub mod aff4;
pub mod android_sparse;
#[cfg(feature = "apple")]
pub mod asif;
#[cfg(feature = "vm")]
mod backing;
mod chain;
#[cfg(feature = "chd")]
pub mod chd;
#[cfg(feature = "packed")]
pub mod clonezilla;
#[cfg(feature = "apple")]
pub mod diskcopy;
#[cfg(feature = "apple")]
pub mod dmg;
#[cfg(feature = "apple")]
pub mod encrcdsa;
#[cfg(feature = "ewf")]
pub mod ewf;
#[cfg(feature = "ewf")]
pub mod ewf2;
pub mod iboredimg;
#[cfg(feature = "vm")]
mod named;
#[cfg(feature = "apple")]
pub mod ndif;
#[cfg(feature = "vm")]
pub mod parallels;
pub mod partclone;
#[cfg(feature = "apple")]
mod property_list;
#[cfg(feature = "vm")]
pub mod qcow;
#[cfg(feature = "vm")]
pub mod qcow2;
#[cfg(feature = "vm")]
pub mod qed;
pub mod raw;
#[cfg(feature = "apple")]
mod resource_fork;
#[cfg(feature = "apple")]
pub mod sparsebundle;
#[cfg(feature = "apple")]
pub mod sparseimage;
pub(crate) mod unsupported;
#[cfg(feature = "vm")]
pub mod vdi;
#[cfg(feature = "vm")]
pub mod vhd;
#[cfg(feature = "vm")]
pub mod vhdx;
#[cfg(feature = "vm")]
pub mod vma;
#[cfg(feature = "vm")]
pub mod vmdk;
pub mod zstd_seekable;
