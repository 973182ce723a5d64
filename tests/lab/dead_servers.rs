//! What a dead server costs the kernel's NFS client: a daemon that was killed, and one that is stopped and keeps its
//! connection.

use nix::libc::EIO;
use nix::sys::signal::Signal;

use crate::checks::Checks;
use crate::disks::Sample;
use crate::mounts::{Mount, left_over};

/// How long a reader may wait for a server that is dead, in seconds. `LINUX_TIMERS` of the mount say 8.5; if the
/// connection is refused, the client notices when it tries for the third time, after 9.
const MAX: f64 = 10.5;

pub fn run(c: &mut Checks) {
    let sample = Sample::new(c);
    let image = sample.image.as_str();
    for (signal, how) in [(Signal::SIGKILL, "killed"), (Signal::SIGSTOP, "stopped")] {
        let mount = Mount::attach(c, "attach --via nfs", &["--via", "nfs", image]);
        mount.signal(signal);
        check_reader(c, &mount, &format!("{how}, read of the device"));
        let list = c.cdi(&["list", "--json"]);
        c.code(&format!("{how}, list"), &list, 0);
        c.took(&format!("{how}, list"), list.took, 0.0, 2.0);
        check_removal(c, &mount, "detach", how);

        let mount = Mount::mount(c, "mount --via nfs", &["--via", "nfs", image]);
        // While it is alive, so that only the read is asked of the dead server.
        let stat = std::fs::metadata(mount.file()).unwrap();
        c.same("size of disk.raw", stat.len(), sample.disk.len() as u64);
        mount.signal(signal);
        check_reader(c, &mount, &format!("{how}, read of disk.raw through the cache"));
        check_removal(c, &mount, "unmount", how);

        let mount = Mount::mount(c, "mount --via nfs", &["--via", "nfs", image]);
        mount.signal(signal);
        check_removal(c, &mount, "unmount", &format!("{how}, not read"));
    }
}

fn check_reader(c: &mut Checks, mount: &Mount, what: &str) {
    let (errno, took) = mount.read_error();
    c.same(what, errno, Some(EIO));
    c.took(what, took, 0.0, MAX);
}

fn check_removal(c: &mut Checks, mount: &Mount, verb: &str, how: &str) {
    let removed = c.cdi(&[verb, "-q", mount.dir().to_str().unwrap()]);
    let what = format!("{how}, {verb}");
    c.code(&what, &removed, 0);
    c.took(&what, removed.took, 0.0, MAX);
    c.same(&format!("{what}: left over"), left_over(), Vec::new());
}
