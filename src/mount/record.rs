//! What is mounted: a record for each mount of ours, kept where it is gone after a reboot.
//!
//! A record is written before the mount is made and removed after it is gone, so that whatever happens in between
//! there is something to clean up by. The daemon holds a lock on it while it lives: that, and not its pid, says so.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cdi_base::error::{Error, Kind};
use cdi_system::liveness_lock;
use cdi_system::output_file::replace;
use cdi_system::random;
use serde::{Deserialize, Serialize};

/// A mount of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The image, an absolute path.
    #[serde(with = "path_text")]
    pub image: PathBuf,
    /// The mounted folder, an absolute path without symbolic links.
    #[serde(with = "path_text")]
    pub mountpoint: PathBuf,
    /// The block device, while there is one.
    pub device: Option<PathBuf>,
    /// Whether a command runs on it (`cdi exec`), which takes it away when it ends.
    #[serde(default)]
    pub exec: bool,
    /// The process that serves it.
    pub pid: i32,
    /// Whether we made the folder and are to remove it.
    pub created_dir: bool,
    /// The front end: `fuse`, `nfs`.
    pub via: String,
    /// The words of the command that made it, behind the program's name.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Whether the service runs it.
    #[serde(default)]
    pub service: bool,
    /// Whether it is up: before, it is coming up.
    #[serde(default)]
    pub ready: bool,
    /// What made the block device: `losetup`, `hdiutil`, `diskutil`.
    #[serde(default)]
    pub with: Option<String>,
    /// What reads of bad sectors give: `error`, `zero`, or `pattern:TEXT`.
    #[serde(default)]
    pub bad: String,
    /// Which part of the disk is shown, if not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<serde_json::Value>,
    /// The image's other files: segments, extents, parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
}

/// What tells a child of the service that it is one.
pub const SERVICE: &str = "CDI_SERVICE";

impl MountRecord {
    fn stem(&self) -> Result<PathBuf, Error> {
        Ok(runtime_dir()?.join(stem(&self.mountpoint)))
    }

    /// Writes the record.
    pub fn save(&self) -> Result<(), Error> {
        let path = self.stem()?.with_extension("json");
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::failed("the record cannot be written").because(e))?;
        replace(&path, &text)
    }

    /// Writes it again, unless it is gone or another process's by now.
    pub fn update(&self) -> Result<(), Error> {
        if self.stored()?.is_some_and(|r| r.pid == self.pid) { self.save() } else { Ok(()) }
    }

    /// What is written of this folder now, if something is.
    fn stored(&self) -> Result<Option<MountRecord>, Error> {
        let text = fs::read(self.stem()?.with_extension("json")).ok();
        Ok(text.and_then(|t| serde_json::from_slice(&t).ok()))
    }

    /// Removes the record, unless it is another process's by now.
    pub fn remove(&self) -> Result<(), Error> {
        let stem = self.stem()?;
        if self.stored()?.is_some_and(|r| r.pid != self.pid) {
            return Ok(());
        }
        for suffix in ["json", "log", "stats", "lock"] {
            let path = stem.with_extension(suffix);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("cannot be removed", &path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Remembers what the mount was called after it is gone: see [`was_there`].
    pub fn remember(&self) -> Result<(), Error> {
        let path = runtime_dir()?.join(PAST);
        let failed = |e| Error::io("cannot be written", &path, e);
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_PAST) {
            fs::remove_file(&path).map_err(failed)?;
        }
        let names = self.device.iter().chain([&self.image, &self.mountpoint]);
        let text: Vec<u8> =
            names.flat_map(|name| [name.as_os_str().as_encoded_bytes(), b"\0"].concat()).collect();
        let mut past = File::options().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        past.write_all(&text).map_err(failed)
    }

    /// Takes the lock that says that this process serves the mount. It holds until the file is closed.
    pub fn lock(&self) -> Result<File, Error> {
        let lock = liveness_lock::take(&self.stem()?.with_extension("lock"))?;
        lock.ok_or_else(|| Error::new(Kind::Busy, "another cdi is serving this folder").at(&self.mountpoint))
    }

    /// Whether the process that serves the mount is alive.
    pub fn is_served(&self) -> bool {
        self.stem().is_ok_and(|stem| liveness_lock::is_held(&stem.with_extension("lock")))
    }

    /// The socket at which the daemon tells what it has done so far, to whoever connects: this user.
    pub fn stats(&self) -> Result<PathBuf, Error> {
        Ok(self.stem()?.with_extension("stats"))
    }

    /// Where the daemon's words go.
    pub fn log(&self) -> Result<PathBuf, Error> {
        Ok(self.stem()?.with_extension("log"))
    }
}

fn stem(mountpoint: &Path) -> String {
    let hash = xxhash_rust::xxh3::xxh3_64(mountpoint.as_os_str().as_encoded_bytes());
    format!("{hash:016x}")
}

/// The folder for records and default mount points: the user's own, and gone after a reboot; on macOS it outlives one,
/// because the system takes files that were not touched for three days out of what it has for temporary ones. (What a
/// record from before a reboot tells of is gone, and so is the record after the next command.) Resolved once, before a
/// daemon leaves the folder that a relative path would start from.
pub fn runtime_dir() -> Result<PathBuf, Error> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    if let Some(dir) = DIR.get() {
        return Ok(dir.clone());
    }
    let dir = resolve_runtime_dir()?;
    Ok(DIR.get_or_init(|| dir).clone())
}

/// Where that is, whether it is there or not.
fn runtime_path() -> PathBuf {
    let uid = nix::unistd::geteuid();
    match (std::env::var_os("CDI_RUNTIME_DIR"), std::env::var_os("XDG_RUNTIME_DIR")) {
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
    // sudo and su may leave the other user's in the environment.
    let other = || "set XDG_RUNTIME_DIR, or CDI_RUNTIME_DIR, to a directory of your own; after sudo or su it may be another's";
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|e| Error::io("cannot be made", &dir, e).hint(other()))?;
    // Somebody else's folder, under a name that we would take, must not lead us by its records.
    let looked = fs::symlink_metadata(&dir);
    let meta = looked.map_err(|e| Error::io("cannot be looked at", &dir, e).hint(other()))?;
    if !meta.is_dir() || meta.uid() != uid.as_raw() || meta.mode() & 0o022 != 0 {
        let what = "must be a directory of yours that nobody else can write to";
        return Err(Error::failed(what).at(&dir).hint(other()));
    }
    dir.canonicalize().map_err(|e| Error::io("cannot be resolved", &dir, e))
}

/// Holds off every other command that mounts or takes away, until the file is closed or unlocked. (A daemon on its own
/// way down does not ask for it: who holds it may be waiting for that daemon.)
pub fn exclusive() -> Result<File, Error> {
    let path = runtime_dir()?.join("commands.lock");
    let failed = |e| Error::io("cannot be locked", &path, e);
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// The user's secret, made when it is first asked for: what nobody may guess of what he serves comes from it.
pub fn secret() -> Result<[u8; 32], Error> {
    let path = runtime_dir()?.join("secret");
    let mut secret = [0; 32];
    for _ in 0..2 {
        match File::open(&path).and_then(|mut file| file.read_exact(&mut secret)) {
            Ok(()) => return Ok(secret),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("cannot be read", &path, e)),
        }
        secret = random()?;
        // Whole or not at all; and whoever is first is right.
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
        linked.map_err(|e| Error::io("cannot be written", &path, e))?;
    }
    Err(Error::failed("comes and goes").at(&path))
}

/// Every record, as [`records`], but for those who only look: nothing is made for it, and what cannot be read is nothing.
pub fn records_if_any() -> Vec<MountRecord> {
    if runtime_path().is_dir() { records().unwrap_or_default() } else { Vec::new() }
}

/// Every record, by mount point.
pub fn records() -> Result<Vec<MountRecord>, Error> {
    let dir = runtime_dir()?;
    let entries = fs::read_dir(&dir).map_err(|e| Error::io("cannot be read", &dir, e))?;
    let jsons = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "json"));
    // A record that cannot be read is none of ours.
    let mut records: Vec<MountRecord> =
        jsons.filter_map(|p| serde_json::from_slice(&fs::read(p).ok()?).ok()).collect();
    records.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(records)
}

/// The records that `target` names: a mounted folder, an image, or a device.
pub fn find(target: &Path) -> Result<Vec<MountRecord>, Error> {
    let records = records()?;
    // The folder itself is not resolved: if its daemon hangs, so would we. Its parent is not on the mount.
    let absolute = std::path::absolute(target).map_err(|e| Error::io("is not a path", target, e))?;
    let inside = records.iter().any(|r| absolute.starts_with(&r.mountpoint));
    let parent = absolute.parent().filter(|_| !inside).and_then(|p| p.canonicalize().ok());
    let resolved = match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute.clone(),
    };
    // What lies in a mounted folder names it, too.
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
/// How long that list may become before it begins again, in bytes.
const MAX_PAST: u64 = 64 << 10;

/// Whether `target` names something that was mounted since the system started, and has been unmounted.
pub fn was_there(target: &Path) -> bool {
    let Ok(past) = runtime_dir().map(|dir| fs::read(dir.join(PAST)).unwrap_or_default()) else {
        return false;
    };
    let absolute = std::path::absolute(target).ok();
    // The last part may be gone; what leads to it may go through links.
    let parent = absolute.as_ref().and_then(|p| Some(p.parent()?.canonicalize().ok()?.join(p.file_name()?)));
    let names: Vec<PathBuf> = [absolute, parent, target.canonicalize().ok()].into_iter().flatten().collect();
    past.split(|b| *b == 0).any(|name| names.iter().any(|n| n.as_os_str().as_encoded_bytes() == name))
}

/// The name of something that is mounted which is most like `target`, if one is.
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

/// A path as JSON: a string, or where it is not UTF-8 its bytes.
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
