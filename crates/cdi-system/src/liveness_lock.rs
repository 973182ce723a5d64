//! A lock file that says that a process is alive: its lock ends with the process, however that ends.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use cdi_base::error::Error;

/// Takes the lock at `path`, which holds until the file is closed. None if another process has it.
pub fn take(path: &Path) -> Result<Option<File>, Error> {
    // A process that asks whether it is held has it for a moment.
    for _ in 0..20 {
        let file = File::create(path).map_err(|e| Error::io("cannot be created", path, e))?;
        let same = |file: &File| Ok::<_, io::Error>(file.metadata()?.ino() == fs::metadata(path)?.ino());
        match file.try_lock() {
            // A lock on a file that was removed meanwhile holds nobody off.
            Ok(()) if same(&file).unwrap_or(false) => return Ok(Some(file)),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(Error::io("cannot be locked", path, e)),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

/// Whether a process holds the lock at `path`.
pub fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_as_long_as_it_is_open_and_not_after_its_file_was_removed() {
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
