//! What makes records count: checkpoints, and what is told between two of them.

use std::ops::Range;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use super::super::index::{Index, NodeToWrite};
use super::super::layout::*;
use super::super::reader::MAX_UNCOMMITTED_MAPS;
use super::super::record::Head;
use super::super::scan::{encode_map, map_sum};
use super::{MAX_HELD, MAX_UNCOMMITTED, Writer, len32};
use crate::codec::Codec;

/// So many bytes may come after a checkpoint before there is another one: so much is at risk while an image is made.
const MAX_BYTES: u64 = 256 << 20;
/// How many ranges one MAP record holds at most.
const RANGES_A_RECORD: usize = 1 << 18;
/// So many bytes of events are gathered before there is a checkpoint.
const MAX_EVENTS: usize = 4 << 20;
/// The longest event that is kept, in bytes.
const MAX_EVENT: usize = 64 << 10;

impl Writer {
    /// Makes everything so far count: after this, no crash can lose it.
    pub fn checkpoint(&mut self) -> Result<(), Error> {
        self.out.in_checkpoint(true);
        let result = self.write_checkpoint();
        self.out.in_checkpoint(false);
        result
    }

    fn write_checkpoint(&mut self) -> Result<(), Error> {
        self.write_nodes()?;
        let sum = map_sum(self.bad.settle());
        if self.map_written != Some(sum) {
            self.write_map()?;
            self.map_written = Some(sum);
        }
        if self.metadata_written.as_ref() != Some(&self.metadata) {
            self.superblock.metadata_at = U64::new(self.out.end());
            let json = serde_json::to_vec(&self.metadata)
                .map_err(|e| Error::failed("the metadata cannot be written").because(e))?;
            if json.len() > MAX_METADATA as usize {
                let what = format!("what is known about the disk is longer than {MAX_METADATA} bytes");
                return Err(Error::failed(what).at(self.out.path()));
            }
            self.out.append_compressed(RecordType::Metadata, 0..0, &json)?;
            self.metadata_written = Some(self.metadata.clone());
        }
        self.write_events()?;
        // The copy in the CHECKPOINT record says that the records end behind itself.
        let generation = self.superblock.generation.get().checked_add(1).ok_or_else(|| {
            Error::failed("no more checkpoints can be counted").at(self.out.path()).hint(Advice::Compact)
        })?;
        self.superblock.generation = U64::new(generation);
        self.superblock.committed_end = U64::new(self.out.end() + (HEADER_LEN + SUPERBLOCK_LEN) as u64);
        self.superblock = self.superblock.sealed();
        let head = Head {
            kind: RecordType::Checkpoint,
            codec: Codec::Stored,
            uncompressed: len32(SUPERBLOCK_LEN),
            disk_at: 0,
            disk_len: self.superblock.disk_size.get(),
            detail: 0,
        };
        let copy = self.superblock;
        self.out.append(ENTRY_UNREAD, head, copy.as_bytes())?;
        self.out.write_out()?;
        self.out.sync()?;
        self.out.commit(&copy)?;
        self.uncommitted_maps = 0;
        Ok(())
    }

    /// The last checkpoint: the image is complete. Gives the length of the file in bytes.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.superblock.state = STATE_COMPLETE;
        self.checkpoint()?;
        self.out.release_reserve();
        Ok(self.out.end())
    }

    /// The last checkpoint of a run that did not come to its end: the image stays unfinished.
    pub fn leave(mut self) -> Result<u64, Error> {
        self.checkpoint()?;
        self.out.release_reserve();
        Ok(self.out.end())
    }

    /// A checkpoint, if much has come since the last one.
    pub(super) fn checkpoint_if_much(&mut self) -> Result<(), Error> {
        let much = self.index.held() > MAX_HELD
            || self.out.uncommitted() >= MAX_UNCOMMITTED / 2
            || self.out.end() >= self.superblock.committed_end.get() + MAX_BYTES;
        if much { self.checkpoint() } else { Ok(()) }
    }

    fn write_nodes(&mut self) -> Result<(), Error> {
        let geometry = self.index.geometry();
        let mut index = std::mem::replace(&mut self.index, Index::new(geometry, RawEntry::UNREAD));
        let root = index.flush(&mut |node: NodeToWrite<'_>| {
            let entry_kind = if node.kind == RecordType::Node { ENTRY_NODE } else { ENTRY_PIECES };
            let head = Head {
                kind: node.kind,
                codec: Codec::Stored,
                uncompressed: len32(node.bytes.len()),
                disk_at: node.disk.start,
                disk_len: node.disk.end - node.disk.start,
                detail: node.level.into(),
            };
            self.out.append(entry_kind, head, node.bytes)
        });
        // A tree of which only a part was written is of no use.
        if root.is_err() {
            self.out.stop_writing();
        }
        self.superblock.root = root?;
        self.index = index;
        // Nodes are read back from the file when they change again.
        self.out.write_out()
    }

    fn write_map(&mut self) -> Result<(), Error> {
        let size = self.superblock.disk_size.get();
        let (mut before, mut start) = (0u64, 0);
        let count = self.bad.settle().ranges().len();
        for from in (0..count).step_by(RANGES_A_RECORD) {
            let to = count.min(from + RANGES_A_RECORD);
            let part = &self.bad.settle().ranges()[from..to];
            let stop = part.last().filter(|_| to < count).map_or(size, |r| r.end);
            let payload = encode_map(before, part.iter().copied());
            before = self.out.end();
            self.out.append_compressed(RecordType::Map, start..stop, &payload)?;
            start = stop;
        }
        self.superblock.map_at = U64::new(before);
        if count == 0 && self.map_written.is_some() {
            // For those who read the records in order: what an earlier map called bad is finished now.
            self.out.append_compressed(RecordType::Map, 0..size, &encode_map(0, []))?;
        }
        Ok(())
    }

    /// Writes down what is not finished in `range`, so that not only a checkpoint keeps it. After many times, or of
    /// many ranges, that is a checkpoint all the same; but not of a map so long that it would soon fill the disk: that
    /// waits for the next checkpoint, and the answer is no.
    pub fn write_map_update(&mut self, range: Range<u64>) -> Result<bool, Error> {
        const MANY: usize = 1 << 12;
        let all = self.bad.settle().ranges().len();
        let touching = self.bad.settle().touching(range.clone());
        // A checkpoint may have to write the whole map behind what was told, and readers count that, too.
        let parts = all.div_ceil(RANGES_A_RECORD) + 1;
        if touching.len() > MANY || self.uncommitted_maps + 1 + parts >= MAX_UNCOMMITTED_MAPS {
            return if all > 4 * MANY { Ok(false) } else { self.checkpoint().map(|()| true) };
        }
        let cut = touching.iter().map(|r| r.cut(r.start.max(range.start)..r.end.min(range.end)));
        let payload = encode_map(0, cut);
        self.uncommitted_maps += 1;
        self.out.append_compressed(RecordType::Map, range, &payload)?;
        self.out.write_out()?;
        Ok(true)
    }

    /// Adds to the events: an object with a time. They are written at the next checkpoint.
    /// Beyond so many between two checkpoints they are only counted.
    pub fn note(&mut self, event: &serde_json::Value) {
        if self.events.len() > MAX_EVENTS {
            self.events_dropped += 1;
            return;
        }
        self.events.push_str(&event.to_string());
        self.events.push('\n');
    }

    /// Adds a line of events as another image has it.
    /// What is longer than any event is left out.
    pub fn note_line(&mut self, line: &str) -> Result<(), Error> {
        if line.is_empty() || line.len() > MAX_EVENT {
            return Ok(());
        }
        self.events.push_str(line);
        self.events.push('\n');
        if self.events.len() > MAX_EVENTS { self.checkpoint() } else { Ok(()) }
    }

    fn write_events(&mut self) -> Result<(), Error> {
        // There is at most one record for each generation.
        if self.superblock.generation.get() >= MAX_EVENTS_RECORDS as u64 {
            self.events.clear();
        }
        if self.events.is_empty() {
            return Ok(());
        }
        if self.events_dropped > 0 {
            self.events.push_str(&format!("{{\"event\":\"dropped\",\"count\":{}}}\n", self.events_dropped));
            self.events_dropped = 0;
        }
        let before = self.superblock.events_at;
        let payload = [before.as_bytes(), self.events.as_bytes()].concat();
        self.superblock.events_at = U64::new(self.out.end());
        self.out.append_compressed(RecordType::Events, 0..0, &payload)?;
        self.events.clear();
        Ok(())
    }
}
