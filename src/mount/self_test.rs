//! Success is reported only after a read through the mount, and through the device, has given the right bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_serve::tree::Tree;

/// Reads through the mount what was read without it: the first bytes of the disk that do not fail.
pub fn self_test(tree: &Tree, file: &Path) -> Result<(), Error> {
    let failed = |e| Error::io("is mounted, but cannot be read", file, e);
    let shown = File::open(file).map_err(failed)?;
    let size = shown.metadata().map_err(failed)?.len();
    if size != tree.disk().size() {
        let what = format!("is mounted, but shows {size} bytes and not {}", tree.disk().size());
        return Err(Error::failed(what).at(file));
    }
    let Some((at, expect)) = sound_bytes(tree) else { return Ok(()) };
    let mut got = vec![0; expect.len()];
    shown.read_exact_at(&mut got, at).map_err(failed)?;
    if got == expect { Ok(()) } else { Err(Error::failed("is mounted, but gives wrong bytes").at(file)) }
}

/// The same through the block device, where this user may read it.
pub fn test_device(tree: &Tree, device: &Path) -> Result<(), Error> {
    let Some((at, mut expect)) = sound_bytes(tree) else { return Ok(()) };
    // A tail that is no whole sector is not on the device.
    expect.truncate(expect.len() - expect.len() % 4096);
    let shown = match File::open(device) {
        Ok(shown) => shown,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ResourceBusy
            ) =>
        {
            log::info!("{} was not read to see whether it is right: {e}", device.display());
            return Ok(());
        }
        Err(e) => return Err(Error::io("is attached, but cannot be opened", device, e)),
    };
    let mut got = vec![0; expect.len()];
    shown.read_exact_at(&mut got, at).map_err(|e| Error::io("is attached, but cannot be read", device, e))?;
    if got == expect { Ok(()) } else { Err(Error::failed("is attached, but gives wrong bytes").at(device)) }
}

/// The first bytes that do not fail, and where they are, if there are any. As many as a kernel reads at once: what comes
/// before a bad sector in the same page would fail, too.
fn sound_bytes(tree: &Tree) -> Option<(u64, Vec<u8>)> {
    const PAGES: u64 = 64 << 10;
    let disk = tree.disk();
    let mut at = 0;
    while at < disk.size() {
        let pages = at..(at + PAGES).min(disk.size());
        match disk.failing().next(at).filter(|_| disk.has_failing_reads()) {
            Some(bad) if bad.start < pages.end => at = bad.end.next_multiple_of(PAGES),
            _ => {
                let mut bytes = vec![0; index(pages.end - pages.start)];
                // If it is the image that is damaged, readers will be told.
                return disk.read_at(&mut bytes, at).is_ok().then_some((at, bytes));
            }
        }
    }
    None
}
