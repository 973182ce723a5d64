//! What a disk is, with all files that it is read from.

use super::Disk;
use crate::badmap::BadBlocks;

impl Disk {
    /// Returns a value that is the same if the image is opened again, and none of its files was replaced or changed: a hash
    /// of [`Disk::identity`], of the size of the disk, of the ranges that are bad, and of length, modification time, device
    /// and inode of each file that the image has referred to so far. Files that are looked for only when they are read are
    /// not among those: compare disks of which nothing was read.
    pub fn state(&self) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.identity()).update(&self.size().to_be_bytes());
        hash.update(&self.sector().to_be_bytes());
        add_ranges(&mut hash, self.failing_ranges());
        add_ranges(&mut hash, self.bad());
        self.input().stamp(&mut hash);
        *hash.finalize().as_bytes()
    }
}

fn add_ranges(hash: &mut blake3::Hasher, bad: &BadBlocks) {
    hash.update(&(bad.ranges().len() as u64).to_be_bytes());
    for range in bad.ranges() {
        let (start, end) = (range.start.to_be_bytes(), range.end.to_be_bytes());
        hash.update(&start).update(&end).update(&[range.status as u8]);
    }
}
