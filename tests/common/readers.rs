//! Readers without the page cache.

use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::Random;

/// A file opened for reading without the page cache.
pub fn open_direct(path: &Path) -> fs::File {
    let flags = nix::fcntl::OFlag::O_DIRECT.bits();
    fs::File::options().read(true).custom_flags(flags).open(path).unwrap()
}

/// Memory with a part that is aligned for direct reads.
pub struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    pub fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + 4096];
        let from = bytes.as_ptr().align_offset(4096);
        Aligned { bytes, from, len }
    }

    pub fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

/// Six programs at once that read random runs of up to 128 sectors without the page cache: each gets the right bytes
/// where all of its sectors are good, and EIO where one is not.
pub fn six_random_readers(path: &Path, truth: &[u8], is_bad: fn(u64) -> bool) {
    let sectors = truth.len() as u64 / 512;
    std::thread::scope(|scope| {
        for reader in 0..6u64 {
            scope.spawn(move || {
                let file = open_direct(path);
                let random = &mut Random::new(reader + 1);
                let mut buf = Aligned::new(128 * 512);
                for _ in 0..1500 {
                    let first = random.below(sectors);
                    let count = 1 + random.below((sectors - first).min(128));
                    let buf = &mut buf.get()[..count as usize * 512];
                    let bad = (first..first + count).any(is_bad);
                    match file.read_at(buf, first * 512) {
                        Ok(n) => {
                            assert!(!bad, "a bad sector in {first}+{count} was read");
                            assert!(
                                n == buf.len() && *buf == truth[first as usize * 512..][..n],
                                "{first}+{count}"
                            );
                        }
                        Err(e) => assert!(bad && e.raw_os_error() == Some(5), "{first}+{count}: {e}"),
                    }
                }
            });
        }
    });
}
