//! What must never be lost: what is read, what is not finished, the only map of a dead disk, an image that is moved while it
//! is made, and work that a signal or a limit interrupts.

use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::{Lab, LoopDevice, MountedDisk, Need, disk, mapfile, run, wait_until};

/// The disk in `disk.raw`, shown as a file that gives 16 MiB a second.
struct Slow {
    nbdfuse: Child,
    dir: std::path::PathBuf,
}

impl Slow {
    fn new(lab: &Lab) -> Slow {
        let dir = lab.path("slow");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("disk"), "").unwrap();
        let mut nbdfuse = Command::new("nbdfuse");
        nbdfuse.arg(dir.join("disk")).args(["[", "nbdkit", "--exit-with-parent", "--filter=rate", "file"]);
        nbdfuse.arg(lab.path("disk.raw")).args(["rate=128M", "]"]);
        let nbdfuse = nbdfuse.stderr(Stdio::null()).spawn().unwrap();
        let size = fs::metadata(lab.path("disk.raw")).unwrap().len();
        wait_until("the disk is shown", || fs::metadata(dir.join("disk")).is_ok_and(|m| m.len() == size));
        Slow { nbdfuse, dir }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.join("disk")).status();
        let _ = self.nbdfuse.kill();
        let _ = self.nbdfuse.wait();
    }
}

fn bytes(lab: &Lab, name: &str) -> Vec<u8> {
    fs::read(lab.path(name)).unwrap()
}

tests!(
    #[needs(Program("qemu-img"))]
    fn nothing_that_is_read_is_written_over() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        lab.write("base.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", &path("over.qcow2")]);
        for (n, piece) in truth.chunks(400_000).enumerate() {
            lab.write(&format!("p.{n:03}"), piece);
        }
        lab.write("p.map", mapfile(2048, 512, &[(9, 1)]));
        fs::hard_link(lab.path("base.raw"), lab.path("link.img")).unwrap();
        for (image, out) in
            [("over.qcow2", "base.raw"), ("over.qcow2", "link.img"), ("p.000", "p.001"), ("p.000", "p.map")]
        {
            let before = bytes(&lab, out);
            for words in [["extract", image, out, "--force"], ["create", image, out, "--force"]] {
                lab.cdi(words).ends(2);
                assert!(bytes(&lab, out) == before, "{words:?}");
            }
            lab.cdi(["map", image, "--export-mapfile", out, "--force"]);
            assert!(bytes(&lab, out) == before, "{out}");
        }
        // Nor is what is mounted.
        if Need::Fuse.is_there() {
            lab.cdi(["create", "base.raw", "a.cdimg"]).ends(0);
            let before = bytes(&lab, "a.cdimg");
            lab.cdi(["mount", "a.cdimg", "m"]).ends(0);
            let ran = lab.cdi(["create", "p.000", "a.cdimg", "--force"]).ends(2);
            assert!(ran.err.contains("is mounted at"), "{}", ran.err);
            lab.cdi(["unmount", "m"]).ends(0);
            // Nor the parent of what is mounted.
            lab.cdi(["mount", "over.qcow2", "m"]).ends(0);
            let ran = lab.cdi(["extract", "a.cdimg", "base.raw", "--force"]).ends(2);
            assert!(ran.err.contains("is mounted at"), "{}", ran.err);
            lab.cdi(["unmount", "m"]).ends(0);
            assert!(bytes(&lab, "a.cdimg") == before);
            lab.cdi(["create", "p.000", "a.cdimg", "--force"]).ends(4);
        }
    }

    #[needs(Loop)]
    fn what_lies_behind_a_device_is_kept() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        let raw = lab.write("a.cdimg", &truth);
        let device = LoopDevice::new(&raw, &[]);
        let ran = lab.cdi(["create", &device.path, "a.cdimg", "--force"]).ends(2);
        assert!(ran.err.contains("is a backing file of"), "{}", ran.err);
        lab.cdi(["extract", &device.path, "a.raw", "--format", "raw"]).ends(0);
        drop(device);
        assert!(bytes(&lab, "a.cdimg") == truth && bytes(&lab, "a.raw") == truth);
    }

    #[needs(Loop, Program("mkfs.ext4"))]
    fn an_image_on_its_own_disk_is_refused() {
        let lab = Lab::new();
        fs::File::create(lab.path("disk.raw")).unwrap().set_len(16 << 20).unwrap();
        let outer = MountedDisk::ext4(&lab.path("disk.raw"), lab.path("mnt"));
        // A file on the disk may be a disk, too: what is on that one is also on the first.
        let _inner = MountedDisk::ext4(&lab.write("mnt/inner.raw", vec![0; 1 << 20]), lab.path("mnt2"));
        for image in ["mnt/a.cdimg", "mnt2/a.cdimg"] {
            let ran = lab.cdi(["create", &outer.device.path, image, "--force"]).ends(2);
            assert!(ran.err.contains("the disk to be imaged"), "{}", ran.err);
        }
    }

    fn an_unfinished_image_is_kept_by_all_verbs() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(1 << 20));
        lab.cdi(["create", "disk.raw", "other.cdimg"]).ends(0);
        lab.cdi(["create", "--rescue", "disk.raw", "u.cdimg", "--size", "512k"]).ends(4);
        let before = bytes(&lab, "u.cdimg");
        let words: [&[&str]; 5] = [
            &["create", "disk.raw", "u.cdimg"],
            &["create", "--rescue", "disk.raw", "u.cdimg"],
            &["repair", "other.cdimg", "u.cdimg"],
            &["compact", "other.cdimg", "u.cdimg"],
            &["map", "other.cdimg", "--export-mapfile", "u.cdimg"],
        ];
        for words in words {
            let ran = lab.cdi([words, &["--force"]].concat()).ends(5);
            assert!(
                ran.err.contains("--resume") && ran.err.contains("is an unfinished disk image"),
                "{words:?}: {}",
                ran.err
            );
            assert!(bytes(&lab, "u.cdimg") == before, "{words:?}");
        }
        // One that cannot be opened may be one.
        lab.write("d.cdimg", &before[..before.len() / 2]);
        lab.cdi(["create", "disk.raw", "d.cdimg", "--force"]).ends(5);
        lab.cdi(["create", "disk.raw", "d.cdimg", "--discard-unfinished"]).ends(0);
        lab.cdi(["create", "--rescue", "disk.raw", "u.cdimg", "--resume"]).ends(0);
        lab.cdi(["create", "disk.raw", "u.cdimg", "--force"]).ends(0);
    }

    fn a_map_is_not_written_over_by_a_lesser_one() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        fs::create_dir(lab.path("in")).unwrap();
        lab.write("in/disk.raw", &truth);
        let map = mapfile(2048, 512, &[(100, 5), (2000, 48)]);
        lab.write("disk.map", &map);
        // The image's own map is not next to it.
        let ran = lab.cdi(["map", "in/disk.raw", "--export-mapfile", "disk.map", "--force"]).ends(5);
        assert!(ran.err.contains("with more information"), "{}", ran.err);
        assert_eq!(fs::read_to_string(lab.path("disk.map")).unwrap(), map);
        lab.cdi(["create", "in/disk.raw", "a.cdimg", "--mapfile", "disk.map"]).ends(4);
        lab.cdi(["map", "a.cdimg", "--export-mapfile", "disk.map", "--force"]).ends(0);
        // Nor the one beside a file that is extracted.
        lab.write("disk.map", &map);
        lab.cdi(["create", "in/disk.raw", "b.cdimg"]).ends(0);
        for image in ["a.cdimg", "b.cdimg"] {
            lab.cdi(["extract", image, "disk"]).ends(5);
            lab.cdi(["extract", image, "disk", "--force"]).ends(5);
            assert!(!lab.path("disk").exists());
        }
        // Nor by what is no map.
        let ran = lab.cdi(["map", "a.cdimg", "--picture", "disk.map", "--force"]).ends(5);
        assert!(ran.err.contains("is a mapfile or a list of bad blocks"), "{}", ran.err);
        assert_eq!(fs::read_to_string(lab.path("disk.map")).unwrap(), map);
        // But what was written here goes with what it is the map of: an image may know more by now.
        fs::remove_file(lab.path("disk.map")).unwrap();
        lab.cdi(["extract", "a.cdimg", "disk"]).ends(4);
        lab.cdi(["extract", "b.cdimg", "disk", "--force"]).ends(0);
        lab.cdi(["map", "a.cdimg", "--export-mapfile", "disk.map", "--force"]).ends(5);
        lab.write("disk.map", &map);
        // As input it is the same on every verb.
        let json = lab.cdi(["map", "--bad", "--json", "in/disk.raw", "--mapfile", "disk.map"]).ends(0).json();
        assert_eq!(json["ranges"].as_array().unwrap().len(), 2);
        let out = lab.cdi(["map", "a.cdimg", "--export-badblocks"]).ends(0).out;
        assert!(out.starts_with("50\n51\n52\n1000\n"), "{out}");
        assert_eq!(
            lab.cdi(["map", "a.cdimg", "--export-mapfile", "-"]).ends(0).out.matches(" -\n").count(),
            2
        );
    }

    fn names_say_what_is_written() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(1 << 20));
        for out in ["x.img", "x.dd", "x.001", "x.e01", "x.qcow2"] {
            let ran = lab.cdi(["create", "disk.raw", out]).ends(2);
            assert!(ran.err.contains("use the name x.cdimg") && !lab.path(out).exists(), "{}", ran.err);
        }
        lab.cdi(["create", "disk.raw", "x.cdimg"]).ends(0);
        lab.cdi(["create", "disk.raw", "x"]).ends(0);
        for out in ["y.cdimg", "y.vmdk", "y.dmg"] {
            lab.cdi(["extract", "x.cdimg", out]).ends(2);
            assert!(!lab.path(out).exists());
        }
        for words in [["repair", "x.cdimg", "z.img"], ["compact", "x.cdimg", "z.img"]] {
            lab.cdi(words).ends(2);
        }
    }

    fn another_disk_is_not_gone_on_with() {
        let lab = Lab::new();
        let truth = disk(4 << 20);
        lab.write("disk.raw", &truth);
        let mut other = truth.clone();
        for place in other[..2 << 20].chunks_mut(512) {
            place[9] ^= 1;
        }
        lab.write("other.raw", &other);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "2M"]).ends(4);
        let before = bytes(&lab, "a.cdimg");
        for force in [&[][..], &["--force"]] {
            let words = [&["create", "--rescue", "other.raw", "a.cdimg", "--resume"], force].concat();
            let ran = lab.cdi(words).ends(2);
            assert!(ran.err.contains("differs from the image at byte"), "{}", ran.err);
            assert!(bytes(&lab, "a.cdimg") == before);
        }
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        lab.cdi(["extract", "a.cdimg", "x.raw"]).ends(0);
        assert!(bytes(&lab, "x.raw") == truth);
        // Of zeros nothing can be told.
        lab.write("zeros.raw", vec![0; 1 << 20]);
        lab.cdi(["create", "--rescue", "zeros.raw", "z.cdimg", "--size", "512k"]).ends(4);
        lab.cdi(["create", "--rescue", "zeros.raw", "z.cdimg", "--resume"]).ends(0);
    }

    fn a_disk_that_shows_less_is_read() {
        let lab = Lab::new();
        let truth = disk(4 << 20);
        lab.write("disk.raw", &truth);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "1M"]).ends(4);
        // An adapter that hides a megabyte.
        lab.write("less.raw", &truth[..3 << 20]);
        let words = ["create", "--rescue", "less.raw", "a.cdimg", "--resume"];
        let ran = lab.cdi(words).ends(2);
        assert!(ran.err.contains("is one of them a partition"), "{}", ran.err);
        lab.cdi([&words[..], &["--force"]].concat()).ends(4);
        let json = lab.cdi(["map", "--bad", "--json", "a.cdimg"]).ends(0).json();
        assert_eq!(json["ranges"][0]["offset_bytes"].as_u64(), Some(3 << 20));
        // Sectors of 4096 bytes in place of 512.
        let words = ["create", "--rescue", "less.raw", "a.cdimg", "--resume", "--sector-size", "4096"];
        lab.cdi(words).ends(2);
        lab.cdi([&words[..], &["--force"]].concat()).ends(4);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        lab.cdi(["extract", "a.cdimg", "x.raw"]).ends(0);
        assert!(bytes(&lab, "x.raw") == truth);
    }

    #[needs(Fuse, Program("nbdkit"), Program("nbdfuse"))]
    fn an_image_that_is_moved_stops_it() {
        let lab = Lab::new();
        let truth = disk(64 << 20);
        lab.write("disk.raw", &truth);
        let _slow = Slow::new(&lab);
        let start = || {
            let mut command = lab.command();
            command.args(["create", "slow/disk", "a.cdimg", "--rescue"]).stderr(Stdio::piped());
            let child = command.spawn().unwrap();
            wait_until("there is something in it", || {
                fs::metadata(lab.path("a.cdimg")).is_ok_and(|m| m.len() > 1 << 20)
            });
            child
        };
        let child = start();
        fs::create_dir(lab.path("away")).unwrap();
        fs::rename(lab.path("a.cdimg"), lab.path("away/b.cdimg")).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(1) && said.contains("away/b.cdimg"), "{said}");
        // It is there, and nothing that was read is lost.
        lab.cdi(["create", "disk.raw", "away/b.cdimg", "--resume"]).ends(0);
        lab.cdi(["extract", "away/b.cdimg", "x.raw"]).ends(0);
        assert!(bytes(&lab, "x.raw") == truth);
        let child = start();
        fs::remove_file(lab.path("a.cdimg")).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(1) && said.contains("a.cdimg.saved-"), "{said}");
        let saved = fs::read_dir(&lab.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let saved = saved.into_iter().find(|name| name.contains(".saved-")).unwrap();
        lab.cdi(["info", &saved]).ends(0);
        let child = start();
        fs::rename(lab.write("something", "else"), lab.path("a.cdimg")).unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
        assert_eq!(bytes(&lab, "a.cdimg"), b"else");
    }

    #[needs(Fuse, Program("nbdkit"), Program("nbdfuse"))]
    fn signals_that_are_ignored_stay_so() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(48 << 20));
        let _slow = Slow::new(&lab);
        for (name, signal) in [("HUP", "-HUP"), ("INT", "-INT")] {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("trap '' {name}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_cdi")]);
            shell.args(["-q", "create", "slow/disk", "a.cdimg", "--rescue", "--force"]);
            shell.current_dir(&lab.dir).env("CDI_RUNTIME_DIR", lab.path("run"));
            // As a terminal or nohup's shell does: to all processes of the job.
            let mut child = shell.process_group(0).spawn().unwrap();
            sleep(Duration::from_millis(300));
            run("kill", [signal, "--", &format!("-{}", child.id())]);
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(0), "{name}: {:?}", status.signal());
            lab.cdi(["verify", "a.cdimg"]).ends(0);
            fs::remove_file(lab.path("a.cdimg")).unwrap();
        }
    }

    fn a_limit_of_the_file_size_leaves_nothing() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(4 << 20));
        lab.cdi(["create", "disk.raw", "a.cdimg"]).ends(0);
        for words in
            ["create disk.raw b.cdimg", "extract a.cdimg b.raw", "repair a.cdimg b.cdimg", "compact a.cdimg"]
        {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -f 200; exec \"$0\" -q {words}"), env!("CARGO_BIN_EXE_cdi")]);
            shell.current_dir(&lab.dir).env("CDI_RUNTIME_DIR", lab.path("run"));
            let ended = shell.output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(ended.status.code(), Some(1), "{words}: {said}");
            assert!(said.contains("ulimit -f") && !said.contains("make room"), "{words}: {said}");
            let mut left: Vec<_> = fs::read_dir(&lab.dir)
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            left.retain(|name| name != "run");
            left.sort();
            assert_eq!(left, ["a.cdimg", "disk.raw"], "{words}");
        }
    }

    #[needs(Fuse, Loop, Program("nbdkit"), Program("nbdfuse"))]
    fn killed_and_resumed_at_once() {
        let lab = Lab::new();
        let truth = disk(64 << 20);
        lab.write("disk.raw", &truth);
        let slow = Slow::new(&lab);
        let device = LoopDevice::new(&slow.dir.join("disk"), &["--read-only"]);
        let mut child = lab.command().args(["-q", "create", &device.path, "a.cdimg"]).spawn().unwrap();
        wait_until("it is under way", || fs::metadata(lab.path("a.cdimg")).is_ok_and(|m| m.len() > 1 << 20));
        child.kill().unwrap();
        child.wait().unwrap();
        lab.cdi(["create", &device.path, "a.cdimg", "--resume"]).ends(0);
        lab.cdi(["extract", "a.cdimg", "x.raw"]).ends(0);
        assert!(bytes(&lab, "x.raw") == truth);
    }

    /// A device shows a file: what may not be written over may not be so through it, either.
    #[needs(Loop, Program("qemu-img"), Program("mkfs.ext4"))]
    fn nothing_is_written_over_through_a_device() {
        let lab = Lab::new();
        lab.write("small.raw", disk(1 << 20));
        lab.cdi(["create", "small.raw", "small.cdimg"]).ends(0);
        lab.write("base.raw", disk(4 << 20));
        let base = lab.path("base.raw");
        run(
            "qemu-img",
            [
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                "base.raw",
                lab.path("top.qcow2").to_str().unwrap(),
            ],
        );
        lab.cdi(["create", "--rescue", "base.raw", "unfinished.cdimg", "--size", "2M"]).ends(4);
        lab.cdi(["create", "base.raw", "whole.cdimg", "--codec", "none"]).ends(0);
        for (image, below, code) in [
            ("top.qcow2", "base.raw", 2),
            ("whole.cdimg", "whole.cdimg", 2),
            ("small.cdimg", "unfinished.cdimg", 5),
        ] {
            let before = bytes(&lab, below);
            let device = LoopDevice::new(&lab.path(below), &[]);
            lab.cdi(["extract", image, &device.path, "--force"]).ends(code);
            drop(device);
            assert!(bytes(&lab, below) == before, "{image} over {below}");
        }
        // A file system that is mounted by way of another device.
        let _mounted = MountedDisk::ext4(&base, lab.path("mnt"));
        let other = LoopDevice::new(&base, &[]);
        lab.cdi(["extract", "small.cdimg", &other.path, "--force"]).ends(5);
        lab.cdi(["create", &other.path, "mnt/own.cdimg"]).ends(2);
    }

    /// What takes the name of a file in the making is not written over when that is whole.
    fn what_takes_a_name_meanwhile_is_kept() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(1 << 20));
        lab.cdi(["create", "--rescue", "disk.raw", "unfinished.cdimg", "--size", "512k"]).ends(4);
        lab.cdi(["create", "disk.raw", "old.cdimg"]).ends(0);
        for name in ["new.cdimg", "old.cdimg"] {
            let mut command = lab.command();
            command.args(["create", "-", name, "--force"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(&disk(2 << 20)).unwrap();
            wait_until("it is under way", || {
                fs::read_dir(&lab.dir)
                    .unwrap()
                    .any(|e| e.unwrap().file_name().to_str().unwrap().ends_with(".partial"))
            });
            fs::copy(lab.path("unfinished.cdimg"), lab.path("copy")).unwrap();
            fs::rename(lab.path("copy"), lab.path(name)).unwrap();
            drop(stdin);
            let ended = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(ended.status.code(), Some(5), "{said}");
            assert!(bytes(&lab, name) == bytes(&lab, "unfinished.cdimg"), "{name}");
            // And what was made is not lost.
            let partial = said.split_whitespace().last().unwrap();
            lab.cdi(["verify", partial]).ends(0);
            fs::remove_file(lab.path(partial)).unwrap();
        }
    }

    #[needs(Loop, Program("mkfs.ext4"))]
    fn a_disk_is_restored_to_a_device() {
        let lab = Lab::new();
        let truth = lab.image(4096, 512, &[(100, 3)]);
        let size = truth.len() as u64;
        let target = lab.write("target", vec![0xEE; truth.len() + 4096]);
        let device = LoopDevice::new(&target, &[]);
        lab.cdi(["extract", "disk.cdimg", &device.path]).ends(5);
        lab.cdi(["extract", "disk.cdimg", &device.path, "--force"]).ends(4);
        let there = fs::read(&device.path).unwrap();
        run("mkfs.ext4", ["-q", "-F", &device.path]);
        let mounted = MountedDisk::mount(device, lab.path("mnt"));
        lab.cdi(["extract", "disk.cdimg", &mounted.device.path, "--force"]).ends(5);
        drop(mounted);
        fs::File::options().write(true).open(&target).unwrap().set_len(size - 512).unwrap();
        let small = LoopDevice::new(&target, &[]);
        let ran = lab.cdi(["extract", "disk.cdimg", &small.path, "--force"]).ends(2);
        assert!(ran.err.contains("nothing was written"), "{}", ran.err);
        let (bad, n) = (100 * 512, 3 * 512);
        assert!(there[..bad] == truth[..bad] && there[bad + n..truth.len()] == truth[bad + n..]);
        assert!(
            there[bad..bad + n].iter().all(|b| *b == 0) && there[truth.len()..].iter().all(|b| *b == 0xEE)
        );
        let ran = lab.cdi(["extract", "--json", "disk.cdimg", "-"]).ends(2);
        assert!(ran.out.is_empty());
        // A name that was mistyped.
        lab.cdi(["extract", "disk.cdimg", "/dev/no-such-disk", "--force"]).ends(2);
        assert!(!Path::new("/dev/no-such-disk").exists());
    }

    #[needs(Fuse)]
    fn a_mount_in_the_foreground_ends_when_it_is_free() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        fs::create_dir(lab.path("m")).unwrap();
        let mut child =
            lab.command().args(["-q", "mount", "disk.cdimg", "m", "--foreground"]).spawn().unwrap();
        wait_until("it is mounted", || lab.path("m/disk.raw").exists());
        let open = fs::File::open(lab.path("m/disk.raw")).unwrap();
        run("kill", ["-TERM", &child.id().to_string()]);
        sleep(Duration::from_millis(1500));
        assert!(child.try_wait().unwrap().is_none(), "it was in use");
        drop(open);
        wait_until("it has gone", || !Path::new(&format!("/proc/{}/fd/0", child.id())).exists());
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(lab.leftovers(), "");
    }

    #[needs(Fuse, Loop)]
    fn two_attach_one() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        for _ in 0..3 {
            let attach =
                || lab.command().args(["-q", "attach", "disk.cdimg"]).stderr(Stdio::null()).spawn().unwrap();
            let mut both = [attach(), attach()];
            let mut codes: Vec<_> = both.iter_mut().map(|c| c.wait().unwrap().code().unwrap()).collect();
            codes.sort_unstable();
            assert_eq!(codes, [0, 5]);
            assert_eq!(lab.cdi(["list", "--json"]).ends(0).json()["mounts"].as_array().unwrap().len(), 1);
            lab.cdi(["detach", "disk.cdimg"]).ends(0);
            lab.cdi(["detach", "disk.cdimg"]).ends(0);
        }
        let ran = lab.cdi(["detach", "disc.cdimg"]).ends(1);
        assert!(ran.err.contains("'cdi list'"), "{}", ran.err);
        lab.attach(&[]);
        let ran = lab.cdi(["detach", "disk.cdimgg"]).ends(1);
        assert!(ran.err.contains("disk.cdimg?"), "{}", ran.err);
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
        assert_eq!(lab.leftovers(), "");
    }
);
