//! What tests share: a folder of their own, the program, sample disks, and what they need.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A test: its name with its modules', what it needs, and what it does.
pub struct Test {
    pub name: &'static str,
    pub needs: &'static [Need],
    pub run: fn(),
}

/// Declares the tests of a module: functions without arguments, each with what it needs besides Rust and a C compiler.
/// The function's name is the test's.
///
/// ```ignore
/// tests!(
///     #[needs(Fuse, Program("ddrescue"))]
///     fn a_bad_sector_is_an_error() { … }
/// );
/// ```
///
/// The list that it makes, `TESTS`, is named in `main.rs`. The parentheses are for rustfmt, which leaves braces alone.
macro_rules! tests {
    ($($(#[doc = $doc:expr])* $(#[needs($($need:expr),+ $(,)?)])? fn $name:ident() $body:block)*) => {
        $($(#[doc = $doc])* fn $name() $body)*

        pub const TESTS: &[$crate::common::Test] = {
            #[allow(unused_imports)]
            use $crate::common::Need::*;
            &[$($crate::common::Test {
                name: concat!(module_path!(), "::", stringify!($name)),
                needs: &[$($($need),+)?],
                run: $name,
            }),*]
        };
    };
}

/// What a test needs that not every machine has.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// Several of them.
    All(&'static [Need]),
    /// /dev/fuse.
    Fuse,
    /// A /dev/fuse that every user may open, as udev makes it.
    FuseForAll,
    /// The right to make loop devices.
    Loop,
    /// A program on the path.
    Program(&'static str),
    /// A C library's header.
    Header(&'static str),
    /// Samples beside the project that are not part of it.
    Corpus,
}

impl Need {
    /// Returns the names of what is missing here.
    pub fn missing(self) -> Vec<&'static str> {
        match self {
            Need::All(needs) => needs.iter().flat_map(|need| need.missing()).collect(),
            one if one.is_there() => Vec::new(),
            one => vec![one.name()],
        }
    }

    pub fn is_there(self) -> bool {
        match self {
            Need::All(needs) => needs.iter().all(|need| need.is_there()),
            Need::Fuse => fs::File::options().read(true).write(true).open("/dev/fuse").is_ok(),
            Need::FuseForAll => {
                fs::metadata("/dev/fuse").is_ok_and(|m| m.permissions().mode() & 0o006 == 0o006)
            }
            Need::Loop => {
                nix::unistd::geteuid().is_root()
                    && Path::new("/dev/loop-control").exists()
                    && on_path("losetup")
            }
            Need::Program(name) => on_path(name),
            Need::Header(name) => Path::new("/usr/include").join(name).is_file(),
            Need::Corpus => corpus().is_dir(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Need::All(_) => "several things",
            Need::Fuse => "/dev/fuse",
            Need::FuseForAll => "/dev/fuse open to all users (mode 0666)",
            Need::Loop => "loop devices (root)",
            Need::Program(name) | Need::Header(name) => name,
            Need::Corpus => "samples (CDI_CORPUS)",
        }
    }
}

/// Returns how many cases a campaign of `all` has in this run: all of them with CDI_LONG set, as in CI, else a tenth. With
/// CDI_SEED, that one alone.
pub fn seeds(all: u64) -> std::ops::Range<u64> {
    let only = std::env::var("CDI_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let is_long = std::env::var_os("CDI_LONG").is_some_and(|value| !value.is_empty());
    only.map_or(0..if is_long { all } else { all / 10 }, |n| n..n + 1)
}

/// Samples that are not part of the project: `CDI_CORPUS`, or a folder beside the project's.
pub fn corpus() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    std::env::var_os("CDI_CORPUS").map_or_else(beside, PathBuf::from)
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// A folder of a test's own, with a runtime folder for the program in it. Whatever is mounted or attached there is
/// taken away when the test ends, also by a panic.
pub struct Lab {
    pub dir: PathBuf,
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub fn ends(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in {}", self.out))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Lab {
    pub fn new() -> Lab {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cdi-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Lab { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The program, set up for this lab.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cdi"));
        command.env("CDI_RUNTIME_DIR", self.path("run")).current_dir(&self.dir);
        command
    }

    pub fn cdi<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.command().args(args).output().unwrap().into()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// A disk of `sectors` sectors, imaged with the bad `ranges` (first sector, sectors): `disk.raw`, `disk.map` and
    /// `disk.cdimg` in the lab. Gives the disk's bytes.
    pub fn image(&self, sectors: u64, sector: u64, ranges: &[(u64, u64)]) -> Vec<u8> {
        let disk = disk(sectors * sector);
        self.write("disk.raw", &disk);
        self.write("disk.map", mapfile(sectors, sector, ranges));
        let code = if ranges.is_empty() { 0 } else { 4 };
        let size = sector.to_string();
        self.cdi(["create", "disk.raw", "disk.cdimg", "--mapfile", "disk.map", "--sector-size", &size])
            .ends(code);
        disk
    }

    /// Attaches `disk.cdimg`. The device.
    pub fn attach(&self, options: &[&str]) -> PathBuf {
        let ran = self.cdi(["attach", "disk.cdimg"].iter().chain(options)).ends(0);
        PathBuf::from(ran.out.trim())
    }

    /// Whatever of this lab is mounted or attached.
    pub fn leftovers(&self) -> String {
        leftovers_below(&self.dir)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let records = fs::read_dir(self.path("run")).into_iter().flatten().flatten().map(|e| e.path());
        for record in records.filter(|p| p.extension().is_some_and(|x| x == "json")) {
            let text = fs::read(&record).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            if let Some(dir) = record["mountpoint"].as_str() {
                let _ = self.cdi(["unmount", "--force", dir]);
            }
        }
        // What other programs mounted here.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mountpoint in mounts.lines().rev().filter_map(|l| l.split(' ').nth(4)) {
            if Path::new(mountpoint).starts_with(&self.dir) {
                let _ = Command::new("umount").args(["-l", mountpoint]).status();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Mounts and loop devices of any test of this run.
pub fn leftovers() -> String {
    leftovers_below(
        &std::env::temp_dir().canonicalize().unwrap().join(format!("cdi-test-{}-", std::process::id())),
    )
}

fn leftovers_below(prefix: &Path) -> String {
    let prefix = prefix.to_str().unwrap();
    let mut left = String::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter(|l| l.contains(prefix)).for_each(|l| left += &format!("mount: {l}\n"));
    for block in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
        if file.starts_with(prefix) {
            left += &format!("{}: {file}", block.path().display());
        }
    }
    left
}

/// `cdi serve disk.cdimg`, ended with the test.
pub struct Server {
    pub child: Child,
    pub url: String,
}

impl Server {
    pub fn start(lab: &Lab, options: &[&str]) -> Server {
        Server::of(lab, &[&["disk.cdimg"], options].concat())
    }

    /// A server of what the words name.
    pub fn of(lab: &Lab, words: &[&str]) -> Server {
        let mut command = lab.command();
        command.args(["-q", "serve"]).args(words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut url)
            .unwrap();
        Server { child, url: url.trim().into() }
    }

    pub fn end(mut self) -> i32 {
        run("kill", ["-TERM".to_owned(), self.child.id().to_string()]);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Numbers that are random, and the same in every run with this seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A disk of which each 512 bytes are different and say where they are. A third is text, a third is noise, a third
/// is zeros behind its number.
pub fn disk(size: u64) -> Vec<u8> {
    let mut disk = vec![0; size as usize];
    for (lba, sector) in disk.chunks_mut(512).enumerate() {
        let mut random = Random::new(lba as u64 + 1);
        let head = format!("LBA {lba:012} ");
        let n = head.len().min(sector.len());
        sector[..n].copy_from_slice(&head.as_bytes()[..n]);
        match (lba / 97) % 3 {
            0 => sector[n..].iter_mut().for_each(|b| *b = b'a' + (random.next() % 4) as u8),
            1 => sector[n..].iter_mut().for_each(|b| *b = (random.next() >> 32) as u8),
            _ => {}
        }
    }
    disk
}

/// A ddrescue mapfile in which `ranges` (first sector, sectors) are bad.
pub fn mapfile(sectors: u64, sector: u64, ranges: &[(u64, u64)]) -> String {
    let mut text = "# made by a test\n0x0 + 1\n".to_owned();
    let mut at = 0;
    for &(first, count) in ranges {
        if first > at {
            text += &format!("{:#x} {:#x} +\n", at * sector, (first - at) * sector);
        }
        text += &format!("{:#x} {:#x} -\n", first * sector, count * sector);
        at = first + count;
    }
    if at < sectors {
        text += &format!("{:#x} {:#x} +\n", at * sector, (sectors - at) * sector);
    }
    text
}

/// The block lines of a mapfile, as numbers and letters; comments and the status line left out.
pub fn blocks(mapfile: &str) -> Vec<(u64, u64, String)> {
    let number = |t: &str| u64::from_str_radix(t.trim_start_matches("0x"), 16).unwrap();
    let lines = mapfile.lines().filter(|l| !l.starts_with('#')).skip(1);
    let words = lines.map(|l| l.split_whitespace().collect::<Vec<_>>());
    words.map(|w| (number(w[0]), number(w[1]), w[2].to_owned())).collect()
}

/// A file opened for reading without the page cache.
pub fn open_direct(path: &Path) -> fs::File {
    let flags = nix::fcntl::OFlag::O_DIRECT.bits();
    fs::File::options().read(true).custom_flags(flags).open(path).unwrap()
}

/// Memory whose middle is aligned as direct reads want it.
pub struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    pub fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + 4096];
        let from = bytes.as_ptr().align_offset(4096);
        Aligned { bytes, from, len }
    }

    pub fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

/// Waits until something is so, at most ten seconds.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The most memory that a process has had so far, in KiB.
pub fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs a program to its end and asserts that it went well. What it said on stdout.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let ran: Ran =
        Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}")).into();
    ran.ends(0).out
}

/// Six programs at once that read random runs of up to 128 sectors without the page cache: each gets the right bytes
/// where all of its sectors are good, and EIO where one is not.
pub fn six_random_readers(path: &Path, truth: &[u8], is_bad: fn(u64) -> bool) {
    let sectors = truth.len() as u64 / 512;
    std::thread::scope(|scope| {
        for reader in 0..6u64 {
            scope.spawn(move || {
                let file = open_direct(path);
                let random = &mut Random::new(reader + 1);
                let mut buf = Aligned::new(128 * 512);
                for _ in 0..1500 {
                    let first = random.below(sectors);
                    let count = 1 + random.below((sectors - first).min(128));
                    let buf = &mut buf.get()[..count as usize * 512];
                    let bad = (first..first + count).any(is_bad);
                    match file.read_at(buf, first * 512) {
                        Ok(n) => {
                            assert!(!bad, "a bad sector in {first}+{count} was read");
                            assert!(
                                n == buf.len() && *buf == truth[first as usize * 512..][..n],
                                "{first}+{count}"
                            );
                        }
                        Err(e) => assert!(bad && e.raw_os_error() == Some(5), "{first}+{count}: {e}"),
                    }
                }
            });
        }
    });
}
