//! Failing devices by device-mapper: dm-error, dm-flakey, a disk that comes and goes, and dm-dust, which Debian's kernels
//! do not have.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::checks::{Checks, must, wait_until};
use crate::disks::{PAGE, SECTORS, Sectors, contents, disk, read};
use crate::scsi::{Disk, check_imaging, set_delay};

pub fn run(c: &mut Checks) {
    must("modprobe", &["dm-mod"]);
    let bytes = disk(SECTORS);
    // The disk below has no bad sectors of its own.
    let below = Disk::new(&bytes, &["medium_error_count=0"]);
    let path = below.path.to_str().unwrap();

    let bad = Sectors::new(&[(1000, 7)]);
    let table = format!("0 1000 linear {path} 0\n1000 7 error\n1007 {} linear {path} 1007", SECTORS - 1007);
    let error = Mapped::new("error", &table);
    check_imaging(c, "dm-error", &error.path(), &[], &bytes, &bad, &bad);
    drop(error);

    // Up for three seconds, then down for two. In the first run so slow that the disk is not read in three.
    must("modprobe", &["dm-flakey"]);
    set_delay(120);
    let flakey = Mapped::new("flakey", &format!("0 {SECTORS} flakey {path} 0 3 2"));
    let (image, name) = ("flakey.cdimg", flakey.path());
    let create = ["create", "--json", name.to_str().unwrap(), image];
    let mut failed_reads = 0;
    let mut runs = 0;
    let mut code = -1;
    while code != 0 && runs < 20 {
        // Each time it is up again, as one would resume after switching a drive off and on.
        assert!(wait_until(|| read(&name, PAGE, PAGE, true).errnos.is_empty()), "dm-flakey does not come up");
        let resume: &[&str] = if runs == 0 { &[] } else { &["--resume", "-r", "3"] };
        let ran = c.cdi(&[&create[..], resume].concat());
        let result = ran.json();
        failed_reads += result["failed_reads"].as_u64().unwrap_or(0);
        runs += 1;
        println!(
            "note dm-flakey, run {runs}: exit code {}, ended {}, {failed_reads} failed reads so far",
            ran.code, result["ended"]
        );
        set_delay(5);
        code = ran.code;
        assert!(Path::new(image).exists() || code != 0, "{}", ran.stderr);
        if code != 0 {
            // Nothing that it has is wrong, also while it is unfinished.
            let wrong = contents(c, image).wrong(&bytes);
            assert!(wrong == 0, "{wrong} sectors have wrong bytes after run {runs}");
        }
    }
    c.same("dm-flakey: it was down while it was read", failed_reads > 0, true);
    c.same("dm-flakey: exit code in the end", code, 0);
    let got = contents(c, image);
    c.same("dm-flakey: map", &got.failed, &Sectors::default());
    c.same("dm-flakey: sectors with wrong bytes", got.wrong(&bytes), 0);
    drop(flakey);
    set_delay(0);
}

pub fn run_dust(c: &mut Checks) {
    must("modprobe", &["dm-mod"]);
    let bytes = disk(SECTORS);
    let below = Disk::new(&bytes, &["medium_error_count=0"]);
    let path = below.path.to_str().unwrap();
    let bad = Sectors::new(&[(17, 1), (1000, 2), (3182, 1), (8191, 1)]);
    must("modprobe", &["dm-dust"]);
    let dust = Mapped::new("dust", &format!("0 {SECTORS} dust {path} 0 512"));
    for sector in ["17", "1000", "1001", "3182", "8191"] {
        must("dmsetup", &["message", "dust", "0", "addbadblock", sector]);
    }
    must("dmsetup", &["message", "dust", "0", "enable"]);
    check_imaging(c, "dm-dust", &dust.path(), &[], &bytes, &bad, &bad);
}

/// A device of device-mapper.
pub struct Mapped(&'static str);

impl Mapped {
    pub fn new(name: &'static str, table: &str) -> Mapped {
        let mut create =
            Command::new("dmsetup").args(["create", name]).stdin(Stdio::piped()).spawn().unwrap();
        create.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
        assert!(create.wait().unwrap().success(), "dmsetup create {name}");
        Mapped(name)
    }

    /// Returns its path. There is no udev that would make another one.
    pub fn path(&self) -> PathBuf {
        let name = must("dmsetup", &["info", "-c", "--noheadings", "-o", "blkdevname", self.0]);
        Path::new("/dev").join(name.trim())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        must("dmsetup", &["remove", "--retry", self.0]);
    }
}
