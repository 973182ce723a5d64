//! An image on a disk that hangs, over the kernel's NFS client: the server answers "try again later", so that a disk
//! that spins up costs time and no data, and one that is gone is an error in the end.

use std::fs;
use std::os::unix::fs::FileExt;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::libc::EIO;

use crate::checks::{Checks, must};
use crate::device_mapper::Mapped;
use crate::disks::{PAGE, Sample, drop_caches, open};
use crate::mounts::Mount;
use crate::scsi::Disk;

pub fn run(c: &mut Checks) {
    let sample = Sample::new(c);
    must("modprobe", &["dm-mod"]);
    let below = Disk::new(&vec![0; 16 << 20], &["medium_error_count=0"]);
    let mapped = Mapped::new("slow", &format!("0 32768 linear {} 0", below.path.display()));
    let device = mapped.path().display().to_string();
    must("mke2fs", &["-q", "-F", &device]);
    fs::create_dir("source").unwrap();
    must("mount", &["-n", &device, "source"]);
    fs::copy("disk.raw", "source/disk.raw").unwrap();
    must("sync", &[]);

    // A disk that answers at once, one that takes longer than the server waits (6 s), and one that takes longer than
    // the client would wait for an answer (14 s).
    for (hangs, max) in [(3_u8, 4.5), (10, 16.0), (20, 31.0)] {
        let mount = Mount::mount(c, "mount --via nfs", &["--via", "nfs", "source/disk.raw"]);
        let what = format!("the source hangs for {hangs} s");
        let _ = mount.file().metadata().unwrap();
        drop_caches();
        must("dmsetup", &["suspend", "--nolockfs", "slow"]);
        let resume = thread::spawn(move || {
            sleep(Duration::from_secs(hangs.into()));
            must("dmsetup", &["resume", "slow"]);
        });
        let (read, took) = read_page(&sample, &mount);
        resume.join().unwrap();
        c.same(&format!("{what}: right bytes"), read, Ok(true));
        c.took(&what, took, f64::from(hangs) - 0.5, max);
        mount.detach(c, "unmount");
    }

    let mount = Mount::mount(c, "mount --via nfs", &["--via", "nfs", "source/disk.raw"]);
    let _ = mount.file().metadata().unwrap();
    drop_caches();
    must("dmsetup", &["suspend", "--nolockfs", "slow"]);
    let (read, took) = read_page(&sample, &mount);
    c.same("the source hangs for ever: a read", read, Err(EIO));
    // `HUNG` of the server, and what is left of the client's interval; then the client asks for the page once more.
    c.took("the source hangs for ever: a read", took, 30.0, 50.0);
    must("dmsetup", &["resume", "slow"]);
    c.same("it answers again: right bytes", read_page(&sample, &mount).0, Ok(true));
    mount.detach(c, "unmount");
    must("umount", &["source"]);
}

/// The page that is read, far from what mounting reads.
const AT: usize = 700 * PAGE;

/// Reads a page of `disk.raw` through the mount. Returns whether it has the right bytes, or the errno; and how long
/// it took.
fn read_page(sample: &Sample, mount: &Mount) -> (Result<bool, i32>, Duration) {
    let start = Instant::now();
    let mut page = [0; PAGE];
    let read = open(&mount.file(), false).read_at(&mut page, AT as u64);
    let right = read.map(|n| n == PAGE && page == sample.disk[AT..AT + PAGE]);
    (right.map_err(|e| e.raw_os_error().unwrap_or(0)), start.elapsed())
}
