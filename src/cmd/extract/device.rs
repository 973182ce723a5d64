//! `cdi extract IMAGE /dev/sdX --force`: writes the disk to a device.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use cdi_base::error::{Error, Kind};
use cdi_base::units::human;
use cdi_image::disk::Disk;
use cdi_image::input::ReadAt;
use cdi_system::{Layer, layers_below, mountinfo};

use super::{AllCopied, Copied, Missing, cannot_write, copy_all};
use crate::cli::Extract;
use crate::cmd::guard;
use crate::ui::Ui;

/// Writes the disk to the device `args.out`, which must be large enough, must not be in use, and must not hold the
/// image. Missing data is filled as `--bad` says; without it, with the bytes that the image's files contain there, or
/// zeros.
pub(super) fn restore(args: &Extract, disk: &Disk, ui: &Ui) -> Result<Copied, Error> {
    let out = &args.out;
    if !args.over.force {
        return Err(Error::new(Kind::Busy, "is a device, and everything on it would be overwritten")
            .at(out)
            .hint("nothing was written; writing to a device needs --force"));
    }
    let own = overwritten_layers(out);
    for path in disk.input().paths() {
        if path == *out
            || layers_below(&path).iter().any(|layer| own.contains(layer))
            || is_one_of(&path, &own)
        {
            let what = format!("contains '{}', which is being read", path.display());
            return Err(Error::usage(what).at(out));
        }
    }
    guard(args.over, &args.image, Some(disk)).check_device(out)?;
    refuse_mounted(out, &own)?;
    let file = open(out)?;
    let size = ReadAt::len(&file).map_err(|e| Error::io("cannot determine its size", out, e))?;
    if size < disk.size() {
        let what = format!("has {size} bytes, but the disk has {}", disk.size());
        return Err(Error::usage(what).at(out).hint("nothing was written"));
    }
    let copied = copy_all(args, disk, &file, Missing::WrittenOver, &mut || Ok(()), ui);
    let copied = copied.map_err(|e| {
        e.then(format!("{} now contains a part of the disk, and its old data after that", out.display()))
    })?;
    file.sync_all().map_err(|e| cannot_write(out, e))?;
    if size > disk.size() {
        ui.warning(format!("the last {} of the device were not overwritten", human(size - disk.size())));
    }
    let AllCopied { lost, marked, took, checked, .. } = copied;
    Ok(Copied { lost, marked, took, mapfile: None, checked })
}

/// Returns what writing to the device `out` overwrites: itself, the devices that it is part of, and the file behind it.
fn overwritten_layers(out: &Path) -> Vec<Layer> {
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

/// Checks whether the file at `path` is one of these layers.
fn is_one_of(path: &Path, layers: &[Layer]) -> bool {
    let id = std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    id.is_ok_and(|own| layers.iter().any(|l| matches!(l, Layer::File { id, .. } if *id == own)))
}

/// Refuses a device if a mounted file system is on it, or on the file behind it.
fn refuse_mounted(out: &Path, own: &[Layer]) -> Result<(), Error> {
    // For a partition, only file systems on the partition itself count, not others on the same disk.
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

/// Opens a device for writing. Fails if it is in use.
fn open(out: &Path) -> Result<File, Error> {
    let alone = nix::fcntl::OFlag::O_EXCL.bits();
    File::options().read(true).write(true).custom_flags(alone).open(out).map_err(|e| {
        let busy = e.kind() == io::ErrorKind::ResourceBusy;
        let error = Error::io("cannot open for writing", out, e);
        if busy {
            error.hint("it is in use, for example mounted or part of a RAID; nothing was written")
        } else {
            error
        }
    })
}
