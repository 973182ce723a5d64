//! Going on with an image that is there already, and what a writer does for one that may be interrupted at any time:
//! the map told between checkpoints, events, and room for the last checkpoint on a disk that fills up.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

use super::index::Geometry;
use super::layout::*;
use super::nodes::CachedNodes;
use super::read::{MOST_UNCOMMITTED_MAPS, TakenIn, read_map, take_in};
use super::record;
use super::scan::Told;
use super::scan::{Step, Walk};
use super::store::Store;
use super::superblock::{is_sound_in, superblocks};
use super::write::{MOST_HELD, RANGES_A_RECORD, Writer, raw_range};
use crate::error::Error;
use crate::image::bad::BadRange;
use crate::image::facts::Facts;
use crate::image::input::Input;

/// Room that is kept free behind the records, so that a full disk does not keep the last checkpoint from being
/// written.
#[derive(Debug, Clone, Copy)]
pub struct Reserve {
    /// How much, in bytes.
    len: u64,
    /// Up to where the file has room.
    to: u64,
    /// Whether there was no room any more.
    full: bool,
}

/// How much is reserved at once, in bytes.
const STEP: u64 = 64 << 20;
/// What a checkpoint takes at most: the nodes that may have changed, and a long map.
const MOST: u64 = 64 << 20;
/// So many bytes of events are gathered before there is a checkpoint.
const MOST_EVENTS: usize = 4 << 20;
/// The longest event that is kept, in bytes.
const LONGEST_EVENT: usize = 64 << 10;

/// Takes in the bytes in sound records that lie behind damage: a crash may lose a part of what was written last, and not
/// what was written after it. What such records say of the map is left out, for it may be of bytes that are lost.
fn take_in_behind(
    input: &Input,
    salt: u64,
    nodes: &CachedNodes,
    told: &mut Told,
    (end, epoch): (&mut u64, &mut u32),
    remarks: &mut Vec<String>,
) -> Result<(), Error> {
    let mut walk = Walk::new(input, salt, *end..input.len());
    let mut taken = 0;
    while let Some(step) = walk.step()? {
        let Step::Header(at, header) = step else { continue };
        let bytes = [RecordType::Data, RecordType::Same, RecordType::Fill].map(|kind| kind as u8);
        if header.epoch.get() < *epoch || told.index.held() > MOST_HELD {
            continue;
        }
        let Some(record) = record::with_payload(input, at, header)? else { continue };
        if bytes.contains(&header.kind) && told.take(&record, nodes, input.len()).is_ok() {
            taken += 1;
        }
        (*end, *epoch) = (header.next(at).min(input.len()), header.epoch.get());
    }
    if taken > 0 {
        remarks.push(format!("{taken} records behind a damaged part were taken in"));
    }
    Ok(())
}

impl Writer {
    /// Goes on with the image in `input`, which is the file that `store` writes. Its state becomes "acquiring"; what a
    /// crash left at its end is cut off. Gives also what the user should know.
    pub fn resume(
        store: Box<dyn Store>,
        input: &Arc<Input>,
        path: &Path,
    ) -> Result<(Writer, Vec<String>), Error> {
        let nodes = CachedNodes::new(Arc::clone(input));
        let TakenIn { mut superblock, mut told, mut end, mut epoch, mut remarks, .. } =
            take_in(input, &nodes)?;
        if superblock.state == STATE_ACQUIRING {
            take_in_behind(
                input,
                superblock.salt.get(),
                &nodes,
                &mut told,
                (&mut end, &mut epoch),
                &mut remarks,
            )?;
        }
        let slot = crate::units::index(superblock.generation.get() % 2);
        let sound = superblocks(input)[slot].1.is_some_and(|s| is_sound_in(slot, &s));
        if !sound {
            let what = "the newest superblock is damaged: it is not gone on with";
            return Err(Error::bad_image(what).at(path).hint("'cdi repair' makes a sound image of it"));
        }
        remarks.retain(|r| !r.contains("unfinished"));
        if end < input.len() && superblock.state == STATE_ACQUIRING {
            let len = input.len() - end;
            remarks.push(format!("{len} bytes at the end that are no whole record were cut off"));
        }
        superblock.state = STATE_ACQUIRING;
        superblock.epoch = U32::new(epoch.checked_add(1).ok_or_else(|| {
            Error::bad_image("it was gone on with too often").at(path).hint("'cdi compact' makes it new")
        })?);
        let Told { index, mut bad, mut facts } = told;
        // From now on they are those of something else.
        let earlier = (facts.blake3_stored.take(), facts.sha256_zero_filled.take());
        let written = (superblock.map_at.get() != 0).then(|| read_map(input, &superblock)).transpose()?;
        bad.settle();
        let mut writer = Writer {
            store,
            path: path.to_owned(),
            superblock,
            index,
            bad,
            bad_written: written,
            facts,
            facts_written: None,
            events: String::new(),
            uncommitted: 0,
            uncommitted_maps: 0,
            end,
            buffer: Vec::new(),
            broken: false,
            reserve: None,
            earlier_hashes: earlier.0.zip(earlier.1),
            events_dropped: 0,
            in_checkpoint: false,
        };
        writer.store.cut(end).map_err(|e| writer.io_error("the image cannot be cut off", e))?;
        writer.sync()?;
        writer.checkpoint()?;
        Ok((writer, remarks))
    }

    /// The facts as they are now.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The hashes (BLAKE3, SHA-256) that the image had before it was gone on with. They hold as long as no bytes come.
    pub fn earlier_hashes(&self) -> Option<(String, String)> {
        self.earlier_hashes.clone()
    }

    /// The sizes of the disk and its chunks.
    pub fn geometry(&self) -> Geometry {
        self.index.geometry()
    }

    /// The logical and the physical sector size, in bytes.
    pub fn sectors(&self) -> (u32, u32) {
        (self.superblock.logical_sector.get(), self.superblock.physical_sector.get())
    }

    /// Keeps room for a checkpoint from now on: when the disk is full, [`Writer::is_full`] says so, and one checkpoint
    /// more can be made.
    pub fn keep_reserve(&mut self) -> Result<(), Error> {
        let nodes = self.index.geometry().chunks().saturating_mul(2 * ENTRY_LEN as u64);
        let len = nodes.saturating_add(256 << 10).min(MOST);
        self.reserve = Some(Reserve { len, to: self.end, full: false });
        self.make_room(0)
    }

    /// Whether the last error was that there is no more room for the image.
    pub fn is_full(&self) -> bool {
        self.reserve.as_ref().is_some_and(|r| r.full)
    }

    /// Sees to it that `more` bytes can be written, and a checkpoint behind them.
    pub(super) fn make_room(&mut self, more: usize) -> Result<(), Error> {
        // A checkpoint is what the room is kept for.
        let Some(Reserve { len, to, full }) = self.reserve.filter(|_| !self.in_checkpoint) else {
            return Ok(());
        };
        let least = self.end + more as u64 + len;
        // Once it is full, what was kept is used up.
        if to >= least || full {
            return Ok(());
        }
        let mut reserve = |to| self.store.reserve(self.end - self.buffer.len() as u64, to).map(|()| to);
        let got = reserve(least + STEP).or_else(|_| reserve(least));
        let full = got.is_err();
        self.reserve = Some(Reserve { len, to: *got.as_ref().unwrap_or(&to), full });
        got.map(|_| ()).map_err(|e| self.io_error("there is no more room for the image", e))
    }

    /// Whether an error of a write means that there is no more room.
    pub(super) fn note_if_full(&mut self, e: &io::Error) {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        if let Some(reserve) = &mut self.reserve
            && matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
        {
            reserve.full = true;
        }
    }

    /// Writes down what is not finished in `range`, so that not only a checkpoint keeps it. After many times, or of
    /// many ranges, that is a checkpoint all the same; but not of a map so long that it would soon fill the disk: that
    /// waits for the next checkpoint, and the answer is no.
    pub fn tell_map(&mut self, range: Range<u64>) -> Result<bool, Error> {
        const MANY: usize = 1 << 12;
        let all = self.bad.settle().ranges().len();
        let touching = self.bad.settle().touching(range.clone());
        // A checkpoint may have to write the whole map behind what was told, and readers count that, too.
        let parts = all.div_ceil(RANGES_A_RECORD) + 1;
        if touching.len() > MANY || self.uncommitted_maps + 1 + parts >= MOST_UNCOMMITTED_MAPS {
            return if all > 4 * MANY { Ok(false) } else { self.checkpoint().map(|()| true) };
        }
        let cut = touching.iter().map(|r| {
            let mut cut = *r;
            (cut.start, cut.end) = (r.start.max(range.start), r.end.min(range.end));
            raw_range(&cut)
        });
        let ranges: Vec<RawRange> = cut.collect();
        let payload = [0u64.as_bytes(), ranges.as_bytes()].concat();
        self.uncommitted_maps += 1;
        self.append_packed(RecordType::Map, range, &payload)?;
        self.write_out()?;
        Ok(true)
    }

    /// Says that of `range` exactly `ranges` are not finished. It is written at the next checkpoint.
    pub fn replace_map(&mut self, range: Range<u64>, ranges: &[BadRange]) -> Result<(), Error> {
        self.bad.replace(range, ranges);
        self.check_map()
    }

    /// Adds a line of events as another image has it.
    /// What is longer than any event is left out.
    pub fn note_line(&mut self, line: &str) -> Result<(), Error> {
        if line.is_empty() || line.len() > LONGEST_EVENT {
            return Ok(());
        }
        self.events.push_str(line);
        self.events.push('\n');
        if self.events.len() > MOST_EVENTS { self.checkpoint() } else { Ok(()) }
    }

    /// Adds to the events: an object with a time. They are written at the next checkpoint.
    /// Beyond so many between two checkpoints they are only counted.
    pub fn note(&mut self, event: &serde_json::Value) {
        if self.events.len() > MOST_EVENTS {
            self.events_dropped += 1;
            return;
        }
        self.events.push_str(&event.to_string());
        self.events.push('\n');
    }

    pub(super) fn write_events(&mut self) -> Result<(), Error> {
        if self.events.is_empty() {
            return Ok(());
        }
        if self.events_dropped > 0 {
            self.events.push_str(&format!("{{\"event\":\"dropped\",\"count\":{}}}\n", self.events_dropped));
            self.events_dropped = 0;
        }
        let before = self.superblock.events_at;
        let payload = [before.as_bytes(), self.events.as_bytes()].concat();
        self.superblock.events_at = U64::new(self.end);
        self.append_packed(RecordType::Events, 0..0, &payload)?;
        self.events.clear();
        Ok(())
    }

    /// The last checkpoint of a run that did not come to its end: the image stays unfinished.
    pub fn leave(mut self) -> Result<u64, Error> {
        self.checkpoint()?;
        self.give_back();
        Ok(self.end)
    }

    /// Gives back the room that was kept.
    pub(super) fn give_back(&mut self) {
        if self.reserve.take().is_some() {
            // That it cannot be given back is nobody's loss but of room.
            let _ = self.store.cut(self.end);
        }
    }
}
