//! The seal: the last event of a finished image, which holds hashes of everything else that the image says of its disk.
//! `docs/FORMAT.md`, "The seal", specifies it.

use cdi_base::error::{Error, Flaw};
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::chain::Chain;
use super::events::{Log, read_log};
use super::layout::*;
use super::record;
use super::scan::raw_range;
use crate::badmap::BadBlocks;
use crate::image::{CheckCancelled, SealCheck};
use crate::input::Input;
use crate::metadata::Metadata;

/// The beginning of a line of the log that is a seal.
const BEGINS: &[u8] = b"{\"event\":\"sealed\",";

/// A seal, as a line of the log: the names and their order are those of the line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seal {
    event: String,
    uuid: String,
    size_bytes: u64,
    logical_sector_bytes: u32,
    physical_sector_bytes: u32,
    metadata_blake3: String,
    map_blake3: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3_rescued: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256_zero_filled: Option<String>,
}

impl Seal {
    /// Returns the seal of an image with this superblock, metadata (also as the image stores them) and map.
    pub fn new(superblock: &Superblock, metadata: &Metadata, json: &[u8], map: &BadBlocks) -> Seal {
        let mut ranges = blake3::Hasher::new();
        map.ranges().iter().for_each(|r| _ = ranges.update(raw_range(r).as_bytes()));
        Seal {
            event: "sealed".into(),
            uuid: cdi_base::printable::hex(&superblock.uuid),
            size_bytes: superblock.disk_size.get(),
            logical_sector_bytes: superblock.logical_sector.get(),
            physical_sector_bytes: superblock.physical_sector.get(),
            metadata_blake3: blake3::hash(json).to_hex().to_string(),
            map_blake3: ranges.finalize().to_hex().to_string(),
            blake3_rescued: metadata.blake3_rescued.clone(),
            sha256_zero_filled: metadata.sha256_zero_filled.clone(),
        }
    }

    /// Parses a line of the log. Returns `None` if it is no seal. Members that are not known are ignored; one that is
    /// missing is not as the image has it.
    fn parse(line: &[u8]) -> Option<Seal> {
        line.starts_with(BEGINS).then(|| serde_json::from_slice(line).unwrap_or_default())
    }

    /// Returns the seal as a line of the log, without its line feed.
    pub fn line(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|e| Error::failed("cannot encode the seal").because(e))
    }

    /// Returns what `image` has that is not as sealed: what it is, and what that affects.
    fn differences(&self, image: &Seal) -> Vec<(&'static str, &'static str)> {
        const DISK: &str = "what is known about the disk";
        const DATA: &str = "unknown bytes of the disk";
        [
            (self.uuid == image.uuid, "the identifier of the image", "all that is known about the image"),
            (self.size_bytes == image.size_bytes, "the size of the disk", DISK),
            (self.logical_sector_bytes == image.logical_sector_bytes, "the logical sector size", DISK),
            (self.physical_sector_bytes == image.physical_sector_bytes, "the physical sector size", DISK),
            (self.metadata_blake3 == image.metadata_blake3, "the metadata", DISK),
            (self.map_blake3 == image.map_blake3, "the bad-block map", "which sectors of the disk are bad"),
            (self.blake3_rescued == image.blake3_rescued, "the stored BLAKE3 hash", DATA),
            (self.sha256_zero_filled == image.sha256_zero_filled, "the stored SHA-256 hash", DATA),
        ]
        .into_iter()
        .filter(|(same, ..)| !same)
        .map(|(_, what, affects)| (what, affects))
        .collect()
    }
}

/// Checks the log of an image, and its seal: `metadata` and `map` are what was read from it. Also returns the chain after
/// the log, if it can be read.
pub(super) fn check_seal(
    input: &Input,
    superblock: &Superblock,
    metadata: &Metadata,
    map: &BadBlocks,
    check_cancelled: &mut CheckCancelled<'_>,
) -> Result<(SealCheck, Option<Chain>), Error> {
    const LOG: &str = "the log of events";
    let mut check = SealCheck::default();
    let events_at = superblock.events_at.get();
    let log = match read_log(input, superblock, &mut |_| Ok(()), check_cancelled) {
        Ok(log) => log,
        Err(e) => {
            check_cancelled()?;
            let what = format!("the log of events cannot be read: {e}");
            check.flaws.push((Flaw::at(events_at, what), LOG));
            return Ok((check, None));
        }
    };
    check.unchained = log.unchained;
    if let Some(at) = log.changed {
        let what = "events were changed, removed, added or moved after they were written: \
            the hash chain does not match them";
        check.flaws.push((Flaw::at(at, what), LOG));
    }
    let Log { chain, closed, last, .. } = log;
    if superblock.state != STATE_COMPLETE {
        check.no_digest = Some("the image is unfinished");
        return Ok((check, Some(chain)));
    }
    match Seal::parse(&last) {
        Some(seal) => {
            let read = record::read(
                input,
                superblock.metadata_at.get(),
                superblock.salt.get(),
                RecordType::Metadata,
            );
            let json = read.and_then(|record| Ok(record.payload()?)).unwrap_or_default();
            let differences = seal.differences(&Seal::new(superblock, metadata, &json, map));
            check.flaws.extend(differences.into_iter().map(|(what, affects)| {
                let what = format!("changed after the image was sealed: {what}");
                (Flaw::at(events_at, what), affects)
            }));
        }
        // A program that writes the chain does not finish an image without a seal.
        None if closed => {
            let what = "the seal at the end of the log is missing";
            check.flaws.push((Flaw::at(events_at, what), LOG));
        }
        None => check.no_digest = Some("a version of the program without seals has written the image"),
    }
    if check.flaws.is_empty() && check.no_digest.is_none() {
        match &metadata.blake3_rescued {
            Some(_) => check.digest = Some(chain.head()),
            None => check.no_digest = Some("the image has no hash of its data"),
        }
    }
    Ok((check, Some(chain)))
}
