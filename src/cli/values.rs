//! The values of options: names, sizes, policies.

use std::ops::RangeInclusive;
use std::time::Duration;

use cdi_base::units::parse_size;
use cdi_fs::pattern::Patterns;
use cdi_image::cdimg::layout::{MAX_CHUNK_SIZE, MIN_CHUNK_SIZE};
use cdi_image::codec::Codec;
use cdi_image::input::RemoteCache;
use cdi_image::stored_hashes::HashKind;
use clap::ValueEnum;

/// A codec's name.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum CodecName {
    /// fast, and small
    Zstd,
    /// faster to read and to make, and larger
    Lz4,
    /// for readers that lack zstd
    Deflate,
    /// no compression
    None,
}

impl From<CodecName> for Codec {
    fn from(name: CodecName) -> Codec {
        match name {
            CodecName::Zstd => Codec::Zstd,
            CodecName::Lz4 => Codec::Lz4,
            CodecName::Deflate => Codec::Deflate,
            CodecName::None => Codec::Stored,
        }
    }
}

/// What of a disk is read first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstName {
    /// The metadata of file systems.
    Metadata,
    /// What is not free.
    Used,
    /// The files that match this pattern.
    Pattern(String),
}

impl FirstName {
    /// Returns it as it is written.
    pub fn text(&self) -> &str {
        match self {
            FirstName::Metadata => "metadata",
            FirstName::Used => "used",
            FirstName::Pattern(text) => text,
        }
    }
}

/// Parses what is read first.
pub(crate) fn first(text: &str) -> Result<FirstName, String> {
    match text {
        "metadata" => Ok(FirstName::Metadata),
        "used" => Ok(FirstName::Used),
        "" => Err("expected 'metadata', 'used', or a pattern such as '*.jpg'".into()),
        _ => Patterns::parse([text]).map(|_| FirstName::Pattern(text.into())),
    }
}

/// Parses what alone is read.
pub(crate) fn only(text: &str) -> Result<FirstName, String> {
    match first(text)? {
        FirstName::Metadata => Err("expected 'used', or a pattern such as '*.jpg'".into()),
        name => Ok(name),
    }
}

/// Parses where blocks of remote images are kept, and how much of them.
pub(crate) fn remote_cache(text: &str) -> Result<RemoteCache, String> {
    let (dir, size) = text.rsplit_once(',').filter(|(dir, _)| !dir.is_empty()).ok_or("expected DIR,SIZE")?;
    let bytes = parse_size(size)?;
    // Less would be thrown away before it is used again.
    if bytes < 64 << 20 {
        return Err("the cache must have at least 64M".into());
    }
    Ok(RemoteCache { dir: dir.into(), bytes })
}

/// The name of a hash.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum HashName {
    /// MD5
    Md5,
    /// SHA-1
    Sha1,
    /// SHA-256
    Sha256,
    /// BLAKE3
    Blake3,
}

impl From<HashName> for HashKind {
    fn from(name: HashName) -> HashKind {
        match name {
            HashName::Md5 => HashKind::Md5,
            HashName::Sha1 => HashKind::Sha1,
            HashName::Sha256 => HashKind::Sha256,
            HashName::Blake3 => HashKind::Blake3,
        }
    }
}

/// Parses a number of passes as ddrescue does: -1 is without end.
pub(crate) fn passes(text: &str) -> Result<i32, String> {
    let number = text.parse().ok().filter(|n| *n >= -1);
    number.ok_or_else(|| "expected the number of passes (as in -r3), or -1 to go on until interrupted".into())
}

/// The first skip and the largest one, in bytes, as far as they are given.
pub type SkipSize = (Option<u64>, Option<u64>);

/// Parses the sizes of skips as ddrescue does: the first one, the largest one after a comma, or both.
pub(crate) fn skip_size(text: &str) -> Result<SkipSize, String> {
    let size = |text: &str| if text.is_empty() { Ok(None) } else { parse_size(text).map(Some) };
    let (first, most) = text.split_once(',').unwrap_or((text, ""));
    match (size(first)?, size(most)?) {
        (None, None) => Err("expected a size, or two with a comma between them".into()),
        (Some(0), _) | (_, Some(0)) => Err("a skip of 0 bytes is none".into()),
        (Some(first), Some(most)) if most < first => {
            Err("the first skip is larger than the largest one".into())
        }
        sizes => Ok(sizes),
    }
}

/// Parses an interval as ddrescue does: seconds, or a number followed by s, m, h or d.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not an interval (examples: 30, 30s, 5m, 2h, 1d)");
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 60 * 60),
        Some((at, 'd')) => (&text[..at], 24 * 60 * 60),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

/// Parses the block size of a list of bad blocks, in bytes.
pub(crate) fn list_block_size(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(|size| {
        if (1..=1 << 30).contains(&size) {
            Ok(size)
        } else {
            Err("a block size must be from 1 byte to 1G".into())
        }
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
    /// FUSE (on macOS: macFUSE, in a build for it)
    Fuse,
    /// NFS over the loopback interface
    Nfs,
    /// FSKit (macOS 26 and later, with the extension installed); options about reading do not apply
    #[cfg_attr(not(target_os = "macos"), value(hide = true))]
    Fskit,
}

impl Via {
    /// Returns the name of the transport.
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
    /// loop devices
    Losetup,
    /// macOS's hdiutil
    #[cfg_attr(not(target_os = "macos"), value(hide = true))]
    Hdiutil,
    /// macOS's diskutil image
    #[cfg_attr(not(target_os = "macos"), value(hide = true))]
    Diskutil,
}

impl With {
    /// Returns the name of the attacher.
    pub fn name(self) -> &'static str {
        match self {
            With::Losetup => "losetup",
            With::Hdiutil => "hdiutil",
            With::Diskutil => "diskutil",
        }
    }
}

/// What a read of a suspect sector returns.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum Suspect {
    /// an error, as for a bad sector
    Error,
    /// the stored bytes
    Read,
}

/// What a read of a bad sector returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bad {
    /// An error.
    Error,
    /// Zeros.
    Zero,
    /// This text, repeated.
    Pattern(String),
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bad::Error => f.write_str("error"),
            Bad::Zero => f.write_str("zero"),
            Bad::Pattern(text) => write!(f, "pattern:{text}"),
        }
    }
}

impl Bad {
    pub(crate) fn parse(text: &str) -> Result<Bad, String> {
        match text {
            "error" => Ok(Bad::Error),
            "zero" => Ok(Bad::Zero),
            _ => match text.strip_prefix("pattern:") {
                Some(pattern) if !pattern.is_empty() => Ok(Bad::Pattern(pattern.into())),
                _ => Err("must be 'error', 'zero' or 'pattern:TEXT'".into()),
            },
        }
    }
}

pub(crate) fn sector_size(text: &str) -> Result<u32, String> {
    power_of_two(text, 512..=65536).ok_or("a sector size must be a power of two from 512 to 65536".into())
}

/// Parses a percentage, with at most two decimals, to hundredths of a percent.
pub(crate) fn parity(text: &str) -> Result<u32, String> {
    let number = text.trim_end_matches('%').trim_end();
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let hundredths = || -> Option<u32> {
        let (whole, part) = (whole.parse::<u32>().ok()?, format!("{part:0<2}"));
        whole.checked_mul(100)?.checked_add(part.parse().ok()?)
    };
    hundredths()
        .filter(|h| digits(whole) && digits(part) && part.len() <= 2 && (1..=10_000).contains(h))
        .ok_or("must be a percentage from 0.01% to 100%".into())
}

pub(crate) fn chunk_size(text: &str) -> Result<u32, String> {
    power_of_two(text, MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE)
        .ok_or("a chunk size must be a power of two from 4k to 1M".into())
}

fn power_of_two(text: &str, bounds: RangeInclusive<u32>) -> Option<u32> {
    let size = u32::try_from(parse_size(text).ok()?).ok()?;
    (size.is_power_of_two() && bounds.contains(&size)).then_some(size)
}

pub(crate) fn readahead(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size @ (0 | 4096..=0x4000_0000) => Ok(size),
        _ => Err("a readahead must be 0, or from 4k to 1G".into()),
    }
}

pub(crate) fn cache_size(text: &str) -> Result<usize, String> {
    match usize::try_from(parse_size(text)?) {
        Ok(size @ 0x10_0000..=0x100_0000_0000) => Ok(size),
        _ => Err("the size of the cache must be from 1M to 1T".into()),
    }
}
