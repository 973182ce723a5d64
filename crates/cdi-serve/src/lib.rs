//! Serves a disk image as a directory over FUSE, NFS or FSKit, and as a network block device over NBD.

// Each server only uses a part of the shared code.
#![cfg_attr(not(all(feature = "nbd", feature = "nfs", feature = "http")), allow(dead_code, unreachable_pub))]

mod documents;
pub mod files;
pub mod fskit;
#[cfg(feature = "fuse")]
pub mod fuse;
#[cfg(feature = "http")]
pub mod http;
mod mounted;
#[cfg(feature = "nbd")]
pub mod nbd;
#[cfg(any(feature = "nbd", feature = "nfs", feature = "http"))]
mod net;
#[cfg(feature = "nfs")]
pub mod nfs;
pub mod served;
pub mod texts;
pub mod transport;
pub mod transports;
pub mod tree;
