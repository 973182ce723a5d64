//! Success is reported only after a read through the mount, and through the device, has returned the right bytes.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_serve::tree::Tree;

/// Checks that the first readable bytes of the disk read the same through the mount as directly.
pub fn self_test(tree: &Tree, file: &Path) -> Result<(), Error> {
    let failed = |e| Error::io("mounted, but cannot be read", file, e);
    let opened = File::open(file).map_err(failed)?;
    let size = opened.metadata().map_err(failed)?.len();
    if size != tree.disk().size() {
        let what = format!("mounted, but has {size} bytes instead of {}", tree.disk().size());
        return Err(Error::failed(what).at(file));
    }
    let Some((at, expect)) = readable_bytes(tree) else { return Ok(()) };
    let mut got = vec![0; expect.len()];
    opened.read_exact_at(&mut got, at).map_err(failed)?;
    if got == expect { Ok(()) } else { Err(Error::failed("mounted, but returns wrong data").at(file)) }
}

/// Checks the same through the block device, if this user may read it.
pub fn test_device(tree: &Tree, device: &Path) -> Result<(), Error> {
    let Some((at, mut expect)) = readable_bytes(tree) else { return Ok(()) };
    // The device does not have a partial last sector.
    expect.truncate(expect.len() - expect.len() % 4096);
    let opened = match File::open(device) {
        Ok(opened) => opened,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ResourceBusy
            ) =>
        {
            log::info!("{}: not verified: {e}", device.display());
            return Ok(());
        }
        Err(e) => return Err(Error::io("attached, but cannot be opened", device, e)),
    };
    let mut got = vec![0; expect.len()];
    opened.read_exact_at(&mut got, at).map_err(|e| Error::io("attached, but cannot be read", device, e))?;
    if got == expect { Ok(()) } else { Err(Error::failed("attached, but returns wrong data").at(device)) }
}

/// Returns the first readable bytes of the disk with their offset, if there are any. They cover as much as a kernel
/// reads at once, because bytes before a bad sector in the same page would fail as well.
fn readable_bytes(tree: &Tree) -> Option<(u64, Vec<u8>)> {
    const PAGES: u64 = 64 << 10;
    let disk = tree.disk();
    // Of a disk that is being imaged, what is not in the image yet is left to others.
    let fails = disk.has_failing_reads();
    let bad = match disk.image() {
        Some(image) => Cow::Borrowed(image.failing_ranges()),
        None => disk.bad(),
    };
    let mut at = 0;
    while at < disk.size() {
        let pages = at..(at + PAGES).min(disk.size());
        match bad.next(at).filter(|_| fails) {
            Some(bad) if bad.start < pages.end => at = bad.end.next_multiple_of(PAGES),
            _ => {
                let mut bytes = vec![0; index(pages.end - pages.start)];
                // If the image itself is damaged, reads will report it.
                return disk.read_at(&mut bytes, at).is_ok().then_some((at, bytes));
            }
        }
    }
    None
}
