//! Checkpoints, which commit records, and the map updates and events between them.

use std::ops::Range;
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::workers::lock;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use super::super::chain::is_chain_line;
use super::super::index::NodeToWrite;
use super::super::layout::*;
use super::super::parity::layout::DESCRIPTION_LEN;
use super::super::reader::MAX_UNCOMMITTED_MAPS;
use super::super::record::Head;
use super::super::scan::{encode_map, map_sum};
use super::super::seal::Seal;
use super::{MAX_DIRTY_BYTES, MAX_UNCOMMITTED, Writer, len32};
use crate::codec::Codec;

/// The maximum number of bytes after a checkpoint before another one is made: this much is at risk during imaging.
const MAX_BYTES: u64 = 256 << 20;
/// The maximum number of ranges in a MAP record.
const RANGES_PER_RECORD: usize = 1 << 18;
/// The maximum length of the events that are collected before a checkpoint, and of a single one, in bytes.
const MAX_EVENTS: usize = 4 << 20;

impl Writer {
    /// Commits everything written so far: after this, no crash can lose it.
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
            let json = self.metadata_json()?;
            if json.len() > MAX_METADATA as usize {
                let what = format!("the metadata about the disk is longer than {MAX_METADATA} bytes");
                return Err(Error::failed(what).at(self.out.path()));
            }
            self.out.append_compressed(RecordType::Metadata, 0..0, &json)?;
            self.metadata_written = Some(self.metadata.clone());
        }
        self.write_events()?;
        self.write_parity_description()?;
        // In the copy in the CHECKPOINT record, the records end after that record.
        let generation = self.superblock.generation.get().checked_add(1).ok_or_else(|| {
            Error::failed("the image has reached the maximum number of checkpoints")
                .at(self.out.path())
                .hint(Advice::Compact)
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

    fn metadata_json(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(&self.metadata).map_err(|e| Error::failed("cannot encode the metadata").because(e))
    }

    /// Seals the image, makes the last checkpoint, and marks the image as complete. Returns the length of the file in bytes.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.seal()?;
        self.superblock.state = STATE_COMPLETE;
        self.checkpoint()?;
        self.out.release_reserve();
        Ok(self.out.end())
    }

    /// Makes the last checkpoint of a run that was interrupted: the image stays unfinished. Returns the length of the
    /// file in bytes.
    pub fn leave(mut self) -> Result<u64, Error> {
        self.checkpoint()?;
        self.out.release_reserve();
        Ok(self.out.end())
    }

    /// Makes a checkpoint if much has been written since the last one.
    pub(super) fn checkpoint_if_due(&mut self) -> Result<(), Error> {
        let much = lock(&self.index).dirty_bytes() > MAX_DIRTY_BYTES
            || self.out.uncommitted() >= MAX_UNCOMMITTED / 2
            || self.out.end() >= self.superblock.committed_end.get() + MAX_BYTES;
        if much { self.checkpoint() } else { Ok(()) }
    }

    fn write_nodes(&mut self) -> Result<(), Error> {
        // Readers wait: the nodes that the new entries refer to must be in the file first.
        let index = Arc::clone(&self.index);
        let mut index = lock(&index);
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
        // A partly written tree cannot be used.
        if root.is_err() {
            self.out.stop_writing();
        }
        self.superblock.root = root?;
        // Nodes are read back from the file when they change again, so they must be there.
        self.out.write_out()
    }

    fn write_map(&mut self) -> Result<(), Error> {
        let size = self.superblock.disk_size.get();
        let (mut before, mut start) = (0u64, 0);
        let count = self.bad.settle().ranges().len();
        for from in (0..count).step_by(RANGES_PER_RECORD) {
            let to = count.min(from + RANGES_PER_RECORD);
            let part = &self.bad.settle().ranges()[from..to];
            let stop = part.last().filter(|_| to < count).map_or(size, |r| r.end);
            let payload = encode_map(before, part.iter().copied());
            before = self.out.end();
            self.out.append_compressed(RecordType::Map, start..stop, &payload)?;
            start = stop;
        }
        self.superblock.map_at = U64::new(before);
        if count == 0 && self.map_written.is_some() {
            // For readers that replay the records in order: ranges that were bad in an earlier map are finished now.
            self.out.append_compressed(RecordType::Map, 0..size, &encode_map(0, []))?;
        }
        Ok(())
    }

    /// Writes the unfinished ranges within `range`, so that they are saved before the next checkpoint. After many
    /// calls, or for many ranges, makes a checkpoint instead; but not if the map is so long that this would soon fill
    /// the disk: then the map is only written at the next regular checkpoint, and the result is false.
    pub fn write_map_update(&mut self, range: Range<u64>) -> Result<bool, Error> {
        const MANY: usize = 1 << 12;
        let all = self.bad.settle().ranges().len();
        let touching = self.bad.settle().touching(range.clone());
        // A checkpoint may have to write the whole map after these records, and readers count those records as well.
        let parts = all.div_ceil(RANGES_PER_RECORD) + 1;
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

    /// Adds an event: an object with a time. Events are written at the next checkpoint. If there are too many between
    /// two checkpoints, further ones are only counted.
    pub fn note(&mut self, event: &serde_json::Value) {
        let line = event.to_string();
        if self.events.len() > MAX_EVENTS || line.len() > MAX_EVENTS {
            self.events_dropped += 1;
            return;
        }
        self.events.push_str(&line);
        self.events.push('\n');
    }

    /// Adds a line of events from another image. Lines that are too long to be events are left out, and those that state
    /// the chain: this writer states its own.
    pub fn note_line(&mut self, line: &str) -> Result<(), Error> {
        if line.is_empty() || line.len() > MAX_EVENTS || is_chain_line(line) {
            return Ok(());
        }
        self.events.push_str(line);
        self.events.push('\n');
        if self.events.len() > MAX_EVENTS { self.checkpoint() } else { Ok(()) }
    }

    /// Repeats the description of the parity, which is found right before the checkpoint at the end of the file.
    fn write_parity_description(&mut self) -> Result<(), Error> {
        let Some(description) = self.parity else { return Ok(()) };
        let head = Head {
            kind: RecordType::Parity,
            codec: Codec::Stored,
            uncompressed: len32(DESCRIPTION_LEN),
            disk_at: 0,
            disk_len: 0,
            detail: 0,
        };
        self.out.append(ENTRY_UNREAD, head, description.as_bytes()).map(|_| ())
    }

    fn write_events(&mut self) -> Result<(), Error> {
        // There is at most one record for each generation.
        if self.superblock.generation.get() >= MAX_EVENTS_RECORDS as u64 {
            self.events.clear();
        }
        self.note_dropped();
        if self.events.is_empty() {
            return Ok(());
        }
        if let Some(chain) = &mut self.chain {
            self.events.lines().for_each(|line| chain.add(line.as_bytes()));
            self.events.push_str(&chain.line());
            self.events.push('\n');
        }
        let before = self.superblock.events_at;
        let payload = [before.as_bytes(), self.events.as_bytes()].concat();
        self.superblock.events_at = U64::new(self.out.end());
        self.out.append_compressed(RecordType::Events, 0..0, &payload)?;
        self.events.clear();
        Ok(())
    }

    fn note_dropped(&mut self) {
        if self.events_dropped > 0 {
            self.events.push_str(&format!("{{\"event\":\"dropped\",\"count\":{}}}\n", self.events_dropped));
            self.events_dropped = 0;
        }
    }

    /// Adds the last event: what the image says of its disk, in hashes. Without the earlier log there is no chain that
    /// it could be the end of.
    fn seal(&mut self) -> Result<(), Error> {
        if self.chain.is_none() {
            return Ok(());
        }
        self.note_dropped();
        let json = self.metadata_json()?;
        let seal = Seal::new(&self.superblock, &self.metadata, &json, self.bad.settle());
        self.events.push_str(&seal.line()?);
        self.events.push('\n');
        Ok(())
    }
}
