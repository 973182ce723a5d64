//! The options of `files`.

use std::path::PathBuf;

use clap::Args;

use super::image::Image;

/// The arguments of `files`.
#[derive(Debug, Args)]
pub struct Files {
    #[command(flatten)]
    pub image: Image,
    /// Only files whose path or name matches; a directory stands for everything in it
    ///
    /// '*' stands for any characters, '?' for one, '[a-z]' for one of these; upper and lower case are the same. A pattern with
    /// a slash is compared with the path from the root of the volume, another one with each name in it.
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// List every file, not only those that are not whole
    #[arg(help_heading = None, short, long)]
    pub all: bool,
    /// Only this partition, by its number
    #[arg(help_heading = None, short, long, value_name = "N")]
    pub partition: Option<u32>,
    /// Show what is at this sector of the disk: files, metadata, or free space
    ///
    /// A number of a logical sector, decimal or, with 0x, hexadecimal. Mapfiles count bytes: divide by the sector size.
    #[arg(help_heading = None, long, value_name = "LBA", value_parser = sector, conflicts_with_all = ["all", "patterns", "copy"])]
    pub sector: Option<u64>,
    /// Copy the files into this directory, with holes where data is lost, and write a report there
    #[arg(help_heading = None, long, value_name = "DIR")]
    pub copy: Option<PathBuf>,
    /// Leave out files that are not whole
    #[arg(help_heading = None, long, requires = "copy")]
    pub only_whole: bool,
}

/// Parses the number of a sector.
fn sector(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "not the number of a sector".into())
}
