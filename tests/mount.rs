//! The mounted directory: its files, reading from it, unmounting it.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{
    Aligned, Lab, Ran, Random, blocks, mapfile, open_direct, run, six_random_readers, wait_until,
};

const BAD: [(u64, u64); 5] = [(1001, 1), (2048, 1), (3000, 20), (5007, 1), (8191, 1)];
const SECTORS: u64 = 8192;

fn mounted(lab: &Lab, options: &[&str]) -> Vec<u8> {
    let truth = lab.image(SECTORS, 512, &BAD);
    lab.cdi(["mount", "disk.cdimg", "mnt"].iter().chain(options)).ends(0);
    truth
}

fn is_bad(lba: u64) -> bool {
    BAD.iter().any(|(first, count)| (*first..first + count).contains(&lba))
}

tests!(
    #[needs(Fuse)]
    fn the_mounted_folder_has_the_documented_files() {
        let lab = Lab::new();
        let start = Instant::now();
        mounted(&lab, &[]);
        assert!(start.elapsed() < Duration::from_secs(20));
        let mut names: Vec<_> = fs::read_dir(lab.path("mnt"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["badblocks.json", "badblocks.map", "disk.raw", "info.json"]);
        let bad: serde_json::Value = serde_json::from_slice(&lab.read("mnt/badblocks.json")).unwrap();
        assert_eq!(
            (&bad["version"], &bad["size_bytes"], &bad["sectors"]),
            (&1.into(), &(SECTORS * 512).into(), &SECTORS.into())
        );
        let ranges: Vec<_> = bad["ranges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| (r["first_sector"].as_u64().unwrap(), r["sectors"].as_u64().unwrap()))
            .collect();
        assert_eq!(ranges, BAD);
        assert_eq!(bad["ranges"][2]["offset_bytes"], 3000 * 512);
        assert_eq!(bad["ranges"][2]["length_bytes"], 20 * 512);
        let map = fs::read_to_string(lab.path("mnt/badblocks.map")).unwrap();
        assert_eq!(blocks(&map), blocks(&mapfile(SECTORS, 512, &BAD)));
        let info: serde_json::Value = serde_json::from_slice(&lab.read("mnt/info.json")).unwrap();
        assert_eq!(info["format"], "cdimg");
        // Owner only, read-only, and named after the image.
        let meta = fs::metadata(lab.path("mnt/disk.raw")).unwrap();
        assert_eq!(
            (meta.len(), meta.permissions().mode() & 0o777, meta.uid()),
            (SECTORS * 512, 0o400, nix::unistd::getuid().as_raw())
        );
        let error = fs::File::options().write(true).open(lab.path("mnt/disk.raw")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EROFS as i32));
        assert!(fs::File::create(lab.path("mnt/new")).is_err());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|l| l.contains(lab.path("mnt").to_str().unwrap())).unwrap();
        for word in ["ro,nosuid,nodev,noexec", "fuse.cdi", "disk.cdimg"] {
            assert!(line.contains(word), "{line}");
        }
        let list = lab.cdi(["list", "--json"]).ends(0).json();
        assert_eq!((&list["mounts"][0]["alive"], &list["mounts"][0]["via"]), (&true.into(), &"fuse".into()));
        // By the image as well as by the folder.
        lab.cdi(["unmount", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
        assert!(!lab.path("mnt").exists(), "the folder that was made is gone");
    }

    #[needs(Fuse)]
    fn exactly_the_bad_sectors_fail_with_direct_io() {
        let lab = Lab::new();
        let truth = mounted(&lab, &[]);
        let file = open_direct(&lab.path("mnt/disk.raw"));
        let mut buf = Aligned::new(512);
        for lba in (0..SECTORS).chain((0..SECTORS).rev()) {
            match file.read_at(buf.get(), lba * 512) {
                Ok(512) => {
                    assert!(!is_bad(lba), "bad sector {lba} was read");
                    assert!(*buf.get() == truth[lba as usize * 512..][..512], "sector {lba}");
                }
                Err(e) if e.raw_os_error() == Some(5) => assert!(is_bad(lba), "good sector {lba} was lost"),
                other => panic!("sector {lba}: {other:?}"),
            }
        }
        // Through the page cache a bad sector costs its page and nothing else.
        let cached = fs::File::open(lab.path("mnt/disk.raw")).unwrap();
        let mut buf = [0; 512];
        for lba in 0..SECTORS {
            let page_is_bad = (lba / 8 * 8..lba / 8 * 8 + 8).any(is_bad);
            assert_eq!(cached.read_exact_at(&mut buf, lba * 512).is_err(), page_is_bad, "sector {lba}");
            assert!(page_is_bad || buf == truth[lba as usize * 512..][..512], "sector {lba}");
        }
    }

    #[needs(Fuse)]
    fn a_bad_sector_is_never_read_as_zeros_or_as_the_end() {
        let lab = Lab::new();
        let truth = mounted(&lab, &[]);
        let path = lab.path("mnt/disk.raw");
        // A reader in large blocks gets the bytes before the bad page and then the error, never the end of the file.
        let ran = Command::new("dd")
            .arg(format!("if={}", path.display()))
            .arg("of=/dev/null")
            .arg("bs=128k")
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(!ran.status.success());
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(said.contains("Input/output error"), "{said}");
        assert!(
            !Command::new("cp")
                .arg(&path)
                .arg(lab.path("copy.raw"))
                .stderr(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(fs::metadata(&path).unwrap().len(), SECTORS * 512, "the file has become shorter");
        let file = fs::File::open(&path).unwrap();
        let mut last = vec![0; 4096];
        assert!(file.read_exact_at(&mut last, (SECTORS - 8) * 512).is_err());
        // Beyond the end is the end.
        assert_eq!(file.read_at(&mut last, SECTORS * 512).unwrap(), 0);
        // And all that is good comes, however it is asked for.
        let random = &mut Random::new(5);
        for _ in 0..300 {
            let first = random.below(SECTORS);
            let count = 1 + random.below((SECTORS - first).min(300));
            let mut buf = vec![0; count as usize * 512];
            let pages = first / 8 * 8..(first + count).next_multiple_of(8);
            let good = !pages.clone().any(is_bad);
            let read = file.read_exact_at(&mut buf, first * 512);
            assert_eq!(read.is_ok(), good, "{first}+{count}");
            assert!(!good || buf == truth[first as usize * 512..][..buf.len()]);
        }
    }

    #[needs(Fuse)]
    fn policies_fill_bad_sectors_or_change_the_errno() {
        let lab = Lab::new();
        let truth = mounted(&lab, &["--bad", "zero"]);
        let mut expect = truth.clone();
        BAD.iter()
            .for_each(|(first, count)| expect[*first as usize * 512..(first + count) as usize * 512].fill(0));
        assert!(lab.read("mnt/disk.raw") == expect);
        lab.cdi(["unmount", "mnt"]).ends(0);
        lab.cdi(["mount", "disk.cdimg", "mnt", "--bad", "pattern:UNREADABLE"]).ends(0);
        let got = lab.read("mnt/disk.raw");
        assert_eq!(&got[1001 * 512..][..20], b"UNREADABLEUNREADABLE");
        assert_eq!(&got[2048 * 512 + 510..][..2], b"UN");
        lab.cdi(["unmount", "mnt"]).ends(0);
        lab.cdi(["mount", "disk.cdimg", "mnt", "--errno", "medium"]).ends(0);
        let file = open_direct(&lab.path("mnt/disk.raw"));
        let error = file.read_at(Aligned::new(512).get(), 1001 * 512).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENODATA as i32));
        drop(file);
        lab.cdi(["unmount", "mnt"]).ends(0);
        lab.cdi(["mount", "disk.cdimg", "mnt", "--bad", "nonsense"]).ends(2);
    }

    #[needs(Fuse)]
    fn many_readers_see_no_wrong_byte() {
        let lab = Lab::new();
        let truth = mounted(&lab, &["--cache", "1M"]);
        let path = lab.path("mnt/disk.raw");
        six_random_readers(&path, &truth, is_bad);
    }

    #[needs(Fuse)]
    fn a_damaged_chunk_makes_no_other_chunk_fail() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &[]);
        let map = lab.cdi(["map", "--extents", "--json", "disk.cdimg"]).ends(0).json();
        let chunk = &map["extents"][5];
        let mut bytes = lab.read("disk.cdimg");
        bytes[chunk["file_offset_bytes"].as_u64().unwrap() as usize + 3] ^= 0x10;
        lab.write("disk.cdimg", &bytes);
        lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(0);
        let file = fs::File::open(lab.path("mnt/disk.raw")).unwrap();
        let (from, len) = (chunk["offset_bytes"].as_u64().unwrap(), chunk["length_bytes"].as_u64().unwrap());
        let mut buf = vec![0; 4096];
        for at in (0..SECTORS * 512).step_by(4096) {
            let read = file.read_exact_at(&mut buf, at);
            assert_eq!(read.is_err(), (from..from + len).contains(&at), "at {at}");
            assert!(read.is_err() || buf == truth[at as usize..][..4096]);
        }
        let logs: String = fs::read_dir(lab.path("run"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|x| x == "log"))
            .map(|p| fs::read_to_string(p).unwrap())
            .collect();
        assert!(logs.contains("is damaged; reads of it fail"), "{logs}");
    }

    #[needs(Fuse)]
    fn unmounting_twice_succeeds_and_a_busy_mount_is_reported() {
        let lab = Lab::new();
        mounted(&lab, &[]);
        let held = open_direct(&lab.path("mnt/disk.raw"));
        // This process has it open: the program must name it and change nothing.
        let ran = lab.cdi(["unmount", "mnt"]).ends(5);
        assert!(ran.err.contains("is in use by") && ran.err.contains("--force"), "{}", ran.err);
        assert!(held.metadata().is_ok());
        lab.cdi(["unmount", "--force", "mnt"]).ends(0);
        assert!(held.read_at(Aligned::new(512).get(), 4096).is_err());
        drop(held);
        lab.cdi(["unmount", "mnt"]).ends(0);
        lab.cdi(["unmount", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
        // By others' means it is fine, too: the daemon sees it and ends.
        lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(0);
        lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(5);
        run("umount", [lab.path("mnt")]);
        wait_until("the record is gone", || {
            lab.cdi(["list", "--json"]).json()["mounts"].as_array().unwrap().is_empty()
        });
    }

    /// A tmpfs below our mount must not be unmounted with it, as fuser would.
    #[needs(Fuse, Loop)]
    fn a_mount_below_ours_stays() {
        let lab = Lab::new();
        fs::create_dir(lab.path("mnt")).unwrap();
        run(
            "mount",
            ["-t", "tmpfs", "below"].iter().map(std::ffi::OsStr::new).chain([lab.path("mnt").as_os_str()]),
        );
        mounted(&lab, &[]);
        run("umount", [lab.path("mnt")]);
        wait_until("the daemon is gone", || {
            lab.cdi(["list", "--json"]).json()["mounts"].as_array().unwrap().is_empty()
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let still = mounts.lines().filter(|l| l.contains(lab.path("mnt").to_str().unwrap())).count();
        run("umount", [lab.path("mnt")]);
        assert_eq!(still, 1, "the tmpfs is gone");
    }

    #[needs(Fuse)]
    fn signals_end_a_mount_in_the_foreground() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        for signal in ["INT", "TERM", "HUP"] {
            let child = lab
                .command()
                .args(["mount", "--foreground", "disk.cdimg", "mnt"])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            wait_until("it is mounted", || lab.path("mnt/disk.raw").exists());
            run("kill", [&format!("-{signal}"), &child.id().to_string()]);
            let output = child.wait_with_output().unwrap();
            assert_eq!(
                output.status.code(),
                Some(0),
                "{signal}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert_eq!(lab.leftovers(), "", "{signal}");
        }
    }

    #[needs(Fuse)]
    fn a_start_that_fails_leaves_nothing() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        lab.write("x", "");
        fs::create_dir(lab.path("full")).unwrap();
        lab.write("full/file", "");
        lab.cdi(["mount", "disk.cdimg", "full"]).ends(2);
        lab.cdi(["mount", "disk.raw", "mnt", "--mapfile", "none.map"]).ends(1);
        lab.cdi(["mount", "x", "mnt"]).ends(3);
        // The image would be hidden by its own mount.
        fs::create_dir(lab.path("in")).unwrap();
        fs::hard_link(lab.path("disk.cdimg"), lab.path("in/disk.cdimg")).unwrap();
        lab.cdi(["mount", "in/disk.cdimg", "in"]).ends(2);
        // The daemon itself fails: its folder for records is not writable any more.
        assert!(!lab.path("mnt").exists());
        assert_eq!(lab.leftovers(), "");
        let left =
            fs::read_dir(lab.path("run")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.filter(|name| name != "commands.lock" && name != "mnt").count(), 0);
    }

    /// As the user nobody, with fusermount3.
    #[needs(FuseForAll, Loop, Program("fusermount3"), Program("setpriv"))]
    fn an_ordinary_user_can_mount() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        for dir in ["run-user", "home"] {
            fs::create_dir(lab.path(dir)).unwrap();
            std::os::unix::fs::chown(lab.path(dir), Some(65534), Some(65534)).unwrap();
        }
        fs::set_permissions(lab.path("run-user"), fs::Permissions::from_mode(0o700)).unwrap();
        let program = lab.path("cdi");
        fs::copy(env!("CARGO_BIN_EXE_cdi"), &program).unwrap();
        let nobody = |words: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            command.args(words).env("CDI_RUNTIME_DIR", lab.path("run-user")).current_dir(&lab.dir);
            crate::common::Ran::from(command.output().unwrap())
        };
        let program = program.to_str().unwrap();
        nobody(&[program, "mount", "disk.cdimg", "home/mnt"]).ends(0);
        let read = nobody(&["dd", "if=home/mnt/disk.raw", "bs=512", "count=1000", "status=none"]).ends(0);
        assert!(read.out.as_bytes().starts_with(&truth[..20]));
        // No other user, not even root, has access.
        assert!(fs::metadata(lab.path("home/mnt/disk.raw")).is_err());
        let ran = nobody(&[program, "attach", "disk.cdimg"]).ends(6);
        assert!(ran.err.contains("sudo"), "{}", ran.err);
        nobody(&[program, "unmount", "home/mnt"]).ends(0);
        nobody(&[program, "unmount", "home/mnt"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse)]
    fn a_raw_image_with_its_map_reads_like_its_cdimg() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        lab.cdi(["mount", "disk.raw", "mnt", "--mapfile", "disk.map"]).ends(0);
        let file = open_direct(&lab.path("mnt/disk.raw"));
        let mut buf = Aligned::new(512);
        for lba in 0..SECTORS {
            let read = file.read_at(buf.get(), lba * 512);
            assert_eq!(read.is_err(), is_bad(lba), "sector {lba}");
            assert!(read.is_err() || *buf.get() == truth[lba as usize * 512..][..512]);
        }
        drop(file);
        lab.cdi(["unmount", "disk.raw"]).ends(0);
    }

    #[needs(Fuse)]
    fn stats_count_the_reads_of_a_mount() {
        let lab = Lab::new();
        lab.image(4096, 512, &[(1000, 1)]);
        lab.cdi(["stats", "disk.cdimg"]).ends(1);
        lab.cdi(["mount", "disk.cdimg", "m"]).ends(0);
        let told = || lab.cdi(["stats", "disk.cdimg", "--json"]).ends(0).json()["stats"][0].clone();
        let before = told();
        let file = open_direct(&lab.path("m/disk.raw"));
        let mut buf = Aligned::new(4096);
        for n in 0..100 {
            file.read_exact_at(buf.get(), n * 4096).unwrap();
        }
        assert!(file.read_at(buf.get(), 1000 * 512).is_err());
        let after = told();
        let more = |what: &str| after[what].as_u64().unwrap() - before[what].as_u64().unwrap();
        assert_eq!((more("reads"), more("read_bytes"), more("read_errors")), (101, 101 * 4096, 1));
        assert!(more("cache_hits") > 0 && after["p99_us"].as_u64() <= after["max_us"].as_u64(), "{after}");
        let ran = lab.cdi(["stats"]).ends(0);
        assert!(ran.out.contains("reads") && ran.out.contains(" 1 failed"), "{}", ran.out);
        drop(file);
        lab.cdi(["unmount", "m"]).ends(0);
        assert_eq!(lab.cdi(["stats", "--json"]).ends(0).json()["stats"].as_array().unwrap().len(), 0);
        assert!(
            !fs::read_dir(lab.path("run")).unwrap().any(|e| e
                .unwrap()
                .path()
                .extension()
                .is_some_and(|x| x == "stats"))
        );
    }

    /// Without a mount point: one in the runtime directory, named after the image. A desktop ejects it with umount(8), which
    /// ordinary users may run for their own FUSE mounts, too.
    #[needs(Fuse)]
    fn a_mount_without_a_mount_point_is_ejected_as_a_desktop_does() {
        let lab = Lab::new();
        lab.image(SECTORS, 512, &BAD);
        let ran = lab.cdi(["mount", "disk.cdimg", "--browse"]).ends(0);
        let dir = lab.path("run/mnt/disk");
        assert!(ran.err.contains(&format!("mounted at {}", dir.display())), "{}", ran.err);
        assert_eq!(fs::metadata(dir.join("disk.raw")).unwrap().len(), SECTORS * 512);
        // A second mount of it is another one.
        lab.cdi(["mount", "disk.cdimg", "--no-browse"]).ends(0);
        assert!(lab.path("run/mnt/disk-2/disk.raw").exists());
        // The default place is private.
        let ran = lab.cdi(["mount", "disk.cdimg", "--allow-other"]).ends(2);
        assert!(ran.err.contains("the default one is private"), "{}", ran.err);
        assert!(!lab.path("run/mnt/disk-3").exists());
        // A copy ends with an error, and is visibly not all of it.
        let copied = Command::new("cp").arg(dir.join("disk.raw")).arg(lab.path("copy")).output().unwrap();
        assert!(!copied.status.success());
        assert!(fs::metadata(lab.path("copy")).unwrap().len() <= 1001 * 512);
        for name in ["disk", "disk-2"] {
            run("umount", [lab.path("run/mnt").join(name)]);
        }
        wait_until("the daemons have ended", || {
            lab.cdi(["list", "--json"]).json()["mounts"] == serde_json::json!([])
        });
        wait_until("the directories are gone", || {
            fs::read_dir(lab.path("run/mnt")).unwrap().next().is_none()
        });
    }

    /// Too few open files stop the start at any of its steps, also where fuser's threads open the device.
    #[needs(Fuse)]
    fn a_mount_that_cannot_start_is_an_error_and_keeps_nobody_waiting() {
        let lab = Lab::new();
        mounted(&lab, &[]);
        lab.cdi(["unmount", "mnt"]).ends(0);
        let mut codes = Vec::new();
        for limit in 6..=40 {
            let mut command = Command::new("sh");
            command.args(["-c", "ulimit -n $0; exec timeout -s KILL 30 \"$@\"", &limit.to_string()]);
            let words = lab.command();
            command.arg(words.get_program()).args(["mount", "disk.cdimg", "mnt"]).current_dir(&lab.dir);
            command.envs(words.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let ran = Ran::from(command.output().unwrap());
            assert!([0, 1, 6].contains(&ran.code), "{limit}: {ran:?}");
            if ran.code == 0 {
                lab.cdi(["unmount", "mnt"]).ends(0);
            }
            assert_eq!(lab.leftovers(), "", "{limit}: {ran:?}");
            codes.push(ran.code);
        }
        assert!([0, 1, 6].iter().all(|code| codes.contains(code)), "{codes:?}");
    }
);
