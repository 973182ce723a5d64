//! Blocks of remote files in a directory of this system, so that they are fetched once.
//!
//! Each block is a file of its own, which says which block of which version of which file it is, and has a checksum:
//! what does not fit is fetched again. Several processes may share the directory.

use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cdi_base::error::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::object::Version;

/// The first bytes of a block's file; the digit is the version of its layout.
const MAGIC: [u8; 8] = *b"CDIBLK1\n";
/// The length of what comes before the block: the magic, the file's identity (32 bytes), the number of the block, and a
/// checksum of all that and of the block.
const HEAD: usize = 8 + 32 + 8 + 8;
/// Files of killed processes are removed after this time.
const OLD: Duration = Duration::from_secs(24 * 3600);
/// The suffix of blocks.
const SUFFIX: &str = "cdi-block";
/// The suffix of blocks that are being written.
const PARTIAL: &str = "cdi-partial";

/// A version of a remote file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity([u8; 32]);

impl Identity {
    /// Returns the identity of a version of the file at `url`.
    pub(super) fn of(url: &Path, version: &Version) -> Identity {
        let mut hash = blake3::Hasher::new();
        let url = url.as_os_str().as_encoded_bytes();
        let modified = version.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for part in [url, version.etag.as_deref().unwrap_or("").as_bytes()] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hash.update(&version.len.to_le_bytes()).update(&modified.as_nanos().to_le_bytes());
        Identity(*hash.finalize().as_bytes())
    }
}

/// A directory with blocks, of bounded size.
pub(super) struct DiskCache {
    dir: PathBuf,
    /// The maximum length of all blocks together, in bytes.
    max: u64,
    /// What this process has written since it has looked through the directory, in bytes.
    written: AtomicU64,
    /// The start of the names of blocks that are being written, which no other process has.
    own: u64,
    temporary: AtomicU64,
}

impl DiskCache {
    /// Opens the cache in `dir`, which is created if there is none, with at most `max` bytes.
    pub(super) fn open(dir: &Path, max: u64) -> Result<DiskCache, Error> {
        let failed = |e| Error::io("cannot be used as a cache", dir, e);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let meta = fs::symlink_metadata(dir).map_err(failed)?;
        // Anyone who can write there could put a file of theirs in place of a block's.
        let is_own = meta.uid() == nix::unistd::geteuid().as_raw();
        if !meta.is_dir() || !is_own || meta.mode() & 0o022 != 0 {
            let why = match (meta.is_dir(), is_own) {
                (false, _) => "is not a directory",
                (_, false) => "belongs to another user",
                _ => "others may write into it",
            };
            return Err(Error::failed(format!("cannot be used as a cache: {why}")).at(dir));
        }
        let dir = dir.canonicalize().map_err(failed)?;
        let own = RandomState::new().build_hasher().finish();
        let cache = DiskCache { dir, max, written: AtomicU64::new(0), own, temporary: AtomicU64::new(0) };
        cache.shrink(max - max / 10);
        Ok(cache)
    }

    fn path(&self, of: Identity, block: u64) -> PathBuf {
        let name: String = of.0[..12].iter().map(|b| format!("{b:02x}")).collect();
        self.dir.join(format!("{name}-{block:x}.{SUFFIX}"))
    }

    /// Returns a block of `len` bytes, if it is there and intact.
    pub(super) fn find(&self, of: Identity, block: u64, len: usize) -> Option<Vec<u8>> {
        let path = self.path(of, block);
        let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        let file = File::options().read(true).write(true).custom_flags(flags).open(&path).ok()?;
        if file.metadata().ok()?.len() != (HEAD + len) as u64 {
            return None;
        }
        let mut head = [0; HEAD];
        let mut bytes = vec![0; len];
        (&file).read_exact(&mut head).ok()?;
        (&file).read_exact(&mut bytes).ok()?;
        if head != header(of, block, &bytes) {
            log::warn!("{}: this block in the cache is damaged; it is fetched again", path.display());
            return None;
        }
        // So that it counts as used. A byte is written again because a process that is confined may not set times: by
        // the same call it could set those of any file.
        let _ = file.write_all_at(&MAGIC[..1], 0);
        Some(bytes)
    }

    /// Keeps a block. If that fails, it is only fetched again.
    pub(super) fn keep(&self, of: Identity, block: u64, bytes: &[u8]) {
        if let Err(e) = self.try_keep(of, block, bytes) {
            log::debug!("{}: a block cannot be kept: {e}", self.dir.display());
        }
    }

    fn try_keep(&self, of: Identity, block: u64, bytes: &[u8]) -> io::Result<()> {
        let size = (HEAD + bytes.len()) as u64;
        if size > self.max {
            return Ok(());
        }
        // Other processes write, too. So there is room for a tenth after each look.
        let room = self.max / 10;
        if self.written.fetch_add(size, Ordering::Relaxed) + size > room {
            self.shrink(self.max.saturating_sub(size.max(room)));
            self.written.store(size, Ordering::Relaxed);
        }
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let partial = self.dir.join(format!("{:016x}-{number}.{PARTIAL}", self.own));
        let written = || -> io::Result<()> {
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            file.write_all(&header(of, block, bytes))?;
            file.write_all(bytes)?;
            drop(file);
            fs::rename(&partial, self.path(of, block))
        };
        written().inspect_err(|_| {
            let _ = fs::remove_file(&partial);
        })
    }

    /// Removes the blocks that were not used for the longest time, until the others have at most `max` bytes.
    fn shrink(&self, max: u64) {
        let mut blocks: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match path.extension().and_then(|suffix| suffix.to_str()) {
                Some(SUFFIX) if meta.is_file() => blocks.push((modified, meta.len(), path)),
                Some(PARTIAL) if modified.elapsed().is_ok_and(|age| age > OLD) => {
                    let _ = fs::remove_file(path);
                }
                _ => {}
            }
        }
        let mut used: u64 = blocks.iter().map(|(_, len, _)| len).sum();
        blocks.sort();
        for (_, len, path) in blocks {
            if used <= max {
                break;
            }
            if fs::remove_file(path).is_ok() {
                used -= len;
            }
        }
    }
}

/// Returns what comes before a block in its file.
fn header(of: Identity, block: u64, bytes: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..40].copy_from_slice(&of.0);
    head[40..48].copy_from_slice(&block.to_le_bytes());
    let sum = xxh3_64_with_seed(bytes, xxh3_64(&head[..48]));
    head[48..].copy_from_slice(&sum.to_le_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(etag: &str) -> Version {
        Version { len: 9000, etag: Some(etag.into()), modified: SystemTime::UNIX_EPOCH }
    }

    /// A cache in a directory that is removed at the end.
    struct Place(DiskCache);

    impl Place {
        fn new(name: &str, max: u64) -> Place {
            let dir = std::env::temp_dir().join(format!("cdi-blocks-{}-{name}", std::process::id()));
            Place(DiskCache::open(&dir, max).unwrap())
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.dir);
        }
    }

    #[test]
    fn a_block_is_of_one_version_and_intact() {
        let place = Place::new("version", 1 << 20);
        let (one, two) = (
            Identity::of(Path::new("s3://b/k"), &version("1")),
            Identity::of(Path::new("s3://b/k"), &version("2")),
        );
        place.0.keep(one, 3, &[7; 1000]);
        assert_eq!(place.0.find(one, 3, 1000), Some(vec![7; 1000]));
        assert!(place.0.find(two, 3, 1000).is_none() && place.0.find(one, 4, 1000).is_none());
        assert!(place.0.find(one, 3, 999).is_none());
        // Another process finds it.
        let again = DiskCache::open(&place.0.dir, 1 << 20).unwrap();
        assert!(again.find(one, 3, 1000).is_some());
        let path = place.0.path(one, 3);
        for at in 0..HEAD + 1000 {
            let whole = fs::read(&path).unwrap();
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(place.0.find(one, 3, 1000).is_none(), "byte {at}");
            fs::write(&path, whole).unwrap();
        }
        // A block under the name of another.
        fs::rename(&path, place.0.path(two, 5)).unwrap();
        assert!(place.0.find(two, 5, 1000).is_none());
    }

    #[test]
    fn the_size_is_bounded_and_what_was_used_stays() {
        let place = Place::new("size", 20_000);
        let of = Identity::of(Path::new("s3://b/k"), &version("1"));
        for block in 0..50 {
            place.0.keep(of, block, &[1; 1000]);
            // Times have the resolution of the file system.
            std::thread::sleep(Duration::from_millis(5));
            place.0.find(of, 0, 1000).expect("it was just used");
            let sizes = fs::read_dir(&place.0.dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
            assert!(sizes.sum::<u64>() <= 20_000);
        }
        assert!(place.0.find(of, 49, 1000).is_some() && place.0.find(of, 1, 1000).is_none());
        // One that does not fit at all.
        place.0.keep(of, 99, &[1; 30_000]);
        assert!(place.0.find(of, 99, 30_000).is_none());
    }

    #[test]
    fn a_directory_that_others_may_write_into_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new("others", 1000);
        fs::set_permissions(&place.0.dir, fs::Permissions::from_mode(0o777)).unwrap();
        let error = DiskCache::open(&place.0.dir, 1000).err().unwrap().to_string();
        assert!(error.contains("others may write into it"), "{error}");
        if nix::unistd::geteuid().is_root() {
            fs::set_permissions(&place.0.dir, fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&place.0.dir, Some(65534), None).unwrap();
            let error = DiskCache::open(&place.0.dir, 1000).err().unwrap().to_string();
            assert!(error.contains("belongs to another user"), "{error}");
        }
    }
}
