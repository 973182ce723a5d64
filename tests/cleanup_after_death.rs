//! The daemon is killed or stopped while nothing, a reader, or a mounted file system uses the device: `detach` then exits 0,
//! twice, in time, and nothing is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Lab, Need, run, wait_until};

#[derive(Clone, Copy, PartialEq)]
enum Use {
    Nothing,
    Reader,
    Mounted,
}

struct Attached {
    lab: Lab,
    device: PathBuf,
    pid: i64,
}

fn attached() -> Attached {
    let lab = Lab::new();
    let disk = fs::File::create(lab.path("disk.raw")).unwrap();
    disk.set_len(64 << 20).unwrap();
    if Need::Program("mkfs.ext4").is_there() {
        run("mkfs.ext4", [Path::new("-q"), &lab.path("disk.raw")]);
    }
    // Noise, so that a reader has something to wait for.
    let noise: Vec<u8> = {
        let mut r = crate::common::Random::new(3);
        (0..16 << 20).map(|_| r.next() as u8).collect()
    };
    std::os::unix::fs::FileExt::write_all_at(
        &fs::File::options().write(true).open(lab.path("disk.raw")).unwrap(),
        &noise,
        40 << 20,
    )
    .unwrap();
    lab.cdi(["create", "disk.raw", "disk.cdimg"]).ends(0);
    let device = lab.attach(&[]);
    let pid = lab.cdi(["list", "--json"]).json()["mounts"][0]["pid"].as_i64().unwrap();
    Attached { lab, device, pid }
}

/// A program that reads the device again and again, and has it open all the while.
fn reader(device: &Path) -> Child {
    let script = format!(
        "exec 3< {0}; while dd if={0} of=/dev/null bs=64k iflag=direct; do :; done",
        device.display()
    );
    let child = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    child
}

fn detach_twice(lab: &Lab, args: &[&str]) {
    let start = Instant::now();
    for _ in 0..2 {
        lab.cdi(["detach", "disk.cdimg"].iter().chain(args)).ends(0);
    }
    assert!(start.elapsed() < Duration::from_secs(15), "took {:?}", start.elapsed());
    assert_eq!(lab.leftovers(), "");
    assert_eq!(lab.cdi(["list", "--json"]).json()["mounts"].as_array().unwrap().len(), 0);
}

fn matrix(signal: &str, how: Use) {
    let Attached { lab, device, pid } = attached();
    let mut child = None;
    match how {
        Use::Nothing => {}
        Use::Reader => child = Some(reader(&device)),
        Use::Mounted => {
            fs::create_dir(lab.path("fs")).unwrap();
            run("mount", [Path::new("-o"), Path::new("ro,noload"), &device, &lab.path("fs")]);
        }
    }
    run("kill", [format!("-{signal}"), pid.to_string()]);
    detach_twice(&lab, &[]);
    if let Some(mut child) = child {
        // Its reads have failed, so it has ended by itself.
        wait_until("the reader has ended", || !is_running(child.id()));
        child.wait().unwrap();
    }
    wait_until("the daemon is gone", || !is_running(pid as u32));
}

/// Whether a process is there and not a zombie.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

tests!(
    #[needs(Fuse, Loop)]
    fn detach_succeeds_after_a_kill_while_idle() {
        matrix("KILL", Use::Nothing);
    }

    #[needs(Fuse, Loop)]
    fn detach_succeeds_after_a_kill_while_read() {
        matrix("KILL", Use::Reader);
    }

    #[needs(Fuse, Loop, Program("mkfs.ext4"))]
    fn detach_succeeds_after_a_kill_while_mounted() {
        matrix("KILL", Use::Mounted);
    }

    #[needs(Fuse, Loop)]
    fn detach_succeeds_after_a_stop_while_idle() {
        matrix("STOP", Use::Nothing);
    }

    #[needs(Fuse, Loop)]
    fn detach_succeeds_after_a_stop_while_read() {
        matrix("STOP", Use::Reader);
    }

    #[needs(Fuse, Loop, Program("mkfs.ext4"))]
    fn detach_succeeds_after_a_stop_while_mounted() {
        matrix("STOP", Use::Mounted);
    }

    #[needs(Fuse, Loop)]
    fn a_terminated_daemon_detaches_by_itself() {
        let Attached { lab, pid, .. } = attached();
        run("kill", ["-TERM".to_owned(), pid.to_string()]);
        // A daemon that is asked to end takes everything away by itself.
        wait_until("nothing is left", || lab.leftovers().is_empty());
        detach_twice(&lab, &[]);
    }

    #[needs(Fuse, Loop)]
    fn the_next_command_cleans_up_after_a_dead_daemon() {
        let Attached { lab, pid, .. } = attached();
        run("kill", ["-KILL".to_owned(), pid.to_string()]);
        // The record's lock is released when the last thread of the daemon has ended, just after its first.
        wait_until("the daemon is dead", || lab.cdi(["list"]).ends(0).out.contains("not served any more"));
        // Attaching again finds the dead mount, removes it, and succeeds.
        let device = lab.attach(&[]);
        assert_eq!(lab.cdi(["list", "--json"]).json()["mounts"].as_array().unwrap().len(), 1);
        fs::File::open(&device).unwrap();
        detach_twice(&lab, &[]);
    }

    #[needs(Fuse, Loop)]
    fn detach_with_force_succeeds_while_read() {
        let Attached { lab, device, .. } = attached();
        let mut child = reader(&device);
        lab.cdi(["detach", "disk.cdimg"]).ends(5);
        detach_twice(&lab, &["--force"]);
        wait_until("the reader has ended", || !is_running(child.id()));
        child.wait().unwrap();
    }
);
