//! What distinguishes an image's files from others that are at their places later.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Input, is_remote};

impl Input {
    /// Adds to `hash` what all files that the image has referred to so far are: name, length and modification time as they
    /// were when each was found, device and inode; and the same of the directories that were listed.
    pub(crate) fn stamp(&self, hash: &mut blake3::Hasher) {
        add_file(hash, &self.path, self.len, self.modified);
        hash.update(&self.stored_len.to_be_bytes());
        for (path, len, modified) in self.parts.found() {
            add_file(hash, &path, len, modified);
        }
        for path in self.parts.listed() {
            let meta = path.metadata().ok();
            add_file(hash, &path, 0, meta.and_then(|meta| meta.modified().ok()));
        }
    }
}

/// Adds a file to `hash`. Of its path only the last part: the same path may be relative, or not.
fn add_file(hash: &mut blake3::Hasher, path: &Path, len: u64, modified: Option<SystemTime>) {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    hash.update(&(name.len() as u64).to_be_bytes()).update(name).update(&len.to_be_bytes());
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    hash.update(&modified.map_or(0, since).to_be_bytes());
    let at = if is_remote(path) { None } else { path.metadata().ok() };
    let (device, inode) = at.map_or((0, 0), |meta| (meta.dev(), meta.ino()));
    hash.update(&device.to_be_bytes()).update(&inode.to_be_bytes());
}
