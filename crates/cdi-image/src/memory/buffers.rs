//! Reuses buffers. A thread reads and decompresses one chunk after the other; allocating memory for each of them, and
//! having it zeroed, would cost more than the work itself.

use std::cell::{Cell, RefCell};

/// The amount of memory that a thread keeps for chunks, in bytes; at least one buffer is kept.
const SPARE: usize = 512 << 10;
/// The size of the largest buffer that is kept, in bytes: only formats with huge chunks need larger ones.
const LARGEST: usize = 2 << 20;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static REPLY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Returns a buffer of `len` bytes with arbitrary contents.
pub(crate) fn take(len: usize) -> Vec<u8> {
    let mut buf = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
    buf.resize(len, 0);
    buf
}

/// Keeps a buffer that is no longer needed, for reuse.
pub(crate) fn give(buf: Vec<u8>) {
    SPARES.with_borrow_mut(|spares| {
        let kept: usize = spares.iter().map(Vec::capacity).sum();
        if buf.capacity() <= LARGEST && (spares.is_empty() || kept + buf.capacity() <= SPARE) {
            spares.push(buf);
        }
    });
}

/// Calls `use_it` with a buffer of `len` bytes with arbitrary contents, for compressed data.
pub(crate) fn with_scratch<T>(len: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    with(&SCRATCH, len, use_it)
}

/// Calls `use_it` with a buffer of `len` bytes with arbitrary contents, for a reply.
pub fn with_reply<T>(len: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    with(&REPLY, len, use_it)
}

fn with<T>(
    kept: &'static std::thread::LocalKey<Cell<Vec<u8>>>,
    len: usize,
    use_it: impl FnOnce(&mut [u8]) -> T,
) -> T {
    let mut buf = kept.take();
    if buf.len() < len {
        buf.resize(len, 0);
    }
    let result = use_it(&mut buf[..len]);
    if buf.capacity() <= LARGEST {
        kept.set(buf);
    }
    result
}
