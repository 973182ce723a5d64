//! The kernel's NFS client on what cdi serves, and loop devices on files of that mount: the nearest thing to a Mac's
//! hdiutil on its NFS client.

use std::path::Path;

use nix::libc::EIO;

use crate::checks::{Checks, must};
use crate::disks::{PAGE, SECTOR, Sample, read};
use crate::mounts::{Mount, setting};

pub fn run(c: &mut Checks) {
    let sample = Sample::new(c);
    let (bad, pages) = (sample.bad.clone(), sample.bad.whole(PAGE));
    let size = sample.disk.len();

    let mount = Mount::mount(c, "mount --via nfs", &["--via", "nfs", &sample.image]);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|l| l.starts_with("127.0.0.1:/cdi-")).unwrap_or("");
    let options: Vec<&str> = line.split(' ').nth(3).unwrap_or("").split(',').collect();
    for option in ["ro", "vers=3", "soft", "proto=tcp", "rsize=4096", "timeo=85", "retrans=0"] {
        c.same(&format!("the kernel's mount has {option}"), options.contains(&option), true);
    }
    let file = mount.file();
    let name = file.to_str().unwrap();
    let got = read(&file, size, SECTOR, true);
    sample.check_reader(c, "O_DIRECT on disk.raw, by sectors", &got, &bad, EIO);
    let got = read(&file, size, SECTOR, false);
    sample.check_reader(c, "disk.raw through the cache", &got, &pages, EIO);
    sample.check_ddrescue(c, "ddrescue -d -c1 disk.raw", name, &["-d", "-b512", "-c1"], &bad);
    sample.check_ddrescue(c, "ddrescue disk.raw through the cache", name, &["-b4096", "-c1"], &pages);

    must("modprobe", &["loop"]);
    for direct in ["on", "off"] {
        let made = must("losetup", &["-f", "--show", "-r", &format!("--direct-io={direct}"), name]);
        let device = Path::new(made.trim());
        // A loop device that reads through the cache of the file loses the page; then readahead must not lose more.
        must("blockdev", &["--setra", "0", made.trim()]);
        let what = format!("loop device on NFS, direct I/O {direct}");
        c.same(&what, setting(device, "loop/dio"), if direct == "on" { "1" } else { "0" }.into());
        let exact = if direct == "on" { &bad } else { &pages };
        let got = read(device, size, SECTOR, true);
        sample.check_reader(c, &format!("{what}: O_DIRECT"), &got, exact, EIO);
        let got = read(device, size, SECTOR, false);
        sample.check_reader(c, &format!("{what}: through the cache"), &got, &pages, EIO);
        sample.check_ddrescue(
            c,
            &format!("{what}: ddrescue -d"),
            made.trim(),
            &["-d", "-b512", "-c8"],
            exact,
        );
        must("losetup", &["-d", made.trim()]);
    }
    mount.detach(c, "unmount");

    let mount = Mount::attach(c, "attach --via nfs", &["--via", "nfs", &sample.image]);
    let device = mount.device();
    let got = read(&device, size, SECTOR, true);
    sample.check_reader(c, "attach --via nfs: O_DIRECT on the device", &got, &bad, EIO);
    let from = device.to_str().unwrap();
    sample.check_ddrescue(c, "attach --via nfs: ddrescue -d", from, &["-d", "-b512", "-c8"], &bad);
    mount.detach(c, "detach");
}
