//! Compares a copy with one that was made earlier.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cdi_image::input::ReadAt;
use nix::libc;

/// How much of two copies is compared at a time, in bytes.
const COMPARED: u64 = 1 << 20;

/// Returns whether an earlier copy of a file, at `path`, has data where `new` has none: it is of an image that had more of the
/// disk, or of one that did not say what is bad.
pub(super) fn has_more(path: &Path, new: &File) -> io::Result<bool> {
    let how = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let before = match how {
        Ok(before) if before.metadata()?.is_file() => before,
        // Nothing, or no copy of ours.
        _ => return Ok(false),
    };
    let end = before.metadata()?.len();
    let mut at = 0;
    while at < end {
        let data = before.data_run(at, end)?;
        let len = usize::try_from((data.end - data.start).min(COMPARED)).unwrap_or(0);
        let (mut old, mut now) = (vec![0; len], vec![0; len]);
        read_full(&before, &mut old, data.start)?;
        read_full(new, &mut now, data.start)?;
        if old.iter().zip(&now).any(|(old, now)| *old != 0 && *now == 0) {
            return Ok(true);
        }
        at = data.start + len.max(1) as u64;
    }
    Ok(false)
}

/// Fills `buffer` with the bytes at `at`, as far as there are any.
fn read_full(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match ReadAt::read_at(file, &mut buffer[done..], at + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::cmd::files::copy::target::create_new;

    #[test]
    fn data_of_an_earlier_copy_is_seen_wherever_it_is() {
        let dir = std::env::temp_dir().join(format!("cdi-test-{}-has-more", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let (path, at) = (dir.join("before"), (5 << 20) + 77);
        let before = create_new(&path).unwrap();
        before.set_len(8 << 20).unwrap();
        before.write_all_at(b"x", at).unwrap();
        let new = create_new(&dir.join("new")).unwrap();
        new.set_len(8 << 20).unwrap();
        let (empty, same) =
            (has_more(&path, &new), new.write_all_at(b"x", at).and_then(|()| has_more(&path, &new)));
        let none = has_more(&dir.join("none"), &new);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((empty.unwrap(), same.unwrap(), none.unwrap()), (true, false, false));
    }
}
