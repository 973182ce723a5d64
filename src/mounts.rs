//! What is mounted: a record for each mount of ours, kept where it is gone after a reboot, and the system's own list.
//!
//! A record is written before the mount is made and removed after it is gone, so that whatever happens in between
//! there is something to clean up by. The daemon holds a lock on it while it lives: that, and not its pid, says so.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// A mount of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
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
    pub made_dir: bool,
    /// The front end: `fuse`.
    pub via: String,
}

impl Record {
    fn stem(&self) -> Result<PathBuf, Error> {
        Ok(runtime_dir()?.join(stem(&self.mountpoint)))
    }

    /// Writes the record.
    pub fn save(&self) -> Result<(), Error> {
        let path = self.stem()?.with_extension("json");
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::failed("the record cannot be written").because(e))?;
        // Whole or not at all, whoever reads it meanwhile.
        let partial = path.with_extension("json.new");
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|e| Error::io("cannot be written", &path, e))
    }

    /// Removes the record, unless it is another process's by now.
    pub fn remove(&self) -> Result<(), Error> {
        let stem = self.stem()?;
        let on_disk = fs::read(stem.with_extension("json"))
            .ok()
            .and_then(|t| serde_json::from_slice::<Record>(&t).ok());
        if on_disk.is_some_and(|r| r.pid != self.pid) {
            return Ok(());
        }
        for suffix in ["json", "log", "lock"] {
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

    /// Takes the lock that says that this process serves the mount. It holds until the file is closed.
    pub fn lock(&self) -> Result<File, Error> {
        let path = self.stem()?.with_extension("lock");
        // Whoever asks whether it is served holds it for a moment.
        for _ in 0..20 {
            let file = File::create(&path).map_err(|e| Error::io("cannot be created", &path, e))?;
            let same = |file: &File| Ok::<_, io::Error>(file.metadata()?.ino() == fs::metadata(&path)?.ino());
            // A lock on a file that was removed meanwhile holds nobody off.
            if file.try_lock().is_ok() && same(&file).unwrap_or(false) {
                return Ok(file);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(Error::new(Kind::Busy, "another cdi is serving this folder").at(&self.mountpoint))
    }

    /// Whether the process that serves the mount is alive.
    pub fn is_served(&self) -> bool {
        let Ok(stem) = self.stem() else { return false };
        let Ok(file) = File::open(stem.with_extension("lock")) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
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

/// The folder for records and default mount points: the user's own, and gone after a reboot. Resolved once, before a
/// daemon leaves the folder that a relative path would start from.
pub fn runtime_dir() -> Result<PathBuf, Error> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    if let Some(dir) = DIR.get() {
        return Ok(dir.clone());
    }
    let dir = resolve_runtime_dir()?;
    Ok(DIR.get_or_init(|| dir).clone())
}

fn resolve_runtime_dir() -> Result<PathBuf, Error> {
    let uid = nix::unistd::geteuid();
    let dir = match (std::env::var_os("CDI_RUNTIME_DIR"), std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir),
        _ if uid.is_root() && cfg!(target_os = "linux") => PathBuf::from("/run/cdi"),
        _ if uid.is_root() => PathBuf::from("/var/run/cdi"),
        (_, Some(dir)) if Path::new(&dir).is_absolute() => Path::new(&dir).join("cdi"),
        _ => std::env::temp_dir().join(format!("cdi-{uid}")),
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|e| Error::io("cannot be made", &dir, e))?;
    // Somebody else's folder, under a name that we would take, must not lead us by its records.
    let meta = fs::symlink_metadata(&dir).map_err(|e| Error::io("cannot be looked at", &dir, e))?;
    if !meta.is_dir() || meta.uid() != uid.as_raw() || meta.mode() & 0o022 != 0 {
        return Err(Error::failed("must be a folder of yours that nobody else can write to").at(&dir));
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

/// Every record, by mount point.
pub fn records() -> Result<Vec<Record>, Error> {
    let dir = runtime_dir()?;
    let entries = fs::read_dir(&dir).map_err(|e| Error::io("cannot be read", &dir, e))?;
    let jsons = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "json"));
    // A record that cannot be read is none of ours.
    let mut records: Vec<Record> =
        jsons.filter_map(|p| serde_json::from_slice(&fs::read(p).ok()?).ok()).collect();
    records.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(records)
}

/// The records that `target` names: a mounted folder, an image, or a device.
pub fn find(target: &Path) -> Result<Vec<Record>, Error> {
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
    let names = |r: &Record, path: &Path| {
        path.starts_with(&r.mountpoint) || r.image == path || r.device.as_deref() == Some(path)
    };
    let mut found: Vec<Record> =
        records.iter().filter(|r| names(r, &resolved) || names(r, &absolute)).cloned().collect();
    if found.is_empty()
        && !records.iter().any(|r| resolved.starts_with(&r.mountpoint))
        && let Ok(path) = resolved.canonicalize()
    {
        found = records.into_iter().filter(|r| names(r, &path)).collect();
    }
    Ok(found)
}

/// A path as JSON: a string, or where it is not UTF-8 its bytes.
mod path_text {
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

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let bytes = || Text::Bytes(path.as_os_str().as_bytes().to_vec());
        path.to_str().map_or_else(bytes, |text| Text::Utf8(text.into())).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Text::deserialize(from)? {
            Text::Utf8(text) => text.into(),
            Text::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

/// A mount, as the system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The device number of the mounted file system, `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The type of the file system.
    pub fstype: String,
    /// What is mounted.
    pub source: String,
}

/// Every mount, in the order in which they were made.
pub fn mountinfo() -> Vec<MountInfo> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|b| *b == b'\n').filter_map(parse_mountinfo).collect()
}

/// proc(5): `id parent major:minor root mountpoint options [fields…] - type source options`.
fn parse_mountinfo(line: &[u8]) -> Option<MountInfo> {
    let mut words = line.split(|b| *b == b' ');
    let device = String::from_utf8(words.nth(2)?.to_vec()).ok()?;
    let mountpoint = unescape(words.nth(1)?);
    let mut rest = words.skip_while(|w| *w != b"-").skip(1);
    let fstype = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    let mountpoint =
        PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(mountpoint));
    Some(MountInfo { device, mountpoint, fstype, source })
}

/// Blanks and the like are written as `\040`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let octal = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        let octal = octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        out.push(octal.unwrap_or(word[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    out
}

/// The type of our mounts.
pub const FSTYPE: &str = "fuse.cdi";

/// How many of our mounts are at `mountpoint`, on top or covered.
pub fn ours_at(mountpoint: &Path) -> usize {
    mountinfo().into_iter().filter(|m| m.mountpoint == mountpoint && m.fstype == FSTYPE).count()
}

/// The mount at `mountpoint` that is on top, if something is mounted there.
pub fn mounted_at(mountpoint: &Path) -> Option<MountInfo> {
    mountinfo().into_iter().rev().find(|m| m.mountpoint == mountpoint)
}

/// A process that uses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// The processes, other than this one and `except`, that have `path` or something below it open or stand in it.
/// Only those that this user may look at.
pub fn holders(path: &Path, except: i32) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    let own = std::process::id();
    let holds = |pid: &i32| {
        let points_there = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(path));
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let fds = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
        points_there(proc.join("cwd")) || fds.into_iter().any(|fd| points_there(fd.path()))
    };
    pids.filter(|pid| *pid != except && i64::from(*pid) != i64::from(own))
        .filter(holds)
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Holder { pid, name: name.trim().to_owned() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let line =
            br"36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime master:1 - fuse.cdi /x\011y rw,errors=continue";
        let expect = MountInfo {
            device: "98:0".into(),
            mountpoint: "/mnt/a b\\c".into(),
            fstype: "fuse.cdi".into(),
            source: "/x\ty".into(),
        };
        assert_eq!(parse_mountinfo(line), Some(expect));
        assert_eq!(parse_mountinfo(b""), None);
        assert_eq!(parse_mountinfo(b"1 2 3"), None);
    }
}
