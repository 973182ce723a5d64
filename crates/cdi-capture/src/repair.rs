//! What is left of a damaged image, put together anew from its records.
//!
//! Records tell by themselves of which bytes of the disk they speak, so neither superblock nor index is needed. What
//! is lost becomes non-tried: whoever still has the disk can go on with the image.

use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::SECTOR;
use cdi_image::badmap::{BadRange, MAX_RANGES, Status};
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::layout::*;
use cdi_image::cdimg::nodes::check_entry;
use cdi_image::cdimg::record::Record;
use cdi_image::cdimg::scan::{Step, Walk, decode_events, decode_map, decode_metadata};
use cdi_image::cdimg::superblock::check_disk;
use cdi_image::cdimg::writer::{Writer, check_metadata};
use cdi_image::cdimg::{reader, record};
use cdi_image::codec::{Codec, Sum, decompress};
use cdi_image::extent::Origin;
use cdi_image::image::Image;
use cdi_image::input::Input;
use cdi_image::metadata::Metadata;
use lru::LruCache;

use super::options::image_like;
use super::rescue::event;

/// What came of a repair.
#[derive(Debug, Clone, Default)]
pub struct Repaired {
    /// How many records were sound, and how many were not.
    pub sound: u64,
    /// How many records were damaged.
    pub damaged: u64,
    /// How many bytes of the file were no record.
    pub gap_bytes: u64,
    /// How many bytes the file is too short.
    pub cut_off: u64,
    /// What of the disk was read and is lost, in order.
    pub lost: Vec<Range<u64>>,
    /// How many bytes more seem never to have been tried.
    pub untried_bytes: u64,
    /// Whether that is not sure: behind the last map that is left something is damaged, which may have held them.
    pub uncertain: bool,
    /// How many bytes of the disk the new image does not hold, lost ones among them.
    pub missing_bytes: u64,
    /// The length of the new image in bytes.
    pub image_bytes: u64,
}

/// How many records of parts of sectors are taken in: each adds two pieces to a chunk, which has at most 2,048 sectors,
/// and may have 4,096 pieces.
const MAX_PARTS: u32 = 1000;
/// How many payloads are remembered to find those that are shared.
const REMEMBERED: NonZero<usize> = NonZero::new(1 << 18).expect("not 0");

/// Puts together what is left of the image in `input`, into `file`, which is empty and at `path`. `step` is told how far
/// in the old file it is, and may end it all with an error.
pub fn repair(
    input: &Input,
    file: &std::fs::File,
    path: &Path,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Repaired, Error> {
    let head = find_head(input, step)?;
    let again = |e| Error::io("cannot be opened twice", path, e);
    let store = || file.try_clone().map(Box::new).map_err(again);
    let new = image_like(&head)?;
    let metadata = Metadata { size_bytes: head.disk_size.get(), ..Metadata::default() };
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
    salvage.take_all(head.salt.get(), step)?;
    let Salvage { writer, mut repaired, .. } = salvage;
    writer.leave()?;

    // Now it can be told what is missing that the map calls finished.
    let new = Arc::new(Input::new(store()?, path)?);
    let image = reader::open(Arc::clone(&new))?;
    repaired.lost = lost(&image, &mut || step(input.len()))?;
    repaired.cut_off = head.committed_end.get().saturating_sub(input.len());
    repaired.untried_bytes = image.bad().count(Status::NonTried).bytes;
    repaired.uncertain |= repaired.cut_off > 0;
    drop(image);
    let (mut writer, _) = Writer::resume(store()?, &new, path)?;
    for range in &repaired.lost {
        step(input.len())?;
        writer.set_status(BadRange::new(range.clone(), Status::NonTried))?;
    }
    let mut metadata = writer.metadata().clone();
    let whole =
        repaired.lost.is_empty() && repaired.damaged == 0 && repaired.gap_bytes == 0 && repaired.cut_off == 0;
    if whole {
        writer.earlier_hashes().clone().store(&mut metadata);
    }
    writer.set_metadata(metadata);
    let lost: u64 = repaired.lost.iter().map(|r| r.end - r.start).sum();
    writer.note(&event("repaired", serde_json::json!({ "tool": super::options::TOOL, "lost_bytes": lost })));
    repaired.missing_bytes = writer.bad().missing();
    repaired.image_bytes = if head.state == STATE_COMPLETE { writer.finish()? } else { writer.leave()? };
    Ok(repaired)
}

/// A sound superblock of the image, wherever there is one: at its place, or a copy in a CHECKPOINT record. Of several
/// the newest.
fn find_head(input: &Input, step: &mut dyn FnMut(u64) -> Result<(), Error>) -> Result<Superblock, Error> {
    let parse = |at: u64| {
        let bytes = input.bytes(at, SUPERBLOCK_LEN, "a superblock").ok()?;
        Superblock::parse(&bytes).filter(|s| check_disk(s).is_ok())
    };
    let slots = SUPERBLOCK_AT.into_iter().filter_map(parse);
    if let Some(newest) = slots.max_by_key(|s| s.generation.get()) {
        return Ok(newest);
    }
    // Records of another image can only lie within a record of this one: walking over the records, not into them, the
    // one with the most bytes is this one.
    let mut found: Vec<(u64, u64, Option<Superblock>)> = Vec::new();
    let mut walk = Walk::new(input, None, RECORDS_AT.min(input.len())..input.len());
    while let Some(found_step) = walk.step()? {
        let (at, header) = match found_step {
            Step::Header(at, header) => (at, header),
            Step::Searching(at) => {
                step(at)?;
                continue;
            }
            Step::Gap(_) => continue,
        };
        step(at)?;
        let salt = header.salt.get();
        if !found.iter().any(|(s, ..)| *s == salt) {
            if found.len() >= 1000 {
                continue;
            }
            found.push((salt, 0, None));
        }
        let Some((_, bytes, head)) = found.iter_mut().find(|(s, ..)| *s == salt) else { continue };
        *bytes += u64::from(header.stored.get());
        if header.kind == RecordType::Checkpoint as u8
            && let Some(copy) = parse(at + HEADER_LEN as u64).filter(|c| c.salt.get() == salt)
            && head.is_none_or(|h| h.generation.get() < copy.generation.get())
        {
            *head = Some(copy);
        }
    }
    found
        .into_iter()
        .filter_map(|(_, bytes, head)| Some((bytes, head?)))
        .max_by_key(|(bytes, _)| *bytes)
        .map(|(_, head)| head)
        .ok_or_else(|| {
            let what = "neither a superblock nor a copy of one is left: it is no .cdimg, or nothing of it can be saved";
            Error::bad_image(what).at(input.path())
        })
}

/// What the map calls finished, and the index has no bytes for.
fn lost(
    image: &reader::CdiImage,
    check_cancelled: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<Vec<Range<u64>>, Error> {
    let (size, mut at) = (image.size(), 0);
    let mut lost: Vec<Range<u64>> = Vec::new();
    while at < size {
        check_cancelled()?;
        let extent =
            image.map(at).map_err(|e| Error::failed("what was written cannot be read back").because(e))?;
        if extent.origin == Origin::Unread {
            for run in image.bad().held(at..extent.disk.end) {
                match lost.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => lost.push(run),
                }
            }
            if lost.len() > MAX_RANGES {
                return Err(Error::failed("more is lost, in more places, than a .cdimg can tell"));
            }
        }
        at = extent.disk.end;
    }
    Ok(lost)
}

struct Salvage<'a> {
    input: &'a Input,
    geometry: Geometry,
    /// How many records of parts of sectors were taken in.
    parts: u32,
    writer: Writer,
    /// Payloads of the old image, and where they are in the new one.
    known: LruCache<(u64, u64), RawEntry>,
    epoch: u32,
    repaired: Repaired,
}

impl Salvage<'_> {
    fn take_all(&mut self, salt: u64, step: &mut dyn FnMut(u64) -> Result<(), Error>) -> Result<(), Error> {
        let mut walk = Walk::new(self.input, salt, RECORDS_AT..self.input.len());
        while let Some(found) = walk.step()? {
            match found {
                Step::Gap(gap) => {
                    self.repaired.gap_bytes += gap.end - gap.start;
                    self.repaired.uncertain = true;
                }
                Step::Searching(at) => step(at)?,
                // Left behind by a run that another one has cut off.
                Step::Header(at, header) if header.epoch.get() < self.epoch => step(at)?,
                Step::Header(at, header) => {
                    self.epoch = header.epoch.get();
                    let record = record::with_payload(self.input, at, header)?;
                    let taken = match &record {
                        Some(record) => self.take(record)?,
                        None => false,
                    };
                    let whole_map = header.kind == RecordType::Map as u8
                        && (header.disk_at.get(), header.disk_len.get()) == (0, self.geometry.disk_size);
                    *if taken { &mut self.repaired.sound } else { &mut self.repaired.damaged } += 1;
                    self.repaired.uncertain = !taken || (self.repaired.uncertain && !whole_map);
                    step(at)?;
                }
            }
        }
        Ok(())
    }

    /// Takes in a record whose checksums are right. Whether it says what a record can say.
    fn take(&mut self, record: &Record) -> Result<bool, Error> {
        let h = &record.header;
        let disk = h.disk_at.get()..h.disk_at.get().saturating_add(h.disk_len.get());
        // Parts of sectors come from damaged images of other formats, now and then. Of more of them a chunk could have
        // more pieces than a reader takes.
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
                // An entry must name at least a byte.
                let Some(codec) = codec.filter(|_| !record.stored.is_empty() && h.stored.get() <= CHUNK_MAX)
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
            Some(RecordType::Same) if within_chunk => self.take_same(record, disk.start, len),
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
                Ok((_, lines)) => lines.lines().try_for_each(|l| self.writer.note_line(l)).map(|()| true),
                Err(_) => Ok(false),
            },
            Some(RecordType::Node | RecordType::Pieces | RecordType::Checkpoint) => Ok(true),
            Some(_) => Ok(false),
            None if h.kind >= FIRST_IGNORABLE_TYPE => Ok(true),
            None => {
                let what =
                    format!("record type {} at byte {} is not known to this version", h.kind, record.at);
                Err(Error::bad_image(what).at(self.input.path()))
            }
        }
    }

    /// A run that is the same as an earlier payload: as it is in the new image already, or from the old one.
    fn take_same(&mut self, record: &Record, start: u64, len: u32) -> Result<bool, Error> {
        let entry = record.payload().ok().and_then(|payload| RawEntry::parse(&payload));
        let Some(entry) = entry.filter(|e| e.kind == ENTRY_DATA && check_entry(e, self.input.len()).is_ok())
        else {
            return Ok(false);
        };
        if let Some(entry) = self.known.get(&(entry.at.get(), entry.sum.get())) {
            return self.writer.put_same(start, len, *entry).map(|()| true);
        }
        let mut stored = vec![0; entry.stored.get() as usize];
        match self.input.read_exact_at(Input::MAIN, &mut stored, entry.at.get()) {
            Ok(()) => {}
            Err(e @ ReadError::Io { .. }) => {
                return Err(Error::failed("the image cannot be read").at(self.input.path()).because(e));
            }
            Err(_) => return Ok(false),
        }
        let codec = Codec::from_number(entry.codec);
        let codec = codec.filter(|_| Sum::Xxh3(entry.sum.get()).holds(&stored));
        let mut bytes = vec![0; len as usize];
        let Some(codec) = codec.filter(|codec| decompress(*codec, &stored, &mut bytes).is_ok()) else {
            return Ok(false);
        };
        let new = self.writer.put_data(start, len, codec, &stored)?;
        self.known.put((entry.at.get(), entry.sum.get()), new);
        Ok(true)
    }
}
