//! A disk is read while it is imaged.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::error::ReadError;
use cdi_base::readable::Readable;
use cdi_image::disk::live::Live;

use super::failing_disk::{DISK, FailingDisk, is_right, lab, map_of};
use super::simulated::{Making, Simulated};
use crate::common::{Lab, Need, Random, disk, mapfile, run, wait_until};

const SECTORS: u64 = 65_536;
const SIZE: u64 = SECTORS * 512;
const BAD: [(u64, u64); 4] = [(0, 1), (9000, 3), (30_000, 200), (SECTORS - 1, 1)];

fn bad_sectors() -> impl Iterator<Item = u64> {
    BAD.into_iter().flat_map(|(first, n)| first..first + n)
}

/// A device with a file system, which is slow and has bad sectors outside of it.
const MOUNTED: Need =
    Need::All(&[DISK, Need::Program("mke2fs"), Need::Program("mkntfs"), Need::Program("ntfs-3g")]);

/// Waits until `create` says that the disk is shown. Returns the lines of its stderr so far.
fn wait_for(lab: &Lab, log: &str, word: &str) {
    wait_until("the disk is shown", || {
        fs::read_to_string(lab.path(log)).is_ok_and(|text| text.contains(word))
    });
}

/// Starts `create` with its output in files.
fn create(lab: &Lab, words: &[&str]) -> Child {
    let file = |name: &str| fs::File::create(lab.path(name)).unwrap();
    let (out, err) = (file("create.out"), file("create.err"));
    lab.command().arg("create").args(words).stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap()
}

tests!(
    /// Readers get the right bytes or the right errors; each sector is read once; the image is as without them.
    fn readers_do_not_change_what_is_imaged() {
        let lab = Lab::new();
        let truth = disk(SIZE);
        let alone = Simulated::new(&truth, bad_sectors());
        Making::new(&lab, "alone.cdimg", &alone).run(false, &mut |_| Ok(()));
        let takes = Duration::from_micros(300);
        let drive = Simulated::new(&truth, bad_sectors()).with(|drive| drive.takes = takes);
        let making = Making::new(&lab, "shown.cdimg", &drive);
        let (live, ends) = (Arc::clone(&making.live), Arc::new(AtomicBool::new(false)));
        let readers: Vec<_> = (0..4)
            .map(|seed| {
                let (live, ends, truth) = (Arc::clone(&live), Arc::clone(&ends), truth.clone());
                thread::spawn(move || {
                    let mut random = Random::new(seed);
                    let mut reads = 0;
                    while !ends.load(Ordering::Relaxed) {
                        let first = random.below(SECTORS);
                        let count = (1 + random.below(64)).min(SECTORS - first);
                        let mut buf = vec![0; usize::try_from(count * 512).unwrap()];
                        let at = usize::try_from(first * 512).unwrap();
                        match live.read(&mut buf, first * 512) {
                            Ok(()) => assert_eq!(buf, truth[at..at + buf.len()], "sector {first}"),
                            Err(ReadError::Bad { sector, untried, .. }) => {
                                assert!((first..first + count).contains(&sector));
                                let is_bad = bad_sectors().any(|bad| bad == sector);
                                assert!(is_bad || untried, "sector {sector}");
                            }
                            Err(e) => panic!("{e}"),
                        }
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let result = making.run(true, &mut |_| Ok(()));
        live.finish(Box::new(fs::File::open(lab.path("shown.cdimg")).unwrap())).unwrap();
        ends.store(true, Ordering::Relaxed);
        let reads: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(result.view.demanded.reads > 50, "{:?}, of {reads}", result.view.demanded);
        assert_eq!(map_of(&lab, "shown.cdimg"), map_of(&lab, "alone.cdimg"));
        is_right(&lab, "shown.cdimg", &truth, &BAD);
        // Sectors that prove now and then that the drive works are read again.
        let twice = drive.0.reads.lock().unwrap().good.values().filter(|n| **n > 1).count();
        assert!(twice < 60, "{twice} sectors were read twice");
        let most = drive.failed();
        assert!(most <= alone.failed() + 20, "{most} failed reads, {} without readers", alone.failed());
        // The finished image is shown.
        assert!(live.finished().is_some());
    }

    /// Neither the passes nor the readers wait for more than their share.
    fn readers_and_passes_take_turns() {
        let lab = Lab::new();
        let truth = disk(SIZE);
        let drive = Simulated::new(&truth, []).with(|drive| drive.takes = Duration::from_millis(4));
        let making = Making::new(&lab, "disk.cdimg", &drive);
        let live = Arc::clone(&making.live);
        let (done, longest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let ends = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|n| {
                let (live, done, longest, ends) =
                    (Arc::clone(&live), Arc::clone(&done), Arc::clone(&longest), Arc::clone(&ends));
                thread::spawn(move || {
                    // From the end: what the passes come to last.
                    let mut at = SIZE - 4096 * (n + 1);
                    while !ends.load(Ordering::Relaxed) && at > SIZE / 2 {
                        let start = Instant::now();
                        live.read(&mut [0; 4096], at).unwrap();
                        longest.fetch_max(
                            u64::try_from(start.elapsed().as_millis()).unwrap(),
                            Ordering::Relaxed,
                        );
                        done.fetch_add(1, Ordering::Relaxed);
                        at -= 2 * 4096;
                    }
                })
            })
            .collect();
        let start = Instant::now();
        let mut passed = 0;
        let ended = making.run(true, &mut |view| {
            passed = view.read.saturating_sub(view.demanded.bytes);
            match start.elapsed() > Duration::from_secs(8) {
                true => Err(cdi_base::error::Error::new(cdi_base::error::Kind::Interrupted, "enough")),
                false => Ok(()),
            }
        });
        ends.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap_or(()));
        let (demanded, all) = (ended.view.demanded.reads, drive.order().len() as u64);
        let share = (all - demanded) as f64 / all as f64;
        let longest = longest.load(Ordering::Relaxed);
        assert!(
            demanded > 100 && share > 0.1,
            "{demanded} of {all} reads were demanded, {passed} bytes passed"
        );
        // One read of the passes, one of the other reader, its own; on a machine that is busy with other things.
        assert!(longest < 1500, "{longest} ms");
    }

    /// What a program asks for is there within two reads of the drive: at most one of the passes comes before it.
    fn a_reader_waits_for_one_read_of_the_passes() {
        let lab = Lab::new();
        let truth = disk(SIZE);
        let drive = Simulated::new(&truth, []).with(|drive| drive.takes = Duration::from_millis(3));
        let making = Making::new(&lab, "disk.cdimg", &drive);
        let (live, reads) = (Arc::clone(&making.live), drive.clone());
        let reader = thread::spawn(move || {
            let mut random = Random::new(9);
            let mut most = 0;
            for _ in 0..150 {
                // In the half that the passes come to last.
                let at = SIZE / 2 + random.below(SIZE / 2 / 4096) * 4096;
                let before = reads.order().len();
                live.read(&mut [0; 4096], at).unwrap();
                let own =
                    reads.order()[before..].iter().position(|read| read.start == at && read.end == at + 4096);
                // One of the passes may have begun before the program was heard.
                most = most.max(own.map_or(0, |own| own + 1));
                thread::sleep(Duration::from_millis(random.below(5)));
            }
            most
        });
        making.run(true, &mut |_| Ok(()));
        let most = reader.join().unwrap();
        assert!(most <= 2, "{most} reads of the drive");
    }

    /// A drive that hangs: a read is an error after ten seconds, and the rest can be read meanwhile.
    fn a_drive_that_hangs_holds_nobody_for_long() {
        let lab = Lab::new();
        let truth = disk(SIZE);
        let drive = Simulated::new(&truth, []).with(|drive| {
            (drive.hangs, drive.hang) = (20_000..20_001, Duration::from_secs(14));
            drive.takes = Duration::from_millis(2);
        });
        let making = Making::new(&lab, "disk.cdimg", &drive);
        let live = Arc::clone(&making.live);
        let reader = thread::spawn(move || {
            live.read(&mut [0; 512], 512).unwrap();
            let start = Instant::now();
            let hung = live.read(&mut [0; 512], 20_000 * 512);
            let took = start.elapsed();
            // What is in the image does not wait for it.
            let start = Instant::now();
            live.read(&mut [0; 512], 512).unwrap();
            (hung, took, start.elapsed())
        });
        let ended = making.run(true, &mut |_| Ok(()));
        let (hung, took, held) = reader.join().unwrap();
        assert!(matches!(hung, Err(ReadError::Io { .. })), "{hung:?}");
        assert!((9..12).contains(&took.as_secs()), "{took:?}");
        assert!(held < Duration::from_secs(2), "{held:?}");
        // The sector was read after all.
        assert_eq!(ended.made.missing_bytes, 0);
        is_right(&lab, "disk.cdimg", &truth, &[]);
    }

    /// By the program: ext4 and NTFS are mounted from the device while the passes run on a slow and failing source.
    #[needs(MOUNTED)]
    fn file_systems_can_be_mounted_while_the_disk_is_imaged() {
        let lab = Lab::new();
        let (ext, ntfs) = (lab.path("ext.raw"), lab.path("ntfs.raw"));
        let content = |n: u64| disk(30_000 + n * 5000);
        let dir = lab.path("files");
        fs::create_dir(&dir).unwrap();
        (0..40).for_each(|n| fs::write(dir.join(format!("f{n}")), content(n)).unwrap());
        fs::File::create(&ext).unwrap().set_len(24 << 20).unwrap();
        run("mke2fs", ["-q", "-t", "ext4", "-d", dir.to_str().unwrap(), ext.to_str().unwrap()]);
        fs::File::create(&ntfs).unwrap().set_len(24 << 20).unwrap();
        run("mkntfs", ["-q", "-f", "-F", ntfs.to_str().unwrap()]);
        let mnt = lab.path("mnt-ntfs");
        fs::create_dir(&mnt).unwrap();
        run("ntfs-3g", [ntfs.to_str().unwrap(), mnt.to_str().unwrap()]);
        (0..40).for_each(|n| fs::write(mnt.join(format!("f{n}")), content(n)).unwrap());
        run("umount", [mnt.to_str().unwrap()]);
        // A partition each, and bad sectors before and after them.
        let mut bytes = disk(50 << 20);
        let at = |n: usize| (1 + n * 24) << 20;
        bytes[..512].fill(0);
        for (n, (kind, file)) in [(0x83, &ext), (7, &ntfs)].into_iter().enumerate() {
            let entry = 446 + n * 16;
            bytes[entry + 4] = kind;
            bytes[entry + 8..entry + 12].copy_from_slice(&u32::try_from(at(n) / 512).unwrap().to_le_bytes());
            bytes[entry + 12..entry + 16].copy_from_slice(&(24u32 << 11).to_le_bytes());
            bytes[at(n)..at(n) + (24 << 20)].copy_from_slice(&fs::read(file).unwrap());
        }
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let bad = [(100, 3), (1500, 20)];
        lab.write("disk.raw", &bytes);
        lab.write("failing.map", mapfile(bytes.len() as u64 / 512, 512, &bad));
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=10ms"]);
        let since = disk.forget();
        let mount = lab.path("shown").to_str().unwrap().to_owned();
        let mut child = create(
            &lab,
            &[disk.path(), "disk.cdimg", "--in-order", "--mount", &mount, "--attach", "--files"],
        );
        wait_for(&lab, "create.err", "is mounted at");
        wait_until("the device is named", || {
            fs::read_to_string(lab.path("create.out")).is_ok_and(|t| t.contains("/dev/"))
        });
        let device = fs::read_to_string(lab.path("create.out")).unwrap().trim().to_owned();
        let ours =
            |n: u64, path: &std::path::Path| assert_eq!(fs::read(path).unwrap(), content(n), "{path:?}");
        // The kernel's ext4, and ntfs-3g, each from its partition.
        let (ext_mnt, ntfs_mnt) = (lab.path("e"), lab.path("n"));
        for dir in [&ext_mnt, &ntfs_mnt] {
            fs::create_dir(dir).unwrap();
        }
        let parts: Vec<String> = (0..2)
            .map(|n| {
                let (offset, size) = (at(n).to_string(), (24 << 20).to_string());
                let words =
                    ["-f", "--show", "-r", "--direct-io=on", "-o", &offset, "--sizelimit", &size, &device];
                run("losetup", words).trim().to_owned()
            })
            .collect();
        for part in &parts {
            run("blockdev", ["--setra", "0", part]);
        }
        run("mount", ["-t", "ext4", "-o", "ro,noload", &parts[0], ext_mnt.to_str().unwrap()]);
        run("ntfs-3g", ["-o", "ro", &parts[1], ntfs_mnt.to_str().unwrap()]);
        for n in (0..40).step_by(7) {
            ours(n, &ext_mnt.join(format!("f{n}")));
            ours(n, &ntfs_mnt.join(format!("f{n}")));
        }
        run("umount", [ext_mnt.to_str().unwrap()]);
        run("umount", [ntfs_mnt.to_str().unwrap()]);
        run("losetup", ["-d", &parts[0], &parts[1]]);
        // And through `files/`.
        let listed: Vec<_> =
            fs::read_dir(format!("{mount}/files")).unwrap().flatten().map(|e| e.path()).collect();
        assert_eq!(listed.len(), 2);
        for volume in listed {
            ours(39, &volume.join("f39"));
        }
        assert!(child.try_wait().unwrap().is_none(), "the imaging has ended before it was read");
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(format!("{mount}/info.json")).unwrap()).unwrap();
        assert_eq!(json["warnings"][0], "the disk is being imaged");
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(format!("{mount}/badblocks.json")).unwrap()).unwrap();
        assert!(json["blocks"]["non-tried"]["bytes"].as_u64().unwrap() > 0);
        assert_eq!(
            child.wait().unwrap().code(),
            Some(4),
            "{}",
            fs::read_to_string(lab.path("create.err")).unwrap()
        );
        // Each sector once; but those that prove that the drive works, and those of a block that has failed.
        let reads = disk.reads(since);
        let block = |sector: u64| sector / 2048;
        let is_near = |sector: u64| bad.iter().any(|(first, _)| block(*first) == block(sector));
        let twice = reads.iter().filter(|(sector, n)| **n > 1 && !is_near(**sector)).count();
        assert!(twice < 100, "{twice} sectors were read more than once");
        // It stays, and shows the finished image.
        wait_until("the image is shown", || {
            let json = fs::read(format!("{mount}/info.json")).unwrap();
            serde_json::from_slice::<serde_json::Value>(&json).unwrap()["warnings"] == serde_json::json!([])
        });
        let listed = lab.cdi(["list", "--json"]).ends(0).json();
        assert_eq!(listed["mounts"][0]["device"], *device);
        let file = fs::File::open(format!("{mount}/disk.raw")).unwrap();
        let mut buf = vec![0; 1 << 20];
        file.read_exact_at(&mut buf, 1 << 20).unwrap();
        assert_eq!(buf, bytes[1 << 20..2 << 20]);
        assert_eq!(file.read_at(&mut buf[..512], 101 * 512).unwrap_err().raw_os_error(), Some(5));
        drop(file);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        is_right(&lab, "disk.cdimg", &bytes, &bad);
        // The image is as without readers.
        lab.cdi(["create", disk.path(), "alone.cdimg", "--in-order"]).ends(4);
        assert_eq!(map_of(&lab, "disk.cdimg"), map_of(&lab, "alone.cdimg"));
    }

    /// The mount can be removed while the disk is imaged, and a process that is killed loses nothing.
    #[needs(DISK)]
    fn a_mount_ends_without_the_imaging_and_a_kill_loses_nothing() {
        let (lab, truth) = lab(&[(5000, 2)]);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=20ms"]);
        let mount = lab.path("shown").to_str().unwrap().to_owned();
        let mut child = create(&lab, &[disk.path(), "disk.cdimg", "--mount", &mount]);
        wait_for(&lab, "create.err", "is mounted at");
        lab.cdi(["detach", &mount]).ends(0);
        assert!(!std::path::Path::new(&mount).exists());
        assert!(child.try_wait().unwrap().is_none());
        assert_eq!(child.wait().unwrap().code(), Some(4));
        is_right(&lab, "disk.cdimg", &truth, &[(5000, 2)]);

        let mut random = Random::new(5);
        for round in 0..4 {
            let _ = fs::remove_file(lab.path("killed.cdimg"));
            let mut child = create(&lab, &[disk.path(), "killed.cdimg", "--mount", &mount]);
            wait_for(&lab, "create.err", "is mounted at");
            let file = fs::File::open(format!("{mount}/disk.raw")).unwrap();
            let mut read = Vec::new();
            for _ in 0..1 + random.below(20) {
                let at = random.below(300) * 65_536;
                let at = at.min((truth.len() as u64 - 4096) / 4096 * 4096);
                let mut buf = vec![0; 4096];
                if file.read_exact_at(&mut buf, at).is_ok() {
                    read.push(at);
                }
            }
            drop(file);
            // A tick of the writer.
            thread::sleep(Duration::from_millis(100));
            let worker = fs::read_dir("/proc").unwrap().flatten().find_map(|e| {
                let pid: i32 = e.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(e.path().join("stat")).ok()?;
                let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.to_owned();
                (parent == child.id().to_string()).then_some(pid)
            });
            run("kill", ["-9".to_owned(), worker.unwrap().to_string()]);
            assert_eq!(child.wait().unwrap().code(), Some(1));
            // What programs have read is there.
            let missing = map_of(&lab, "killed.cdimg");
            for at in &read {
                let sector = at / 512;
                let status = missing.iter().find(|b| b.0 <= sector && sector < b.0 + b.1);
                assert!(status.is_some_and(|b| b.2 == "+"), "round {round}: {at} is lost");
            }
            lab.cdi(["detach", &mount]).ends(0);
            lab.cdi(["create", disk.path(), "killed.cdimg", "--resume"]).ends(4);
            is_right(&lab, "killed.cdimg", &truth, &[(5000, 2)]);
        }
    }

    /// What is shown at the end is the image that was made, whatever is at its path.
    #[needs(DISK)]
    fn another_file_under_the_image_s_name_is_not_shown() {
        let (lab, truth) = lab(&[(5000, 2)]);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=10ms"]);
        lab.write("zeros.raw", vec![0; truth.len()]);
        lab.cdi(["create", "zeros.raw", "zeros.cdimg"]).ends(0);
        let mount = lab.path("shown").to_str().unwrap().to_owned();
        let mut child = create(&lab, &[disk.path(), "disk.cdimg", "--mount", &mount]);
        wait_for(&lab, "create.err", "is mounted at");
        fs::rename(lab.path("disk.cdimg"), lab.path("moved.cdimg")).unwrap();
        fs::rename(lab.path("zeros.cdimg"), lab.path("disk.cdimg")).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let mut buf = vec![0; 65_536];
        fs::File::open(format!("{mount}/disk.raw")).unwrap().read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf, truth[..65_536]);
        lab.cdi(["detach", &mount]).ends(0);
    }

    /// A mount that cannot be made is an error, also if the imaging is over before it is known.
    #[needs(Fuse, Program("setpriv"))]
    fn a_mount_that_fails_is_reported() {
        let lab = Lab::new();
        lab.write("tiny.raw", disk(64 << 10));
        for dir in ["theirs", "run"] {
            fs::create_dir_all(lab.path(dir)).unwrap();
        }
        fs::create_dir(lab.path("out")).unwrap();
        run("chmod", ["0777", lab.path("out").to_str().unwrap(), lab.dir.to_str().unwrap()]);
        run("chown", ["nobody", lab.path("run").to_str().unwrap()]);
        let (cdi, theirs) = (env!("CARGO_BIN_EXE_cdi"), lab.path("theirs"));
        let runtime = format!("XDG_RUNTIME_DIR={}", lab.path("run").display());
        let words =
            ["--reuid=nobody", "--clear-groups", "env", &runtime, cdi, "create", "tiny.raw", "out/q.cdimg"];
        let mut command = Command::new("setpriv");
        command.args(words).args(["--rescue", "--mount"]).arg(&theirs).current_dir(&lab.dir);
        let ran = command.output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && said.contains("theirs"), "{said}");
    }

    /// Over NBD; the server ends with the last client.
    #[needs(DISK, Program("nbdinfo"))]
    fn the_disk_is_served_over_nbd_while_it_is_imaged() {
        let (lab, truth) = lab(&[(5000, 2)]);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=5ms"]);
        let socket = lab.path("s").to_str().unwrap().to_owned();
        let mut child = create(&lab, &[disk.path(), "disk.cdimg", "--in-order", "--nbd", &socket]);
        wait_until("it is served", || std::path::Path::new(&socket).exists());
        let uri = format!("nbd+unix:///?socket={socket}");
        let copied = Command::new("nbdinfo").args(["--size", &uri]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&copied.stdout).trim(), truth.len().to_string());
        let mount = lab.path("client");
        fs::create_dir(&mount).unwrap();
        let client = mount.join("disk");
        let mut nbdfuse =
            Command::new("nbdfuse").arg(&client).arg(uri).stderr(Stdio::null()).spawn().unwrap();
        wait_until("nbdfuse shows the disk", || fs::metadata(&client).is_ok_and(|m| m.len() > 0));
        let file = fs::File::open(&client).unwrap();
        let mut buf = vec![0; 65_536];
        file.read_exact_at(&mut buf, 12 << 20).unwrap();
        assert_eq!(buf, truth[12 << 20..(12 << 20) + 65_536]);
        assert!(child.try_wait().unwrap().is_none(), "the imaging has ended before it was read");
        assert_eq!(child.wait().unwrap().code(), Some(4));
        // It is served until the last client has disconnected.
        file.read_exact_at(&mut buf, 3 << 20).unwrap();
        assert_eq!(buf, truth[3 << 20..(3 << 20) + 65_536]);
        drop(file);
        run("umount", [&mount]);
        nbdfuse.wait().unwrap();
        wait_until("the server ends", || !std::path::Path::new(&socket).exists());
        is_right(&lab, "disk.cdimg", &truth, &[(5000, 2)]);
    }
);
