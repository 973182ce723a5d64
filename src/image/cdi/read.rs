//! Opening a `.cdimg`: the newest superblock that is sound, what it points at, and what came after it.

use std::sync::Arc;

use zerocopy::FromBytes;

use super::index::{Geometry, Index};
use super::layout::*;
use super::nodes::{CachedNodes, Nodes, check_entry};
use super::record;
use super::scan::{Step, Told, Walk, decode_facts, decode_map};
use crate::error::{Error, Flaw, ReadError};
use crate::image::bad::{BadBlocks, MOST_RANGES};
use crate::image::codec::Sum;
use crate::image::facts::Facts;
use crate::image::input::Input;
use crate::image::{Extent, Format, Image, OpenOptions, Origin};
use crate::units::human;

/// Our own format.
pub const FORMAT: Format = Format {
    name: "cdimg",
    summary: "cdi's own: compressed chunks, a bad-block map, facts; survives being cut off and damaged",
    integrity: "64-bit checksums on everything; BLAKE3 and SHA-256 of the whole disk",
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
    told: Told,
    remarks: Vec<String>,
}

/// How many records after the last checkpoint are taken in: more than a program that makes checkpoints leaves.
const MOST_UNCOMMITTED: usize = 1 << 20;

/// The superblock at `at`, if its magic is there; whether it is sound is not looked at.
fn superblock_at(input: &Input, at: u64) -> Option<Superblock> {
    let bytes = input.bytes(at, SUPERBLOCK_LEN, "a superblock").ok()?;
    Superblock::read_from_bytes(&bytes).ok().filter(|s| s.magic == MAGIC)
}

/// Both superblocks, by where they should be.
fn superblocks(input: &Input) -> [(u64, Option<Superblock>); 2] {
    SUPERBLOCK_AT.map(|at| (at, superblock_at(input, at)))
}

/// The copy in the CHECKPOINT record at the end of a finished image, if it is sound.
fn last_checkpoint(input: &Input) -> Option<Superblock> {
    let at = input.len().checked_sub(SUPERBLOCK_LEN as u64)?;
    let copy = superblock_at(input, at).filter(Superblock::is_sound)?;
    let header = at.checked_sub(HEADER_LEN as u64)?;
    let header = record::header_at(input, header, copy.salt.get()).ok()??;
    (header.kind == RecordType::Checkpoint as u8 && copy.committed_end.get() == input.len()).then_some(copy)
}

/// Opens the image in `input`.
pub fn open(input: Arc<Input>) -> Result<CdiImage, Error> {
    let mut remarks = Vec::new();
    let superblock = choose(&input, &mut remarks)?;
    check(&superblock, &input)?;
    let salt = superblock.salt.get();
    let geometry =
        Geometry { disk_size: superblock.disk_size.get(), chunk_size: superblock.chunk_size.get() };
    let facts_at = superblock.facts_at.get();
    let facts = decode_facts(&record::read(&input, facts_at, salt, RecordType::Facts)?)?;
    if facts.size_bytes != geometry.disk_size {
        let what = format!("the facts say {} bytes, the superblock {}", facts.size_bytes, geometry.disk_size);
        return Err(Flaw::at(facts_at, what).into());
    }
    let bad = read_map(&input, &superblock)?;
    let index = Index::new(geometry, superblock.root);
    let nodes = CachedNodes::new(Arc::clone(&input));
    let mut told = Told { index, bad, facts };
    if superblock.state == STATE_ACQUIRING {
        remarks.push("this image is unfinished: the making of it was interrupted, or goes on".into());
        roll_forward(&input, &superblock, &nodes, &mut told, &mut remarks)?;
    }
    Ok(CdiImage { input, nodes, superblock, told, remarks })
}

/// The sound superblock with the highest generation; if there is none in its place, the copy at the end.
fn choose(input: &Input, remarks: &mut Vec<String>) -> Result<Superblock, Error> {
    let found = superblocks(input);
    let sound = found.iter().filter_map(|(_, s)| s.filter(Superblock::is_sound));
    let copy = last_checkpoint(input);
    let best = sound.max_by_key(|s| s.generation.get());
    match (best, copy) {
        (Some(best), Some(copy))
            if copy.generation.get() > best.generation.get() && copy.salt == best.salt =>
        {
            remarks.push("the newest superblock is damaged; its copy at the end of the file was used".into());
            Ok(copy)
        }
        (Some(best), _) => Ok(best),
        (None, Some(copy)) => {
            remarks.push("both superblocks are damaged; the copy at the end of the file was used".into());
            Ok(copy)
        }
        (None, None) => {
            // Say of a superblock that is there what is wrong with it.
            let (at, _) = found.iter().find(|(_, s)| s.is_some()).unwrap_or(&found[0]);
            let what = "the superblock is damaged, so is the other one, and there is no sound copy at the end of the file";
            Err(Flaw::at(*at, what).into())
        }
    }
}

/// Checks what a sound superblock says.
fn check(s: &Superblock, input: &Input) -> Result<(), Error> {
    let slot = SUPERBLOCK_AT[(s.generation.get() % 2) as usize];
    let fail = |field: usize, what: String| Err(Flaw::at(slot + field as u64, what).into());
    let version = s.version.get();
    if version == 0 || version > VERSION {
        let what =
            format!("this is version {version} of the format; this program reads versions 1 to {VERSION}");
        return fail(std::mem::offset_of!(Superblock, version), what);
    }
    if s.must_understand.get() != 0 {
        let what = format!(
            "the image needs features that this program does not know ({:#x})",
            s.must_understand.get()
        );
        return fail(std::mem::offset_of!(Superblock, must_understand), what);
    }
    if s.state != STATE_ACQUIRING && s.state != STATE_COMPLETE {
        return fail(std::mem::offset_of!(Superblock, state), format!("unknown state {}", s.state));
    }
    let zero = s.zero1.iter().chain(&s.zero2).all(|b| *b == 0);
    if !zero || s.salt.get() == 0 {
        return fail(
            0,
            "the superblock has a value where there must be zero, or none where there must be one".into(),
        );
    }
    if s.disk_size.get() == 0 || s.disk_size.get() > i64::MAX as u64 {
        return fail(
            std::mem::offset_of!(Superblock, disk_size),
            format!("a disk of {} bytes cannot be", s.disk_size.get()),
        );
    }
    let chunk = s.chunk_size.get();
    if !chunk.is_power_of_two() || !(CHUNK_LEAST..=CHUNK_MOST).contains(&chunk) {
        return fail(
            std::mem::offset_of!(Superblock, chunk_size),
            format!("a chunk size of {chunk} bytes cannot be"),
        );
    }
    for (field, sector) in [
        (std::mem::offset_of!(Superblock, logical_sector), s.logical_sector.get()),
        (std::mem::offset_of!(Superblock, physical_sector), s.physical_sector.get()),
    ] {
        if !sector.is_power_of_two() || !(512..=65536).contains(&sector) {
            return fail(field, format!("a sector size of {sector} bytes cannot be"));
        }
    }
    let end = s.committed_end.get();
    if end > input.len() {
        let missing = human(end - input.len());
        let what = format!("the file is cut off: it ends {missing} before byte {end}, where its records end");
        return fail(std::mem::offset_of!(Superblock, committed_end), what);
    }
    if end < RECORDS_AT {
        return fail(
            std::mem::offset_of!(Superblock, committed_end),
            "the records end before they begin".into(),
        );
    }
    for (field, at) in [
        (std::mem::offset_of!(Superblock, map_at), s.map_at.get()),
        (std::mem::offset_of!(Superblock, facts_at), s.facts_at.get()),
    ] {
        if (at != 0 || field == std::mem::offset_of!(Superblock, facts_at))
            && !(RECORDS_AT..end).contains(&at)
        {
            return fail(field, format!("a record that lies at byte {at} cannot be"));
        }
    }
    if let Err(what) = check_entry(&s.root, end) {
        return fail(std::mem::offset_of!(Superblock, root), what.into());
    }
    Ok(())
}

/// The bad-block map: a chain of MAP records, from the last back to the first, that together cover the disk.
fn read_map(input: &Input, superblock: &Superblock) -> Result<BadBlocks, Error> {
    let mut at = superblock.map_at.get();
    let mut end = superblock.disk_size.get();
    let mut parts = Vec::new();
    let mut count = 0;
    while at != 0 {
        let record = record::read(input, at, superblock.salt.get(), RecordType::Map)?;
        let (before, ranges) = decode_map(&record)?;
        let start = record.header.disk_at.get();
        count += ranges.len();
        // Each step goes back in the file and on the disk, so that the chain ends.
        if before >= at || start.checked_add(record.header.disk_len.get()) != Some(end) || count > MOST_RANGES
        {
            return Err(Flaw::at(at, "the records of the bad-block map do not fit together").into());
        }
        parts.push(ranges);
        (at, end) = (before, start);
    }
    if superblock.map_at.get() != 0 && end != 0 {
        return Err(Flaw::at(superblock.map_at.get(), "the bad-block map does not cover the disk").into());
    }
    Ok(BadBlocks::from_unsorted(parts.into_iter().rev().flatten()))
}

/// Takes in the records that came after the last checkpoint, up to the first that is not whole.
fn roll_forward(
    input: &Input,
    superblock: &Superblock,
    nodes: &dyn Nodes,
    told: &mut Told,
    remarks: &mut Vec<String>,
) -> Result<(), Error> {
    let committed = superblock.committed_end.get();
    let mut walk = Walk::new(input, superblock.salt.get(), committed..input.len());
    let (mut epoch, mut taken, mut end) = (superblock.epoch.get(), 0, committed);
    while let Some(Step::Header(at, header)) = walk.step()? {
        if header.epoch.get() < epoch {
            break;
        }
        epoch = header.epoch.get();
        let Some(record) = record::with_payload(input, at, header)? else { break };
        told.take(&record, nodes, input.len())?;
        taken += 1;
        if taken > MOST_UNCOMMITTED {
            return Err(Flaw::at(
                at,
                format!("more than {MOST_UNCOMMITTED} records after the last checkpoint"),
            )
            .into());
        }
        end = header.next(at);
    }
    if taken > 0 {
        remarks.push(format!(
            "{taken} records after the last checkpoint ({}) were taken in",
            human(end - committed)
        ));
    }
    Ok(())
}

impl Image for CdiImage {
    fn size(&self) -> u64 {
        self.superblock.disk_size.get()
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        self.told.index.find(&self.nodes, offset)
    }

    fn bad(&self) -> &BadBlocks {
        &self.told.bad
    }

    fn facts(&self) -> &Facts {
        &self.told.facts
    }

    fn remarks(&self) -> &[String] {
        &self.remarks
    }

    fn check(&self, report: &mut dyn FnMut(Flaw, &str)) {
        if let Err(e) = self.check_records(report) {
            report(Flaw::at(0, e.to_string()), "the records could not be walked over to the end");
        }
    }
}

impl CdiImage {
    /// The superblock that holds.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Both superblocks, the headers of all records, and the payloads of those that are not the disk's own bytes.
    fn check_records(&self, report: &mut dyn FnMut(Flaw, &str)) -> Result<(), Error> {
        for (at, found) in superblocks(&self.input) {
            if !found.is_some_and(|s| s.is_sound()) {
                report(
                    Flaw::at(at, "a superblock is damaged"),
                    "nothing yet: the other one, or the copy at the end, is sound",
                );
            }
        }
        let mut told = Told {
            index: Index::new(self.told.index.geometry(), RawEntry::UNREAD),
            bad: BadBlocks::none(),
            facts: Facts::default(),
        };
        let end = if self.superblock.state == STATE_COMPLETE {
            self.superblock.committed_end.get()
        } else {
            self.input.len()
        };
        let mut walk = Walk::new(&self.input, self.superblock.salt.get(), RECORDS_AT..end);
        let mut last = 0;
        while let Some(step) = walk.step()? {
            match step {
                Step::Gap(gap) if self.superblock.state == STATE_ACQUIRING && gap.end == self.input.len() => {
                }
                Step::Gap(gap) => {
                    let what = format!("{} that are no record", human(gap.end - gap.start));
                    report(
                        Flaw::at(gap.start, what),
                        "whatever lay there; the index tells whether it was the disk's data",
                    );
                }
                // The disk's own bytes are checked where the index says that they are, by reading the disk.
                Step::Header(at, header) if header.kind == RecordType::Data as u8 => {
                    last = at;
                    if self.contradicts(at, &header) {
                        let what = "a record and the index disagree about a chunk's checksum";
                        report(Flaw::at(at, what), &disk_bytes(&header));
                    }
                }
                Step::Header(at, header) => match record::with_payload(&self.input, at, header)? {
                    Some(record) if self.is_overview(&record) => {
                        if let Err(e) = told.take(&record, &self.nodes, self.input.len()) {
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
                            format!("the payload of a record of type {} is damaged or cut off", header.kind),
                        ),
                        "depends on whether the index uses it",
                    ),
                },
            }
        }
        if self.superblock.state == STATE_COMPLETE && last_checkpoint(&self.input).is_none() {
            report(
                Flaw::at(last, "the copy of the superblock at the end is missing"),
                "nothing yet: it is for when both others are lost",
            );
        }
        Ok(())
    }

    /// Whether a record's contents are looked into here: not what tells where the disk's bytes are, of which there
    /// may be more than fits into memory.
    fn is_overview(&self, record: &record::Record) -> bool {
        !matches!(record.kind(), Some(RecordType::Same | RecordType::Fill))
    }

    /// Whether the index names the payload of the DATA record at `at`, and with another checksum.
    fn contradicts(&self, at: u64, header: &RecordHeader) -> bool {
        let disk_at = header.disk_at.get();
        let origin =
            (disk_at < self.size()).then(|| self.map(disk_at).ok()).flatten().map(|extent| extent.origin);
        let sum = Sum::Xxh3(header.payload_sum.get());
        matches!(origin, Some(Origin::Packed(p)) if p.at == at + HEADER_LEN as u64 && p.sum != sum)
    }
}

/// The bytes of the disk that a record speaks of, in words.
fn disk_bytes(header: &RecordHeader) -> String {
    let start = header.disk_at.get();
    format!("disk bytes {start} to {}", start.saturating_add(header.disk_len.get()))
}
