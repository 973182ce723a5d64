//! Reads compressed chunks that follow one another in a file, as those of a run of the disk do, with a single read.

use cdi_base::error::ReadError;
use cdi_base::units::index;

use crate::extent::CompressedChunk;
use crate::input::Input;
use crate::memory::buffers::with_scratch;

/// The maximum length of a batch, and of a gap in it (headers, a node of the index), in bytes.
const MAX_LEN: u64 = 512 << 10;
const MAX_GAP: u64 = 16 << 10;

/// Receives the number of a chunk in the batch, and its stored bytes after their checksum was verified, or the error.
type OnChunk<'a> = dyn FnMut(usize, &CompressedChunk, Result<&[u8], ReadError>) + 'a;

/// Chunks of one file, in the order of their offsets.
#[derive(Default)]
pub(super) struct Batch {
    chunks: Vec<CompressedChunk>,
}

impl Batch {
    /// Returns whether a chunk can be read together with those already in the batch.
    pub(super) fn accepts(&self, chunk: &CompressedChunk) -> bool {
        let Some((first, last)) = self.chunks.first().zip(self.chunks.last()) else { return true };
        let end = last.at.saturating_add(last.len.into());
        chunk.file == first.file
            && chunk.at.checked_sub(end).is_some_and(|gap| gap <= MAX_GAP)
            && chunk.at.saturating_add(chunk.len.into()) - first.at <= MAX_LEN
    }

    pub(super) fn push(&mut self, chunk: CompressedChunk) {
        self.chunks.push(chunk);
    }

    pub(super) fn clear(&mut self) {
        self.chunks.clear();
    }

    /// Reads all chunks and passes each to `on_chunk`.
    pub(super) fn read(&self, input: &Input, on_chunk: &mut OnChunk<'_>) {
        let Some((first, last)) = self.chunks.first().zip(self.chunks.last()) else { return };
        let len = last.at.saturating_add(last.len.into()).saturating_sub(first.at);
        if self.chunks.len() > 1 && len <= MAX_LEN {
            let whole = with_scratch(index(len), |stored| {
                input.read_exact_at(first.file, stored, first.at)?;
                for (n, chunk) in self.chunks.iter().enumerate() {
                    let from = index(chunk.at - first.at);
                    let stored = &stored[from..from + chunk.len as usize];
                    // What is wrong in the file may be restored: that is done for a chunk alone.
                    match chunk.sum.matches(stored) {
                        true => on_chunk(n, chunk, Ok(stored)),
                        false => read(input, chunk, |stored| on_chunk(n, chunk, stored)),
                    }
                }
                Ok::<_, ReadError>(())
            });
            if whole.is_ok() {
                return;
            }
            // If the whole cannot be read, only the chunks with the unreadable part fail: read them one by one.
        }
        for (n, chunk) in self.chunks.iter().enumerate() {
            read(input, chunk, |stored| on_chunk(n, chunk, stored));
        }
    }
}

/// Reads a single chunk and passes its stored bytes to `use_it` after verifying their checksum, or the error.
pub(super) fn read<T>(
    input: &Input,
    chunk: &CompressedChunk,
    use_it: impl FnOnce(Result<&[u8], ReadError>) -> T,
) -> T {
    with_scratch(chunk.len as usize, |stored| {
        let read = input.read_right(chunk.file, stored, chunk.at, |stored| chunk.sum.matches(stored));
        use_it(read.map(|()| &*stored))
    })
}
