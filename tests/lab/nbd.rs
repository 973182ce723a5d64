//! The kernel's NBD client on `cdi serve --nbd`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use nix::libc::EIO;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::checks::{Checks, must, run as run_program, wait_until};
use crate::disks::{PAGE, SECTOR, Sample, read};
use crate::mounts::setting;

const DEVICE: &str = "/dev/nbd0";

pub fn run(c: &mut Checks) {
    let sample = Sample::new(c);
    let (bad, pages) = (sample.bad.clone(), sample.bad.whole(PAGE));
    let (size, device) = (sample.disk.len(), Path::new(DEVICE));
    must("modprobe", &["nbd"]);

    let mut server = serve(c, &["--nbd", "10809", &sample.image], || {
        // In the list of the kernel, 10809 is 2A39, and 0A a listening socket.
        fs::read_to_string("/proc/net/tcp").is_ok_and(|t| t.contains(":2A39 00000000:0000 0A"))
    });
    let connect = &["-b", "512", "-N", "", "127.0.0.1", "10809", DEVICE];
    c.code("nbd-client, TCP", &run_program(Command::new("nbd-client").args(connect)), 0);
    let settings = ["size", "ro", "queue/logical_block_size"].map(|what| setting(device, what));
    c.same("sectors, read-only, sector size", settings, ["8192", "1", "512"].map(String::from));
    let got = read(device, size, SECTOR, true);
    sample.check_reader(c, "O_DIRECT on /dev/nbd0, by sectors", &got, &bad, EIO);
    must("blockdev", &["--setra", "0", DEVICE]);
    let got = read(device, size, SECTOR, false);
    sample.check_reader(c, "/dev/nbd0 through the cache", &got, &pages, EIO);
    for cluster in ["-c1", "-c128"] {
        let what = format!("ddrescue -d {cluster} /dev/nbd0");
        sample.check_ddrescue(c, &what, DEVICE, &["-d", "-b512", cluster], &bad);
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let start = Instant::now();
    let got = read(device, PAGE, PAGE, true);
    c.same("server killed: errnos of a read", got.errnos.into_iter().collect(), vec![EIO]);
    c.took("server killed: a read", start.elapsed(), 0.0, 5.0);
    disconnect(c);

    let mut server =
        serve(c, &["--nbd", "/run/lab/socket", &sample.image], || Path::new("/run/lab/socket").exists());
    let connect = &["-b", "512", "-unix", "/run/lab/socket", DEVICE];
    c.code("nbd-client, socket", &run_program(Command::new("nbd-client").args(connect)), 0);
    let got = read(device, size, SECTOR, true);
    sample.check_reader(c, "over a socket: O_DIRECT, by sectors", &got, &bad, EIO);
    disconnect(c);
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).unwrap();
    c.same("server ended by SIGTERM", server.wait().unwrap().code(), Some(0));
    c.same("its socket is still there", Path::new("/run/lab/socket").exists(), false);
}

fn serve(c: &Checks, args: &[&str], ready: impl Fn() -> bool) -> Child {
    let server = c.cdi_command(&[&["serve", "-q"], args].concat()).spawn().unwrap();
    assert!(wait_until(ready), "cdi serve does not listen");
    server
}

fn disconnect(c: &mut Checks) {
    c.code("nbd-client -d", &run_program(Command::new("nbd-client").args(["-d", DEVICE])), 0);
    assert!(wait_until(|| !Path::new("/sys/block/nbd0/pid").exists()));
}
