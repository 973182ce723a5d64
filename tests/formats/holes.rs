//! Runs of zeros: where other programs say, however long, and without cost.

use std::fs;
use std::time::{Duration, Instant};

use cdi_image::image::OpenOptions;
use cdi_image::open::open;

use super::{path, qemu_img, qemu_io, verified};
use crate::common::{Lab, Need, Random, run};

tests!(
    /// Disks with holes of all lengths: within a table, over several, in several layers.
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn runs_of_zeros_are_where_qemu_puts_them() {
        let lab = Lab::new();
        let mut random = Random::new(5);
        let io = |random: &mut Random, mib: u64, count: u64| -> Vec<String> {
            let one = |_| {
                let (at, len) = (random.below(mib * 2048 - 300) * 512, (1 + random.below(200)) * 512);
                match random.below(3) {
                    0 => format!("write -q -z {at} {len}"),
                    _ => format!("write -q -P {} {at} {len}", 1 + random.below(255)),
                }
            };
            (0..count).map(one).collect()
        };
        for (format, option, mib) in [
            ("qcow2", "cluster_size=512", 70),
            ("qcow2", "cluster_size=4k", 700),
            ("qcow2", "cluster_size=64k", 3000),
            ("qcow2", "extended_l2=on,cluster_size=16k", 200),
            ("qcow2", "extended_l2=on", 2000),
            ("qcow2", "compat=0.10", 1000),
            ("qcow", "encryption=off", 700),
            ("qed", "cluster_size=4k,table_size=2", 700),
            ("qed", "cluster_size=64k", 3000),
            ("parallels", "cluster_size=64k", 3000),
            ("vpc", "force_size=on", 3000),
            ("vdi", "static=off", 3000),
            ("vhdx", "block_size=1M", 6000),
            ("vhdx", "block_size=16M", 9000),
            ("vmdk", "subformat=monolithicSparse", 3000),
            ("vmdk", "zeroed_grain=on", 3000),
            ("vmdk", "subformat=twoGbMaxExtentSparse", 5000),
        ] {
            let _ = fs::remove_file(lab.path("truth.raw"));
            let mut below = None;
            // For qcow2 two more on top, of which one is larger.
            let layers = if format == "qcow2" { 3 } else { 1 };
            for (layer, mib) in [("a.img", mib), ("b.img", mib), ("c.img", mib + 50)].into_iter().take(layers)
            {
                let option =
                    if layer != "a.img" && option.contains("compat") { "cluster_size=64k" } else { option };
                let (image, size) = (format!("@{layer}"), format!("{mib}M"));
                let mut words = vec!["create", "-q", "-f", format, "-o", option];
                if let Some(below) = below.replace(layer) {
                    words.extend(["-b", below, "-F", "qcow2"]);
                }
                qemu_img(&lab, &[&words[..], &[&image, &size]].concat());
                let commands = io(&mut random, mib, 40);
                qemu_io(&lab, layer, &commands);
                // The same in a raw file.
                let truth =
                    fs::File::options().create(true).append(true).open(lab.path("truth.raw")).unwrap();
                truth.set_len(mib << 20).unwrap();
                qemu_io(&lab, "truth.raw", &commands);
                lab.cdi(["-q", "extract", "--force", "--format", cdi_name(format), layer, "cdi.raw"]).ends(0);
                qemu_img(&lab, &["compare", "-q", "-f", "raw", "-F", "raw", "@truth.raw", "@cdi.raw"]);
            }
        }
    }

    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn recorded_zeros_cost_no_time() {
        let lab = Lab::new();
        fs::create_dir_all(lab.path("a.sparsebundle/bands")).unwrap();
        lab.write(
            "a.sparsebundle/Info.plist",
            format!(
                "<?xml version=\"1.0\"?><plist version=\"1.0\"><dict><key>diskimage-bundle-type</key>\
                 <string>com.apple.diskimage.sparsebundle</string><key>band-size</key><integer>8388608</integer>\
                 <key>size</key><integer>{}</integer></dict></plist>",
                64u64 << 30
            ),
        );
        let mut sparse = vec![0; 4096];
        sparse[..12].copy_from_slice(b"sprs\0\0\0\x03\0\0\x08\0");
        sparse[28..36].copy_from_slice(&(128u64 << 20).to_be_bytes());
        lab.write("a.sparseimage", sparse);
        // One chunk of blocks that do not matter.
        let mut chunks = b"\x3A\xFF\x26\xED\x01\0\0\0\x1C\0\x0C\0".to_vec();
        for number in [4096u32, 16 << 20, 1, 0, 0xCAC3, 16 << 20, 12] {
            chunks.extend(number.to_le_bytes());
        }
        lab.write("a.simg", chunks);
        for (image, option) in [
            ("a.simg", ""),
            ("a.qcow", "encryption=off"),
            ("a.qed", "cluster_size=64k"),
            ("a.hds", "cluster_size=1M"),
            ("a.qcow2", "cluster_size=64k"),
            ("b.qcow2", "cluster_size=4k"),
            ("c.qcow2", "extended_l2=on"),
            ("a.vhd", "subformat=dynamic"),
            ("a.vhdx", "block_size=1M"),
            ("b.vhdx", "block_size=32M"),
            ("a.vdi", "static=off"),
            ("a.vmdk", "subformat=monolithicSparse"),
            ("b.vmdk", "subformat=twoGbMaxExtentSparse"),
            ("a.sparseimage", ""),
            ("a.sparsebundle", ""),
            ("a.chd", "none"),
        ] {
            if image == "a.chd" {
                if !Need::Program("chdman").is_there() {
                    continue;
                }
                run("chdman", ["createhd", "-o", &path(&lab, image), "-s", "68719476736", "-c", option]);
            } else if !option.is_empty() {
                let format = image.rsplit('.').next().unwrap();
                let format = match format {
                    "vhd" => "vpc",
                    "hds" => "parallels",
                    format => format,
                };
                qemu_img(&lab, &["create", "-q", "-f", format, "-o", option, &format!("@{image}"), "64G"]);
            }
            let start = Instant::now();
            let json = lab.cdi(["verify", "--json", image]).ends(0).json();
            assert!(json["blake3_rescued"].is_null() && json["sha256_zero_filled"].is_null(), "{json}");
            lab.cdi(["-q", "extract", "--force", image, "out.raw"]).ends(0);
            assert!(start.elapsed() < Duration::from_secs(5), "{image}: {:?}", start.elapsed());
            assert!(fs::metadata(lab.path("out.raw")).unwrap().len() >= 64 << 30);
            // Few runs, and no one call looks at much.
            let opened = open(&lab.path(image), &OpenOptions::default()).unwrap();
            let (mut at, mut extents) = (0, 0);
            while at < opened.image.size() {
                let start = Instant::now();
                let extent = opened.image.map(at).unwrap();
                assert!(extent.origin.is_zero() && extent.disk.contains(&at), "{image}: {extent:?}");
                assert!(start.elapsed() < Duration::from_millis(500));
                (at, extents) = (extent.disk.end, extents + 1);
            }
            assert!(extents <= 2100, "{image}: {extents}");
        }
        // A stored hash is checked anyway.
        qemu_img(&lab, &["create", "-q", "-f", "qcow2", "@d.qcow2", "200M"]);
        lab.cdi(["-q", "create", "d.qcow2", "d.cdimg"]).ends(0);
        let json = lab.cdi(["verify", "--json", "d.cdimg"]).ends(0).json();
        let metadata = lab.cdi(["info", "--json", "d.cdimg"]).ends(0).json()["metadata"].clone();
        for name in ["blake3_rescued", "sha256_zero_filled"] {
            assert!(json[name].is_string() && json[name] == metadata[name], "{json}");
        }
    }

    /// A hole longer than one step of `verify` was once reported as damage.
    fn a_long_hole_is_not_damage() {
        let lab = Lab::new();
        fs::File::create(lab.path("d.raw")).unwrap().set_len(200 << 20).unwrap();
        lab.write("d.map", "0 +\n0 0x100000 +\n0x100000 0xB000000 ?\n0xB100000 0x1700000 +\n");
        lab.cdi(["create", "d.raw", "d.cdimg", "--mapfile", "d.map"]).ends(4);
        assert_eq!(verified(&lab, "d.cdimg", 0)["missing_bytes"], 0xB00_0000);
    }
);

fn cdi_name(format: &str) -> &str {
    if format == "vpc" { "vhd" } else { format }
}
