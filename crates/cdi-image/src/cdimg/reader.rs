//! Opens a `.cdimg`: the newest valid superblock, the records that it refers to, and the records after them.

use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::human;

use super::events::read_log;
use super::index::Index;
use super::layout::*;
use super::nodes::{CachedNodes, NODES_KEPT, Nodes};
use super::record;
use super::scan::{ReplayedState, Step, Walk, decode_map, decode_metadata, map_sum, without_parity};
use super::seal::check_seal;
use super::superblock::{check, choose, geometry, is_valid_in, last_checkpoint, superblocks};
use super::writer::{MAX_DIRTY_BYTES, MAX_UNCOMMITTED};
use crate::badmap::builder::BadMapBuilder;
use crate::badmap::{BadBlocks, BadRange, MAX_RANGES};
use crate::details::ImageDetails;
use crate::extent::Extent;
use crate::image::{CheckCancelled, Each, Format, Image, OpenOptions, SealCheck};
use crate::input::Input;
use crate::metadata::Metadata;

/// cdi's own format.
pub const FORMAT: Format = Format {
    name: "cdimg",
    summary: "cdi's own format: compressed chunks, bad-block map, metadata; tolerates truncation and damage",
    integrity: "64-bit checksums of all data and structures; BLAKE3 and SHA-256 of the whole disk",
    suffixes: &["cdimg"],
    probe: |input| {
        superblocks(input).iter().any(|(_, found)| found.is_some()) || last_checkpoint(input).is_some()
    },
    open: |input, _: &OpenOptions| Ok(Box::new(open(input)?)),
};

/// An open `.cdimg`.
pub struct CdiImage {
    input: Arc<Input>,
    nodes: CachedNodes,
    superblock: Superblock,
    index: Index,
    /// The end of the records that were loaded.
    end: u64,
    /// Whether something other than disk data was lost.
    lost: bool,
    details: ImageDetails,
}

/// The maximum number of MAP records after the last checkpoint: a map is written in few records, once per checkpoint.
pub(super) const MAX_UNCOMMITTED_MAPS: usize = 64;

/// Opens the image in `input`.
pub fn open(input: Arc<Input>) -> Result<CdiImage, Error> {
    let nodes = CachedNodes::new(Arc::clone(&input));
    let LoadedState { superblock, state, mut warnings, end, lost, .. } = load(&input, &nodes)?;
    if superblock.state == STATE_ACQUIRING {
        warnings.insert(0, "unfinished image: imaging was interrupted or is still in progress".into());
    }
    if input.parity().is_some_and(|parity| parity.summary().is_earlier) {
        let what =
            "the end of the file, or its superblocks, are lost: it is read as it was before parity was added";
        warnings.push(what.into());
    }
    if superblock.may_ignore.get() & HAS_PARITY != 0 && input.parity().is_none() {
        warnings.push("the image has parity, but its description is lost: damage cannot be restored".into());
    }
    let ReplayedState { index, bad, metadata } = state;
    let bad = bad.into_map();
    Ok(CdiImage {
        input,
        nodes,
        superblock,
        index,
        end,
        lost,
        details: ImageDetails { bad, metadata, warnings, ..ImageDetails::default() },
    })
}

/// The state of an image, loaded from its file.
pub(super) struct LoadedState {
    pub superblock: Superblock,
    pub state: ReplayedState,
    /// The checksum of the map that the superblock refers to, if there is one.
    pub map_written: Option<u128>,
    /// The end of the records, in bytes.
    pub end: u64,
    /// The highest epoch of a record.
    pub epoch: u32,
    pub warnings: Vec<String>,
    /// Whether something other than disk data was lost.
    pub lost: bool,
}

/// Reads the newest valid superblock, the records that it refers to, and the records after them.
pub(super) fn load(input: &Input, nodes: &dyn Nodes) -> Result<LoadedState, Error> {
    let mut warnings = Vec::new();
    let superblock = choose(input, &mut warnings)?;
    check(&superblock, input)?;
    let mut lost = false;
    let metadata = read_metadata(input, &superblock).unwrap_or_else(|e| {
        warnings.push(format!("the metadata about the disk is lost: {e}"));
        lost = true;
        Metadata::default()
    });
    let map = read_map(input, &superblock)?;
    let map_written = (superblock.map_at.get() != 0).then(|| map_sum(&map));
    let bad = BadMapBuilder::new(map);
    let state = ReplayedState { index: Index::new(geometry(&superblock), superblock.root), bad, metadata };
    let (end, epoch) = (superblock.committed_end.get(), superblock.epoch.get());
    let mut loaded = LoadedState { superblock, state, map_written, end, epoch, warnings, lost };
    if superblock.state == STATE_ACQUIRING {
        roll_forward(input, nodes, &mut loaded)?;
    }
    check_sizes(&mut loaded.state.metadata, &superblock)?;
    Ok(loaded)
}

fn read_metadata(input: &Input, superblock: &Superblock) -> Result<Metadata, Error> {
    let record =
        record::read(input, superblock.metadata_at.get(), superblock.salt.get(), RecordType::Metadata)?;
    Ok(decode_metadata(&record)?)
}

/// Checks that the sizes in the metadata, if present, match the superblock, and fills in missing ones.
fn check_sizes(metadata: &mut Metadata, superblock: &Superblock) -> Result<(), Error> {
    let at = superblock.metadata_at.get();
    let size = superblock.disk_size.get();
    if metadata.size_bytes != 0 && metadata.size_bytes != size {
        let what = format!(
            "disk size mismatch: {} bytes in the metadata, {size} bytes in the superblock",
            metadata.size_bytes
        );
        return Err(Flaw::at(at, what).into());
    }
    metadata.size_bytes = size;
    for (recorded, sector) in [
        (&mut metadata.logical_sector_bytes, superblock.logical_sector.get()),
        (&mut metadata.physical_sector_bytes, superblock.physical_sector.get()),
    ] {
        if *recorded != 0 && *recorded != sector {
            let what = format!(
                "sector size mismatch: {recorded} bytes in the metadata, {sector} bytes in the superblock"
            );
            return Err(Flaw::at(at, what).into());
        }
        *recorded = sector;
    }
    Ok(())
}

/// Reads the bad-block map: a chain of MAP records, from the last back to the first, that together cover the disk.
fn read_map(input: &Input, superblock: &Superblock) -> Result<BadBlocks, Error> {
    let mut at = superblock.map_at.get();
    let mut end = superblock.disk_size.get();
    let mut backwards: Vec<BadRange> = Vec::new();
    while at != 0 {
        let record = record::read(input, at, superblock.salt.get(), RecordType::Map)?;
        let (before, ranges) = decode_map(&record)?;
        let start = record.header.disk_at.get();
        // Each step must go backwards in the file and on the disk, so that the chain ends.
        if before >= at
            || start.checked_add(record.header.disk_len.get()) != Some(end)
            || backwards.len() + ranges.len() > MAX_RANGES
        {
            return Err(Flaw::at(at, "the records of the bad-block map are inconsistent").into());
        }
        backwards.extend(ranges.into_iter().rev());
        (at, end) = (before, start);
    }
    if superblock.map_at.get() != 0 && end != 0 {
        return Err(Flaw::at(superblock.map_at.get(), "the bad-block map does not cover the disk").into());
    }
    backwards.reverse();
    Ok(BadBlocks::from_ordered(backwards))
}

/// Replays the records after the last checkpoint, up to the first incomplete one.
fn roll_forward(input: &Input, nodes: &dyn Nodes, into: &mut LoadedState) -> Result<(), Error> {
    let (salt, committed) = (into.superblock.salt.get(), into.end);
    let (mut at, mut replayed, mut maps) = (committed, 0, 0);
    while let Some(header) = record::header_at(input, at, salt)? {
        if header.epoch.get() < into.epoch {
            break;
        }
        let Some(record) = record::with_payload(input, at, header)? else { break };
        if record.kind().is_none() && header.kind < FIRST_IGNORABLE_TYPE {
            return Err(Flaw::at(
                at,
                format!("record type {} is not supported by this version", header.kind),
            )
            .into());
        }
        if let Err(e) = into.state.apply(&record, nodes, input.len()) {
            let what = format!("the records after byte {at} are ignored because they are inconsistent: {e}");
            into.warnings.push(what);
            into.lost = true;
            break;
        }
        replayed += 1;
        maps += usize::from(record.kind() == Some(RecordType::Map));
        if replayed > MAX_UNCOMMITTED
            || maps > MAX_UNCOMMITTED_MAPS
            || into.state.index.dirty_bytes() > 2 * MAX_DIRTY_BYTES
        {
            let what = "too much data after the last checkpoint; a writer makes checkpoints more often";
            return Err(Flaw::at(at, what).into());
        }
        at = header.next(at);
        (into.end, into.epoch) = (at, header.epoch.get());
    }
    if replayed > 0 {
        let size = human(at - committed);
        into.warnings.push(format!("records recovered after the last checkpoint: {replayed} ({size})"));
    }
    Ok(())
}

impl Image for CdiImage {
    fn size(&self) -> u64 {
        self.superblock.disk_size.get()
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        self.index.find(&self.nodes, offset)
    }

    fn warm(&self) {
        let geometry = self.index.geometry();
        let leaves = geometry.chunks().div_ceil(FANOUT);
        if leaves + leaves.div_ceil(FANOUT) < NODES_KEPT.get() as u64 {
            for leaf in 0..leaves {
                let _ = self.map(geometry.bytes(leaf * FANOUT, 1).start);
            }
        }
    }

    fn events(&self, each: &mut Each<'_>, check_cancelled: &mut CheckCancelled<'_>) -> Result<(), Error> {
        let mut each = |line: &[u8]| each(&String::from_utf8_lossy(line));
        read_log(&self.input, &self.superblock, &mut each, check_cancelled).map(|_| ())
    }

    fn seal(&self, check_cancelled: &mut CheckCancelled<'_>) -> Result<SealCheck, Error> {
        let ImageDetails { metadata, bad, .. } = &self.details;
        check_seal(&self.input, &self.superblock, metadata, bad, check_cancelled).map(|(check, _)| check)
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for (flaw, affects) in self.seal(check_cancelled)?.flaws {
            report(flaw, affects);
        }
        if let Some(parity) = self.input.parity() {
            parity.check(report, check_cancelled)?;
        }
        if let Err(e) = self.check_records(report, check_cancelled) {
            check_cancelled()?;
            report(Flaw::at(0, e.to_string()), "the rest of the records could not be checked");
        }
        Ok(())
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

impl CdiImage {
    /// Returns whether data of the image would be missing if it were rewritten: lost metadata, or valid records after
    /// damage, which are not replayed here.
    pub fn has_more(&self) -> Result<bool, Error> {
        if self.lost || self.superblock.state == STATE_COMPLETE {
            return Ok(self.lost);
        }
        let mut walk = Walk::new(&self.input, self.superblock.salt.get(), self.end..self.input.len());
        while let Some(step) = walk.step()? {
            if let Step::Header(_, header) = step
                && header.epoch.get() >= self.superblock.epoch.get()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether this is a finished image in its last state, so that no later map can be lost.
    pub fn is_newest(&self) -> bool {
        let is_whole = superblocks(&self.input)
            .iter()
            .enumerate()
            .all(|(slot, (_, found))| found.is_some_and(|s| is_valid_in(slot, &s)));
        let ends_here = self.superblock.committed_end.get() == self.input.len();
        let is_last = (is_whole || ends_here) && !self.input.lost_what_followed_parity();
        self.superblock.state == STATE_COMPLETE && is_last
    }

    /// Returns the superblock in use.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Checks both superblocks, the headers of all records, and the payloads of those that do not contain disk data.
    fn check_records(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for (slot, (at, found)) in superblocks(&self.input).into_iter().enumerate() {
            if !found.is_some_and(|s| is_valid_in(slot, &s)) {
                let cost = "nothing yet: the other superblock or the copy at the end is intact";
                report(Flaw::at(at, "a superblock is damaged"), cost);
            }
        }
        let mut state = ReplayedState {
            index: Index::new(self.index.geometry(), RawEntry::UNREAD),
            bad: BadMapBuilder::default(),
            metadata: Metadata::default(),
        };
        let end = if self.superblock.state == STATE_COMPLETE {
            self.superblock.committed_end.get()
        } else {
            self.input.len()
        };
        let walk = |part| Walk::new(&self.input, self.superblock.salt.get(), part);
        let mut walks = without_parity(&self.input, end).map(walk);
        let mut steps = walks.iter_mut().flat_map(|walk| std::iter::from_fn(|| walk.step().transpose()));
        let mut last = 0;
        while let Some(step) = steps.next().transpose()? {
            check_cancelled()?;
            match step {
                Step::Searching(_) => {}
                Step::Gap(gap) if self.superblock.state == STATE_ACQUIRING && gap.end == self.input.len() => {
                }
                Step::Gap(gap) => {
                    let what = format!("{} that do not belong to any record", human(gap.end - gap.start));
                    report(
                        Flaw::at(gap.start, what),
                        "unknown; the index shows whether disk data was stored there",
                    );
                }
                // Disk data is checked by reading the disk, at the locations given by the index.
                Step::Header(at, header) if header.kind == RecordType::Data as u8 => last = at,
                Step::Header(at, header) => match record::with_payload(&self.input, at, header)? {
                    Some(record) if self.is_overview(&record) => {
                        // A map is only validated and not applied: it may be long, and there may be many.
                        let result = match record.kind() {
                            Some(RecordType::Map) => decode_map(&record).map(|_| ()).map_err(Error::from),
                            _ => state.apply(&record, &self.nodes, self.input.len()),
                        };
                        if let Err(e) = result {
                            report(
                                Flaw::at(at, e.to_string()),
                                "the record cannot be used to rebuild the index",
                            );
                        }
                        last = at;
                    }
                    Some(_) => last = at,
                    None => report(
                        Flaw::at(
                            at,
                            format!(
                                "the payload of a record of type {} is damaged or truncated",
                                header.kind
                            ),
                        ),
                        "depends on whether the index uses it",
                    ),
                },
            }
        }
        if self.superblock.state == STATE_COMPLETE && !self.ends_with_checkpoint() {
            report(
                Flaw::at(last, "the copy of the superblock at the end is missing"),
                "nothing yet: it is only needed if both superblocks are lost",
            );
        }
        Ok(())
    }

    /// Returns whether the copy of the superblock at the end is intact. A program that was killed while it added parity has
    /// left bytes after it, which mean nothing.
    fn ends_with_checkpoint(&self) -> bool {
        let at = self.superblock.committed_end.get() - (HEADER_LEN + SUPERBLOCK_LEN) as u64;
        let copy = || record::read(&self.input, at, self.superblock.salt.get(), RecordType::Checkpoint);
        last_checkpoint(&self.input).is_some()
            || copy().is_ok_and(|copy| Superblock::parse(&copy.stored) == Some(self.superblock))
    }

    /// Returns whether the contents of a record are checked here. Records with locations of disk data are not: there
    /// may be more of them than fit into memory.
    fn is_overview(&self, record: &record::Record) -> bool {
        !matches!(record.kind(), Some(RecordType::Same | RecordType::Fill))
    }
}
