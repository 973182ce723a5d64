//! Salvages the records of a damaged image into a new image.
//!
//! Each record names the bytes of the disk that it covers, so neither the superblock nor the index is needed; if there is
//! an index, it adds what the records do not find any more. Lost areas become non-tried: if the disk is still available,
//! imaging can be resumed with the new image.

mod by_index;
mod superblock;

use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::SECTOR;
use cdi_image::badmap::{BadRange, MAX_RANGES, Status};
use cdi_image::cdimg::events::decode_events;
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::layout::*;
use cdi_image::cdimg::nodes::check_entry;
use cdi_image::cdimg::record::Record;
use cdi_image::cdimg::scan::{Step, Walk, decode_map, decode_metadata, without_parity};
use cdi_image::cdimg::writer::{Writer, check_metadata};
use cdi_image::cdimg::{reader, record};
use cdi_image::codec::{Codec, Sum, decompress};
use cdi_image::extent::Origin;
use cdi_image::image::Image;
use cdi_image::input::Input;
use cdi_image::metadata::Metadata;
use lru::LruCache;
use serde_json::json;

use self::superblock::find_superblock;
use super::options::{TOOL, image_like};
use super::rescue::event;

/// The result of a repair.
#[derive(Debug, Clone, Default)]
pub struct Repaired {
    /// The number of intact records.
    pub intact: u64,
    /// The number of damaged records.
    pub damaged: u64,
    /// The number of bytes in the file that are not part of any record.
    pub gap_bytes: u64,
    /// The number of bytes missing at the end of the file.
    pub cut_off: u64,
    /// The ranges of the disk that were read and are lost, in order.
    pub lost: Vec<Range<u64>>,
    /// The number of further bytes that were not read from the disk, by what is left of the map.
    pub unread_bytes: u64,
    /// Whether `unread_bytes` is uncertain: there is damage after the last intact map, where they may have been
    /// recorded.
    pub uncertain: bool,
    /// The number of bytes of the disk that are missing in the new image, including lost ones.
    pub missing_bytes: u64,
    /// The length of the new image in bytes.
    pub image_bytes: u64,
    /// What was wrong in the log of the damaged image, or not as it was sealed.
    pub not_as_sealed: Vec<String>,
}

/// The maximum number of records of partial sectors that are used: each adds two pieces to a chunk, which has at most
/// 2,048 sectors, and may have 4,096 pieces.
const MAX_PARTS: u32 = 1000;
/// The number of payloads that are remembered to find shared ones.
const REMEMBERED: NonZero<usize> = NonZero::new(1 << 18).expect("not 0");

/// Salvages the image in `input` into `file`, which is empty and at `path`; `command` is the command line, for the log.
/// Calls `step` with how far the work is, of twice the length of the old file in bytes; an error from it stops the work.
pub fn repair(
    input: &Arc<Input>,
    file: &std::fs::File,
    path: &Path,
    command: &[String],
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Repaired, Error> {
    let superblock = find_superblock(input, step)?;
    let cannot_clone = |e| Error::io("cannot duplicate the open file", path, e);
    let store = || file.try_clone().map(Box::new).map_err(cannot_clone);
    let new = image_like(&superblock)?;
    let metadata = Metadata { size_bytes: superblock.disk_size.get(), ..Metadata::default() };
    let writer = Writer::create(store()?, path, &new, metadata)?;
    let mut salvage = Salvage {
        input,
        geometry: new.geometry,
        parts: 0,
        writer,
        known: LruCache::new(REMEMBERED),
        epoch: 0,
        repaired: Repaired::default(),
    };
    salvage.salvage_all(superblock.salt.get(), step)?;
    let Salvage { writer, mut repaired, .. } = salvage;
    writer.leave()?;
    repaired.cut_off = superblock.committed_end.get().saturating_sub(input.len());
    let is_damaged = repaired.damaged > 0 || repaired.gap_bytes > 0 || repaired.cut_off > 0;

    let mut details = json!({ "tool": TOOL, "options": command });
    let mut is_newest = false;
    match reader::open(Arc::clone(input)) {
        Ok(old) => {
            // The new log and its seal are consistent, whatever was wrong with the old ones.
            let flaws = old.seal(&mut || step(input.len()))?.flaws;
            repaired.not_as_sealed = flaws.into_iter().map(|(flaw, _)| flaw.to_string()).collect();
            if !repaired.not_as_sealed.is_empty() {
                details["not_as_sealed"] = json!(repaired.not_as_sealed);
            }
            is_newest = old.is_newest();
            if is_damaged {
                add_by_index(old, input, &Arc::new(Input::new(store()?, path)?), store()?, step)?;
            }
        }
        Err(e) => details["not_checked"] = e.to_string().into(),
    }

    // Now find the areas that are finished according to the map, but have no data.
    let new = Arc::new(Input::new(store()?, path)?);
    let image = reader::open(Arc::clone(&new))?;
    repaired.lost = lost(&image, &mut || step(input.len()))?;
    let lost: u64 = repaired.lost.iter().map(|r| r.end - r.start).sum();
    repaired.unread_bytes = image.bad().missing();
    let is_map_lost = repaired.uncertain || repaired.cut_off > 0 || input.lost_what_followed_parity();
    repaired.uncertain = is_map_lost && !is_newest && repaired.unread_bytes > 0;
    drop(image);
    let (mut writer, _) = Writer::resume(store()?, &new, path)?;
    for range in &repaired.lost {
        step(input.len())?;
        writer.set_status(BadRange::new(range.clone(), Status::NonTried))?;
    }
    let mut metadata = writer.metadata().clone();
    if repaired.lost.is_empty() && (is_newest || !is_damaged) {
        writer.earlier_hashes().clone().store(&mut metadata);
    }
    writer.set_metadata(metadata);
    details["lost_bytes"] = lost.into();
    writer.note(&event("repaired", details));
    repaired.missing_bytes = writer.bad().missing();
    repaired.image_bytes =
        if superblock.state == STATE_COMPLETE { writer.finish()? } else { writer.leave()? };
    Ok(repaired)
}

/// Adds what the index of the `old` image finds to the new one, which is read through `new` and written to `store`. If the
/// map of the old one is that of its last state, it becomes that of the new one.
fn add_by_index(
    old: reader::CdiImage,
    input: &Arc<Input>,
    new: &Arc<Input>,
    store: Box<std::fs::File>,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let is_newest = old.is_newest();
    let (old, len) = (by_index::disk(old, input), input.len());
    let salvaged = by_index::disk(reader::open(Arc::clone(new))?, new);
    let (mut writer, _) = Writer::resume(store, new, new.path())?;
    let part = |at: u64| u128::from(at) * u128::from(len) / u128::from(old.size());
    by_index::add(&old, &salvaged, &mut writer, &mut |at| {
        step(len.saturating_add(u64::try_from(part(at)).unwrap_or(len)))
    })?;
    if is_newest {
        writer.replace_map(0..old.size(), old.bad().ranges())?;
    }
    // Whether they are still valid is decided later.
    let mut metadata = writer.metadata().clone();
    writer.earlier_hashes().clone().store(&mut metadata);
    writer.set_metadata(metadata);
    writer.leave().map(|_| ())
}

/// Returns the ranges that are finished according to the map, but have no bytes in the index.
fn lost(
    image: &reader::CdiImage,
    check_cancelled: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<Vec<Range<u64>>, Error> {
    let (size, mut at) = (image.size(), 0);
    let mut lost: Vec<Range<u64>> = Vec::new();
    while at < size {
        check_cancelled()?;
        let extent = image.map(at).map_err(|e| Error::failed("cannot read back the new image").because(e))?;
        if extent.origin == Origin::Unread {
            for run in image.bad().held(at..extent.disk.end) {
                match lost.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => lost.push(run),
                }
            }
            if lost.len() > MAX_RANGES {
                return Err(Error::failed("too many lost areas: a .cdimg cannot record them all"));
            }
        }
        at = extent.disk.end;
    }
    Ok(lost)
}

struct Salvage<'a> {
    input: &'a Input,
    geometry: Geometry,
    /// The number of records of partial sectors so far.
    parts: u32,
    writer: Writer,
    /// Payloads of the old image, with their location in the new image.
    known: LruCache<(u64, u64), RawEntry>,
    epoch: u32,
    repaired: Repaired,
}

impl Salvage<'_> {
    fn salvage_all(
        &mut self,
        salt: u64,
        step: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let walk = |part| Walk::new(self.input, salt, part);
        let mut walks = without_parity(self.input, self.input.len()).map(walk);
        let mut steps = walks.iter_mut().flat_map(|walk| std::iter::from_fn(|| walk.step().transpose()));
        while let Some(found) = steps.next().transpose()? {
            match found {
                Step::Gap(gap) => {
                    self.repaired.gap_bytes += gap.end - gap.start;
                    self.repaired.uncertain = true;
                }
                Step::Searching(at) => step(at)?,
                // Left over from an earlier run, whose end a later run has cut off.
                Step::Header(at, header) if header.epoch.get() < self.epoch => step(at)?,
                Step::Header(at, header) => {
                    self.epoch = header.epoch.get();
                    let record = record::with_payload(self.input, at, header)?;
                    let valid = match &record {
                        Some(record) => self.salvage_record(record)?,
                        None => false,
                    };
                    let whole_map = header.kind == RecordType::Map as u8
                        && (header.disk_at.get(), header.disk_len.get()) == (0, self.geometry.disk_size);
                    *if valid { &mut self.repaired.intact } else { &mut self.repaired.damaged } += 1;
                    self.repaired.uncertain = !valid || (self.repaired.uncertain && !whole_map);
                    step(at)?;
                }
            }
        }
        Ok(())
    }

    /// Copies the contents of a record whose checksums match. Returns whether the record is valid.
    fn salvage_record(&mut self, record: &Record) -> Result<bool, Error> {
        let h = &record.header;
        let disk = h.disk_at.get()..h.disk_at.get().saturating_add(h.disk_len.get());
        // Partial sectors come from damaged images of other formats, and are rare. With too many of them a chunk could
        // have more pieces than a reader accepts.
        let whole = |at: u64| at.is_multiple_of(u64::from(SECTOR)) || at == self.geometry.disk_size;
        if !(whole(disk.start) && whole(disk.end)) {
            self.parts += 1;
        }
        let inside = disk.end <= self.geometry.disk_size && self.parts <= MAX_PARTS;
        let within_chunk = inside
            && !disk.is_empty()
            && self.geometry.chunk_of(disk.start) == self.geometry.chunk_of(disk.end - 1);
        let len = u32::try_from(h.disk_len.get()).unwrap_or(u32::MAX);
        match record.kind() {
            Some(RecordType::Data) => {
                let codec =
                    Codec::from_number(h.codec).filter(|_| within_chunk && h.uncompressed.get() == len);
                // An entry must refer to at least one byte.
                let Some(codec) =
                    codec.filter(|_| !record.stored.is_empty() && h.stored.get() <= MAX_CHUNK_SIZE)
                else {
                    return Ok(false);
                };
                if record.payload().is_err() {
                    return Ok(false);
                }
                let entry = self.writer.put_data(disk.start, len, codec, &record.stored)?;
                self.known.put((record.payload_at(), h.payload_sum.get()), entry);
                Ok(true)
            }
            Some(RecordType::Same) if within_chunk => self.salvage_same(record, disk.start, len),
            Some(RecordType::Fill) if inside && !disk.is_empty() => {
                match record.payload().map(<[u8; 8]>::try_from) {
                    Ok(Ok(pattern)) => self.writer.put_fill(disk, pattern).map(|()| true),
                    _ => Ok(false),
                }
            }
            Some(RecordType::Map) if inside => match decode_map(record) {
                Ok((_, ranges)) => self.writer.replace_map(disk, &ranges).map(|()| true),
                Err(_) => Ok(false),
            },
            Some(RecordType::Metadata) => match decode_metadata(record) {
                Ok(metadata) if check_metadata(&metadata).is_ok() => {
                    let sizes = self.writer.metadata().clone();
                    self.writer.set_metadata(Metadata {
                        size_bytes: sizes.size_bytes,
                        logical_sector_bytes: 0,
                        physical_sector_bytes: 0,
                        ..metadata
                    });
                    Ok(true)
                }
                _ => Ok(false),
            },
            Some(RecordType::Events) => match decode_events(record) {
                Ok((_, lines)) => {
                    let lines = String::from_utf8_lossy(&lines);
                    lines.split('\n').try_for_each(|line| self.writer.note_line(line)).map(|()| true)
                }
                Err(_) => Ok(false),
            },
            Some(RecordType::Node | RecordType::Pieces | RecordType::Checkpoint | RecordType::Parity) => {
                Ok(true)
            }
            Some(_) => Ok(false),
            None if h.kind >= FIRST_IGNORABLE_TYPE => Ok(true),
            None => {
                let what =
                    format!("record type {} at byte {} is not supported by this version", h.kind, record.at);
                Err(Error::bad_image(what).at(self.input.path()))
            }
        }
    }

    /// Copies a run that duplicates an earlier payload: refers to the payload in the new image if it is there already,
    /// otherwise copies it from the old image.
    fn salvage_same(&mut self, record: &Record, start: u64, len: u32) -> Result<bool, Error> {
        let entry = record.payload().ok().and_then(|payload| RawEntry::parse(&payload));
        let Some(entry) = entry.filter(|e| e.kind == ENTRY_DATA && check_entry(e, self.input.len()).is_ok())
        else {
            return Ok(false);
        };
        if let Some(entry) = self.known.get(&(entry.at.get(), entry.sum.get())) {
            return self.writer.put_same(start, len, *entry).map(|()| true);
        }
        let mut stored = vec![0; entry.stored.get() as usize];
        let sum = Sum::Xxh3(entry.sum.get());
        match self.input.read_right(Input::MAIN, &mut stored, entry.at.get(), |stored| sum.matches(stored)) {
            Ok(()) => {}
            Err(e @ ReadError::Io { .. }) => {
                return Err(Error::failed("cannot read").at(self.input.path()).because(e));
            }
            Err(_) => return Ok(false),
        }
        let codec = Codec::from_number(entry.codec);
        let mut bytes = vec![0; len as usize];
        let Some(codec) = codec.filter(|codec| decompress(*codec, &stored, &mut bytes).is_ok()) else {
            return Ok(false);
        };
        let new = self.writer.put_data(start, len, codec, &stored)?;
        self.known.put((entry.at.get(), entry.sum.get()), new);
        Ok(true)
    }
}
