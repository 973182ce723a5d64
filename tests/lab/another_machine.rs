//! `serve --listen`: the kernel's clients on another machine, which is a network namespace here. For Macs on which cdi
//! does not run (docs/MACOS.md).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use nix::libc::EIO;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::checks::{Checks, must, wait_until};
use crate::disks::{SECTOR, SECTORS, Sample, read};

/// The address of the server, and that of the other machine.
const HERE: &str = "10.7.0.1";
const THERE: &str = "10.7.0.2";

pub fn run(c: &mut Checks) {
    let sample = Sample::new(c);
    let size = sample.disk.len();
    must("modprobe", &["-a", "veth", "loop", "nbd"]);
    for command in [
        "netns add other",
        "link add here type veth peer name there netns other",
        &format!("addr add {HERE}/24 dev here"),
        "link set here up",
        &format!("-n other addr add {THERE}/24 dev there"),
        "-n other link set there up",
    ] {
        must("ip", &command.split(' ').collect::<Vec<_>>());
    }
    let there = |args: &[&str]| must("nsenter", &[&["--net=/run/netns/other"], args].concat());

    let (mut server, url) = serve(c, &["--nfs", "--port", "2049", &sample.image]);
    let export = url.strip_prefix(&format!("nfs://{HERE}")).and_then(|rest| rest.split('?').next()).unwrap();
    fs::create_dir("other").unwrap();
    let options = "vers=3,proto=tcp,mountproto=tcp,port=2049,mountport=2049,ro,soft,nolock,rsize=4096";
    there(&["mount", "-n", "-t", "nfs", "-o", options, &format!("{HERE}:{export}"), "other"]);
    let got = read(Path::new("other/disk.raw"), size, SECTOR, true);
    sample.check_reader(c, "NFS: O_DIRECT on disk.raw, by sectors", &got, &sample.bad, EIO);
    let device = must("losetup", &["-f", "--show", "-r", "--direct-io=on", "other/disk.raw"]);
    let options = ["-d", "-b512", "-c8"];
    sample.check_ddrescue(c, "NFS: ddrescue -d on a loop device", device.trim(), &options, &sample.bad);
    must("losetup", &["-d", device.trim()]);
    there(&["umount", "other"]);
    end(c, &mut server, "NFS");

    let (mut server, _) = serve(c, &["--nbd", "10809", &sample.image]);
    there(&["nbd-client", "-L", "-b", "512", "-N", "", HERE, "10809", "/dev/nbd0"]);
    // It says that it has connected before the kernel has the device ready.
    let ready =
        || fs::read_to_string("/sys/block/nbd0/size").is_ok_and(|size| size.trim() == SECTORS.to_string());
    assert!(wait_until(|| ready() && Path::new("/sys/block/nbd0/pid").exists()));
    let got = read(Path::new("/dev/nbd0"), size, SECTOR, true);
    sample.check_reader(c, "NBD: O_DIRECT, by sectors", &got, &sample.bad, EIO);
    must("nbd-client", &["-d", "/dev/nbd0"]);
    end(c, &mut server, "NBD");
}

/// Starts a server for other machines. Returns it, and the address that it prints.
fn serve(c: &Checks, args: &[&str]) -> (Child, String) {
    let mut server = c
        .cdi_command(&[&["serve", "--listen", HERE], args].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (server, line.trim().to_owned())
}

fn end(c: &mut Checks, server: &mut Child, what: &str) {
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).unwrap();
    c.same(&format!("{what}: server ended by SIGTERM"), server.wait().unwrap().code(), Some(0));
}
