//! Raw images: shorter than their disk, of a size that is not known, from stdin.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use super::bad_of;
use crate::common::{Lab, LoopDevice, disk, run};

tests!(
    fn a_truncated_file_is_a_disk_as_long_as_its_map() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        // The file ends in the middle of sector 1000. Sectors 0 to 1200 were read, 1200 to 1210 are bad, the rest was not tried.
        lab.write("disk.img", &truth[..1000 * 512 + 100]);
        lab.write("disk.mapping", "0 +\n0 614400 +\n614400 5120 -\n619520 429056 ?\n");
        let words = ["disk.img", "--mapfile", "disk.mapping"];
        let status = |name: &str| name.to_owned();
        let expect = vec![
            (1000, 200, status("non-tried")),
            (1200, 10, status("bad-sector")),
            (1210, 838, status("non-tried")),
        ];
        assert_eq!(bad_of(&lab, &words), expect);
        // 100 KiB that were read are missing: that is reported, and the exit code is 4.
        let ran = lab.cdi([&["info", "--json"], &words[..]].concat()).ends(4);
        let info = ran.json();
        assert_eq!(
            (info["size_bytes"].as_u64(), info["lost_bytes"].as_u64()),
            (Some(1 << 20), Some(200 * 512))
        );
        assert!(ran.err.is_empty() || ran.err.contains("truncated"), "{}", ran.err);
        let ran = lab.cdi([&["verify"], &words[..]].concat()).ends(4);
        assert!(ran.out.contains("part of the image's files is missing"), "{}", ran.out);
        lab.cdi([&["create"], &words[..1], &["x.cdimg"], &words[1..]].concat()).ends(4);
        assert_eq!(bad_of(&lab, &["x.cdimg"]), expect);
        lab.cdi([&["extract"], &words[..1], &["out.raw"], &words[1..]].concat()).ends(4);
        let out = lab.read("out.raw");
        assert!(out.len() == 1 << 20 && out[..1000 * 512] == truth[..1000 * 512]);
        // With the disk, the rest is read; and without its map the file is no image of it.
        lab.write("the.disk", &truth);
        lab.cdi(["create", "the.disk", "x.cdimg", "--resume", "--retry-passes", "1"]).ends(0);
        lab.cdi(["extract", "x.cdimg", "y.raw"]).ends(0);
        assert!(lab.read("y.raw") == truth);
    }

    #[needs(Loop, Program("ddrescue"))]
    fn an_image_that_ddrescue_began_is_resumed() {
        let lab = Lab::new();
        let truth = disk(16 << 20);
        let raw = lab.write("the.disk", &truth);
        let device = LoopDevice::new(&raw, &[]);
        run(
            "ddrescue",
            [
                "-q",
                "-s",
                "4Mi",
                &device.path,
                lab.path("dd.raw").to_str().unwrap(),
                lab.path("dd.map").to_str().unwrap(),
            ],
        );
        assert_eq!(fs::metadata(lab.path("dd.raw")).unwrap().len(), 4 << 20);
        assert!(lab.cdi(["create", "dd.raw", "x.cdimg"]).ends(4).err.contains("dd.map"));
        lab.cdi(["create", &device.path, "x.cdimg", "--resume"]).ends(0);
        lab.cdi(["extract", "x.cdimg", "y.raw"]).ends(0);
        assert!(lab.read("y.raw") == truth);
    }

    fn a_disk_of_unknown_size_is_as_long_as_its_known_part() {
        let lab = Lab::new();
        lab.write("d.raw", disk(1 << 20));
        // As ddrescue writes it on macOS, and a sector less.
        for end in ["0x7FFFFFFFFFEFEFFF", "0x7FFFFFFFFFEFEE00"] {
            lab.write("d.map", format!("0 ?\n0 0x100000 +\n0x100000 0x1000 -\n0x101000 {end} ?\n"));
            let info = lab.cdi(["info", "--json", "d.raw"]).ends(0).json();
            assert_eq!(info["size_bytes"].as_u64(), Some((1 << 20) + 4096), "{end}");
        }
    }

    fn stdin_becomes_an_image() {
        let lab = Lab::new();
        // Noise, zeros and text, so long that the index grows and is written in between.
        for len in [1, 511, 32 << 10, (1 << 20) + 1, 20_000_001] {
            let truth = disk(len);
            for chunk in ["4k", "32k"] {
                let mut command = lab.command();
                command
                    .args(["create", "-q", "-", "x.cdimg", "--force", "--chunk", chunk])
                    .stdin(Stdio::piped());
                let mut child = command.spawn().unwrap();
                child.stdin.take().unwrap().write_all(&truth).unwrap();
                assert_eq!(child.wait().unwrap().code(), Some(0));
                lab.cdi(["verify", "x.cdimg"]).ends(0);
                let ran = lab.command().args(["extract", "-q", "x.cdimg", "-"]).output().unwrap();
                assert!(ran.status.success() && ran.stdout == truth, "{len} {chunk}");
            }
        }
        lab.cdi(["repair", "x.cdimg", "y.cdimg"]).ends(0);
        let ran = lab.command().args(["extract", "-q", "y.cdimg", "-"]).output().unwrap();
        assert!(ran.stdout == disk(20_000_001));
        let nothing = lab.command().args(["create", "-", "n.cdimg"]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(nothing.status.code(), Some(1));
        assert!(!lab.path("n.cdimg").exists());
    }

    fn a_file_is_raw_only_by_its_name_or_by_an_option() {
        let lab = Lab::new();
        let bytes = disk(1 << 20);
        lab.write("disk.unknown", &bytes);
        let ran = lab.cdi(["info", "disk.unknown"]).ends(3);
        assert!(ran.err.contains("--format raw"), "{}", ran.err);
        lab.cdi(["info", "--format", "raw", "disk.unknown"]).ends(0);
        lab.cdi(["info", "--format", "nonsense", "disk.unknown"]).ends(2);
        // A raw disk that begins like an image must not choose its reader.
        lab.image(2048, 512, &[]);
        fs::copy(lab.path("disk.cdimg"), lab.path("evil.img")).unwrap();
        let ran = lab.cdi(["info", "evil.img"]).ends(3);
        assert!(ran.err.contains("its name says raw, but it begins like a cdimg image"), "{}", ran.err);
        let info = lab.cdi(["info", "--json", "--format", "raw", "evil.img"]).ends(0).json();
        assert_eq!(info["format"], "raw");
    }
);
