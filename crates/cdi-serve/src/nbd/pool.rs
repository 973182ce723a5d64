//! Memory for long replies, shared by all connections. Threads wait until enough is free, first come, first served.

use cdi_base::workers::lock;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The length of a block, in bytes.
pub(super) const BLOCK: usize = 256 << 10;
/// The number of blocks: enough for two replies of the maximum length.
const BLOCKS: usize = 256;

/// The blocks. They are allocated when first needed, and then kept: memory that is freed on another thread is not
/// always returned to the system.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<Vec<u8>>,
    allocated: usize,
    /// The numbers of the waiting threads, and the number of the next one.
    waiting: VecDeque<u64>,
    next: u64,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes `count` blocks. Waits until that many are free, and until all earlier callers have theirs.
    pub(super) fn take(&self, count: usize) -> Blocks<'_> {
        let count = count.min(BLOCKS);
        let mut state = self.state();
        let turn = state.next;
        state.next += 1;
        state.waiting.push_back(turn);
        while state.waiting.front() != Some(&turn) || state.free.len() + (BLOCKS - state.allocated) < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.pop_front();
        let at = state.free.len().saturating_sub(count);
        let mut blocks = state.free.split_off(at);
        state.allocated += count - blocks.len();
        drop(state);
        self.changed.notify_all();
        blocks.resize_with(count, || vec![0; BLOCK]);
        Blocks { pool: self, blocks }
    }

    /// Returns whether a thread waits for blocks.
    pub(super) fn is_wanted(&self) -> bool {
        !self.state().waiting.is_empty()
    }
}

/// Blocks that were taken from the pool, returned to it when this is dropped.
pub(super) struct Blocks<'a> {
    pool: &'a Pool,
    pub(super) blocks: Vec<Vec<u8>>,
}

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        self.pool.state().free.append(&mut self.blocks);
        self.pool.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_blocks_are_taken_than_exist() {
        let pool = Pool::default();
        let out = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..8usize {
                let (pool, out) = (&pool, &out);
                scope.spawn(move || {
                    for i in 0..200 {
                        let count = 1 + (n * 37 + i * 61) % BLOCKS;
                        let blocks = pool.take(count);
                        let all = out.fetch_add(count, std::sync::atomic::Ordering::SeqCst) + count;
                        assert!(all <= BLOCKS && blocks.blocks.len() == count);
                        out.fetch_sub(count, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(!pool.is_wanted());
        let state = pool.state();
        assert_eq!(state.free.len(), state.allocated);
    }
}
