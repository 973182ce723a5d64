//! The tables of an image: where each chunk is.

use std::num::NonZero;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use cdi_base::error::ReadError;
use cdi_base::units::index;
use cdi_base::workers::lock;
use lru::LruCache;

use crate::bytes::le32;
use crate::codec::{Codec, adler32};
use crate::extent::FileNo;
use crate::input::Input;

/// How many tables are cached in memory.
const TABLES_KEPT: NonZero<usize> = NonZero::new(64).expect("not 0");
/// The bit of a chunk's offset that says that it is compressed.
const COMPRESSED: u32 = 1 << 31;

/// A table of chunk offsets in a file.
pub(super) struct Table {
    /// The number of its first chunk, and its number of chunks.
    pub first: u64,
    pub count: u32,
    pub file: FileNo,
    /// The file offsets of its entries, and of their copy.
    pub entries: u64,
    pub copy: Option<u64>,
    /// Whether the entries are followed by a checksum; SMART's are not.
    pub signed: bool,
    /// The file offset that chunk offsets are relative to, and the end of the last chunk.
    pub base: u64,
    pub end: u64,
}

/// The chunks of a table: file offset and codec; then a final item with the end of the last one.
pub(super) type Chunks = Arc<[(u64, Codec)]>;

/// Where a chunk is.
pub(super) struct Place {
    pub file: FileNo,
    pub at: u64,
    /// The distance to the next chunk in bytes.
    pub len: u64,
    pub codec: Codec,
}

/// All tables, in the order of their chunks, which is that of the files and of the offsets in a file.
pub(super) struct Tables {
    tables: Vec<Table>,
    kept: Mutex<LruCache<usize, Chunks>>,
    /// How compressed chunks are compressed.
    codec: Codec,
}

impl Tables {
    pub(super) fn new(tables: Vec<Table>, codec: Codec) -> Tables {
        Tables { tables, kept: Mutex::new(LruCache::new(TABLES_KEPT)), codec }
    }

    /// Returns all tables.
    pub(super) fn all(&self) -> &[Table] {
        &self.tables
    }

    /// Returns how many chunks the tables list.
    pub(super) fn count(&self) -> u64 {
        self.tables.last().map_or(0, |table| table.first + u64::from(table.count))
    }

    /// Locates a chunk. `size` is the size of a chunk of the disk in bytes, for the error.
    pub(super) fn place(&self, input: &Input, chunk: u64, size: u64) -> Result<Place, ReadError> {
        let unmapped = ReadError::Unmapped { offset: chunk.saturating_mul(size) };
        let number = self.tables.partition_point(|t| t.first + u64::from(t.count) <= chunk);
        let table = self.tables.get(number).ok_or(unmapped)?;
        let chunks = self.chunks(input, number)?;
        let n = index(chunk - table.first);
        let [(at, codec), (end, _)] = chunks[n..n + 2] else { return Err(unmapped) };
        let min = if codec == Codec::XWaysZstd { 1 } else { 5 };
        let len = end.checked_sub(at).filter(|len| *len >= min).ok_or(ReadError::Corrupt { at })?;
        Ok(Place { file: table.file, at, len, codec })
    }

    /// Finds the chunk that the byte at offset `at` of `file` belongs to. Returns its number and its range in the file; or
    /// no number, and the range up to the next chunk.
    pub(super) fn around(
        &self,
        input: &Input,
        file: FileNo,
        at: u64,
    ) -> Result<(Option<u64>, Range<u64>), ReadError> {
        let number = self.tables.partition_point(|t| t.file < file || t.file == file && t.end <= at);
        let Some(table) = self.tables.get(number).filter(|t| t.file == file) else {
            return Ok((None, at..u64::MAX));
        };
        let chunks = self.chunks(input, number)?;
        let after = chunks.partition_point(|(start, _)| *start <= at);
        let range = |n: usize| chunks.get(n).map(|(start, _)| *start);
        let (found, start) = match after.checked_sub(1) {
            Some(n) => (Some(table.first + n as u64), range(n)),
            None => (None, Some(at)),
        };
        // Offsets that are not in order are an error.
        let range =
            start.zip(range(after)).map(|(start, end)| start..end).filter(|range| range.contains(&at));
        range.map(|range| (found, range)).ok_or(ReadError::Corrupt { at: table.entries })
    }

    /// Returns the chunks of a table, read from it or, if it is damaged, from its copy.
    pub(super) fn chunks(&self, input: &Input, number: usize) -> Result<Chunks, ReadError> {
        let lock = || lock(&self.kept);
        if let Some(kept) = lock().get(&number) {
            return Ok(Arc::clone(kept));
        }
        let table = &self.tables[number];
        let chunks = self.read(input, table, table.entries).or_else(|e| match table.copy {
            Some(copy) => self.read(input, table, copy),
            None => Err(e),
        })?;
        lock().put(number, Arc::clone(&chunks));
        Ok(chunks)
    }

    /// Reads the chunks of a table from its entries at offset `at`.
    pub(super) fn read(&self, input: &Input, table: &Table, at: u64) -> Result<Chunks, ReadError> {
        let len = table.count as usize * 4;
        let mut bytes = vec![0; if table.signed { len + 4 } else { len }];
        input.read_exact_at(table.file, &mut bytes, at)?;
        if table.signed && adler32(&bytes[..len]) != le32(&bytes, len) {
            return Err(ReadError::Corrupt { at });
        }
        // EnCase 6.7 let offsets grow into the bit for "compressed"; from there on, no chunk is compressed.
        let (mut before, mut overflowed) = (0, false);
        let mut chunks: Vec<(u64, Codec)> = bytes[..len]
            .chunks_exact(4)
            .map(|e| {
                let entry = le32(e, 0);
                overflowed |= entry & !COMPRESSED < before;
                before = if overflowed { 0 } else { entry & !COMPRESSED };
                let offset = if overflowed { entry } else { entry & !COMPRESSED };
                let is_compressed = !overflowed && entry & COMPRESSED != 0;
                let codec = if is_compressed { self.codec } else { Codec::StoredAdler32 };
                (table.base.saturating_add(offset.into()), codec)
            })
            .collect();
        chunks.push((table.end, Codec::StoredAdler32));
        Ok(chunks.into())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Tables without checksums of chunks at these offsets, one after the other in a file, each with the end of its last
    /// chunk.
    fn tables(of: &[(&[u32], u64)]) -> (Input, Tables) {
        let (mut bytes, mut tables, mut first) = (vec![0; 1000], Vec::new(), 0);
        for (offsets, end) in of {
            let (count, entries) = (u32::try_from(offsets.len()).unwrap(), bytes.len() as u64);
            bytes.extend(offsets.iter().flat_map(|offset| offset.to_le_bytes()));
            let (file, copy, signed, base) = (Input::MAIN, None, false, 0);
            tables.push(Table { first, count, file, entries, copy, signed, base, end: *end });
            first += u64::from(count);
        }
        (
            Input::new(Box::new(bytes), Path::new("/x/disk.E01")).unwrap(),
            Tables::new(tables, Codec::XWaysZstd),
        )
    }

    #[test]
    fn a_byte_belongs_to_the_chunk_around_it() {
        let (input, tables) = tables(&[(&[100, 200, 230], 300), (&[400], 500)]);
        let around = |at| tables.around(&input, Input::MAIN, at).unwrap();
        assert_eq!(around(0), (None, 0..100));
        assert_eq!(around(100), (Some(0), 100..200));
        assert_eq!(around(229), (Some(1), 200..230));
        assert_eq!(around(299), (Some(2), 230..300));
        assert_eq!(around(300), (None, 300..400));
        assert_eq!(around(450), (Some(3), 400..500));
        assert_eq!(around(500), (None, 500..u64::MAX));
        assert_eq!(tables.around(&input, FileNo(1), 100).unwrap(), (None, 100..u64::MAX));
    }

    #[test]
    fn chunks_out_of_order_and_in_the_place_of_others_are_not_taken_for_them() {
        // Of the second table, the first chunk is where one of the first table is.
        let (input, tables) = tables(&[(&[100, 200], 300), (&[150, 400], 500)]);
        let place = tables.place(&input, 2, 1).unwrap();
        assert_eq!(place.at, 150);
        assert_eq!(tables.around(&input, place.file, place.at).unwrap(), (Some(0), 100..200));
        let (input, tables) = tables_out_of_order();
        for at in 0..600 {
            if let Ok((_, range)) = tables.around(&input, Input::MAIN, at) {
                assert!(range.contains(&at), "{at}: {range:?}");
            }
        }
    }

    fn tables_out_of_order() -> (Input, Tables) {
        tables(&[(&[300, 100, 200, 50, 400, 0], 500)])
    }
}
