//! What all remote files of an image share: the blocks in memory and on disk, and what was fetched.

use std::num::NonZero;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cdi_base::error::{Error, ReadError};
use cdi_base::workers::lock;
use lru::LruCache;

use super::disk_cache::{DiskCache, Identity};
use super::fault::Fault;
use super::object::{Object, Waiting};
use super::outage::Outage;
use super::runtime::Threads;
use super::watch::Watch;
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
    limit: Duration,
    began: Instant,
    /// What ends reads.
    pub(super) watch: Watch,
    outage: Outage,
    /// When the last blocks that failed did so, and how.
    failures: Mutex<LruCache<BlockKey, (Instant, Fault)>>,
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
            began: Instant::now(),
            watch: Watch::new(),
            outage: Outage::new(limit),
            failures: Mutex::new(LruCache::new(FAILURES)),
            files: AtomicU32::new(0),
            fetched: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Returns the time limit of a read, or of looking for a file. While an image is opened the user waits, and can try
    /// again; but not everything that was unpacked to open it is to be lost by a pause.
    pub(super) fn limit(&self) -> Duration {
        let is_short = self.watch.is_opening() && self.began.elapsed() < self.limit;
        if is_short { self.limit / 4 } else { self.limit }
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
        let read = self.blocks.get(&key, || {
            // Readers who have waited for the same block get the same error, and not each one of their own.
            match lock(&self.failures).get(&key) {
                Some((when, fault)) if *when >= began => return Err(ReadError::Io { errno: fault.errno() }),
                _ => {}
            }
            self.load(object, block, Threads::Any, true).map_err(|fault| self.note_failure(key, &fault))
        });
        if let Err(ReadError::Io { .. }) = read {
            // Also if another reader has got the fault: this one needs the block.
            let fault = lock(&self.failures).get(&key).map(|(.., fault)| fault.clone());
            let (start, end) = (block * BLOCK, ((block + 1) * BLOCK).min(object.version().len));
            let what = format!("cannot read bytes {start} to {end}");
            self.watch.note(object.url(), what, &fault.unwrap_or(Fault::TimedOut));
        }
        read
    }

    /// Fetches a block ahead, in these threads, unless it is in memory or being fetched.
    pub(super) fn prepare(&self, file: u32, object: &Object, block: u64, threads: Threads) {
        let key = BlockKey { file, block };
        if let Some(pending) = self.blocks.begin(&key) {
            match self.load(object, block, threads, false) {
                Ok(bytes) => drop(pending.insert(bytes)),
                Err(fault) => drop(self.note_failure(key, &fault)),
            }
        }
    }

    fn note_failure(&self, key: BlockKey, fault: &Fault) -> ReadError {
        lock(&self.failures).put(key, (Instant::now(), fault.clone()));
        ReadError::Io { errno: fault.errno() }
    }

    /// Loads a block; `needed`: a reader waits for it.
    fn load(&self, object: &Object, block: u64, threads: Threads, needed: bool) -> Result<Vec<u8>, Fault> {
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
        // After the first fault where one is enough, nothing is logged of the others.
        if let Some(fault) = self.watch.stops() {
            return Err(fault);
        }
        let turn = self.outage.begin(needed)?;
        let stops = || self.watch.stops().or_else(|| self.outage.stops(turn));
        let waiting =
            Waiting { limit: self.limit(), threads, stops: &stops, heard: &|| self.outage.note_heard() };
        let fetched = object.fetch(start..end, &waiting);
        self.outage.end(turn, fetched.as_ref().err());
        let bytes = fetched.inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::Relaxed);
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
