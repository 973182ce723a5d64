//! FUSE and loop devices. The modules are not loaded: `attach` does that.

use std::path::Path;

use nix::libc::{EIO, ENODATA};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::checks::{Checks, must};
use crate::disks::{PAGE, SECTOR, Sample, read};
use crate::mounts::{Mount, is_loaded, left_over, setting};

pub fn run(c: &mut Checks) {
    let sample = Sample::new(c);
    let (bad, pages) = (sample.bad.clone(), sample.bad.whole(PAGE));
    let size = sample.disk.len();

    // Some kernels have one of them built in, but not that of user-mode Linux.
    let built_in =
        ["fuse", "loop"].map(|module| must("modprobe", &["--show-depends", module]).starts_with("builtin"));
    c.same("modules fuse and loop at the start", ["fuse", "loop"].map(is_loaded), built_in);
    c.code("doctor without the modules", &c.cdi(&["doctor"]), 0);
    c.same("modules fuse and loop after doctor", ["fuse", "loop"].map(is_loaded), built_in);
    let mount = Mount::attach(c, "attach", &[&sample.image]);
    c.same("modules fuse and loop after attach", ["fuse", "loop"].map(is_loaded), [true; 2]);
    let (device, file) = (mount.device(), mount.file());

    let settings = ["loop/dio", "queue/read_ahead_kb", "queue/logical_block_size", "ro"];
    let settings = settings.map(|what| setting(&device, what));
    c.same(
        "direct I/O, readahead, sector size, read-only",
        settings,
        ["1", "0", "512", "1"].map(String::from),
    );
    let got = read(&device, size, SECTOR, true);
    sample.check_reader(c, "O_DIRECT on the device, by sectors", &got, &bad, EIO);
    let got = read(&file, size, SECTOR, true);
    sample.check_reader(c, "O_DIRECT on disk.raw, by sectors", &got, &bad, EIO);
    let got = read(&device, size, 16 * PAGE, true);
    sample.check_reader(c, "O_DIRECT on the device, by 64 KiB", &got, &bad.whole(16 * PAGE), EIO);
    let got = read(&device, size, SECTOR, false);
    sample.check_reader(c, "the device through the cache", &got, &pages, EIO);
    let got = read(&file, size, SECTOR, false);
    sample.check_reader(c, "disk.raw through the cache", &got, &pages, EIO);
    for from in [&device, &file] {
        let from = from.to_str().unwrap();
        for cluster in ["-c1", "-c128"] {
            let what = format!("ddrescue -d {cluster} {}", Path::new(from).file_name().unwrap().display());
            sample.check_ddrescue(c, &what, from, &["-d", "-b512", cluster], &bad);
        }
    }
    mount.detach(c, "detach");

    let mount = Mount::attach(c, "attach --errno medium", &["--errno", "medium", &sample.image]);
    let got = read(&mount.device(), size, SECTOR, true);
    sample.check_reader(c, "--errno medium, O_DIRECT", &got, &bad, ENODATA);
    mount.detach(c, "detach");

    for (signal, what) in [(Signal::SIGKILL, "daemon killed"), (Signal::SIGSTOP, "daemon stopped")] {
        let mount = Mount::attach(c, "attach", &[&sample.image]);
        kill(Pid::from_raw(mount.pid), signal).unwrap();
        if signal == Signal::SIGKILL {
            let (error, took) = mount.read_error();
            c.same(&format!("{what}: read of the device"), error, Some(EIO));
            c.took(&format!("{what}: read of the device"), took, 0.0, 3.0);
        }
        let detached = c.cdi(&["detach", "-q", mount.device().to_str().unwrap()]);
        c.code(&format!("{what}: detach"), &detached, 0);
        c.took(&format!("{what}: detach"), detached.took, 0.0, 5.0);
        c.same(&format!("{what}: left over"), left_over(), Vec::new());
    }
}
