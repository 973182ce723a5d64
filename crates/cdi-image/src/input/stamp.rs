//! What distinguishes an image's files from others that are at their places later.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Input, is_remote};

impl Input {
    /// Adds to `hash` what all files that the image has referred to so far are: name, length, modification time, device and
    /// inode, as they were when each was found; and the same of the directories that were listed.
    pub(crate) fn stamp(&self, hash: &mut blake3::Hasher) {
        let of = |path: &Path| if is_remote(path) { None } else { path.metadata().ok() };
        let place = |meta: Metadata| (meta.dev(), meta.ino());
        add_file(hash, &self.path, self.len, self.modified, of(&self.path).map(place));
        hash.update(&self.stored_len.to_be_bytes());
        self.parts.each_found(|path, len, modified, place| add_file(hash, path, len, modified, place));
        for path in self.parts.listed() {
            let modified = of(&path).and_then(|meta| meta.modified().ok());
            add_file(hash, &path, 0, modified, of(&path).map(place));
        }
    }
}

/// Adds a file to `hash`; `place`: its device and inode. Of its path only the last part: the same path may be relative, or
/// not.
fn add_file(
    hash: &mut blake3::Hasher,
    path: &Path,
    len: u64,
    modified: Option<SystemTime>,
    place: Option<(u64, u64)>,
) {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    hash.update(&(name.len() as u64).to_be_bytes()).update(name).update(&len.to_be_bytes());
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    hash.update(&modified.map_or(0, since).to_be_bytes());
    let (device, inode) = place.unwrap_or_default();
    hash.update(&device.to_be_bytes()).update(&inode.to_be_bytes());
}
