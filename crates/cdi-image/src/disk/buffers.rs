//! Memory that is used again. A thread reads and decompresses one chunk after the other; getting memory from the system for
//! each, and having it filled with zeros, would cost more than what is done with it.

use std::cell::{Cell, RefCell};

/// How much a thread keeps for chunks, in bytes; one buffer at least.
const SPARE: usize = 512 << 10;
/// The largest buffer that is kept, in bytes: what is larger is for a format with huge chunks.
const LARGEST: usize = 2 << 20;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static REPLY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer of `len` bytes with anything in it.
pub(super) fn take(len: usize) -> Vec<u8> {
    let mut buf = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
    buf.resize(len, 0);
    buf
}

/// Gives back a buffer that is no longer needed.
pub(super) fn give(buf: Vec<u8>) {
    SPARES.with_borrow_mut(|spares| {
        let kept: usize = spares.iter().map(Vec::capacity).sum();
        if buf.capacity() <= LARGEST && (spares.is_empty() || kept + buf.capacity() <= SPARE) {
            spares.push(buf);
        }
    });
}

/// Calls `use_it` with `len` bytes of anything, for what is compressed.
pub(super) fn with_scratch<T>(len: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    with(&SCRATCH, len, use_it)
}

/// Calls `use_it` with `len` bytes of anything, for a reply.
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
