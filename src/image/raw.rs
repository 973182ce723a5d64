//! A raw image: the disk's bytes as they are. Its bad blocks, if any, are told by a ddrescue mapfile.

use std::sync::Arc;

use super::bad::BadBlocks;
use super::facts::Facts;
use super::input::Input;
use super::{Extent, Format, Image, OpenOptions, Origin, mapfile};
use crate::error::{Error, ReadError};
use crate::units::SECTOR;

/// Raw images.
pub const FORMAT: Format = Format {
    name: "raw",
    summary: "the disk's bytes as they are, with or without a ddrescue mapfile (--mapfile)",
    integrity: "this format has no checksums: damage cannot be noticed",
    suffixes: &["raw", "img", "dd", "ima", "image", "bin", "iso", "dsk", "hdd"],
    probe: |_| false,
    open,
};

struct Raw {
    input: Arc<Input>,
    bad: BadBlocks,
    facts: Facts,
    remarks: Vec<String>,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let size = input.len();
    if size == 0 {
        return Err(Error::bad_image("is empty: there is no disk in it"));
    }
    let sector = options.sector_size.unwrap_or(SECTOR);
    let (bad, remarks) = match &options.mapfile {
        Some(path) => mapfile::load(path, size, sector)?,
        None => (BadBlocks::none(), Vec::new()),
    };
    let facts = Facts {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(0),
        source: Some(input.path().display().to_string()),
        ..Facts::default()
    };
    Ok(Box::new(Raw { input, bad, facts, remarks }))
}

impl Image for Raw {
    fn size(&self) -> u64 {
        self.input.len()
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let run = self.input.data_run(offset)?;
        Ok(if run.start > offset {
            Extent { disk: offset..run.start, origin: Origin::Fill([0; 8]) }
        } else {
            Extent { disk: run, origin: Origin::Stored { file: Input::MAIN, at: offset } }
        })
    }

    fn bad(&self) -> &BadBlocks {
        &self.bad
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn remarks(&self) -> &[String] {
        &self.remarks
    }
}
