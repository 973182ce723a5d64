//! CompressedChunk chunks that lie one behind the other in a file, as those of a run of the disk do: they are read in one piece.

use cdi_base::error::ReadError;
use cdi_base::units::index;

use super::buffers::with_scratch;
use crate::extent::CompressedChunk;
use crate::input::Input;

/// The longest piece that is read, and the longest gap in it (headers, a node of the index), in bytes.
const MAX_LEN: u64 = 512 << 10;
const MAX_GAP: u64 = 16 << 10;

/// Who gets a chunk as it is stored, its checksum right, or why not; by its number in the batch.
type Give<'a> = dyn FnMut(usize, &CompressedChunk, Result<&[u8], ReadError>) + 'a;

/// Some chunks of one file, by their places.
#[derive(Default)]
pub(super) struct Batch {
    chunks: Vec<CompressedChunk>,
}

impl Batch {
    /// Whether a chunk can be read together with those that are in.
    pub(super) fn takes(&self, chunk: &CompressedChunk) -> bool {
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

    /// Reads all of them, and gives each.
    pub(super) fn read(&self, input: &Input, give: &mut Give<'_>) {
        let Some((first, last)) = self.chunks.first().zip(self.chunks.last()) else { return };
        let len = last.at.saturating_add(last.len.into()).saturating_sub(first.at);
        if self.chunks.len() > 1 && len <= MAX_LEN {
            let whole = with_scratch(index(len), |stored| {
                input.read_exact_at(first.file, stored, first.at)?;
                for (n, chunk) in self.chunks.iter().enumerate() {
                    let from = index(chunk.at - first.at);
                    let stored = &stored[from..from + chunk.len as usize];
                    give(n, chunk, checked(chunk, stored));
                }
                Ok::<_, ReadError>(())
            });
            if whole.is_ok() {
                return;
            }
            // What cannot be read costs the chunks that it is in.
        }
        for (n, chunk) in self.chunks.iter().enumerate() {
            read(input, chunk, |stored| give(n, chunk, stored));
        }
    }
}

/// Reads one chunk by itself: as it is stored, its checksum right, or why not.
pub(super) fn read<T>(
    input: &Input,
    chunk: &CompressedChunk,
    use_it: impl FnOnce(Result<&[u8], ReadError>) -> T,
) -> T {
    with_scratch(chunk.len as usize, |stored| {
        let read = input.read_exact_at(chunk.file, stored, chunk.at);
        use_it(read.and_then(|()| checked(chunk, stored)))
    })
}

fn checked<'a>(chunk: &CompressedChunk, stored: &'a [u8]) -> Result<&'a [u8], ReadError> {
    if chunk.sum.holds(stored) { Ok(stored) } else { Err(ReadError::Corrupt { at: chunk.at }) }
}
