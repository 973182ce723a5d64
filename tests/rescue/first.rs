//! Imaging by what file systems use, on simulated drives with a real NTFS and ext4.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cdi_base::error::{Error, Kind};
use cdi_capture::options::Options;
use cdi_capture::rescue::areas::Direction;
use cdi_capture::rescue::first::{FileCount, First, Order};
use cdi_capture::rescue::passes::RescuePlan;
use cdi_capture::rescue::source::Source;
use cdi_capture::rescue::{End, Ended, Limits, Task, Update, rescue};
use cdi_fs::pattern::Patterns;
use cdi_image::cdimg::writer::Writer;
use cdi_image::codec::Codec;
use cdi_image::input::{Input, ReadAt};
use cdi_image::metadata::Metadata;

use super::failing_disk::{self, FailingDisk, ended, map_of, open_alone, spawn};
use super::simulated::begin;
use crate::common::{Lab, Need, Random, mapfile, run, wait_until};

const DISK: Need =
    Need::All(&[Need::Fuse, Need::Program("mkntfs"), Need::Program("ntfs-3g"), Need::Program("debugfs")]);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;
const NTFS: Range<u64> = MIB..61 * MIB;
const EXT: Range<u64> = 61 * MIB..127 * MIB;

type Files = BTreeMap<String, Vec<u8>>;

/// A drive: what is bad, after how many bytes it dies, and what was read of it.
#[derive(Clone)]
struct Drive(Arc<Inside>);

struct Inside {
    bytes: Vec<u8>,
    /// Sectors.
    bad: BTreeSet<u64>,
    dies_after: u64,
    reads: Mutex<Reads>,
}

#[derive(Default)]
struct Reads {
    bytes: u64,
    /// From this number of bytes on, reads are slow.
    slow_from: Option<u64>,
    order: Vec<Range<u64>>,
    /// By bad sector.
    bad: BTreeMap<u64, u32>,
    /// How often each good sector was read.
    good: Vec<u8>,
}

impl Drive {
    fn new(bytes: &[u8], bad: impl IntoIterator<Item = u64>) -> Drive {
        Drive::dying(bytes, bad, u64::MAX)
    }

    fn dying(bytes: &[u8], bad: impl IntoIterator<Item = u64>, dies_after: u64) -> Drive {
        let reads = Reads { good: vec![0; bytes.len() / 512], ..Reads::default() };
        let bad = bad.into_iter().collect();
        Drive(Arc::new(Inside { bytes: bytes.to_vec(), bad, dies_after, reads: Mutex::new(reads) }))
    }

    fn order(&self) -> Vec<Range<u64>> {
        self.0.reads.lock().unwrap().order.clone()
    }

    /// Reads become slow after this many bytes more.
    fn slow_after(&self, bytes: Option<u64>) {
        let mut reads = self.0.reads.lock().unwrap();
        reads.slow_from = bytes.map(|bytes| reads.bytes + bytes);
    }

    /// How often a bad sector was read at most.
    fn most(&self) -> u32 {
        self.0.reads.lock().unwrap().bad.values().copied().max().unwrap_or(0)
    }

    /// How many good sectors were read more than once.
    fn twice(&self) -> usize {
        self.0.reads.lock().unwrap().good.iter().filter(|n| **n > 1).count()
    }
}

impl ReadAt for Drive {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut reads = self.0.reads.lock().unwrap();
        if reads.slow_from.is_some_and(|from| reads.bytes >= from) {
            std::thread::sleep(Duration::from_millis(25));
        }
        let end = (at + buf.len() as u64).min(SIZE);
        let sectors = at / 512..end.div_ceil(512);
        reads.order.push(at..end);
        let bad: Vec<u64> = self.0.bad.range(sectors.clone()).copied().collect();
        bad.iter().for_each(|sector| *reads.bad.entry(*sector).or_default() += 1);
        if !bad.is_empty() || reads.bytes >= self.0.dies_after {
            return Err(io::Error::from_raw_os_error(5));
        }
        for sector in sectors {
            let count = &mut reads.good[usize::try_from(sector).unwrap()];
            *count = count.saturating_add(1);
        }
        reads.bytes += end - at;
        let from = usize::try_from(at).unwrap();
        let len = usize::try_from(end - at).unwrap();
        buf[..len].copy_from_slice(&self.0.bytes[from..from + len]);
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.bytes.len() as u64)
    }
}

fn plan() -> RescuePlan {
    RescuePlan::whole(SIZE, 512)
}

fn order(first: &[First]) -> Order {
    Order { first: first.to_vec(), in_trouble_only: false, only: false }
}

fn used() -> Order {
    order(&[First::Metadata, First::Used])
}

fn pattern(text: &str) -> First {
    First::Files { name: text.into(), patterns: Patterns::parse([text]).unwrap() }
}

/// Images a drive, or resumes an image of it. Calls `watch` with the number of bytes that were read in this run.
fn image(
    lab: &Lab,
    name: &str,
    drive: &Drive,
    (plan, order): (RescuePlan, Order),
    watch: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Ended, Error> {
    let path = lab.path(name);
    let path = Path::new(&path);
    let disk = lab.path("disk.raw");
    let source = Arc::new(Source::simulated(Box::new(drive.clone()), &disk, 512).unwrap());
    let writer = if path.exists() {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let input = Arc::new(Input::new(Box::new(file.try_clone().unwrap()), path).unwrap());
        Writer::resume(Box::new(file), &input, path).unwrap().0
    } else {
        let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        begin(file, path, SIZE)
    };
    let options = Options {
        codec: Codec::Stored,
        level: 0,
        chunk: 32 << 10,
        physical_sector: None,
        metadata: Metadata::default(),
        threads: 2,
        hash: false,
        hashes: Vec::new(),
        command: Vec::new(),
        reproducible: None,
    };
    let task = Task { plan, order, limits: Limits::default(), live: None, notes: None };
    rescue(&source, writer, path, &options, task, &mut |update| match update {
        Update::Reading(view) => watch(view.read),
        Update::Hashing(_) => Ok(()),
    })
}

fn whole(lab: &Lab, name: &str, drive: &Drive, order: Order) -> Ended {
    image(lab, name, drive, (plan(), order), &mut |_| Ok(())).unwrap()
}

/// A disk with an NTFS and an ext4, `disk.raw`; and the files of both.
fn disk(lab: &Lab) -> (Vec<u8>, [Files; 2]) {
    let files = [(12 * MIB, "n"), (26 * MIB, "e")].map(|(total, dir)| {
        let mut random = Random::new(total);
        let mut files = Files::new();
        let mut size = 0;
        while size < total {
            let n = files.len();
            let ending = if n.is_multiple_of(3) { "jpg" } else { "txt" };
            let path = format!("d{}/s{}/f{n}.{ending}", n % 5, n % 23);
            let len = 1 + random.below(300_000);
            let content: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
            let file = lab.path(dir).join(&path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, &content).unwrap();
            size += content.len() as u64;
            files.insert(path, content);
        }
        files
    });
    let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    for (name, part) in [("p1", NTFS), ("p2", EXT)] {
        fs::File::create(lab.path(name)).unwrap().set_len(part.end - part.start).unwrap();
    }
    run("mkntfs", ["-q", "-F", "-p", "2048", &path("p1")]);
    ntfs(lab, "p1", |dir| {
        run("cp", ["-r", &path("n/."), dir]);
    });
    run("mke2fs", ["-q", "-t", "ext4", "-d", &path("e"), &path("p2")]);
    let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
    let mut put = |at: u64, what: &[u8]| {
        let at = usize::try_from(at).unwrap();
        bytes[at..at + what.len()].copy_from_slice(what);
    };
    put(NTFS.start, &lab.read("p1"));
    put(EXT.start, &lab.read("p2"));
    for (n, (kind, part)) in [(7, NTFS), (0x83, EXT)].into_iter().enumerate() {
        let number = |bytes: u64| u32::try_from(bytes / 512).unwrap().to_le_bytes();
        let entry =
            [[0, 0, 0, 0], [kind, 0, 0, 0], number(part.start), number(part.end - part.start)].concat();
        put(446 + 16 * n as u64, &entry);
    }
    put(510, &[0x55, 0xAA]);
    lab.write("disk.raw", &bytes);
    (bytes, files)
}

/// Mounts an NTFS.
fn ntfs(lab: &Lab, file: &str, then: impl FnOnce(&str)) {
    let dir = lab.path("mnt");
    fs::create_dir_all(&dir).unwrap();
    let dir = dir.to_str().unwrap();
    let file = lab.path(file);
    if Command::new("ntfs-3g").arg(file).arg(dir).output().unwrap().status.success() {
        then(dir);
        run("umount", [dir]);
    }
}

/// Returns the bytes of files that are in an image as they were, as other programs see them: of those whose names end with
/// `ending`; and how many there were.
fn rescued(lab: &Lab, name: &str, files: &[Files; 2], ending: &str) -> (u64, u64) {
    let _ = fs::remove_file(lab.path("x.raw"));
    let _ = fs::remove_file(lab.path("x.raw.map"));
    lab.cdi(["extract", name, "x.raw"]);
    let raw = lab.read("x.raw");
    let part = |r: &Range<u64>| &raw[usize::try_from(r.start).unwrap()..usize::try_from(r.end).unwrap()];
    lab.write("x1", part(&NTFS));
    lab.write("x2", part(&EXT));
    let same = |dir: &Path, files: &Files| -> u64 {
        let equal = |(path, content): &(&String, &Vec<u8>)| {
            path.ends_with(ending) && fs::read(dir.join(path)).is_ok_and(|got| got == **content)
        };
        files.iter().filter(equal).map(|(_, content)| content.len() as u64).sum()
    };
    let mut found = 0;
    ntfs(lab, "x1", |dir| found += same(Path::new(dir), &files[0]));
    let out = lab.path("dump");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).unwrap();
    let dump = format!("rdump / {}", out.display());
    Command::new("debugfs").args(["-R", &dump]).arg(lab.path("x2")).output().unwrap();
    found += same(&out, &files[1]);
    let all = files.iter().flatten().filter(|(path, _)| path.ends_with(ending));
    (found, all.map(|(_, content)| content.len() as u64).sum())
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "stopped")
}

/// Where metadata of the NTFS, its boot sector, records and directories, and of the ext4 is bad, in sectors of the disk.
fn bad_metadata(bytes: &[u8]) -> Vec<u64> {
    let ntfs = NTFS.start / 512;
    let boot = &bytes[usize::try_from(NTFS.start).unwrap()..][..512];
    let mft = u64::from_le_bytes(boot[48..56].try_into().unwrap()) * u64::from(boot[13]);
    let mut bad: Vec<u64> = vec![ntfs];
    // 12 KiB of records, a whole cluster of reads around the ext4's first inodes, and its first superblock.
    bad.extend(ntfs + mft + 300..ntfs + mft + 324);
    bad.extend(EXT.start / 512 + 2..EXT.start / 512 + 4);
    bad.extend((EXT.start / 512 + 700..EXT.start / 512 + 1000).step_by(7));
    bad
}

tests!(
    #[needs(DISK)]
    fn of_a_disk_that_dies_the_files_are_there() {
        let lab = Lab::new();
        let (bytes, files) = disk(&lab);
        let dies = SIZE * 45 / 100;
        let ended = whole(&lab, "first.cdimg", &Drive::dying(&bytes, [], dies), used());
        assert!(matches!(ended.end, End::Dead), "{:?}", ended.end);
        let (found, all) = rescued(&lab, "first.cdimg", &files, "");
        assert_eq!(found, all, "all of the files");
        assert!(ended.view.stages.iter().all(|stage| stage.left == 0), "{:?}", ended.view.stages);
        let (known, names) = (ended.view.files.unwrap(), files.iter().flatten().count() as u64);
        assert_eq!((known.whole, known.known, known.unreadable_records), (names, names, 0));
        whole(&lab, "order.cdimg", &Drive::dying(&bytes, [], dies), Order::default());
        let (found, all) = rescued(&lab, "order.cdimg", &files, "");
        assert!(found < all / 2, "{found} of {all}");
        // Left alone, the first error is enough: here after 8 MiB.
        let drive = Drive::dying(&bytes, [16_384], dies);
        let ended = whole(&lab, "auto.cdimg", &drive, Order::automatic());
        assert_eq!(ended.view.stages.len(), 2);
        let (found, all) = rescued(&lab, "auto.cdimg", &files, "");
        assert!(found >= all * 95 / 100, "{found} of {all}");
    }

    #[needs(DISK)]
    fn files_of_a_pattern_are_read_before_others() {
        let lab = Lab::new();
        let (bytes, files) = disk(&lab);
        let jpg: u64 =
            files.iter().flatten().filter(|f| f.0.ends_with("jpg")).map(|f| f.1.len() as u64).sum();
        // Metadata, clusters' ends, and no more than that.
        let drive = Drive::dying(&bytes, [], jpg + 4 * MIB);
        whole(&lab, "a.cdimg", &drive, order(&[pattern("*.jpg"), First::Used]));
        let (found, all) = rescued(&lab, "a.cdimg", &files, "jpg");
        assert_eq!((found, all), (jpg, jpg));
        let (found, all) = rescued(&lab, "a.cdimg", &files, "txt");
        assert!(found < all / 2, "{found} of {all}");
    }

    #[needs(DISK)]
    fn no_bad_sector_is_read_more_often_and_the_result_is_the_same() {
        let lab = Lab::new();
        let (bytes, files) = disk(&lab);
        let names = files.iter().flatten().count() as u64;
        for seed in 0..6 {
            let mut random = Random::new(seed + 1);
            let mut bad = if seed.is_multiple_of(2) { bad_metadata(&bytes) } else { Vec::new() };
            for _ in 0..random.below(12) {
                let (start, len) = (random.below(SIZE / 512), [1, 9, 300][random.below(3) as usize]);
                bad.extend(start..(start + len).min(SIZE / 512));
            }
            let direction = if seed == 3 { Direction::Backwards } else { Direction::Forwards };
            let plan = RescuePlan { direction, ..plan() };
            let mut maps = Vec::new();
            let first =
                [Order::default(), used(), Order::automatic(), order(&[pattern("d1"), First::Metadata])];
            for (n, order) in first.into_iter().enumerate() {
                let (name, drive) = (format!("{seed}.{n}.cdimg"), Drive::new(&bytes, bad.iter().copied()));
                let ended = image(&lab, &name, &drive, (plan.clone(), order), &mut |_| Ok(())).unwrap();
                assert!(matches!(ended.end, End::Finished), "{:?}", ended.end);
                assert!(drive.most() <= 2, "seed {seed}, order {n}: {} reads", drive.most());
                // Good sectors that are read again show that the drive works, or are next to bad ones.
                maps.push((map_of(&lab, &name), drive.twice()));
                if n == 1 && seed.is_multiple_of(2) {
                    // Records are unreadable where the metadata is bad; what is in them is not known.
                    let FileCount { known, unreadable_records, .. } = ended.view.files.unwrap();
                    assert!(known <= names && known >= names - 24, "{known} of {names} files");
                    assert!(known + unreadable_records >= names, "{known} + {unreadable_records} of {names}");
                }
            }
            let sectors = |map: &[(u64, u64, String)]| -> Vec<(u64, u64)> {
                map.iter().filter(|b| b.2 != "+").map(|b| (b.0, b.1)).collect()
            };
            for (map, twice) in &maps {
                assert_eq!(sectors(map), sectors(&maps[0].0), "seed {seed}");
                assert!(
                    *twice <= maps[0].1 + maps[0].1 / 10 + 200,
                    "seed {seed}: {twice}, not {}",
                    maps[0].1
                );
            }
            lab.cdi(["verify", &format!("{seed}.1.cdimg")]).ends(0);
        }
    }

    #[needs(DISK)]
    fn stopped_and_killed_in_every_stage_it_is_resumed() {
        let lab = Lab::new();
        let (bytes, _) = disk(&lab);
        let bad = bad_metadata(&bytes);
        let drive = Drive::new(&bytes, bad.iter().copied());
        whole(&lab, "whole.cdimg", &drive, used());
        let goal = map_of(&lab, "whole.cdimg");
        // Bytes that are read before it is stopped: in the metadata, in what is used, and in the rest.
        for stops in [vec![100_000, 300_000, 700_000, 5 * MIB], vec![1_200_000, 20 * MIB, 30 * MIB, 40 * MIB]]
        {
            for kill in [false, true] {
                let name = format!("{}.{kill}.cdimg", stops[0]);
                let drive = Drive::new(&bytes, bad.iter().copied());
                for stop in &stops {
                    let mut copied = false;
                    drive.slow_after(Some(*stop));
                    let ended = image(&lab, &name, &drive, (plan(), used()), &mut |read| {
                        if read < *stop {
                            return Ok(());
                        }
                        if kill && !copied {
                            // What is in the file now is what a kill would leave.
                            fs::copy(lab.path(&name), lab.path("killed")).unwrap();
                            copied = true;
                        }
                        Err(stopped())
                    });
                    let ended = ended.unwrap();
                    assert!(matches!(ended.end, End::Stopped), "{:?}", ended.end);
                    if copied {
                        fs::rename(lab.path("killed"), lab.path(&name)).unwrap();
                    }
                }
                drive.slow_after(None);
                let ended = whole(&lab, &name, &drive, used());
                assert!(matches!(ended.end, End::Finished), "{:?}", ended.end);
                let states = |map: &[(u64, u64, String)]| {
                    map.iter().filter(|b| b.2 != "+").map(|b| (b.0, b.1)).collect::<Vec<_>>()
                };
                assert_eq!(states(&map_of(&lab, &name)), states(&goal), "{name}");
                let most = if kill { 2 + 4 } else { 2 };
                assert!(drive.most() <= most, "{name}: {} reads", drive.most());
                lab.cdi(["verify", &name]).ends(0);
                lab.cdi(["extract", &name, "y.raw", "--force"]).ends(4);
                let got = lab.read("y.raw");
                for (n, (got, right)) in got.chunks(512).zip(bytes.chunks(512)).enumerate() {
                    assert!(bad.contains(&(n as u64)) || got == right, "{name}: sector {n}");
                }
            }
        }
    }

    #[needs(DISK)]
    fn a_healthy_disk_and_one_without_file_systems_are_read_in_order() {
        let lab = Lab::new();
        let (bytes, _) = disk(&lab);
        let reads = |bytes: &[u8], bad: &[u64], name: &str, order: Order| {
            let drive = Drive::new(bytes, bad.iter().copied());
            whole(&lab, name, &drive, order);
            drive.order()
        };
        assert_eq!(reads(&bytes, &[], "a", Order::automatic()), reads(&bytes, &[], "b", Order::default()));
        // Random bytes with bad sectors: a few places are asked for that could show a file system.
        let mut random = Random::new(5);
        let noise: Vec<u8> = (0..SIZE / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        let bad = [40_000, 40_003, 100_000];
        let (auto, plain) =
            (reads(&noise, &bad, "c", Order::automatic()), reads(&noise, &bad, "d", Order::default()));
        assert!(auto.len() <= plain.len() + 8, "{} and {} reads", auto.len(), plain.len());
        let other = auto.iter().filter(|read| !plain.contains(read)).count();
        assert!(other <= 8, "{other} reads are others");
        // What is left of the order is the same.
        let back = |reads: &[Range<u64>]| reads.windows(2).filter(|w| w[0].start > w[1].start).count();
        assert!(back(&auto) <= back(&plain) + 4, "{} and {} times backwards", back(&auto), back(&plain));
    }

    #[needs(DISK)]
    fn metadata_that_makes_no_sense_changes_only_the_order() {
        let lab = Lab::new();
        let (bytes, _) = disk(&lab);
        for seed in 0..12 {
            let mut random = Random::new(seed + 100);
            let mut bytes = bytes.clone();
            // Where boot sectors, tables of records, bitmaps and directories are: where the first bytes of each volume are used.
            for _ in 0..[20, 400, 8000][seed as usize % 3] {
                let start = [0, NTFS.start, NTFS.start + 4 * MIB, EXT.start][random.below(4) as usize];
                let at = usize::try_from(start + random.below(2 * MIB)).unwrap();
                bytes[at] = [0xFF, 0, bytes[at] ^ 1, bytes[at].wrapping_add(1)][random.below(4) as usize];
            }
            let name = format!("{seed}.cdimg");
            let drive = Drive::new(&bytes, [seed * 1000]);
            let order = order(&[pattern("*.jpg"), First::Used]);
            let ended = whole(&lab, &name, &drive, order);
            assert!(matches!(ended.end, End::Finished), "{:?}", ended.end);
            assert_eq!(ended.made.missing_bytes, 512);
            assert!(drive.twice() < 1000, "{} sectors were read twice", drive.twice());
        }
    }

    #[needs(DISK)]
    fn the_order_stays_in_the_domain() {
        let lab = Lab::new();
        let (bytes, _) = disk(&lab);
        let domain = vec![0..3 * MIB, 10 * MIB..40 * MIB, 61 * MIB..80 * MIB];
        let drive = Drive::new(&bytes, []);
        let plan = RescuePlan { domain: domain.clone(), ..plan() };
        image(&lab, "a.cdimg", &drive, (plan, used()), &mut |_| Ok(())).unwrap();
        let inside = |read: &Range<u64>| domain.iter().any(|d| d.start <= read.start && read.end <= d.end);
        assert!(drive.order().iter().all(inside));
        let missing: u64 = map_of(&lab, "a.cdimg").iter().filter(|b| b.2 != "+").map(|b| b.1).sum();
        assert_eq!(missing, SIZE - domain.iter().map(|d| d.end - d.start).sum::<u64>());
        assert_eq!(drive.twice(), 0);
    }

    #[needs(DISK)]
    fn only_what_is_used_is_read_if_that_is_asked_for() {
        let lab = Lab::new();
        let (bytes, files) = disk(&lab);
        let ran = lab.cdi(["create", "disk.raw", "a.cdimg", "--only", "used"]).ends(4);
        assert!(ran.err.contains("were left out (--only used"), "{}", ran.err);
        assert!(ran.err.contains("--resume") && !ran.err.contains("missing outside"), "{}", ran.err);
        let (found, all) = rescued(&lab, "a.cdimg", &files, "");
        assert_eq!(found, all);
        let left: u64 = map_of(&lab, "a.cdimg").iter().filter(|b| b.2 != "+").map(|b| b.1).sum();
        assert!(left > SIZE / 2 && left < SIZE - all, "{left}");
        let ran = lab.cdi(["create", "disk.raw", "a.cdimg", "--resume", "--only", "used", "--json"]).ends(4);
        assert_eq!((&ran.json()["read_bytes"], &ran.json()["left_out_bytes"]), (&0.into(), &left.into()));
        // Without it, the rest is read.
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        lab.cdi(["extract", "a.cdimg", "y.raw"]).ends(0);
        assert!(lab.read("y.raw") == bytes);
        // Only some files.
        let ran = lab.cdi(["create", "disk.raw", "c.cdimg", "--only", "*.jpg", "--only", "nothing*"]).ends(4);
        assert!(
            ran.err.contains("no file matches 'nothing*'") && !ran.err.contains("'*.jpg'"),
            "{}",
            ran.err
        );
        for (ending, whole) in [("jpg", true), ("txt", false)] {
            let pattern = format!("*.{ending}");
            let list = lab.cdi(["files", "--json", "--all", "c.cdimg", &pattern]).ends(4).json();
            let listed = list["files"].as_array().unwrap();
            let count = files.iter().flatten().filter(|(path, _)| path.ends_with(ending)).count();
            assert_eq!(listed.len(), count, "{ending}");
            let wholes = listed.iter().filter(|file| file["state"] == "whole").count();
            assert!(if whole { wholes == count } else { wholes < count / 4 }, "{wholes} of {count} {ending}");
        }
        // What was read for which reason is in the image.
        let events = lab.cdi(["info", "--events", "--json", "a.cdimg"]).ends(0).json();
        let stages: Vec<_> =
            events["events"].as_array().unwrap().iter().filter(|e| e["event"] == "stage").collect();
        assert!(stages.len() >= 3 && stages.last().unwrap()["stage"] == "used", "{stages:?}");
        // Wrong words are refused.
        for words in [&["--first", "a["][..], &["--first", ""], &["--in-order", "--first", "used"]] {
            lab.cdi([&["create", "disk.raw", "b.cdimg"], words].concat()).ends(2);
        }
    }

    #[needs(DISK, failing_disk::DISK)]
    fn a_failing_device_is_read_by_what_is_used_although_it_is_killed() {
        let lab = Lab::new();
        let (bytes, files) = disk(&lab);
        let bad = bad_metadata(&bytes);
        let listed: Vec<(u64, u64)> = bad.iter().map(|sector| (*sector, 1)).collect();
        lab.write("failing.map", mapfile(SIZE / 512, 512, &listed));
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=1ms"]);
        // Left alone, its first error changes the order: events and summary say so.
        let ran = lab.cdi(["create", disk.path(), "auto.cdimg", "--json"]).ends(4);
        let json = ran.json();
        let names: Vec<_> = json["stages"].as_array().unwrap().iter().map(|s| s["stage"].clone()).collect();
        assert_eq!(names, ["metadata", "used"]);
        let known = json["files"]["known"].as_u64().unwrap();
        assert!(known >= files.iter().flatten().count() as u64 - 24, "{known} files");
        let ran = lab.cdi(["create", disk.path(), "order.cdimg", "--json", "--in-order"]).ends(4).json();
        assert_eq!((&ran["stages"], &ran["files"]), (&serde_json::json!([]), &serde_json::Value::Null));
        let goal = map_of(&lab, "order.cdimg");
        assert_eq!(map_of(&lab, "auto.cdimg"), goal);
        // Killed again and again.
        let since = disk.forget();
        let mut words = vec!["create", disk.path(), "a.cdimg", "--first", "metadata,used"];
        let mut kills = 0;
        loop {
            let mut child = spawn(&lab, &words);
            std::thread::sleep(Duration::from_millis(400 + 100 * u64::from(kills)));
            if let Some(status) = child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(4), "{}", ended(child).err);
                break;
            }
            kills += 1;
            let pid = child.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let _ = Command::new("kill").args(["-KILL", child]).stderr(Stdio::null()).status();
            }
            let _ = child.kill();
            child.wait().unwrap();
            wait_until("the disk is free", || open_alone(&disk.device));
            if lab.path("a.cdimg").exists() && words.len() == 5 {
                words.push("--resume");
            }
        }
        assert!(kills > 1, "it was killed {kills} times only");
        assert_eq!(map_of(&lab, "a.cdimg"), goal);
        let reads = disk.reads(since);
        let most = bad.iter().filter_map(|sector| reads.get(sector)).max().copied().unwrap_or(0);
        assert!(most <= 2 + kills, "a bad sector was read {most} times with {kills} kills");
        lab.cdi(["verify", "a.cdimg"]).ends(0);
    }
);
