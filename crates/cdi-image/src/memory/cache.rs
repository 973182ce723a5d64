//! A cache of decompressed chunks that are likely to be requested again.
//!
//! The `lru` crate orders them; the byte budget, the shards and the single flight (a chunk that several readers
//! request at the same time is decompressed once) are here. No lock is held while a chunk is loaded.

use cdi_base::workers::lock;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cdi_base::error::ReadError;
use lru::LruCache;

use super::buffers::give;

/// The key of a chunk: its complete description. An entry with the same offset but another checksum is another chunk,
/// and is verified separately.
pub trait Key: Copy + Eq + Hash {
    /// Returns a number that differs between neighbouring chunks.
    fn number(&self) -> u64;
}

/// A decompressed chunk.
pub type Chunk = Arc<Vec<u8>>;

/// A cache of decompressed chunks.
pub struct Cache<K> {
    shards: Vec<Shard<K>>,
    hits: AtomicU64,
}

struct Shard<K> {
    budget: usize,
    state: Mutex<State<K>>,
    loaded: Condvar,
}

struct State<K> {
    chunks: LruCache<K, Chunk>,
    bytes: usize,
    loading: HashSet<K>,
}

impl<K: Key> Cache<K> {
    /// Returns a cache that keeps at most `budget` bytes. Chunks have at most `largest` bytes each.
    pub fn new(budget: usize, largest: usize) -> Cache<K> {
        // A shard with fewer than eight chunks would evict chunks that are about to be used.
        let count = (budget / largest.max(1) / 8).clamp(1, 8);
        let shard = || Shard {
            budget: budget / count,
            state: Mutex::new(State { chunks: LruCache::unbounded(), bytes: 0, loading: HashSet::new() }),
            loaded: Condvar::new(),
        };
        Cache { shards: (0..count).map(|_| shard()).collect(), hits: AtomicU64::new(0) }
    }

    fn shard(&self, key: &K) -> &Shard<K> {
        // Fibonacci hashing: neighbouring chunks go to different shards.
        let hash = key.number().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.shards[hash as usize % self.shards.len()]
    }

    /// Returns the chunk of `key`, loaded by `load` if it is not in the cache and no other thread is loading it. An
    /// error is not cached: the next reader tries again.
    pub fn get(
        &self,
        key: &K,
        load: impl FnOnce() -> Result<Vec<u8>, ReadError>,
    ) -> Result<Chunk, ReadError> {
        let shard = self.shard(key);
        let mut state = shard.lock();
        loop {
            if let Some(chunk) = self.lookup(&mut state, key) {
                return Ok(chunk);
            }
            if state.loading.insert(*key) {
                break;
            }
            state = shard.loaded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        // Releases the key in any case, even if `load` panics.
        let flight = PendingChunk { shard, key: *key };
        load().map(|chunk| flight.insert(chunk))
    }

    /// Returns the chunk of `key` if it is in the cache or being loaded.
    pub fn get_if_there(&self, key: &K) -> Option<Chunk> {
        let shard = self.shard(key);
        let mut state = shard.lock();
        loop {
            let found = self.lookup(&mut state, key);
            if found.is_some() || !state.loading.contains(key) {
                return found;
            }
            state = shard.loaded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lookup(&self, state: &mut State<K>, key: &K) -> Option<Chunk> {
        let found = state.chunks.get(key).map(Arc::clone);
        if found.is_some() {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// Starts to load the chunk of `key`, unless it is in the cache or being loaded. The caller must not wait for other
    /// chunks meanwhile.
    pub fn begin(&self, key: &K) -> Option<PendingChunk<'_, K>> {
        let shard = self.shard(key);
        let mut state = shard.lock();
        let new = !state.chunks.contains(key) && state.loading.insert(*key);
        drop(state);
        // Create it only if loading has started: dropping it takes the lock and ends the loading.
        new.then(|| PendingChunk { shard, key: *key })
    }

    /// Marks a chunk as no longer needed: it is evicted first. This way a scan of the disk does not evict the chunks
    /// that other readers use.
    pub fn demote(&self, key: &K) {
        self.shard(key).lock().chunks.demote(key);
    }

    /// Returns the number of cache hits.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes in the cache.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|s| s.lock().bytes).sum()
    }
}

impl<K> Shard<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        lock(&self.state)
    }
}

/// A chunk that is being loaded. Other readers of the chunk wait until this is dropped.
pub struct PendingChunk<'a, K: Key> {
    shard: &'a Shard<K>,
    key: K,
}

impl<K: Key> PendingChunk<'_, K> {
    /// Puts the loaded chunk into the cache and returns it.
    pub fn insert(self, chunk: Vec<u8>) -> Chunk {
        let chunk = Arc::new(chunk);
        let mut out = Vec::new();
        let mut state = self.shard.lock();
        state.bytes += chunk.len();
        if let Some((_, old)) = state.chunks.push(self.key, Arc::clone(&chunk)) {
            state.bytes -= old.len();
            out.push(old);
        }
        while state.bytes > self.shard.budget && state.chunks.len() > 1 {
            let Some((_, old)) = state.chunks.pop_lru() else { break };
            state.bytes -= old.len();
            out.push(old);
        }
        drop(state);
        // Reuse the memory of the evicted chunks, without holding the lock.
        out.into_iter().filter_map(Arc::into_inner).for_each(give);
        chunk
    }
}

impl<K: Key> Drop for PendingChunk<'_, K> {
    fn drop(&mut self) {
        self.shard.lock().loading.remove(&self.key);
        self.shard.loaded.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    impl Key for u64 {
        fn number(&self) -> u64 {
            *self
        }
    }

    fn key(at: u64) -> u64 {
        at
    }

    fn chunk(len: usize) -> Vec<u8> {
        vec![7; len]
    }

    #[test]
    fn sixteen_readers_of_one_chunk_load_it_once() {
        let cache = Cache::new(1 << 20, 4096);
        let (loads, start) = (AtomicUsize::new(0), Barrier::new(16));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    start.wait();
                    let got = cache.get(&key(5), || {
                        loads.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(20));
                        Ok(chunk(4096))
                    });
                    assert_eq!(got.unwrap().len(), 4096);
                });
            }
        });
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_chunk_being_loaded_is_waited_for_and_loaded_once() {
        let cache = Cache::new(1 << 20, 4096);
        let flight = cache.begin(&key(1)).unwrap();
        assert!(cache.begin(&key(1)).is_none());
        assert!(cache.get_if_there(&key(2)).is_none());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| cache.get_if_there(&key(1)).unwrap().len());
            std::thread::sleep(Duration::from_millis(20));
            flight.insert(chunk(9));
            assert_eq!(waits.join().unwrap(), 9);
        });
        assert!(cache.begin(&key(1)).is_none(), "it is in the cache");
        // One that is dropped without an insert has no effect.
        drop(cache.begin(&key(3)).unwrap());
        assert!(cache.get_if_there(&key(3)).is_none() && cache.begin(&key(3)).is_some());
    }

    #[test]
    fn an_error_and_a_panic_release_the_key() {
        let cache = Cache::new(1 << 20, 4096);
        let error = cache.get(&key(1), || Err(ReadError::Corrupt { at: 1 }));
        assert_eq!(error.unwrap_err(), ReadError::Corrupt { at: 1 });
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.get(&key(1), || panic!("decoder"))
        }));
        assert!(panic.is_err());
        assert!(cache.get(&key(1), || Ok(chunk(1))).is_ok());
    }

    #[test]
    fn the_budget_is_kept_and_demoted_chunks_are_evicted_first() {
        let cache = Cache::new(40_000, 4096);
        assert_eq!(cache.shards.len(), 1);
        for at in 0..9 {
            cache.get(&key(at), || Ok(chunk(4096))).unwrap();
        }
        cache.get(&key(0), || unreachable!()).unwrap();
        cache.demote(&key(8));
        for at in 100..101 {
            cache.get(&key(at), || Ok(chunk(4096))).unwrap();
        }
        assert!(cache.bytes() <= 40_000);
        cache.get(&key(1), || unreachable!("the oldest chunk in use stays")).unwrap();
        let mut loaded = false;
        cache
            .get(&key(8), || {
                loaded = true;
                Ok(chunk(4096))
            })
            .unwrap();
        assert!(loaded, "the demoted chunk was evicted");
    }
}
