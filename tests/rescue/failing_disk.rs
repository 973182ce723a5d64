//! A simulated disk with bad sectors: nbdkit's ddrescue filter under nbdfuse and a loop device, with every read counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Lab, Need, Ran, blocks, disk, mapfile, run, wait_until};

pub const DISK: Need = Need::All(&[
    Need::Fuse,
    Need::Loop,
    Need::Program("nbdkit"),
    Need::Program("nbdfuse"),
    Need::Program("ddrescue"),
]);

pub const SECTORS: u64 = 32_768;
pub const BAD: [(u64, u64); 5] = [(0, 1), (5000, 1), (12_000, 600), (20_001, 7), (SECTORS - 1, 1)];

/// A block device with bad sectors, and a log of its reads.
pub struct FailingDisk {
    pub device: PathBuf,
    pub nbdkit: Child,
    pub nbdfuse: Child,
    pub mount: PathBuf,
    pub log: PathBuf,
}

impl FailingDisk {
    /// A disk of the bytes in `disk.raw` and the map in `failing.map`, with more filters before those.
    pub fn new(lab: &Lab, filters: &[&str], parameters: &[&str]) -> FailingDisk {
        let (socket, mount, log) = (lab.path("nbd.sock"), lab.path("nbd"), lab.path("reads.log"));
        fs::create_dir(&mount).unwrap();
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(["-f", "-U"]).arg(&socket).arg("--filter=log");
        nbdkit.args(filters.iter().map(|f| format!("--filter={f}"))).args(["--filter=ddrescue", "file"]);
        nbdkit
            .arg(lab.path("disk.raw"))
            .arg(format!("ddrescue-mapfile={}", lab.path("failing.map").display()));
        nbdkit.arg(format!("logfile={}", log.display())).args(parameters);
        let nbdkit = nbdkit.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("nbdkit listens", || socket.exists());
        let file = mount.join("disk");
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let nbdfuse = Command::new("nbdfuse").arg(&file).arg(uri).stderr(Stdio::null()).spawn().unwrap();
        wait_until("nbdfuse shows the disk", || fs::metadata(&file).is_ok_and(|m| m.len() > 0));
        let device = run("losetup", ["-f", "--show", "-r", "--direct-io=on", file.to_str().unwrap()]);
        FailingDisk { device: device.trim().into(), nbdkit, nbdfuse, mount, log }
    }

    pub fn path(&self) -> &str {
        self.device.to_str().unwrap()
    }

    /// Forgets the reads so far.
    pub fn forget(&self) -> usize {
        fs::read_to_string(&self.log).unwrap().len()
    }

    /// How often each sector was asked for since then.
    pub fn reads(&self, since: usize) -> BTreeMap<u64, u32> {
        let log = fs::read_to_string(&self.log).unwrap();
        let mut reads = BTreeMap::new();
        for line in log[since..].lines().filter(|l| l.contains(" Read id=")) {
            let number = |name: &str| {
                let word = line.split_whitespace().find_map(|w| w.strip_prefix(name)).unwrap();
                u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap()
            };
            let (at, len) = (number("offset="), number("count="));
            (at / 512..(at + len).div_ceil(512)).for_each(|s| *reads.entry(s).or_default() += 1);
        }
        reads
    }

    pub fn signal(&self, signal: &str) {
        run("kill", [signal.to_owned(), self.nbdkit.id().to_string()]);
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.nbdkit.id().to_string()]).status();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        let gone =
            || !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(self.mount.to_str().unwrap());
        for _ in 0..100 {
            if gone()
                || Command::new("umount")
                    .arg(&self.mount)
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|s| s.success())
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.nbdkit.kill();
        let _ = self.nbdkit.wait();
        let _ = self.nbdfuse.wait();
    }
}

/// `disk.raw` and the map of its bad sectors in a lab.
pub fn lab(bad: &[(u64, u64)]) -> (Lab, Vec<u8>) {
    let lab = Lab::new();
    let bytes = disk(SECTORS * 512);
    lab.write("disk.raw", &bytes);
    lab.write("failing.map", mapfile(SECTORS, 512, bad));
    (lab, bytes)
}

pub fn map_of(lab: &Lab, image: &str) -> Vec<(u64, u64, String)> {
    blocks(&lab.cdi(["map", "--export-mapfile", "-", image]).ends(0).out)
}

/// Every sector of the image is right, or is missing as the map says.
pub fn is_right(lab: &Lab, image: &str, truth: &[u8], bad: &[(u64, u64)]) {
    let missing: u64 = bad.iter().map(|(_, n)| n).sum();
    let _ = fs::remove_file(lab.path("x.raw"));
    let _ = fs::remove_file(lab.path("x.raw.map"));
    lab.cdi(["extract", image, "x.raw"]).ends(if missing > 0 { 4 } else { 0 });
    let got = lab.read("x.raw");
    assert_eq!(got.len(), truth.len());
    for (sector, (got, truth)) in got.chunks(512).zip(truth.chunks(512)).enumerate() {
        let is_bad = bad.iter().any(|(first, n)| (*first..first + n).contains(&(sector as u64)));
        assert!(is_bad || got == truth, "sector {sector} is wrong");
    }
    let finished: u64 = map_of(lab, image).iter().filter(|b| b.2 == "+").map(|b| b.1).sum();
    assert_eq!(finished, truth.len() as u64 - missing * 512);
    lab.cdi(["verify", image]).ends(0);
}

pub fn spawn(lab: &Lab, words: &[&str]) -> Child {
    lab.command().args(words).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

pub fn ended(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

pub fn open_alone(device: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::fcntl::OFlag::O_EXCL.bits();
    fs::File::options().read(true).custom_flags(flags).open(device).is_ok()
}
