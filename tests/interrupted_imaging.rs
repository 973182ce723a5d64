//! Imaging that is interrupted, or resumed from another disk, loses nothing: an image that is moved meanwhile, signals, limits,
//! a kill, a disk that is not the one it was begun with.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::{Lab, LoopDevice, disk, run, wait_until};

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

tests!(
    fn an_image_is_not_resumed_from_another_disk() {
        let lab = Lab::new();
        let truth = disk(4 << 20);
        lab.write("disk.raw", &truth);
        let mut other = truth.clone();
        for place in other[..2 << 20].chunks_mut(512) {
            place[9] ^= 1;
        }
        lab.write("other.raw", &other);
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--size", "2M"]).ends(4);
        let before = lab.read("a.cdimg");
        for force in [&[][..], &["--force"]] {
            let words = [&["create", "--rescue", "other.raw", "a.cdimg", "--resume"], force].concat();
            let ran = lab.cdi(words).ends(2);
            assert!(ran.err.contains("differs from the image at byte"), "{}", ran.err);
            assert!(lab.read("a.cdimg") == before);
        }
        lab.cdi(["create", "--rescue", "disk.raw", "a.cdimg", "--resume"]).ends(0);
        lab.cdi(["extract", "a.cdimg", "x.raw"]).ends(0);
        assert!(lab.read("x.raw") == truth);
        // Zeros cannot be compared.
        lab.write("zeros.raw", vec![0; 1 << 20]);
        lab.cdi(["create", "--rescue", "zeros.raw", "z.cdimg", "--size", "512k"]).ends(4);
        lab.cdi(["create", "--rescue", "zeros.raw", "z.cdimg", "--resume"]).ends(0);
    }

    fn an_image_is_resumed_from_a_disk_that_shows_less() {
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
        assert!(lab.read("x.raw") == truth);
    }

    #[needs(Fuse, Program("nbdkit"), Program("nbdfuse"))]
    fn moving_the_image_stops_imaging_and_loses_nothing() {
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
        assert!(lab.read("x.raw") == truth);
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
        assert_eq!(lab.read("a.cdimg"), b"else");
    }

    #[needs(Fuse, Program("nbdkit"), Program("nbdfuse"))]
    fn ignored_signals_stay_ignored() {
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
    fn an_image_is_resumed_right_after_a_kill() {
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
        assert!(lab.read("x.raw") == truth);
    }
);
