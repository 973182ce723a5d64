//! Where an image is mounted: the mount point that the user named, or one of our own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Kind};
use cdi_serve::transport::volume_name;
use cdi_system::mounted_at;

use crate::mount::record::runtime_dir;
use crate::mount::volumes;

/// Where an image is mounted.
#[derive(Clone, Copy)]
pub(in crate::cmd) enum Where<'a> {
    /// In the directory that the user named.
    Given(&'a Path),
    /// In a directory of its own in /Volumes where that is possible (macOS), else in the runtime directory.
    InVolumes,
    /// In a directory of its own in the runtime directory.
    InRuntimeDir,
}

impl Where<'_> {
    /// Prepares the mount point for an image. Also returns whether it was created.
    pub(in crate::cmd) fn prepare(
        self,
        image: &Path,
        own_process: bool,
        allow_other: bool,
    ) -> Result<(PathBuf, bool), Error> {
        let (dir, created) = match self {
            Where::Given(dir) => given_dir(dir, image)?,
            // Of a process of its own, an extension, only this user may have the mount: in a private directory.
            Where::InVolumes => {
                match volumes::parent().filter(|p| !own_process || allow_other || is_private(&p.join("x"))) {
                    Some(parent) => (free_dir(&parent, &volume_name(image))?, true),
                    None => (own_dir(image)?, true),
                }
            }
            Where::InRuntimeDir => (own_dir(image)?, true),
        };
        let given = matches!(self, Where::Given(_));
        refuse_unsafe(&dir, given, own_process, allow_other).inspect_err(|_| {
            if created {
                let _ = fs::remove_dir(&dir);
            }
        })?;
        Ok((dir, created))
    }

    /// Returns whether this mount point was chosen by us in a place that other users can see.
    pub(in crate::cmd) fn is_open_to_others(self, dir: &Path) -> bool {
        matches!(self, Where::InVolumes) && !is_private(dir)
    }
}

/// Refuses a mount point that gives access to users who may not read, or denies it to those who may.
fn refuse_unsafe(dir: &Path, given: bool, own_process: bool, allow_other: bool) -> Result<(), Error> {
    if own_process && !allow_other && !is_private(dir) {
        let what = "every user of this Mac could read it there: FSKit treats all users as the owner";
        let hint = "use a mount point inside a private directory (chmod 700), or --allow-other";
        return Err(Error::usage(what).at(dir).hint(hint));
    }
    if allow_other && !given && is_private(dir) {
        let error = Error::usage("--allow-other needs a mount point: the default one is private");
        return Err(error.hint("name one after the image, in a directory that others can reach"));
    }
    Ok(())
}

/// Checks whether only this user can reach a directory: whether one of its parent directories belongs to this user and
/// gives nobody else access.
fn is_private(dir: &Path) -> bool {
    let user = nix::unistd::geteuid().as_raw();
    let is_closed =
        |dir: &Path| fs::symlink_metadata(dir).is_ok_and(|m| m.uid() == user && m.mode() & 0o011 == 0);
    dir.ancestors().skip(1).any(is_closed)
}

/// Prepares the mount point that the user named: creates it if it does not exist, and checks that it is empty. Also
/// returns whether it was created.
fn given_dir(dir: &Path, image: &Path) -> Result<(PathBuf, bool), Error> {
    let created = match fs::create_dir(dir) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(Error::io("cannot create", dir, e)),
    };
    let check = || {
        let resolved = dir.canonicalize().map_err(|e| Error::io("cannot resolve", dir, e))?;
        if !resolved.is_dir() {
            return Err(Error::usage("not a directory").at(dir));
        }
        if mounted_at(&resolved)?.is_some_and(|m| m.is_cdi_mount() || m.fstype.starts_with("fuse")) {
            let error = Error::new(Kind::Busy, "already a mount point").at(dir);
            return Err(error.hint("see 'cdi list'; 'cdi unmount' unmounts it"));
        }
        let mut entries = fs::read_dir(&resolved).map_err(|e| Error::io("cannot read", dir, e))?;
        if entries.next().is_some() {
            return Err(Error::usage("directory not empty: a mount would hide its contents").at(dir));
        }
        if image.starts_with(&resolved) {
            return Err(Error::usage("the image is in this directory, which the mount would hide").at(dir));
        }
        Ok(resolved)
    };
    check().map(|resolved| (resolved, created)).inspect_err(|_| {
        if created {
            let _ = fs::remove_dir(dir);
        }
    })
}

/// Creates a mount point named after the image in the runtime directory.
fn own_dir(image: &Path) -> Result<PathBuf, Error> {
    let parent = runtime_dir()?.join("mnt");
    fs::create_dir_all(&parent).map_err(|e| Error::io("cannot create", &parent, e))?;
    let name = image.file_stem().unwrap_or(image.as_os_str()).to_string_lossy();
    free_dir(&parent, &name)
}

/// The longest name of a mount point in bytes, which leaves room for a number.
const MAX_NAME: usize = 240;

/// Creates a directory of this name, or of the name with a number.
fn free_dir(parent: &Path, name: &str) -> Result<PathBuf, Error> {
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    let name = &name[..end.unwrap_or(0)];
    for number in 1..1000 {
        let dir = parent.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("cannot create", &dir, e)),
        }
    }
    Err(Error::failed("too many mounted images of this name").at(parent))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_of_the_users_in_volumes_is_used() {
        let volumes = std::env::temp_dir().join(format!("cdi-volumes-{}", std::process::id()));
        let shared = volumes.join("cdi");
        fs::create_dir_all(&shared).unwrap();
        // Others could put something else there.
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        assert_ne!(volumes::shared(&volumes), Some(shared.clone()));
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(volumes::shared(&volumes), Some(shared.clone()));
        assert_eq!(free_dir(&shared, "Old Disk").unwrap(), shared.join("Old Disk"));
        assert_eq!(free_dir(&shared, "Old Disk").unwrap(), shared.join("Old Disk-2"));
        assert!(is_private(&shared.join("Old Disk")));
        fs::remove_dir_all(&volumes).unwrap();
    }
}
