//! Files that exist only as other files of an image are read: joined, decompressed, decrypted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::ReadAt;
use crate::extent::FileNo;

/// The number of the first derived file; files in directories have lower numbers.
const FIRST: u32 = 1 << 31;

/// The derived files of an image.
#[derive(Clone, Default)]
pub(super) struct Derived {
    files: Arc<RwLock<Vec<File>>>,
}

struct File {
    source: Arc<dyn ReadAt>,
    len: u64,
    path: PathBuf,
}

impl Derived {
    /// Adds a file of `len` bytes.
    pub(super) fn add(&self, source: Arc<dyn ReadAt>, len: u64, path: &Path) -> FileNo {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.push(File { source, len, path: path.to_owned() });
        FileNo(FIRST + u32::try_from(files.len() - 1).unwrap_or(u32::MAX - FIRST))
    }

    fn with<T>(&self, file: FileNo, use_it: impl FnOnce(&File) -> T) -> Option<T> {
        let n = usize::try_from(file.0.checked_sub(FIRST)?).ok()?;
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(n).map(use_it)
    }

    pub(super) fn source(&self, file: FileNo) -> Option<Arc<dyn ReadAt>> {
        self.with(file, |file| Arc::clone(&file.source))
    }

    pub(super) fn len(&self, file: FileNo) -> Option<u64> {
        self.with(file, |file| file.len)
    }

    pub(super) fn path(&self, file: FileNo) -> Option<PathBuf> {
        self.with(file, |file| file.path.clone())
    }
}

/// Sources one after the other.
pub(super) struct Joined {
    /// Where each ends, in bytes.
    ends: Vec<u64>,
    sources: Vec<Arc<dyn ReadAt>>,
}

impl Joined {
    /// Joins sources of these lengths in bytes.
    pub(super) fn new(sources: impl Iterator<Item = (Arc<dyn ReadAt>, u64)>) -> Joined {
        let mut joined = Joined { ends: Vec::new(), sources: Vec::new() };
        let mut end = 0u64;
        for (source, len) in sources {
            end = end.saturating_add(len);
            joined.ends.push(end);
            joined.sources.push(source);
        }
        joined
    }
}

impl ReadAt for Joined {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let n = self.ends.partition_point(|end| *end <= at);
        let Some(end) = self.ends.get(n) else { return Ok(0) };
        let start = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        let here = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
        self.sources[n].read_at(&mut buf[..here], at - start)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.ends.last().copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_sources_are_one() {
        let parts: [Vec<u8>; 4] = [vec![1; 3], vec![], vec![2; 5], vec![3]];
        let whole: Vec<u8> = parts.concat();
        let joined = Joined::new(parts.into_iter().map(|part| {
            let len = part.len() as u64;
            (Arc::new(part) as Arc<dyn ReadAt>, len)
        }));
        assert_eq!(joined.len().unwrap(), 9);
        for at in 0..=10usize {
            let mut read = Vec::new();
            loop {
                let mut buf = [0; 4];
                match joined.read_at(&mut buf, (at + read.len()) as u64).unwrap() {
                    0 => break,
                    n => read.extend_from_slice(&buf[..n]),
                }
            }
            assert_eq!(read, whole.get(at..).unwrap_or_default());
        }
    }
}
