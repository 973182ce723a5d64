//! Unpacked chunks, kept while they are likely to be asked for again.
//!
//! The `lru` crate orders them; the byte budget, the shards and the single flight (a chunk that several readers
//! want at once is unpacked once) are here. No lock is held while a chunk is loaded.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::error::ReadError;
use crate::image::Packed;

/// A chunk's name: all that is said of it. An entry that tells of the same place with another checksum is another
/// chunk, and is checked by itself.
pub type Key = Packed;

/// An unpacked chunk.
pub type Chunk = Arc<[u8]>;

/// The cache.
pub struct Cache {
    shards: Vec<Shard>,
    budget: usize,
    hits: AtomicU64,
    loads: AtomicU64,
}

struct Shard {
    state: Mutex<State>,
    loaded: Condvar,
}

struct State {
    chunks: LruCache<Key, Chunk>,
    bytes: usize,
    loading: HashSet<Key>,
}

impl Cache {
    /// A cache that keeps at most `budget` bytes. Chunks are at most `largest` bytes each.
    pub fn new(budget: usize, largest: usize) -> Cache {
        // A shard that holds fewer than eight chunks would throw out what is about to be used.
        let count = (budget / largest.max(1) / 8).clamp(1, 8);
        let shard = || Shard {
            state: Mutex::new(State { chunks: LruCache::unbounded(), bytes: 0, loading: HashSet::new() }),
            loaded: Condvar::new(),
        };
        Cache {
            shards: (0..count).map(|_| shard()).collect(),
            budget: budget / count,
            hits: AtomicU64::new(0),
            loads: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: Key) -> &Shard {
        // Fibonacci hashing: neighbouring chunks go to different shards.
        let hash = (key.at ^ u64::from(key.file.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.shards[hash as usize % self.shards.len()]
    }

    /// The chunk of `key`, loaded by `load` if nobody has it and nobody else is loading it. An error is not kept:
    /// the next reader tries again.
    pub fn get(&self, key: Key, load: impl FnOnce() -> Result<Chunk, ReadError>) -> Result<Chunk, ReadError> {
        let shard = self.shard(key);
        let mut state = shard.lock();
        loop {
            if let Some(chunk) = state.chunks.get(&key) {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(Arc::clone(chunk));
            }
            if state.loading.insert(key) {
                break;
            }
            state = shard.loaded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        // Gives the key free again whatever happens, a panic in `load` included.
        let flight = Flight { shard, key };
        self.loads.fetch_add(1, Ordering::Relaxed);
        let chunk = load()?;
        let thrown_out = flight.land(Arc::clone(&chunk), self.budget);
        drop(thrown_out);
        Ok(chunk)
    }

    /// Says that a chunk is done with: it is the first to be thrown out. A scan of the disk so does not empty the
    /// cache of what others use.
    pub fn demote(&self, key: Key) {
        self.shard(key).lock().chunks.demote(&key);
    }

    /// How often a chunk was there, and how often one was loaded.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.loads.load(Ordering::Relaxed))
    }

    /// How many bytes are kept now.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|s| s.lock().bytes).sum()
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Flight<'a> {
    shard: &'a Shard,
    key: Key,
}

impl Flight<'_> {
    /// Puts the chunk in, and gives what had to go for it, to be freed without the lock.
    fn land(self, chunk: Chunk, budget: usize) -> Vec<Chunk> {
        let mut out = Vec::new();
        let mut state = self.shard.lock();
        state.bytes += chunk.len();
        if let Some((_, old)) = state.chunks.push(self.key, chunk) {
            state.bytes -= old.len();
            out.push(old);
        }
        while state.bytes > budget && state.chunks.len() > 1 {
            let Some((_, old)) = state.chunks.pop_lru() else { break };
            state.bytes -= old.len();
            out.push(old);
        }
        out
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.shard.lock().loading.remove(&self.key);
        self.shard.loaded.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use crate::image::FileNo;
    use crate::image::codec::{Codec, Sum};

    fn key(at: u64) -> Key {
        Packed { file: FileNo(0), at, len: 1, skip: 0, unpacked: 1, codec: Codec::Stored, sum: Sum::None }
    }

    fn chunk(len: usize) -> Chunk {
        vec![7; len].into()
    }

    #[test]
    fn sixteen_readers_of_one_chunk_load_it_once() {
        let cache = Cache::new(1 << 20, 4096);
        let (loads, start) = (AtomicUsize::new(0), Barrier::new(16));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    start.wait();
                    let got = cache.get(key(5), || {
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
    fn an_error_and_a_panic_leave_the_key_free() {
        let cache = Cache::new(1 << 20, 4096);
        let error = cache.get(key(1), || Err(ReadError::Corrupt { at: 1 }));
        assert_eq!(error.unwrap_err(), ReadError::Corrupt { at: 1 });
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.get(key(1), || panic!("decoder"))
        }));
        assert!(panic.is_err());
        assert!(cache.get(key(1), || Ok(chunk(1))).is_ok());
    }

    #[test]
    fn the_budget_holds_and_what_is_demoted_goes_first() {
        let cache = Cache::new(40_000, 4096);
        assert_eq!(cache.shards.len(), 1);
        for at in 0..9 {
            cache.get(key(at), || Ok(chunk(4096))).unwrap();
        }
        cache.get(key(0), || unreachable!()).unwrap();
        cache.demote(key(8));
        for at in 100..101 {
            cache.get(key(at), || Ok(chunk(4096))).unwrap();
        }
        assert!(cache.bytes() <= 40_000);
        cache.get(key(1), || unreachable!("the oldest that is in use stays")).unwrap();
        let mut loaded = false;
        cache
            .get(key(8), || {
                loaded = true;
                Ok(chunk(4096))
            })
            .unwrap();
        assert!(loaded, "the demoted chunk was thrown out");
    }
}
