//! Disks of qemu with injected errors, and null_blk with bad blocks. Only with `vm.sh`.

use std::fs;
use std::path::Path;

use crate::checks::{Checks, must, wait_until};
use crate::disks::{SECTORS, Sectors, disk};
use crate::scsi::check_imaging;

/// The errors that `vm.sh` injects into each disk.
const BAD: &[(u64, u64)] = &[(1000, 1), (3182, 1), (8191, 1)];

pub fn run(c: &mut Checks) {
    let (bytes, bad) = (disk(SECTORS), Sectors::new(BAD));
    must("modprobe", &["-a", "virtio_blk", "virtio_scsi", "sd_mod", "nvme"]);
    for device in ["/dev/vda", "/dev/sda", "/dev/nvme0n1"].map(Path::new) {
        assert!(wait_until(|| device.exists()), "{} is not there", device.display());
        check_imaging(c, &device.display().to_string(), device, &[], &bytes, &bad, &bad);
    }

    must("modprobe", &["null_blk", "nr_devices=0"]);
    if !Path::new("/sys/kernel/config/nullb").exists() {
        must("mount", &["-n", "-t", "configfs", "none", "/sys/kernel/config"]);
    }
    let lab = Path::new("/sys/kernel/config/nullb/lab");
    fs::create_dir(lab).unwrap();
    let set = |what: &str, value: &str| fs::write(lab.join(what), value).unwrap();
    for (what, value) in [("size", "4"), ("memory_backed", "1"), ("blocksize", "512"), ("power", "1")] {
        set(what, value);
    }
    let index = fs::read_to_string(lab.join("index")).unwrap();
    let found = [format!("/dev/nullb{}", index.trim()), "/dev/lab".into()];
    assert!(wait_until(|| found.iter().any(|d| Path::new(d).exists())), "null_blk made no device");
    let device = found.iter().map(Path::new).find(|d| d.exists()).unwrap();
    fs::write(device, &bytes).unwrap();
    must("sync", &[]);
    for range in ["+100-107", "+4001-4001"] {
        set("badblocks", range);
    }
    let bad = Sectors::new(&[(100, 8), (4001, 1)]);
    check_imaging(c, "null_blk", device, &[], &bytes, &bad, &bad);
}
