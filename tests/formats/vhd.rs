//! Virtual PC's VHD.

use std::fs;

use super::qemu_img;
use crate::common::{Lab, disk, run};
use crate::makers::vhd::vhd_sum;

tests!(
    /// A differencing VHD by hand, for nothing at hand makes one: a block of which every third sector is its own, and one
    /// that it does not have.
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
        let parent = fs::read(lab.path("parent.vhd")).unwrap();
        let mut footer = parent[parent.len() - 512..].to_vec();
        let uuid = footer[68..84].to_vec();
        footer[16..24].copy_from_slice(&512u64.to_be_bytes());
        footer[60..64].copy_from_slice(&4u32.to_be_bytes());
        footer[68] ^= 1;
        vhd_sum(&mut footer, 64);
        let mut header = vec![0; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        header[16..24].copy_from_slice(&1536u64.to_be_bytes());
        header[28..32].copy_from_slice(&2u32.to_be_bytes());
        header[32..36].copy_from_slice(&(2u32 << 20).to_be_bytes());
        header[40..56].copy_from_slice(&uuid);
        let name: Vec<u8> = "C:\\disks\\parent.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
        header[64..64 + name.len()].copy_from_slice(&name);
        vhd_sum(&mut header, 36);
        let mut table = vec![0xFF; 512];
        table[..4].copy_from_slice(&4u32.to_be_bytes());
        let (mut bitmap, mut block) = (vec![0u8; 512], vec![0xEE; 2 << 20]);
        for sector in (0..4096).step_by(3) {
            bitmap[sector / 8] |= 0x80 >> (sector % 8);
            block[sector * 512..][..512].fill(sector as u8);
            truth[sector * 512..][..512].fill(sector as u8);
        }
        lab.write("child.vhd", [&footer[..], &header, &table, &bitmap, &block, &footer].concat());
        lab.cdi(["extract", "child.vhd", "out.raw"]).ends(0);
        assert!(fs::read(lab.path("out.raw")).unwrap() == truth);
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
            let whole = fs::read(lab.path("a.vhd")).unwrap();
            // Its magic alone says what it is.
            lab.write("short", &whole[..whole.len() - 1]);
            let ran = lab.cdi(["extract", "--force", "short", "out.raw"]).ends(0);
            assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{kind}");
            assert!(!ran.err.contains("footer"), "{kind}: {}", ran.err);
            lab.write("short.vhd", &whole[..whole.len() - 2]);
            lab.cdi(["info", "short.vhd"]).ends(if kind == "fixed" { 3 } else { 0 });
        }
    }
);
