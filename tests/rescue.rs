//! Disks that fail, imaged: a simulated one (nbdkit's ddrescue filter behind nbdfuse and a loop device) beside
//! ddrescue itself, with every read counted; disks that hang, die, come and go; a program that is killed, and a disk
//! that is full.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cdi_capture::rescue::areas::Direction;
use cdi_capture::rescue::passes::{CLUSTER, Next, Outcome, Passes, RescuePlan};
use cdi_image::badmap::{BadBlocks, BadRange, Reason, Status};

use crate::common::{
    Lab, MountedDisk, Need, Ran, Random, blocks, disk, mapfile, open_direct, run, wait_until,
};

const DISK: Need = Need::All(&[
    Need::Fuse,
    Need::Loop,
    Need::Program("nbdkit"),
    Need::Program("nbdfuse"),
    Need::Program("ddrescue"),
]);
const SECTORS: u64 = 32_768;
const BAD: [(u64, u64); 5] = [(0, 1), (5000, 1), (12_000, 600), (20_001, 7), (SECTORS - 1, 1)];

/// A block device with bad sectors, and what is read of it.
struct FailingDisk {
    device: PathBuf,
    nbdkit: Child,
    nbdfuse: Child,
    mount: PathBuf,
    log: PathBuf,
}

impl FailingDisk {
    /// A disk of the bytes in `disk.raw` and the map in `failing.map`, with more filters before those.
    fn new(lab: &Lab, filters: &[&str], parameters: &[&str]) -> FailingDisk {
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

    fn path(&self) -> &str {
        self.device.to_str().unwrap()
    }

    /// Forgets the reads so far.
    fn forget(&self) -> usize {
        fs::read_to_string(&self.log).unwrap().len()
    }

    /// How often each sector was asked for since then.
    fn reads(&self, since: usize) -> BTreeMap<u64, u32> {
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

    fn signal(&self, signal: &str) {
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
fn lab(bad: &[(u64, u64)]) -> (Lab, Vec<u8>) {
    let lab = Lab::new();
    let bytes = disk(SECTORS * 512);
    lab.write("disk.raw", &bytes);
    lab.write("failing.map", mapfile(SECTORS, 512, bad));
    (lab, bytes)
}

fn map_of(lab: &Lab, image: &str) -> Vec<(u64, u64, String)> {
    blocks(&lab.cdi(["map", "--export-mapfile", "-", image]).ends(0).out)
}

/// Every sector of the image is right, or is missing as the map says.
fn is_right(lab: &Lab, image: &str, truth: &[u8], bad: &[(u64, u64)]) {
    let missing: u64 = bad.iter().map(|(_, n)| n).sum();
    let _ = fs::remove_file(lab.path("x.raw"));
    let _ = fs::remove_file(lab.path("x.raw.map"));
    lab.cdi(["extract", image, "x.raw"]).ends(if missing > 0 { 4 } else { 0 });
    let got = fs::read(lab.path("x.raw")).unwrap();
    assert_eq!(got.len(), truth.len());
    for (sector, (got, truth)) in got.chunks(512).zip(truth.chunks(512)).enumerate() {
        let is_bad = bad.iter().any(|(first, n)| (*first..first + n).contains(&(sector as u64)));
        assert!(is_bad || got == truth, "sector {sector} is wrong");
    }
    let finished: u64 = map_of(lab, image).iter().filter(|b| b.2 == "+").map(|b| b.1).sum();
    assert_eq!(finished, truth.len() as u64 - missing * 512);
    lab.cdi(["verify", image]).ends(0);
}

tests!(
    #[needs(DISK)]
    fn the_same_bytes_and_map_as_ddrescue() {
        let (lab, truth) = lab(&BAD);
        let disk = FailingDisk::new(&lab, &[], &[]);
        let since = disk.forget();
        let ran = lab.cdi(["create", disk.path(), "a.cdimg", "--json"]).ends(4).json();
        let reads = disk.reads(since);
        assert_eq!(ran["ended"], "finished");
        assert_eq!(ran["missing_bytes"], 610 * 512);
        // Errors ask for known sectors now and then: those are good ones, and few.
        for (first, count) in BAD {
            for sector in first..first + count {
                assert!(
                    (1..=2).contains(&reads[&sector]),
                    "sector {sector} was read {} times",
                    reads[&sector]
                );
            }
        }
        assert!(reads.len() as u64 == SECTORS && reads.values().filter(|n| **n > 2).count() < 200);
        run(
            "ddrescue",
            [
                "-q",
                "-d",
                "-b512",
                disk.path(),
                lab.path("dd.raw").to_str().unwrap(),
                lab.path("dd.map").to_str().unwrap(),
            ],
        );
        assert_eq!(map_of(&lab, "a.cdimg"), blocks(&fs::read_to_string(lab.path("dd.map")).unwrap()));
        is_right(&lab, "a.cdimg", &truth, &BAD);
        // Why they are bad, and how often they were tried.
        let bad = lab.cdi(["map", "--bad", "--json", "a.cdimg"]).ends(0).json();
        for range in bad["ranges"].as_array().unwrap() {
            assert_eq!(
                (&range["status"], &range["reason"]["errno"], &range["tries"]),
                (&"bad-sector".into(), &5.into(), &2.into())
            );
        }
        // The same from behind, without trimming and scraping, and with retries.
        lab.cdi(["create", disk.path(), "b.cdimg", "--reverse"]).ends(4);
        assert_eq!(map_of(&lab, "b.cdimg"), map_of(&lab, "a.cdimg"));
        lab.cdi(["create", disk.path(), "c.cdimg", "--no-trim"]).ends(4);
        assert!(map_of(&lab, "c.cdimg").iter().all(|b| b.2 == "+" || b.2 == "*"));
        lab.cdi(["create", disk.path(), "c.cdimg", "--resume", "--no-scrape"]).ends(4);
        assert!(map_of(&lab, "c.cdimg").iter().any(|b| b.2 == "/"));
        let since = disk.forget();
        lab.cdi(["create", disk.path(), "c.cdimg", "--resume", "--retry-passes", "2"]).ends(4);
        assert_eq!(map_of(&lab, "c.cdimg"), map_of(&lab, "a.cdimg"));
        assert!(disk.reads(since)[&12_300] == 3, "scraped once and retried twice");
        is_right(&lab, "c.cdimg", &truth, &BAD);
        // What happened is in the image.
        let events = lab.cdi(["info", "--events", "--json", "c.cdimg"]).ends(0).json();
        let named =
            |name: &str| events["events"].as_array().unwrap().iter().filter(|e| e["event"] == name).count();
        assert_eq!((named("begun"), named("resumed"), named("ended")), (1, 2, 3));
        assert!(named("read-error") > 600 && named("pass") > 5);
        // A mapfile that ddrescue has written is gone on with by ddrescue after us, too.
        lab.cdi(["map", "--export-mapfile", "ours.map", "c.cdimg"]).ends(0);
        run("ddrescuelog", ["-t", lab.path("ours.map").to_str().unwrap()]);
        // Made small again, it is the same.
        let before = map_of(&lab, "c.cdimg");
        lab.cdi(["compact", "c.cdimg"]).ends(0);
        assert_eq!(map_of(&lab, "c.cdimg"), before);
        is_right(&lab, "c.cdimg", &truth, &BAD);
    }

    /// The passes beside ddrescue's own, on disks that it simulates from a map (`-H`): the same map at the end, and no more
    /// reads, failed or not, but for where our skips end on a cluster's border and its do not.
    #[needs(Program("ddrescue"))]
    fn the_same_passes_as_ddrescue() {
        let lab = Lab::new();
        let sectors = 131_072u64;
        fs::File::create(lab.path("in.raw")).unwrap().set_len(sectors * 512).unwrap();
        for seed in 0..12 {
            let random = &mut Random::new(seed);
            let (mut at, mut bad) = (0, Vec::new());
            while at < sectors {
                let first = at + random.below(40_000);
                let count = [1, 2, 9, 300, 5000][random.below(5) as usize];
                if first + count > sectors {
                    break;
                }
                bad.push((first, count));
                at = first + count + 1;
            }
            lab.write("disk.map", mapfile(sectors, 512, &bad));
            for name in ["out.raw", "out.map", "reads.log"] {
                let _ = fs::remove_file(lab.path(name));
            }
            let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
            let (log, map) = (path("reads.log"), path("out.map"));
            let options = ["-q".to_owned(), "-H".into(), path("disk.map"), format!("--log-reads={log}")];
            run("ddrescue", options.into_iter().chain([path("in.raw"), path("out.raw"), map.clone()]));
            let log = fs::read_to_string(log).unwrap();
            let read = |l: &str| {
                let words: Vec<&str> = l.split_whitespace().collect();
                let size: u64 = words[1].parse().unwrap();
                (u64::from_str_radix(&words[0][2..], 16).unwrap(), size, words[3] != "0")
            };
            let theirs: Vec<_> = log.lines().filter(|l| l.starts_with("0x")).map(read).collect();

            let plan = RescuePlan {
                size: sectors * 512,
                sector: 512,
                unit: 512,
                cluster: CLUSTER,
                most: CLUSTER,
                domain: std::iter::once(0..sectors * 512).collect(),
                trim: true,
                scrape: true,
                retries: Some(0),
                direction: Direction::Forwards,
                least_rate: None,
            };
            let all = BadBlocks::from_unsorted([BadRange::new(0..sectors * 512, Status::NonTried)]);
            let mut passes = Passes::new(plan, &all);
            let mut ours = Vec::new();
            while let Next::Read(read) = passes.next_read() {
                let (first, end) = (read.range.start / 512, read.range.end / 512);
                let hit = bad.iter().find(|(b, n)| *b < end && b + n > first);
                let good = if hit.is_some() { 0 } else { read.range.end - read.range.start };
                if !read.check {
                    ours.push((read.range.start, read.range.end - read.range.start, hit.is_some()));
                }
                let reason = hit.map(|_| Reason::errno(5));
                passes.got(&read, &Outcome { good, reason, took: Duration::ZERO });
            }
            let left = BadBlocks::from_unsorted(passes.areas().iter().copied());
            let mut text = Vec::new();
            let mapfile = cdi_image::badmap::mapfile::Mapfile { map: &left, size: sectors * 512 };
            cdi_image::text::listing::write(&mapfile, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            let their_map = blocks(&fs::read_to_string(&map).unwrap());
            assert_eq!(blocks(&text), their_map, "seed {seed}");
            let failed = |reads: &[(u64, u64, bool)]| reads.iter().filter(|r| r.2).count();
            let few = |ours: usize, theirs: usize| ours <= theirs + theirs / 20 + 16;
            assert!(
                few(failed(&ours), failed(&theirs)),
                "seed {seed}: {} and {}",
                failed(&ours),
                failed(&theirs)
            );
            assert!(few(ours.len(), theirs.len()), "seed {seed}: {} and {} reads", ours.len(), theirs.len());
            // Up to the second error in a row they are the same to the byte.
            let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            let twice = theirs.windows(2).position(|w| w[0].2 && w[1].2).unwrap_or(theirs.len());
            assert!(same >= twice.min(ours.len()), "seed {seed}: {same} reads are the same, not {twice}");
        }
    }

    #[needs(Fuse, Loop)]
    fn a_device_of_ours_is_imaged_as_it_is() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let device = lab.attach(&[]);
        lab.cdi(["create", device.to_str().unwrap(), "again.cdimg", "--json"]).ends(4);
        assert_eq!(map_of(&lab, "again.cdimg"), map_of(&lab, "disk.cdimg"));
        is_right(&lab, "again.cdimg", &truth, &BAD);
        lab.cdi(["detach", device.to_str().unwrap()]).ends(0);
    }

    #[needs(DISK)]
    fn errors_that_come_and_go_are_retried() {
        let (lab, truth) = lab(&[]);
        let disk = FailingDisk::new(&lab, &["error"], &["error=EIO", "error-pread-rate=5%"]);
        let ran =
            lab.cdi(["create", disk.path(), "a.cdimg", "--retry-passes", "-1", "--json"]).ends(0).json();
        assert!(ran["failed_reads"].as_u64().unwrap() > 0, "nothing failed");
        is_right(&lab, "a.cdimg", &truth, &[]);
    }

    #[needs(DISK)]
    fn a_read_that_hangs_hangs_nothing_else() {
        let (lab, truth) = lab(&BAD);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=2ms"]);
        let child = spawn(&lab, &["create", disk.path(), "a.cdimg", "--json"]);
        wait_until("the imaging has begun", || {
            fs::metadata(lab.path("a.cdimg")).is_ok_and(|m| m.len() > 1_200_000)
        });
        disk.signal("-STOP");
        // Its display goes on: it says that it waits.
        std::thread::sleep(Duration::from_millis(2500));
        let info = lab.cdi(["info", "--json", "a.cdimg"]).ends(0).json();
        assert!(info["warnings"][0].as_str().unwrap().contains("unfinished"));
        let start = Instant::now();
        run("kill", ["-INT".to_owned(), child.id().to_string()]);
        let ran = ended(child).ends(130);
        assert!(start.elapsed() < Duration::from_secs(8), "it took {:?}", start.elapsed());
        let waits = ran.err.lines().filter(|l| l.contains("\"event\":\"imaging\""));
        assert!(waits.clone().any(|l| !l.contains("\"seconds_waiting\":0")), "{}", ran.err);
        assert!(ran.err.contains("--resume"), "{}", ran.err);
        disk.signal("-CONT");
        // The process that was in the read can end now, and lets go of the disk.
        wait_until("the disk is free", || open_alone(&disk.device));
        lab.cdi(["create", disk.path(), "a.cdimg", "--resume"]).ends(4);
        is_right(&lab, "a.cdimg", &truth, &BAD);
        // Nothing read for too long is an end, too.
        let child = spawn(&lab, &["create", disk.path(), "t.cdimg", "--timeout", "1", "--json"]);
        wait_until("the imaging has begun", || lab.path("t.cdimg").exists());
        disk.signal("-STOP");
        let ran = ended(child).ends(4).json();
        assert_eq!(ran["ended"], "timeout");
        disk.signal("-CONT");
        wait_until("the disk is free", || open_alone(&disk.device));
    }

    #[needs(DISK)]
    fn a_disk_that_dies_has_no_bad_sectors_for_that() {
        let (lab, truth) = lab(&[(1000, 1)]);
        let mut disk = FailingDisk::new(&lab, &["delay"], &["rdelay=5ms"]);
        let child = spawn(&lab, &["create", disk.path(), "a.cdimg", "--json"]);
        wait_until("much is read", || fs::metadata(lab.path("a.cdimg")).is_ok_and(|m| m.len() > 1_200_000));
        disk.nbdkit.kill().unwrap();
        let ran = ended(child).ends(1);
        assert!(
            ran.err.contains("fails on sectors that it could read before")
                || ran.err.contains("the disk is gone"),
            "{}",
            ran.err
        );
        // Not one sector is called bad that is not, and what was read is right.
        let map = map_of(&lab, "a.cdimg");
        assert!(
            !map.iter().any(|(at, len, status)| status == "-" && (*at, *len) != (512_000, 512)),
            "{map:?}"
        );
        assert!(map.iter().any(|b| b.2 == "?"));
        drop(disk);
        fs::remove_file(lab.path("nbd.sock")).unwrap();
        fs::remove_dir(lab.path("nbd")).unwrap();
        let disk = FailingDisk::new(&lab, &[], &[]);
        lab.cdi(["create", disk.path(), "a.cdimg", "--resume"]).ends(4);
        is_right(&lab, "a.cdimg", &truth, &[(1000, 1)]);
    }

    #[needs(DISK)]
    fn killed_every_100_ms_and_resumed() {
        let (lab, truth) = lab(&BAD);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=1ms"]);
        lab.cdi(["create", disk.path(), "whole.cdimg"]).ends(4);
        let since = disk.forget();
        let mut kills = 0;
        let mut words = vec!["create", disk.path(), "a.cdimg"];
        loop {
            let info = lab.cdi(["info", "a.cdimg"]).out;
            assert!(kills < 300, "no progress: {info}");
            let mut child = spawn(&lab, &words);
            let start = Instant::now();
            let mut status = None;
            while start.elapsed() < Duration::from_millis(100) && status.is_none() {
                status = child.try_wait().unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            if let Some(status) = status {
                if status.code() == Some(4) {
                    break;
                }
                let ran = ended(child);
                panic!("{status}: {}", ran.err);
            }
            kills += 1;
            // First the process that does the work, so that it has no time to learn of the other's end.
            let pid = child.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let _ = Command::new("kill").args(["-KILL", child]).stderr(Stdio::null()).status();
            }
            let _ = child.kill();
            child.wait().unwrap();
            wait_until("the disk is free", || open_alone(&disk.device));
            if lab.path("a.cdimg").exists() && words.len() == 3 {
                words.push("--resume");
            }
        }
        assert!(kills > 3, "it was killed {kills} times only");
        assert_eq!(map_of(&lab, "a.cdimg"), map_of(&lab, "whole.cdimg"));
        let metadata = |image| {
            lab.cdi(["info", "--json", image]).ends(0).json()["metadata"]["sha256_zero_filled"].clone()
        };
        assert!(metadata("a.cdimg").is_string());
        assert_eq!(metadata("a.cdimg"), metadata("whole.cdimg"));
        let reads = disk.reads(since);
        let most = reads
            .iter()
            .filter(|(s, _)| BAD.iter().any(|(f, n)| (*f..f + n).contains(s)))
            .map(|(_, n)| *n)
            .max();
        assert!(most.unwrap() <= 2 + kills, "a bad sector was read {most:?} times with {kills} kills");
        is_right(&lab, "a.cdimg", &truth, &BAD);
    }

    #[needs(Loop)]
    fn a_full_disk_loses_nothing() {
        let (lab, truth) = lab(&[]);
        fs::create_dir(lab.path("small")).unwrap();
        run("mount", ["-t", "tmpfs", "-o", "size=3m", "tmpfs", lab.path("small").to_str().unwrap()]);
        let ran = lab.cdi(["create", "--rescue", "disk.raw", "small/a.cdimg"]).ends(1);
        assert!(
            ran.err.contains("cannot allocate space for the image") && ran.err.contains("--resume"),
            "{}",
            ran.err
        );
        let info = lab.cdi(["info", "--json", "small/a.cdimg"]).ends(0).json();
        let finished = info["blocks"]["finished"]["bytes"].as_u64().unwrap();
        assert!(finished > 1 << 20, "only {finished} bytes were kept");
        // Where it is full it is said again, and nothing gets worse.
        lab.cdi(["create", "--rescue", "disk.raw", "small/a.cdimg", "--resume"]).ends(1);
        let again = lab.cdi(["info", "--json", "small/a.cdimg"]).ends(0).json();
        assert!(again["blocks"]["finished"]["bytes"].as_u64().unwrap() >= finished);
        run("mount", ["-o", "remount,size=64m", lab.path("small").to_str().unwrap()]);
        lab.cdi(["create", "disk.raw", "small/a.cdimg", "--resume"]).ends(0);
        is_right(&lab, "small/a.cdimg", &truth, &[]);
        run("umount", [lab.path("small").to_str().unwrap()]);
    }

    fn a_limit_of_the_file_size_loses_nothing() {
        let (lab, truth) = lab(&[]);
        let cdi = env!("CARGO_BIN_EXE_cdi");
        let script = format!("ulimit -f 6000; exec {cdi} create --rescue disk.raw a.cdimg");
        let ran: Ran =
            Command::new("bash").args(["-c", &script]).current_dir(&lab.dir).output().unwrap().into();
        let ran = ran.ends(1);
        assert!(
            ran.err.contains("cannot allocate space for the image") && ran.err.contains("--resume"),
            "{}",
            ran.err
        );
        let info = lab.cdi(["info", "--json", "a.cdimg"]).ends(0).json();
        assert!(info["blocks"]["finished"]["bytes"].as_u64().unwrap() > 1 << 20);
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        is_right(&lab, "a.cdimg", &truth, &[]);
    }

    #[needs(DISK)]
    fn who_began_with_ddrescue_goes_on() {
        let (lab, truth) = lab(&BAD);
        let disk = FailingDisk::new(&lab, &[], &[]);
        let (raw, map) = (lab.path("dd.raw"), lab.path("dd.map"));
        // ddrescue has read the first half, and has not scraped.
        run(
            "ddrescue",
            ["-q", "-d", "-n", "-s", "8Mi", disk.path(), raw.to_str().unwrap(), map.to_str().unwrap()],
        );
        lab.cdi(["create", "dd.raw", "a.cdimg", "--mapfile", "dd.map"]).ends(4);
        let since = disk.forget();
        lab.cdi(["create", disk.path(), "a.cdimg", "--resume"]).ends(4);
        let reads = disk.reads(since);
        // Of what ddrescue has read nothing is read again, but for a few sectors that tell whether the disk lives.
        assert!(
            reads.iter().filter(|(s, _)| **s < 11_000 && **s != 0 && **s != 5000).count() < 100,
            "read again"
        );
        is_right(&lab, "a.cdimg", &truth, &BAD);
        // With its map alone: what it found to be bad is not tried, what it has read is read.
        run("ddrescue", ["-q", "-d", disk.path(), raw.to_str().unwrap(), map.to_str().unwrap()]);
        let since = disk.forget();
        lab.cdi(["create", disk.path(), "b.cdimg", "--from-mapfile", "dd.map"]).ends(4);
        let reads = disk.reads(since);
        assert!(BAD.iter().all(|(first, _)| !reads.contains_key(first)));
        is_right(&lab, "b.cdimg", &truth, &BAD);
    }

    #[needs(DISK)]
    fn an_unfinished_image_is_shown_as_far_as_it_is() {
        let (lab, truth) = lab(&[(16_000, 4)]);
        let disk = FailingDisk::new(&lab, &[], &[]);
        let ran =
            lab.cdi(["create", disk.path(), "disk.cdimg", "--max-read-errors", "0", "--json"]).ends(4).json();
        assert_eq!(ran["ended"], "too-many-errors");
        let info = lab.cdi(["info", "--json", "disk.cdimg"]).ends(0).json();
        assert!(info["warnings"][0].as_str().unwrap().contains("unfinished"), "{info}");
        // The word that reads a disk in use does not throw it away.
        let ran = lab.cdi(["create", disk.path(), "disk.cdimg", "--force"]).ends(5);
        assert!(ran.err.contains("--resume"), "{}", ran.err);
        let device = lab.attach(&[]);
        let file = open_direct(&device);
        let mut buf = crate::common::Aligned::new(512);
        assert_eq!(file.read_at(buf.get(), 512 * 100).unwrap(), 512);
        assert_eq!(*buf.get(), truth[512 * 100..512 * 101]);
        // Untried places fail as bad ones do.
        let error = file.read_at(buf.get(), 512 * (SECTORS - 1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
        drop(file);
        lab.cdi(["detach", device.to_str().unwrap()]).ends(0);
        lab.cdi(["create", disk.path(), "disk.cdimg", "--resume"]).ends(4);
        is_right(&lab, "disk.cdimg", &truth, &[(16_000, 4)]);
    }

    fn only_what_is_wanted_is_read() {
        let (lab, truth) = lab(&[]);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--input-position", "1M", "--size", "2M"])
            .ends(4);
        assert_eq!(
            map_of(&lab, "a.cdimg"),
            [(0, 1 << 20, "?".into()), (1 << 20, 2 << 20, "+".into()), (3 << 20, 13 << 20, "?".into())]
        );
        lab.write("domain.map", mapfile(SECTORS, 512, &[(8192, SECTORS - 8192)]));
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume", "--domain-mapfile", "domain.map"]).ends(4);
        assert_eq!(map_of(&lab, "a.cdimg"), [(0, 4 << 20, "+".into()), (4 << 20, 12 << 20, "?".into())]);
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        is_right(&lab, "a.cdimg", &truth, &[]);
        // What is whole is left as it is.
        let before = lab.cdi(["info", "--json", "a.cdimg"]).ends(0).json();
        lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        let after = lab.cdi(["info", "--json", "a.cdimg"]).ends(0).json();
        assert_eq!(before["metadata"]["sha256_zero_filled"], after["metadata"]["sha256_zero_filled"]);
        for words in [
            &["--input-position", "64M"][..],
            &["--input-position", "100"],
            &["--size", "700"],
            &["--mapfile", "domain.map"],
            &["--resume", "--from-mapfile", "domain.map"],
        ] {
            lab.cdi([&["create", "--rescue", "disk.raw", "b.cdimg"], words].concat()).ends(2);
            assert!(!lab.path("b.cdimg").exists());
        }
    }

    fn another_disk_is_not_gone_on_with() {
        let (lab, truth) = lab(&[]);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "1M"]).ends(4);
        lab.write("smaller.raw", vec![1; 1 << 20]);
        lab.write("larger.raw", vec![1; 32 << 20]);
        let before = fs::read(lab.path("a.cdimg")).unwrap();
        for other in ["smaller.raw", "larger.raw"] {
            let ran = lab.cdi(["create", other, "a.cdimg", "--resume"]).ends(2);
            assert!(ran.err.contains("the image is of a disk of 16777216"), "{}", ran.err);
        }
        assert_eq!(fs::read(lab.path("a.cdimg")).unwrap(), before, "a refusal changes nothing");
        // What is read is compared, and no word makes another disk this one.
        lab.cdi(["create", "smaller.raw", "a.cdimg", "--resume", "--force"]).ends(2);
        lab.cdi(["create", "larger.raw", "a.cdimg", "--resume", "--force"]).ends(2);
        lab.write("larger.raw", [truth, vec![1; 16 << 20]].concat());
        lab.cdi(["create", "larger.raw", "a.cdimg", "--resume", "--force"]).ends(0);
        // Only what is a .cdimg is gone on with, and only if it is there.
        // As with ddrescue, an image that is not there is begun.
        lab.cdi(["create", "disk.raw", "none.cdimg", "--resume"]).ends(0);
        lab.cdi(["create", "disk.raw", "no/such/none.cdimg", "--resume"]).ends(1);
        fs::rename(lab.path("larger.raw"), lab.path("larger.cdimg")).unwrap();
        lab.cdi(["create", "disk.raw", "larger.cdimg", "--resume"]).ends(3);
        lab.cdi(["create", "--rescue", "disk.raw", "disk.raw", "--force"]).ends(2);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg"]).ends(5);
    }

    #[needs(Program("flock"))]
    fn only_one_writes_an_image() {
        let (lab, _) = lab(&[]);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "1M"]).ends(4);
        let mut holder =
            Command::new("flock").arg("-F").arg(lab.path("a.cdimg")).args(["sleep", "60"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let ran = lab.cdi(["create", "disk.raw", "a.cdimg", "--resume"]).ends(5);
        assert!(ran.err.contains("another process is writing"), "{}", ran.err);
        // Nor is it written over, or made small, meanwhile.
        lab.cdi(["create", "disk.raw", "a.cdimg", "--force"]).ends(5);
        lab.cdi(["compact", "a.cdimg"]).ends(5);
        let _ = holder.kill();
        holder.wait().unwrap();
        // The whole words of a refusal tell of the way on.
        let ran = lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg"]).ends(5);
        assert!(ran.err.contains("--resume"), "{}", ran.err);
    }

    #[needs(Loop, Program("mkfs.ext4"))]
    fn a_disk_in_use_is_refused() {
        let lab = Lab::new();
        fs::File::create(lab.path("disk.raw")).unwrap().set_len(16 << 20).unwrap();
        let disk = MountedDisk::ext4(&lab.path("disk.raw"), lab.path("mnt"));
        let ran = lab.cdi(["create", &disk.device.path, "a.cdimg"]).ends(5);
        assert!(ran.err.contains("the device is in use"), "{}", ran.err);
        lab.cdi(["create", &disk.device.path, "a.cdimg", "--force"]).ends(0);
    }

    fn a_disk_is_drawn() {
        let (lab, _) = lab(&[]);
        lab.write("some.map", mapfile(SECTORS, 512, &BAD));
        lab.cdi(["create", "disk.raw", "a.cdimg", "--mapfile", "some.map"]).ends(4);
        let text = lab.cdi(["map", "a.cdimg"]).ends(0).out;
        let cells: String = text.lines().take(16).map(|l| l.split_whitespace().last().unwrap()).collect();
        assert_eq!(cells.len(), 1024);
        assert!(cells.starts_with('X') && cells.ends_with('X') && cells.contains(&"X".repeat(8)), "{text}");
        assert!(
            text.contains("# finished") && text.contains("X bad-sector") && !text.contains('\u{1b}'),
            "{text}"
        );
        let json = lab.cdi(["map", "--json", "a.cdimg"]).ends(0).json();
        assert_eq!(
            (json["cells"].as_str(), json["blocks"]["bad-sector"].as_u64()),
            (Some(&*cells), Some(610 * 512))
        );
        lab.cdi(["map", "a.cdimg", "--picture", "a.svg"]).ends(0);
        let svg = fs::read_to_string(lab.path("a.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("finished") && svg.ends_with("</svg>\n"));
        lab.cdi(["map", "a.cdimg", "--picture", "a.svg"]).ends(5);
        lab.cdi(["map", "a.cdimg", "--picture", "b.svg", "--bad"]).ends(2);
    }
);

fn spawn(lab: &Lab, words: &[&str]) -> Child {
    lab.command().args(words).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn ended(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

fn open_alone(device: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::fcntl::OFlag::O_EXCL.bits();
    fs::File::options().read(true).custom_flags(flags).open(device).is_ok()
}
