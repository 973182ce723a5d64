//! Hyper-V's VHDX.

use super::extracted;
use crate::common::{Lab, disk, run};
use crate::makers;

tests!(
    #[needs(Program("qemu-img"))]
    fn a_log_is_replayed_and_a_parent_is_read() {
        let lab = Lab::new();
        let truth = disk(6 << 20);
        lab.write("disk.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run(
            "qemu-img",
            ["convert", "-O", "vhdx", "-o", "block_size=1M", &path("disk.raw"), &path("parent.vhdx")],
        );
        let whole = lab.read("parent.vhdx");
        let (mut broken, log) = makers::vhdx::with_log(&whole);
        lab.write("log.vhdx", &broken);
        assert!(extracted(&lab, "log.vhdx", 0) == truth);
        broken[log + 5000] ^= 1;
        lab.write("log.vhdx", &broken);
        assert!(lab.cdi(["info", "log.vhdx"]).ends(3).err.contains("contains no complete sequence"));

        // A child: its first block is the parent's; of its second block, every third sector is its own.
        let own: Vec<usize> = (0..2048).step_by(3).collect();
        let mut expect = truth.clone();
        own.iter().for_each(|n| expect[(1 << 20) + n * 512..][..512].fill(*n as u8));
        let child = |linkage: &str| {
            lab.write("child.avhdx", makers::vhdx::child(&whole, &own, linkage, ".\\parent.vhdx"));
        };
        child(&makers::vhdx::identity(&whole));
        assert!(extracted(&lab, "child.avhdx", 0) == expect);
        child("{00000000-0000-0000-0000-000000000000}");
        assert!(lab.cdi(["info", "child.avhdx"]).ends(3).err.contains("its GUID does not match"));
    }
);
