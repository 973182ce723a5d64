//! Virtual PC's VHD.

use super::qemu_img;
use crate::common::{Lab, disk, run};
use crate::makers;

tests!(
    #[needs(Program("qemu-img"))]
    fn a_differencing_image_shows_its_parent_below() {
        let lab = Lab::new();
        let mut truth = disk(4 << 20);
        lab.write("disk.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run(
            "qemu-img",
            ["convert", "-O", "vpc", "-o", "force_size=on", &path("disk.raw"), &path("parent.vhd")],
        );
        let parent = lab.read("parent.vhd");
        let own: Vec<usize> = (0..4096).step_by(3).collect();
        own.iter().for_each(|n| truth[n * 512..][..512].fill(*n as u8));
        lab.write("child.vhd", makers::vhd::child(&parent, &own, "C:\\disks\\parent.vhd"));
        lab.cdi(["extract", "child.vhd", "out.raw"]).ends(0);
        assert!(lab.read("out.raw") == truth);
        // Another disk of the same name is not its parent.
        run(
            "qemu-img",
            ["convert", "-O", "vpc", "-o", "force_size=on", &path("disk.raw"), &path("parent.vhd")],
        );
        let ran = lab.cdi(["info", "child.vhd"]).ends(3);
        assert!(ran.err.contains("its UUID does not match"), "{}", ran.err);
    }

    /// As Virtual PC before 2004 wrote it: 511 bytes.
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn a_footer_of_511_bytes_is_read() {
        let lab = Lab::new();
        let truth = disk(4 << 20);
        lab.write("disk.raw", &truth);
        for kind in ["fixed", "dynamic"] {
            let option = format!("subformat={kind},force_size=on");
            qemu_img(&lab, &["convert", "-O", "vpc", "-o", &option, "@disk.raw", "@a.vhd"]);
            let whole = lab.read("a.vhd");
            // Only the magic number identifies it.
            lab.write("short", &whole[..whole.len() - 1]);
            let ran = lab.cdi(["extract", "--force", "short", "out.raw"]).ends(0);
            assert!(lab.read("out.raw") == truth, "{kind}");
            assert!(!ran.err.contains("footer"), "{kind}: {}", ran.err);
            lab.write("short.vhd", &whole[..whole.len() - 2]);
            lab.cdi(["info", "short.vhd"]).ends(if kind == "fixed" { 3 } else { 0 });
        }
    }
);
