//! What can be typed as the value of an option: names, sizes, policies.

use std::ops::RangeInclusive;

use cdi_base::units::parse_size;
use cdi_image::cdimg::layout::{CHUNK_LEAST, CHUNK_MAX};
use cdi_image::codec::Codec;
use clap::ValueEnum;

/// A codec's name.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum CodecName {
    /// fast, and small
    Zstd,
    /// for readers that lack zstd
    Deflate,
    /// not compressed
    Stored,
}

impl From<CodecName> for Codec {
    fn from(name: CodecName) -> Codec {
        match name {
            CodecName::Zstd => Codec::Zstd,
            CodecName::Deflate => Codec::Deflate,
            CodecName::Stored => Codec::Stored,
        }
    }
}

/// The size of a block in a list of bad blocks, in bytes.
pub(crate) fn list_block_size(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(|size| {
        if (1..=1 << 30).contains(&size) { Ok(size) } else { Err("a block has from 1 byte to 1G".into()) }
    })
}

/// An errno's name.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum ErrnoName {
    /// EIO
    Io,
    /// ENODATA on Linux
    Medium,
}

/// A front end's name.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum Via {
    /// FUSE; on macOS in a build with macFUSE
    Fuse,
    /// NFS from this machine to itself
    Nfs,
    /// FSKit: the extension for macOS 26 and newer, where it is installed; options about reading do not reach it
    Fskit,
}

impl Via {
    /// The name by which the transport is known.
    pub fn name(self) -> &'static str {
        match self {
            Via::Fuse => "fuse",
            Via::Nfs => "nfs",
            Via::Fskit => "fskit",
        }
    }
}

/// An attacher's name.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum With {
    /// Linux's loop devices
    Losetup,
    /// macOS's hdiutil
    Hdiutil,
    /// macOS's diskutil image
    Diskutil,
}

impl With {
    /// The name by which the attacher is known.
    pub fn name(self) -> &'static str {
        match self {
            With::Losetup => "losetup",
            With::Hdiutil => "hdiutil",
            With::Diskutil => "diskutil",
        }
    }
}

/// What becomes of suspect sectors.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum Suspect {
    /// an error, as of a bad one
    Error,
    /// the bytes that there are
    Read,
}

/// What becomes of bad sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bad {
    /// An error.
    Error,
    /// Zeros.
    Zero,
    /// This text, over and over.
    Pattern(String),
}

impl Bad {
    pub(crate) fn parse(text: &str) -> Result<Bad, String> {
        match text {
            "error" => Ok(Bad::Error),
            "zero" => Ok(Bad::Zero),
            _ => match text.strip_prefix("pattern:") {
                Some(pattern) if !pattern.is_empty() => Ok(Bad::Pattern(pattern.into())),
                _ => Err("it is 'error', 'zero', or 'pattern:' and a text".into()),
            },
        }
    }
}

pub(crate) fn sector_size(text: &str) -> Result<u32, String> {
    power_of_two(text, 512..=65536).ok_or("a sector size is a power of two from 512 to 65536".into())
}

pub(crate) fn chunk_size(text: &str) -> Result<u32, String> {
    power_of_two(text, CHUNK_LEAST..=CHUNK_MAX).ok_or("a chunk size is a power of two from 4k to 1M".into())
}

fn power_of_two(text: &str, bounds: RangeInclusive<u32>) -> Option<u32> {
    let size = u32::try_from(parse_size(text).ok()?).ok()?;
    (size.is_power_of_two() && bounds.contains(&size)).then_some(size)
}

pub(crate) fn readahead(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size @ (0 | 4096..=0x4000_0000) => Ok(size),
        _ => Err("a readahead is 0, or from 4k to 1G".into()),
    }
}

pub(crate) fn cache_size(text: &str) -> Result<usize, String> {
    match usize::try_from(parse_size(text)?) {
        Ok(size @ 0x10_0000..=0x100_0000_0000) => Ok(size),
        _ => Err("a cache has from 1M to 1T".into()),
    }
}
