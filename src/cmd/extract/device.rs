//! `cdi extract IMAGE /dev/sdX --force`: the disk back on a disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use cdi_base::error::{Error, Kind};
use cdi_base::units::human;
use cdi_image::disk::Disk;
use cdi_image::input::ReadAt;
use cdi_system::{Layer, layers_below, mountinfo};

use super::{Copied, Missing, cannot_be_written, copy_all};
use crate::cli::Extract;
use crate::cmd::guard;
use crate::ui::Ui;

/// Writes the disk onto the device `args.out`, which must be large enough, not be in use, and not be where the image lies.
/// What is missing is what `--bad` says; without it, what the image's files hold there, or zeros.
pub(super) fn restore(args: &Extract, disk: &Disk, ui: &Ui) -> Result<Copied, Error> {
    let out = &args.out;
    if !args.over.force {
        return Err(Error::new(Kind::Busy, "is a device")
            .at(out)
            .hint("--force writes the disk onto it, over all that is there; nothing was changed"));
    }
    let own = written_over(out);
    for path in disk.input().paths() {
        if path == *out
            || layers_below(&path).iter().any(|layer| own.contains(layer))
            || is_one_of(&path, &own)
        {
            let what = format!("'{}' is read, and lies on this device", path.display());
            return Err(Error::usage(what).at(out));
        }
    }
    guard(args.over, &args.image, Some(disk)).check_device(out)?;
    refuse_mounted(out, &own)?;
    let file = open(out)?;
    let size = ReadAt::len(&file).map_err(|e| Error::io("cannot be measured", out, e))?;
    if size < disk.size() {
        let what = format!("has {size} bytes, and the disk has {}", disk.size());
        return Err(Error::usage(what).at(out).hint("nothing was written"));
    }
    let copied = copy_all(args, disk, &file, Missing::WrittenOver, &mut || Ok(()), ui);
    let copied = copied.map_err(|e| {
        e.hint(format!("a part of the disk is on {} by now, and the rest of what was there", out.display()))
    })?;
    file.sync_all().map_err(|e| cannot_be_written(out, e))?;
    if size > disk.size() {
        ui.warning(format!("the last {} of the device are as they were", human(size - disk.size())));
    }
    Ok(Copied { lost: copied.lost, took: copied.took, mapfile: None, checked: copied.checked })
}

/// What is written over with the device at `out`: itself, what it is a part of, and the file that it shows.
fn written_over(out: &Path) -> Vec<Layer> {
    let mut own = Vec::new();
    for layer in layers_below(out) {
        let last = matches!(layer, Layer::File { .. });
        own.push(layer);
        if last {
            break;
        }
    }
    own
}

/// Whether the file at `path` is one of these.
fn is_one_of(path: &Path, layers: &[Layer]) -> bool {
    let id = std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    id.is_ok_and(|own| layers.iter().any(|l| matches!(l, Layer::File { id, .. } if *id == own)))
}

/// Refuses a device that a file system which is mounted lies on, or on what lies below it.
fn refuse_mounted(out: &Path, own: &[Layer]) -> Result<(), Error> {
    // Of a partition, only what is on itself.
    let Some(first) = own.first() else { return Ok(()) };
    let mut parts = vec![first];
    parts.extend(own.iter().skip(1).filter(|layer| matches!(layer, Layer::File { .. })));
    for mount in mountinfo()? {
        let below = layers_below(Path::new(&mount.source));
        if mount.source.starts_with("/dev/") && below.iter().any(|layer| parts.contains(&layer)) {
            let what = format!("is in use: mounted at {}", mount.mountpoint.display());
            return Err(Error::new(Kind::Busy, what).at(out).hint("unmount it; nothing was written"));
        }
    }
    Ok(())
}

/// Opens a device for writing that nobody else uses.
fn open(out: &Path) -> Result<File, Error> {
    let alone = nix::fcntl::OFlag::O_EXCL.bits();
    File::options().read(true).write(true).custom_flags(alone).open(out).map_err(|e| {
        let busy = e.kind() == io::ErrorKind::ResourceBusy;
        let error = Error::io("cannot be opened for writing", out, e);
        if busy {
            error.hint("it is in use: mounted, or part of something; nothing was written")
        } else {
            error
        }
    })
}
