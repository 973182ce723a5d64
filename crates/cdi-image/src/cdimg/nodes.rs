//! Reads the nodes of the index from the file, checks them, and caches a limited number of them.

use cdi_base::workers::lock;
use std::num::NonZero;
use std::sync::{Arc, Mutex};

use cdi_base::error::{Flaw, ReadError};
use cdi_base::units::index;
use lru::LruCache;
use xxhash_rust::xxh3::xxh3_64;

use super::layout::*;
use super::record::array;
use crate::codec::Codec;
use crate::input::Input;

/// A source of index nodes.
pub trait Nodes {
    /// Returns the entries of the node at `entry`, which must be `count`, each checked individually.
    fn node(&self, entry: &RawEntry, count: usize) -> Result<Arc<[RawEntry]>, ReadError>;
    /// Returns the pieces at `entry` of a chunk of `chunk_len` bytes, after checking that they are in order and within
    /// the chunk.
    fn pieces(&self, entry: &RawEntry, chunk_len: u32) -> Result<Arc<[RawPiece]>, ReadError>;
}

/// Checks a single entry: its values must be possible in a file of `file_len` bytes.
pub fn check_entry(e: &RawEntry, file_len: u64) -> Result<(), &'static str> {
    let fits = e.at.get() >= RECORDS_AT
        && e.at.get().checked_add(u64::from(e.stored.get())).is_some_and(|x| x <= file_len);
    if e.zero.get() != 0 || (e.kind != ENTRY_DATA && e.codec != 0) {
        return Err("a reserved field of an index entry is not zero");
    }
    match e.kind {
        ENTRY_UNREAD if *e == RawEntry::UNREAD => Ok(()),
        ENTRY_FILL if e.sum.get() == 0 && e.stored.get() == 0 => Ok(()),
        ENTRY_UNREAD | ENTRY_FILL => Err("an index entry of a kind without a payload has one"),
        ENTRY_DATA | ENTRY_NODE | ENTRY_PIECES if !fits => Err("an index entry points outside the file"),
        ENTRY_DATA if e.stored.get() > MAX_CHUNK_SIZE || e.stored.get() == 0 => {
            Err("invalid stored length of a chunk")
        }
        ENTRY_DATA if Codec::from_number(e.codec).is_none() => Err("an index entry has an unknown codec"),
        ENTRY_DATA | ENTRY_NODE | ENTRY_PIECES => Ok(()),
        _ => Err("an index entry is of an unknown kind"),
    }
}

/// Decodes the entries of a node from its payload `bytes`, which is at offset `at` of a file of `file_len` bytes.
pub fn decode_node(bytes: &[u8], at: u64, file_len: u64) -> Result<Arc<[RawEntry]>, Flaw> {
    let entries: Vec<RawEntry> = array(bytes, at, "a node")?;
    for (i, e) in entries.iter().enumerate() {
        check_entry(e, file_len).map_err(|what| Flaw::at(at + (i * ENTRY_LEN) as u64, what))?;
    }
    Ok(entries.into())
}

/// Decodes pieces from their payload `bytes`, which is at offset `at` of a file of `file_len` bytes.
pub fn decode_pieces(bytes: &[u8], at: u64, file_len: u64, chunk_len: u32) -> Result<Arc<[RawPiece]>, Flaw> {
    let pieces: Vec<RawPiece> = array(bytes, at, "a list of pieces")?;
    let mut end = 0;
    for (i, p) in pieces.iter().enumerate() {
        let fail = |what| Flaw::at(at + (i * PIECE_LEN) as u64, what);
        check_entry(&p.entry, file_len).map_err(fail)?;
        if p.start.get() < end
            || p.len.get() == 0
            || p.start.get().checked_add(p.len.get()).is_none_or(|e| e > chunk_len)
        {
            return Err(fail("pieces overlap, are out of order, or extend past their chunk"));
        }
        end = p.start.get() + p.len.get();
        match p.entry.kind {
            ENTRY_FILL if p.skip.get() == 0 && p.uncompressed.get() == 0 => {}
            ENTRY_DATA
                if p.uncompressed.get() <= MAX_CHUNK_SIZE
                    && p.skip.get().checked_add(p.len.get()).is_some_and(|e| e <= p.uncompressed.get()) => {}
            _ => return Err(fail("a piece extends past its payload")),
        }
    }
    Ok(pieces.into())
}

/// The key of a payload: offset, stored length and checksum.
type Key = (u64, u32, u64);

fn key(entry: &RawEntry) -> Key {
    (entry.at.get(), entry.stored.get(), entry.sum.get())
}

/// The nodes of an image file, with a cache of limited size.
pub struct CachedNodes {
    input: Arc<Input>,
    nodes: Mutex<LruCache<Key, Arc<[RawEntry]>>>,
    pieces: Mutex<LruCache<Key, Arc<[RawPiece]>>>,
}

/// The number of nodes (12 KiB each) and of lists of pieces that are cached: all those of a disk of 16 GiB in chunks of
/// 32 KiB.
pub(super) const NODES_KEPT: NonZero<usize> = NonZero::new(1024).expect("not 0");

impl CachedNodes {
    /// Returns the nodes in `input`.
    pub fn new(input: Arc<Input>) -> CachedNodes {
        let (nodes, pieces) = (Mutex::new(LruCache::new(NODES_KEPT)), Mutex::new(LruCache::new(NODES_KEPT)));
        CachedNodes { input, nodes, pieces }
    }

    fn payload(&self, entry: &RawEntry, max_len: usize) -> Result<Vec<u8>, ReadError> {
        let at = entry.at.get();
        let len = entry.stored.get() as usize;
        if len > max_len {
            return Err(ReadError::Corrupt { at });
        }
        let mut bytes = vec![0; len];
        let is_right = |bytes: &[u8]| xxh3_64(bytes) == entry.sum.get();
        self.input.read_right(Input::MAIN, &mut bytes, at, is_right)?;
        Ok(bytes)
    }
}

/// The maximum number of pieces in a list: at most one per half of the smallest sector (256 bytes); in practice
/// there are far fewer.
const MAX_PIECES: usize = MAX_CHUNK_SIZE as usize / 256;

impl Nodes for CachedNodes {
    fn node(&self, entry: &RawEntry, count: usize) -> Result<Arc<[RawEntry]>, ReadError> {
        let at = entry.at.get();
        if let Some(node) = lock(&self.nodes).get(&key(entry)) {
            return if node.len() == count { Ok(Arc::clone(node)) } else { Err(ReadError::Corrupt { at }) };
        }
        let bytes = self.payload(entry, index(FANOUT) * ENTRY_LEN)?;
        let node = decode_node(&bytes, at, self.input.len()).map_err(|f| ReadError::Corrupt { at: f.at })?;
        if node.len() != count {
            return Err(ReadError::Corrupt { at });
        }
        lock(&self.nodes).put(key(entry), Arc::clone(&node));
        Ok(node)
    }

    fn pieces(&self, entry: &RawEntry, chunk_len: u32) -> Result<Arc<[RawPiece]>, ReadError> {
        let at = entry.at.get();
        if let Some(pieces) = lock(&self.pieces).get(&key(entry)) {
            let inside = pieces.last().is_none_or(|p| p.start.get() + p.len.get() <= chunk_len);
            return if inside { Ok(Arc::clone(pieces)) } else { Err(ReadError::Corrupt { at }) };
        }
        let bytes = self.payload(entry, MAX_PIECES * PIECE_LEN)?;
        let pieces = decode_pieces(&bytes, at, self.input.len(), chunk_len)
            .map_err(|f| ReadError::Corrupt { at: f.at })?;
        lock(&self.pieces).put(key(entry), Arc::clone(&pieces));
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;
    use zerocopy::byteorder::little_endian::U32;

    use super::*;

    const FILE: u64 = 1 << 30;

    fn data() -> RawEntry {
        RawEntry::payload(ENTRY_DATA, Codec::Zstd as u8, RECORDS_AT, 1000, 7)
    }

    #[test]
    fn an_invalid_entry_is_refused_with_the_reason() {
        let word = |e: RawEntry| check_entry(&e, FILE).unwrap_err();
        assert_eq!(check_entry(&data(), FILE), Ok(()));
        assert_eq!(check_entry(&RawEntry { stored: U32::new(MAX_CHUNK_SIZE), ..data() }, FILE), Ok(()));
        for at in [0, RECORDS_AT - 1, FILE - 999, u64::MAX] {
            assert_eq!(word(RawEntry { at: at.into(), ..data() }), "an index entry points outside the file");
        }
        for stored in [0, MAX_CHUNK_SIZE + 1] {
            assert_eq!(
                word(RawEntry { stored: stored.into(), ..data() }),
                "invalid stored length of a chunk"
            );
        }
        assert_eq!(word(RawEntry { codec: 4, ..data() }), "an index entry has an unknown codec");
        for kind in [5, 255] {
            assert_eq!(word(RawEntry { kind, codec: 0, ..data() }), "an index entry is of an unknown kind");
        }
        for kind in [ENTRY_UNREAD, ENTRY_FILL] {
            assert_eq!(
                word(RawEntry { kind, codec: 0, ..data() }),
                "an index entry of a kind without a payload has one"
            );
        }
        let zero = "a reserved field of an index entry is not zero";
        assert_eq!(word(RawEntry { zero: 1.into(), ..data() }), zero);
        assert_eq!(word(RawEntry { kind: ENTRY_NODE, ..data() }), zero);
    }

    #[test]
    fn invalid_pieces_are_refused_with_the_reason() {
        let piece = |start: u32, len: u32, skip: u32, uncompressed: u32| RawPiece {
            start: start.into(),
            len: len.into(),
            skip: skip.into(),
            uncompressed: uncompressed.into(),
            entry: data(),
        };
        let decode = |pieces: &[RawPiece]| decode_pieces(pieces.as_bytes(), 500, FILE, 4096);
        assert_eq!(decode(&[piece(0, 512, 0, 512), piece(1024, 512, 512, 1024)]).unwrap().len(), 2);
        let order = "pieces overlap, are out of order, or extend past their chunk";
        for wrong in [
            vec![piece(0, 512, 0, 512), piece(511, 512, 0, 512)],
            vec![piece(512, 512, 0, 512), piece(0, 512, 0, 512)],
            vec![piece(0, 0, 0, 0)],
            vec![piece(0, 4097, 0, 4097)],
            vec![piece(u32::MAX, 2, 0, 2)],
        ] {
            assert_eq!(decode(&wrong).unwrap_err().what, order);
        }
        let within = "a piece extends past its payload";
        for wrong in
            [piece(0, 512, 1, 512), piece(0, 512, u32::MAX, 512), piece(0, 512, 0, MAX_CHUNK_SIZE + 1)]
        {
            assert_eq!(decode(&[wrong]).unwrap_err(), Flaw::at(500, within));
        }
        let whole = decode_pieces(&[0; PIECE_LEN + 1], 500, FILE, 4096).unwrap_err();
        assert_eq!(whole.what, "a list of pieces: 41 bytes are not a whole number of entries");
    }
}
