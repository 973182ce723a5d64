//! A lock file that shows that a process is alive: the lock is released when the process exits, for whatever reason.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use cdi_base::error::Error;

/// Takes the lock at `path`, which is held until the returned file is closed. Returns None if another process holds it.
pub fn take(path: &Path) -> Result<Option<File>, Error> {
    // A process that checks whether the lock is held holds it for a moment.
    for _ in 0..20 {
        let file = File::create(path).map_err(|e| Error::io("cannot create", path, e))?;
        let same = |file: &File| Ok::<_, io::Error>(file.metadata()?.ino() == fs::metadata(path)?.ino());
        match file.try_lock() {
            // The file may have been removed in the meantime; then the lock excludes nobody.
            Ok(()) if same(&file).unwrap_or(false) => return Ok(Some(file)),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(Error::io("cannot lock", path, e)),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

/// Checks whether a process holds the lock at `path`.
pub fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_while_it_is_open_and_ends_when_its_file_is_removed() {
        let path = std::env::temp_dir().join(format!("cdi-liveness-{}", std::process::id()));
        assert!(!is_held(&path));
        let lock = take(&path).unwrap().unwrap();
        assert!(is_held(&path) && take(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        let other = take(&path).unwrap();
        assert!(other.is_some() && is_held(&path));
        drop((lock, other));
        assert!(!is_held(&path));
        fs::remove_file(&path).unwrap();
    }
}
