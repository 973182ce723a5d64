//! Memory for long replies, shared by all connections: what is not free is waited for, first come, first served.

use cdi_base::workers::lock;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The length of a block, in bytes.
pub(super) const BLOCK: usize = 256 << 10;
/// How many blocks there are: two of the longest replies.
const BLOCKS: usize = 256;

/// The blocks. They are made when they are first wanted, and then kept: memory that is freed on another thread does not
/// always go back to the system.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<Vec<u8>>,
    made: usize,
    /// Those that wait, by number, and the number of the next one.
    waiting: VecDeque<u64>,
    next: u64,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes `count` blocks. Waits until that many are free, and until all who came before have theirs.
    pub(super) fn take(&self, count: usize) -> Blocks<'_> {
        let count = count.min(BLOCKS);
        let mut state = self.state();
        let turn = state.next;
        state.next += 1;
        state.waiting.push_back(turn);
        while state.waiting.front() != Some(&turn) || state.free.len() + (BLOCKS - state.made) < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.pop_front();
        let at = state.free.len().saturating_sub(count);
        let mut blocks = state.free.split_off(at);
        state.made += count - blocks.len();
        drop(state);
        self.changed.notify_all();
        blocks.resize_with(count, || vec![0; BLOCK]);
        Blocks { pool: self, blocks }
    }

    /// Whether some wait for blocks.
    pub(super) fn is_wanted(&self) -> bool {
        !self.state().waiting.is_empty()
    }
}

/// Blocks that were taken, given back when this is dropped.
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
    fn no_more_blocks_are_given_than_there_are() {
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
        assert_eq!(state.free.len(), state.made);
    }
}
