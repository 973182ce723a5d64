//! The records of mounted images: one for each mount of ours, in a directory that does not outlive a reboot.
//!
//! A record is written before the mount is made and removed after it is gone, so that a mount can be cleaned up
//! whatever happens in between. The daemon holds a lock on its record while it lives: the lock, not the pid, shows that
//! it is alive.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cdi_base::error::{Error, Kind};
use cdi_image::input::is_remote;
use cdi_system::liveness_lock;
use cdi_system::output_file::replace;
use cdi_system::random;
use cdi_system::{MountInfo, cdi_mounts_at, mounted_at};
use serde::{Deserialize, Serialize};

/// A mount of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The image, an absolute path.
    #[serde(with = "path_text")]
    pub image: PathBuf,
    /// The mount point, an absolute path without symbolic links.
    #[serde(with = "path_text")]
    pub mountpoint: PathBuf,
    /// The block device, while there is one.
    pub device: Option<PathBuf>,
    /// Whether it belongs to a command (`cdi exec`), and is unmounted when the command ends.
    #[serde(default)]
    pub exec: bool,
    /// The process that serves it.
    pub pid: i32,
    /// Whether we created the mount point, and therefore remove it.
    pub created_dir: bool,
    /// The front end: `fuse`, `nfs`.
    pub via: String,
    /// The arguments of the command that made it, without the program's name.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Whether the service runs it.
    #[serde(default)]
    pub service: bool,
    /// Whether its process images the disk: then it must not be ended for the sake of the mount.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imaging: bool,
    /// Whether it is up, and no longer starting.
    #[serde(default)]
    pub ready: bool,
    /// The attacher that made the block device: `losetup`, `hdiutil`, `diskutil`.
    #[serde(default)]
    pub with: Option<String>,
    /// What reads of bad sectors give: `error`, `zero`, or `pattern:TEXT`.
    #[serde(default)]
    pub bad: String,
    /// The device number of what is mounted, `major:minor`, where the system reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_device: Option<String>,
    /// What the system enforces for each thread of the process that serves it, since it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confined: Option<Confinement>,
    /// Which part of the disk is shown, if not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<serde_json::Value>,
    /// The image's other files: segments, extents, parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
}

/// What a process has given up, as far as the system enforces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The version of Landlock's interface that is used; 0 if the kernel does not have it.
    pub landlock: u32,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Whether it has no capabilities but those that it needs.
    #[serde(default)]
    pub capabilities: bool,
}

/// The environment variable with the directory for records.
pub const RUNTIME_DIR: &str = "CDI_RUNTIME_DIR";

/// The environment variable that marks a child of the service.
pub const SERVICE: &str = "CDI_SERVICE";

impl MountRecord {
    fn stem(&self) -> Result<PathBuf, Error> {
        Ok(runtime_dir()?.join(stem(&self.mountpoint)))
    }

    /// Writes the record.
    pub fn save(&self) -> Result<(), Error> {
        let path = self.stem()?.with_extension("json");
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::failed("cannot write the record of the mount").because(e))?;
        replace(&path, &text)
    }

    /// Notes that the disk has been imaged, in the record of the mount that this process serves, if it is still there.
    pub fn imaging_ended(&self) -> Result<(), Error> {
        match self.stored()? {
            Some(stored) if stored.pid == self.pid => MountRecord { imaging: false, ..stored }.save(),
            _ => Ok(()),
        }
    }

    /// Writes the record again, unless it is gone or belongs to another process by now.
    pub fn update(&self) -> Result<(), Error> {
        if self.stored()?.is_some_and(|r| r.pid == self.pid) { self.save() } else { Ok(()) }
    }

    /// Returns whether the mount is gone, and another process has one in its place.
    pub fn is_replaced(&self) -> Result<bool, Error> {
        if let Some(stored) = self.stored()?
            && stored.pid != self.pid
        {
            return Ok(true);
        }
        let Some(device) = &self.mount_device else { return Ok(false) };
        let others = |mount: MountInfo| mount.is_cdi_mount() && mount.device != *device;
        Ok(cdi_mounts_at(&self.mountpoint)? == 1 && mounted_at(&self.mountpoint)?.is_some_and(others))
    }

    /// Returns the stored record of this mount, if it is still there.
    pub fn stored_of_this(&self) -> Option<MountRecord> {
        self.stored().ok().flatten().filter(|stored| stored.pid == self.pid)
    }

    /// Returns the stored record of this mount point, if there is one.
    fn stored(&self) -> Result<Option<MountRecord>, Error> {
        let text = fs::read(self.stem()?.with_extension("json")).ok();
        Ok(text.and_then(|t| serde_json::from_slice(&t).ok()))
    }

    /// Removes the record, unless it belongs to another process by now.
    pub fn remove(&self) -> Result<(), Error> {
        let stem = self.stem()?;
        if self.stored()?.is_some_and(|r| r.pid != self.pid) {
            return Ok(());
        }
        for suffix in ["json", "log", "stats", "lock"] {
            let path = stem.with_extension(suffix);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("cannot remove", &path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Remembers the names of the mount after it is gone: see [`was_mounted`].
    pub fn remember(&self) -> Result<(), Error> {
        let path = runtime_dir()?.join(PAST);
        let failed = |e| Error::io("cannot write", &path, e);
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_PAST) {
            fs::remove_file(&path).map_err(failed)?;
        }
        let names = self.device.iter().chain([&self.image, &self.mountpoint]);
        let text: Vec<u8> =
            names.flat_map(|name| [name.as_os_str().as_encoded_bytes(), b"\0"].concat()).collect();
        let mut past = File::options().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        past.write_all(&text).map_err(failed)
    }

    /// Takes the lock which shows that this process serves the mount. It is held until the file is closed.
    pub fn lock(&self) -> Result<File, Error> {
        let lock = liveness_lock::take(&self.stem()?.with_extension("lock"))?;
        lock.ok_or_else(|| {
            Error::new(Kind::Busy, "another cdi is serving this directory").at(&self.mountpoint)
        })
    }

    /// Returns whether the process that serves the mount is alive.
    pub fn is_served(&self) -> bool {
        self.stem().is_ok_and(|stem| liveness_lock::is_held(&stem.with_extension("lock")))
    }

    /// Returns the path of the socket on which the daemon serves its read statistics. Only this user can connect.
    pub fn stats(&self) -> Result<PathBuf, Error> {
        Ok(self.stem()?.with_extension("stats"))
    }

    /// Returns the path of the daemon's log.
    pub fn log(&self) -> Result<PathBuf, Error> {
        Ok(self.stem()?.with_extension("log"))
    }
}

fn stem(mountpoint: &Path) -> String {
    let hash = xxhash_rust::xxh3::xxh3_64(mountpoint.as_os_str().as_encoded_bytes());
    format!("{hash:016x}")
}

/// Returns the directory for records and default mount points. It belongs to the user, and is gone after a reboot; on
/// macOS it outlives one, because the system removes files that were not touched for three days from its temporary
/// directories. (The mount of a record from before a reboot is gone, and the next command removes the record.) Resolved
/// once, before a daemon changes the directory to which a relative path refers.
pub fn runtime_dir() -> Result<PathBuf, Error> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    if let Some(dir) = DIR.get() {
        return Ok(dir.clone());
    }
    let dir = resolve_runtime_dir()?;
    Ok(DIR.get_or_init(|| dir).clone())
}

/// Returns the path of that directory, whether it exists or not.
fn runtime_path() -> PathBuf {
    let uid = nix::unistd::geteuid();
    match (std::env::var_os(RUNTIME_DIR), std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir),
        _ if uid.is_root() && cfg!(target_os = "linux") => PathBuf::from("/run/cdi"),
        _ if uid.is_root() => PathBuf::from("/var/run/cdi"),
        (_, Some(dir)) if Path::new(&dir).is_absolute() => Path::new(&dir).join("cdi"),
        _ if cfg!(target_os = "macos") && std::env::var_os("HOME").is_some_and(|h| !h.is_empty()) => {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
                .join("Library/Application Support/cdi")
        }
        _ => std::env::temp_dir().join(format!("cdi-{uid}")),
    }
}

fn resolve_runtime_dir() -> Result<PathBuf, Error> {
    let (dir, uid) = (runtime_path(), nix::unistd::geteuid());
    // sudo and su may leave another user's directory in the environment.
    let other = || "set XDG_RUNTIME_DIR or CDI_RUNTIME_DIR to a directory of your own; after sudo or su it may be another user's";
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|e| Error::io("cannot create", &dir, e).hint(other()))?;
    // The records in another user's directory under this name must not be trusted.
    let looked = fs::symlink_metadata(&dir);
    let meta = looked.map_err(|e| Error::io("cannot access", &dir, e).hint(other()))?;
    if !meta.is_dir() || meta.uid() != uid.as_raw() || meta.mode() & 0o022 != 0 {
        let what = "must be a directory that belongs to you and that no other user can write to";
        return Err(Error::failed(what).at(&dir).hint(other()));
    }
    dir.canonicalize().map_err(|e| Error::io("cannot resolve", &dir, e))
}

/// Blocks all other commands that mount or unmount, until the file is closed or unlocked. (A daemon that tears down its
/// own mount does not take this lock: the command that holds it may be waiting for that daemon.)
pub fn exclusive() -> Result<File, Error> {
    let path = runtime_dir()?.join("commands.lock");
    let failed = |e| Error::io("cannot lock", &path, e);
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// Returns the user's secret, created on first use. The unguessable names of what the user serves are derived from it.
pub fn secret() -> Result<[u8; 32], Error> {
    let path = runtime_dir()?.join("secret");
    let mut secret = [0; 32];
    for _ in 0..2 {
        match File::open(&path).and_then(|mut file| file.read_exact(&mut secret)) {
            Ok(()) => return Ok(secret),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("cannot read", &path, e)),
        }
        secret = random()?;
        // Written whole or not at all; if two processes create it, the first one wins.
        let partial = path.with_extension(std::process::id().to_string());
        let written = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial);
        let linked =
            written.and_then(|mut file| file.write_all(&secret)).and_then(|()| {
                match fs::hard_link(&partial, &path) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
                    _ => Ok(()),
                }
            });
        let _ = fs::remove_file(&partial);
        linked.map_err(|e| Error::io("cannot write", &path, e))?;
    }
    Err(Error::failed("keeps being removed").at(&path))
}

/// Returns every record, as [`records`] does, without side effects: creates no directory, and returns none if they
/// cannot be read.
pub fn records_if_any() -> Vec<MountRecord> {
    if runtime_path().is_dir() { records().unwrap_or_default() } else { Vec::new() }
}

/// Returns every record, sorted by mount point.
pub fn records() -> Result<Vec<MountRecord>, Error> {
    let dir = runtime_dir()?;
    let entries = fs::read_dir(&dir).map_err(|e| Error::io("cannot read", &dir, e))?;
    let jsons = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "json"));
    // A file that cannot be parsed is not a record of ours.
    let mut records: Vec<MountRecord> =
        jsons.filter_map(|p| serde_json::from_slice(&fs::read(p).ok()?).ok()).collect();
    records.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(records)
}

/// Returns the records that `target` names: a mount point, an image, or a device.
pub fn find(target: &Path) -> Result<Vec<MountRecord>, Error> {
    let records = records()?;
    if is_remote(target) {
        return Ok(records.into_iter().filter(|r| r.image == target).collect());
    }
    // The mount point itself is not resolved: if its daemon hangs, so would we. Its parent is not on the mount.
    let absolute = std::path::absolute(target).map_err(|e| Error::io("is not a path", target, e))?;
    let inside = records.iter().any(|r| absolute.starts_with(&r.mountpoint));
    let parent = absolute.parent().filter(|_| !inside).and_then(|p| p.canonicalize().ok());
    let resolved = match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute.clone(),
    };
    // A path inside a mount also names it.
    let names = |r: &MountRecord, path: &Path| {
        path.starts_with(&r.mountpoint) || r.image == path || r.device.as_deref() == Some(path)
    };
    let mut found: Vec<MountRecord> =
        records.iter().filter(|r| names(r, &resolved) || names(r, &absolute)).cloned().collect();
    if found.is_empty()
        && !records.iter().any(|r| resolved.starts_with(&r.mountpoint))
        && let Ok(path) = resolved.canonicalize()
    {
        found = records.into_iter().filter(|r| names(r, &path)).collect();
    }
    Ok(found)
}

/// The images, devices and directories that were mounted and are not any more, each with a zero byte after it.
const PAST: &str = "past";
/// The size in bytes at which that list is started again.
const MAX_PAST: u64 = 64 << 10;

/// Returns whether `target` names something that was mounted since the system started and has been unmounted.
pub fn was_mounted(target: &Path) -> bool {
    let Ok(past) = runtime_dir().map(|dir| fs::read(dir.join(PAST)).unwrap_or_default()) else {
        return false;
    };
    let absolute = std::path::absolute(target).ok();
    // The last component may be gone; its parents may be symbolic links.
    let parent = absolute.as_ref().and_then(|p| Some(p.parent()?.canonicalize().ok()?.join(p.file_name()?)));
    let names: Vec<PathBuf> = [absolute, parent, target.canonicalize().ok()].into_iter().flatten().collect();
    past.split(|b| *b == 0).any(|name| names.iter().any(|n| n.as_os_str().as_encoded_bytes() == name))
}

/// Returns the name of a mounted image, mount point or device that is most similar to `target`, if one is.
pub fn nearest(target: &Path) -> Option<PathBuf> {
    let wanted = target.to_string_lossy();
    let file_name = target.file_name()?.to_string_lossy().into_owned();
    let likeness = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        strsim::jaro_winkler(&file_name, &name).max(strsim::jaro_winkler(&wanted, &path.to_string_lossy()))
    };
    let names = records().ok()?.into_iter().flat_map(|r| [Some(r.image), Some(r.mountpoint), r.device]);
    let rated = names.flatten().map(|path| (likeness(&path), path));
    rated.filter(|(rate, _)| *rate > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, path)| path)
}

/// A path as JSON: a string or, if it is not UTF-8, its bytes.
pub(crate) mod path_text {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Text {
        Utf8(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let bytes = || Text::Bytes(path.as_os_str().as_bytes().to_vec());
        path.to_str().map_or_else(bytes, |text| Text::Utf8(text.into())).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Text::deserialize(from)? {
            Text::Utf8(text) => text.into(),
            Text::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}
