//! Disks that hang, die, come and go; a program that is killed, and a target that is full.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::failing_disk::{BAD, DISK, FailingDisk, ended, is_right, lab, map_of, open_alone, spawn};
use crate::common::{Ran, run, wait_until};

tests!(
    #[needs(DISK)]
    fn intermittent_errors_are_retried() {
        let (lab, truth) = lab(&[]);
        let disk = FailingDisk::new(&lab, &["error"], &["error=EIO", "error-pread-rate=5%"]);
        let ran =
            lab.cdi(["create", disk.path(), "a.cdimg", "--retry-passes", "-1", "--json"]).ends(0).json();
        assert!(ran["failed_reads"].as_u64().unwrap() > 0, "nothing failed");
        is_right(&lab, "a.cdimg", &truth, &[]);
    }

    #[needs(DISK)]
    fn a_hung_read_blocks_neither_display_nor_ctrl_c() {
        let (lab, truth) = lab(&BAD);
        let disk = FailingDisk::new(&lab, &["delay"], &["rdelay=2ms"]);
        let child = spawn(&lab, &["create", disk.path(), "a.cdimg", "--json"]);
        wait_until("the imaging has begun", || {
            fs::metadata(lab.path("a.cdimg")).is_ok_and(|m| m.len() > 1_200_000)
        });
        disk.signal("-STOP");
        // The progress display continues and shows that it is waiting.
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
        // A timeout ends it as well.
        let child = spawn(&lab, &["create", disk.path(), "t.cdimg", "--timeout", "1", "--json"]);
        wait_until("the imaging has begun", || lab.path("t.cdimg").exists());
        disk.signal("-STOP");
        // A script may switch the disk off and on.
        let ran = ended(child).ends(8).json();
        assert_eq!(ran["ended"], "timeout");
        disk.signal("-CONT");
        wait_until("the disk is free", || open_alone(&disk.device));
    }

    #[needs(DISK)]
    fn a_dying_disk_gets_no_false_bad_sectors() {
        let (lab, truth) = lab(&[(1000, 1)]);
        let mut disk = FailingDisk::new(&lab, &["delay"], &["rdelay=5ms"]);
        let child = spawn(&lab, &["create", disk.path(), "a.cdimg", "--json"]);
        wait_until("much is read", || fs::metadata(lab.path("a.cdimg")).is_ok_and(|m| m.len() > 1_200_000));
        disk.nbdkit.kill().unwrap();
        let ran = ended(child);
        let code = if ran.err.contains("the disk is gone") { 7 } else { 8 };
        let ran = ran.ends(code);
        assert!(
            ran.err.contains("fails on sectors that it could read before")
                || ran.err.contains("the disk is gone"),
            "{}",
            ran.err
        );
        // No good sector is recorded as bad, and the rest is non-tried.
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
    fn killed_every_100_ms_and_resumed_nothing_is_lost() {
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
        // While the target is full the error is the same, and nothing gets worse.
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
);
