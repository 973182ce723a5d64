//! What the app does with an image that is opened in the Finder: `cdi attach --mount`, then the volumes that have appeared
//! are shown. Closing is ejecting them: the system then ejects the disk, and the process that serves it ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What became of an image that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// The mount points of its volumes.
    Volumes(Vec<PathBuf>),
    /// It is attached as this device, but the system has mounted nothing.
    Device(String),
}

/// How long to wait for volumes after hdiutil has attached the disk. It waits for them itself; those of an APFS container
/// may come a moment later.
const APPEARING: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(250);

/// The programs that are run.
#[derive(Debug, Clone)]
pub struct Programs {
    /// cdi.
    pub cdi: PathBuf,
    /// The system's list of mounts: mount(8).
    pub mount: PathBuf,
}

impl Programs {
    /// Returns the programs that belong to the app at this path: cdi is next to it.
    pub fn of(app: &Path) -> Programs {
        Programs { cdi: app.with_file_name("cdi"), mount: "/sbin/mount".into() }
    }

    /// Attaches an image, and lets the system mount the file systems on it. The error is a text for people.
    pub fn open(&self, image: &Path) -> Result<Opened, String> {
        let before = self.mounts();
        let mut cdi = Command::new(&self.cdi);
        cdi.args(["attach", "--mount", "--"]).arg(image).stdin(Stdio::null());
        let output = cdi.output().map_err(|e| format!("{}: {e}", self.cdi.display()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            // Opened before: its volumes are shown again.
            return match attached_as(&text) {
                Some(device) => Ok(self.shown(device)),
                None => Err(text),
            };
        }
        let start = Instant::now();
        loop {
            let volumes = appeared(&before, &self.mounts());
            if !volumes.is_empty() {
                return Ok(Opened::Volumes(volumes));
            }
            if start.elapsed() >= APPEARING {
                return Ok(Opened::Device(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
            }
            sleep(POLL);
        }
    }

    /// Returns the volumes of a device that are mounted. Those of an APFS container are on another one.
    fn shown(&self, device: &str) -> Opened {
        let of_device = |line: &&str| {
            let slice = line.strip_prefix(device).and_then(|rest| rest.strip_prefix(['s', ' ']));
            slice.is_some()
        };
        let mounts = self.mounts();
        let volumes: Vec<PathBuf> = mounts.lines().filter(of_device).filter_map(place).collect();
        if volumes.is_empty() { Opened::Device(device.to_owned()) } else { Opened::Volumes(volumes) }
    }

    fn mounts(&self) -> String {
        let listed = Command::new(&self.mount).stdin(Stdio::null()).output();
        listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }
}

/// Returns the mount points of the disks that are only in the second list of mounts, whose lines are
/// `/dev/disk4s1 on /Volumes/NAME (hfs, …)`.
fn appeared(before: &str, after: &str) -> Vec<PathBuf> {
    let is_new = |line: &&str| line.starts_with("/dev/disk") && !before.lines().any(|old| old == *line);
    after.lines().filter(is_new).filter_map(place).collect()
}

/// Returns the mount point in a line of the list of mounts.
fn place(line: &str) -> Option<PathBuf> {
    let (_, place) = line.split_once(" on ")?;
    Some(PathBuf::from(place.rsplit_once(" (")?.0))
}

/// Returns the device of an image that cdi does not attach again.
fn attached_as(error: &str) -> Option<&str> {
    let (_, rest) = error.split_once("already attached as ")?;
    rest.split_whitespace().next().filter(|device| device.starts_with("/dev/disk"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::testing::TempDir;
    use std::os::unix::fs::PermissionsExt;

    fn program(dir: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.0.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_volumes_of_an_image_are_those_that_appear() {
        let dir = TempDir::new();
        let list = dir.0.join("list");
        let old = "/dev/disk3s1s1 on / (apfs, sealed)\n127.0.0.1:/cdi-1/a on /Volumes/a (nfs)\n";
        std::fs::write(&list, old).unwrap();
        let mount = program(&dir, "mount", &format!("cat '{}'", list.display()));
        let cdi = program(
            &dir,
            "cdi",
            &format!(
                "[ \"$*\" = 'attach --mount -- /images/-old (1).cdimg' ] || {{ echo \"cdi: error: $*\" >&2; exit 1; }}\n\
                 echo '127.0.0.1:/cdi-2/b on /x (nfs, nobrowse)' >> '{0}'\n\
                 echo '/dev/disk4s1 on /Volumes/CDI DEMO (1) (msdos, read-only)' >> '{0}'\n\
                 echo '/dev/disk5s1 on /Volumes/Macintosh HD (apfs, read-only)' >> '{0}'\necho /dev/disk4",
                list.display()
            ),
        );
        let programs = Programs { cdi, mount };
        assert_eq!(
            programs.open(Path::new("/images/-old (1).cdimg")),
            Ok(Opened::Volumes(vec!["/Volumes/CDI DEMO (1)".into(), "/Volumes/Macintosh HD".into()]))
        );
        // Nothing appears, and it fails.
        let nothing = Programs { cdi: program(&dir, "other", "echo /dev/disk6"), ..programs.clone() };
        assert_eq!(nothing.open(Path::new("x")), Ok(Opened::Device("/dev/disk6".into())));
        assert_eq!(programs.open(Path::new("x")), Err("cdi: error: attach --mount -- x".into()));
        // It is attached already.
        let again = program(
            &dir,
            "again",
            "echo 'cdi: x: already attached as /dev/disk4' >&2\necho 'hint: …' >&2\nexit 5",
        );
        let again = Programs { cdi: again, ..programs.clone() };
        assert_eq!(again.open(Path::new("x")), Ok(Opened::Volumes(vec!["/Volumes/CDI DEMO (1)".into()])));
        let absent = Programs::of(&dir.0.join("Contents/MacOS/cdi-app"));
        assert!(absent.open(Path::new("x")).unwrap_err().contains("Contents/MacOS/cdi: "));
    }
}
