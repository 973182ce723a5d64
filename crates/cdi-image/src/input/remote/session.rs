//! What all remote files of an image share: the blocks in memory and on disk, and what was fetched.

use std::num::NonZero;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cdi_base::error::{Error, ReadError};
use cdi_base::workers::lock;
use lru::LruCache;

use super::disk_cache::{DiskCache, Identity};
use super::object::Object;
use super::runtime::Threads;
use crate::input::RemoteCache;
use crate::input::source::RemoteStats;
use crate::memory::cache::{Cache, Chunk, Key};

/// The length of a block in bytes: what is fetched at a time.
pub(super) const BLOCK: u64 = 1 << 20;
/// How much of all files is kept in memory, in bytes.
const MEMORY: usize = 64 << 20;
/// The time limit of a read; after that it is an error.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// How many failed blocks are remembered.
const FAILURES: NonZero<usize> = NonZero::new(64).expect("not 0");

/// A block of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BlockKey {
    file: u32,
    block: u64,
}

impl Key for BlockKey {
    fn number(&self) -> u64 {
        self.block.wrapping_add(u64::from(self.file) << 40)
    }
}

/// What all remote files of an image share.
pub(super) struct Session {
    blocks: Cache<BlockKey>,
    disk: Option<DiskCache>,
    pub(super) limit: Duration,
    /// When the last blocks that failed did so, and how.
    failures: Mutex<LruCache<BlockKey, (Instant, i32)>>,
    files: AtomicU32,
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    cached: AtomicU64,
    failed: AtomicU64,
}

impl Session {
    /// Returns a session that keeps blocks in `cache`, too, if there is one. A read takes at most `limit`.
    pub(super) fn new(cache: Option<&RemoteCache>, limit: Duration) -> Result<Session, Error> {
        let disk = cache.map(|cache| DiskCache::open(&cache.dir, cache.bytes)).transpose()?;
        let largest = usize::try_from(BLOCK).unwrap_or(MEMORY);
        Ok(Session {
            blocks: Cache::new(MEMORY, largest),
            disk,
            limit,
            failures: Mutex::new(LruCache::new(FAILURES)),
            files: AtomicU32::new(0),
            fetched: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Returns a number for another file.
    pub(super) fn number(&self) -> u32 {
        self.files.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes in the first block of a file, which was fetched to open it.
    pub(super) fn opened(&self, file: u32, object: &Object, start: Vec<u8>) {
        self.count(start.len());
        self.keep_on_disk(object, 0, &start);
        if let Some(pending) = self.blocks.begin(&BlockKey { file, block: 0 }) {
            pending.insert(start);
        }
    }

    /// Returns a block, from memory, from the disk, or fetched.
    pub(super) fn block(&self, file: u32, object: &Object, block: u64) -> Result<Chunk, ReadError> {
        let (key, began) = (BlockKey { file, block }, Instant::now());
        self.blocks.get(&key, || {
            // Readers who have waited for the same block get the same error, and not each one of their own.
            match lock(&self.failures).get(&key) {
                Some((when, errno)) if *when >= began => return Err(ReadError::Io { errno: *errno }),
                _ => {}
            }
            self.load(object, block, Threads::Any).inspect_err(|e| self.note_failure(key, *e))
        })
    }

    /// Fetches a block ahead, in these threads, unless it is in memory or being fetched.
    pub(super) fn prepare(&self, file: u32, object: &Object, block: u64, threads: Threads) {
        let key = BlockKey { file, block };
        if let Some(pending) = self.blocks.begin(&key) {
            match self.load(object, block, threads) {
                Ok(bytes) => drop(pending.insert(bytes)),
                Err(e) => self.note_failure(key, e),
            }
        }
    }

    fn note_failure(&self, key: BlockKey, e: ReadError) {
        if let ReadError::Io { errno } = e {
            lock(&self.failures).put(key, (Instant::now(), errno));
        }
    }

    fn load(&self, object: &Object, block: u64, threads: Threads) -> Result<Vec<u8>, ReadError> {
        let start = block * BLOCK;
        let end = (start + BLOCK).min(object.version().len);
        let found = self.disk.as_ref().and_then(|disk| {
            let len = usize::try_from(end - start).ok()?;
            disk.find(Identity::of(object.url(), object.version()), block, len)
        });
        if let Some(bytes) = found {
            self.cached.fetch_add(1, Ordering::Relaxed);
            return Ok(bytes);
        }
        let bytes = object.fetch(start..end, self.limit, threads).map_err(|fault| {
            self.failed.fetch_add(1, Ordering::Relaxed);
            ReadError::Io { errno: fault.errno() }
        })?;
        self.count(bytes.len());
        self.keep_on_disk(object, block, &bytes);
        Ok(bytes)
    }

    fn keep_on_disk(&self, object: &Object, block: u64, bytes: &[u8]) {
        if let Some(disk) = self.disk.as_ref().filter(|_| object.version().is_known()) {
            disk.keep(Identity::of(object.url(), object.version()), block, bytes);
        }
    }

    fn count(&self, bytes: usize) {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns what was done so far.
    pub(super) fn stats(&self) -> RemoteStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RemoteStats {
            fetched: of(&self.fetched),
            fetched_bytes: of(&self.fetched_bytes),
            cached: of(&self.cached),
            failed: of(&self.failed),
        }
    }
}

/// A session that is shared.
pub(super) type Shared = Arc<Session>;
