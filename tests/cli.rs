//! The commands that need no mount: their output, their files and their exit codes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open;

use crate::common::{Lab, Random, blocks, disk, filter, mapfile, run};

const BAD: [(u64, u64); 3] = [(100, 1), (2048, 16), (8191, 1)];

tests!(
    fn extract_gives_back_what_create_read() {
        let lab = Lab::new();
        let mut truth = lab.image(8192, 512, &BAD);
        let ran = lab.cdi(["extract", "disk.cdimg", "out.raw"]).ends(4);
        assert!(ran.err.contains("see out.raw.map"), "{}", ran.err);
        for (first, count) in BAD {
            truth[first as usize * 512..(first + count) as usize * 512].fill(0);
        }
        assert!(lab.read("out.raw") == truth);
        let map = fs::read_to_string(lab.path("out.raw.map")).unwrap();
        assert_eq!(blocks(&map), blocks(&mapfile(8192, 512, &BAD)));
        // The hash is the one that sha256sum prints.
        let info = lab.cdi(["info", "--json", "disk.cdimg"]).ends(0).json();
        lab.cdi(["extract", "--bad", "zero", "disk.cdimg", "zero.raw"]).ends(4);
        let sum = crate::common::run("sha256sum", [lab.path("zero.raw")]);
        assert_eq!(info["metadata"]["sha256_zero_filled"].as_str().unwrap(), sum.split(' ').next().unwrap());
        // Without bad sectors all is well, and the file is as sparse as it can be.
        let mut zeros = disk(4 << 20);
        zeros[1 << 20..3 << 20].fill(0);
        lab.write("z.raw", &zeros);
        lab.cdi(["create", "z.raw", "z.cdimg"]).ends(0);
        lab.cdi(["extract", "z.cdimg", "z2.raw"]).ends(0);
        assert!(lab.read("z2.raw") == zeros);
        assert!(fs::metadata(lab.path("z2.raw")).unwrap().blocks() * 512 <= 2 << 20);
        assert!(!lab.path("z2.raw.map").exists());
    }

    fn every_codec_level_and_chunk_size_verifies() {
        let lab = Lab::new();
        let truth = disk(1_000_003);
        lab.write("odd.raw", &truth);
        for (codec, level, chunk) in [
            ("zstd", "1", "4k"),
            ("zstd", "19", "1M"),
            ("deflate", "1", "64k"),
            ("deflate", "9", "256k"),
            ("none", "0", "128k"),
        ] {
            lab.cdi([
                "create",
                "odd.raw",
                "odd.cdimg",
                "--force",
                "--codec",
                codec,
                "--level",
                level,
                "--chunk",
                chunk,
            ])
            .ends(0);
            lab.cdi(["verify", "odd.cdimg"]).ends(0);
            lab.cdi(["extract", "--force", "odd.cdimg", "odd2.raw"]).ends(0);
            assert!(lab.read("odd2.raw") == truth, "{codec} {level} {chunk}");
        }
        lab.cdi(["create", "odd.raw", "odd.cdimg", "--force", "--level", "20"]).ends(2);
        lab.cdi(["create", "odd.raw", "odd.cdimg", "--force", "--chunk", "5000"]).ends(2);
    }

    fn extract_fills_bad_sectors_as_told_or_refuses() {
        let lab = Lab::new();
        let truth = lab.image(4096, 512, &[(10, 2)]);
        let ran = lab.cdi(["extract", "--bad", "error", "disk.cdimg", "e.raw"]).ends(4);
        assert!(ran.err.contains("nothing was written") && !lab.path("e.raw").exists(), "{}", ran.err);
        lab.cdi(["extract", "--bad", "pattern:BAD SECTOR ", "disk.cdimg", "p.raw"]).ends(4);
        let got = lab.read("p.raw");
        let text: Vec<u8> = b"BAD SECTOR ".iter().copied().cycle().take(512).collect();
        assert!(got[10 * 512..11 * 512] == text[..] && got[11 * 512..12 * 512] == text[..]);
        assert!(got[..5120] == truth[..5120] && got[6144..] == truth[6144..]);
        lab.cdi(["extract", "--bad", "pattern:", "disk.cdimg", "p2.raw"]).ends(2);
    }

    /// A raw file that becomes shorter while it is read gives errors, not zeros.
    fn a_source_that_shrinks_gives_errors_not_zeros() {
        let lab = Lab::new();
        lab.write("s.raw", vec![0xAA; 1 << 20]);
        let disk = Disk::new(open(&lab.path("s.raw"), &OpenOptions::default()).unwrap(), Options::default());
        fs::File::options().write(true).open(lab.path("s.raw")).unwrap().set_len(4096).unwrap();
        let mut buf = [0; 512];
        disk.read_at(&mut buf, 0).unwrap();
        assert!(disk.read_at(&mut buf, 1 << 19).is_err() && disk.read_at(&mut buf, 4096).is_err());
    }

    fn map_prints_every_format() {
        let lab = Lab::new();
        lab.image(4096, 512, &[(3, 1), (1000, 24), (4095, 1)]);
        let map = lab.cdi(["map", "--export-mapfile", "-", "disk.cdimg"]).ends(0).out;
        assert_eq!(blocks(&map), blocks(&mapfile(4096, 512, &[(3, 1), (1000, 24), (4095, 1)])));
        lab.cdi(["map", "--export-mapfile", "again.map", "disk.cdimg"]).ends(0);
        assert_eq!(fs::read_to_string(lab.path("again.map")).unwrap(), map);
        let list = lab.cdi(["map", "--export-badblocks", "-b", "512", "disk.cdimg"]).ends(0).out;
        let expect: Vec<u64> = [3].into_iter().chain(1000..1024).chain([4095]).collect();
        assert_eq!(list.lines().map(|l| l.parse().unwrap()).collect::<Vec<u64>>(), expect);
        // In blocks of 4 KiB, each once.
        let list = lab.cdi(["map", "--export-badblocks", "-b", "4k", "disk.cdimg"]).ends(0).out;
        assert_eq!(list, "0\n125\n126\n127\n511\n");
        let bad = lab.cdi(["map", "--bad", "--json", "disk.cdimg"]).ends(0).json();
        assert_eq!(bad["ranges"][1]["first_sector"], 1000);
        assert_eq!(bad["ranges"][1]["sectors"], 24);
        assert_eq!(bad["ranges"][1]["status"], "bad-sector");
        assert_eq!(bad["blocks"]["bad-sector"]["bytes"], 26 * 512);
        let extents = lab.cdi(["map", "--extents", "--json", "disk.cdimg"]).ends(0).json();
        let extents = extents["extents"].as_array().unwrap().clone();
        let mut at = 0;
        for e in &extents {
            assert_eq!(e["offset_bytes"], at);
            at += e["length_bytes"].as_u64().unwrap();
        }
        assert_eq!(at, 4096 * 512);
        let unread: u64 = extents
            .iter()
            .filter(|e| e["kind"] == "unread")
            .map(|e| e["length_bytes"].as_u64().unwrap())
            .sum();
        assert_eq!(unread, 26 * 512);
    }

    fn verify_reports_which_part_is_damaged() {
        let lab = Lab::new();
        lab.image(8192, 512, &[(5, 1)]);
        lab.cdi(["verify", "disk.cdimg"]).ends(0);
        let map = lab.cdi(["map", "--extents", "--json", "disk.cdimg"]).ends(0).json();
        let chunk = map["extents"]
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["offset_bytes"] == 32_768 * 12)
            .unwrap()
            .clone();
        let at = chunk["file_offset_bytes"].as_u64().unwrap() as usize + 20;
        let mut bytes = lab.read("disk.cdimg");
        bytes[at] ^= 4;
        lab.write("disk.cdimg", &bytes);
        let ran = lab.cdi(["verify", "disk.cdimg"]).ends(4);
        assert!(ran.out.contains("affects disk bytes 393216 to 425983"), "{}", ran.out);
        let report = lab.cdi(["verify", "--json", "disk.cdimg"]).ends(4).json();
        assert_eq!((&report["ok"], &report["lost_bytes"]), (&false.into(), &32_768.into()));
        // Extracting goes around it, says so, and calls it non-tried in the map.
        let ran = lab.cdi(["extract", "disk.cdimg", "out.raw"]).ends(4);
        assert!(ran.err.contains("32.0 KiB could not be read because the image is damaged"), "{}", ran.err);
        let map = fs::read_to_string(lab.path("out.raw.map")).unwrap();
        assert!(blocks(&map).contains(&(393_216, 32_768, "?".into())), "{map}");
        // A lost superblock is reported and loses nothing.
        bytes[at] ^= 4;
        bytes[100] ^= 1;
        lab.write("disk.cdimg", &bytes);
        let ran = lab.cdi(["verify", "disk.cdimg"]).ends(4);
        assert!(ran.out.contains("at file offset 0: a superblock is damaged"), "{}", ran.out);
        // A truncated file is reported.
        bytes[100] ^= 1;
        lab.write("disk.cdimg", &bytes[..bytes.len() - 4096]);
        let ran = lab.cdi(["verify", "disk.cdimg"]).ends(3);
        assert!(ran.err.contains("the file is truncated"), "{}", ran.err);
    }

    /// Our own mounted disk is a source of which some sectors cannot be read.
    #[needs(Fuse)]
    fn unreadable_sectors_of_a_source_are_recorded_as_bad() {
        let lab = Lab::new();
        lab.image(8192, 512, &[(1000, 8), (4096, 24)]);
        fs::create_dir(lab.path("mnt")).unwrap();
        lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(0);
        let ran = lab.cdi(["create", "mnt/disk.raw", "second.cdimg"]).ends(4);
        assert!(ran.err.contains("16.0 KiB of the source could not be read"), "{}", ran.err);
        // The page cache reads pages of 4 KiB; both ranges are whole pages.
        let first = lab.cdi(["map", "--export-mapfile", "-", "disk.cdimg"]).ends(0).out;
        let second = lab.cdi(["map", "--export-mapfile", "-", "second.cdimg"]).ends(0).out;
        assert_eq!(blocks(&first), blocks(&second));
        let bad = lab.cdi(["map", "--bad", "--json", "second.cdimg"]).ends(0).json();
        assert_eq!(bad["ranges"][0]["reason"]["errno"], 5);
        lab.cdi(["unmount", "mnt"]).ends(0);
    }

    fn usage_errors_exit_2_and_bad_images_exit_3() {
        let lab = Lab::new();
        lab.cdi(["nonsense"]).ends(2);
        lab.cdi(["create"]).ends(2);
        lab.cdi(["info", "not-there.cdimg"]).ends(1);
        lab.cdi(["info", "."]).ends(3);
        lab.write("empty.raw", "");
        lab.cdi(["info", "empty.raw"]).ends(3);
        lab.write("short.cdimg", "x");
        lab.cdi(["info", "short.cdimg"]).ends(3);
        lab.write("d.raw", disk(65536));
        lab.write("d.map", "no map");
        let ran = lab.cdi(["create", "d.raw", "d.cdimg", "--mapfile", "d.map"]).ends(3);
        assert!(ran.err.contains("d.map: line 1"), "{}", ran.err);
        lab.cdi(["create", "d.raw", "no/such/folder.cdimg"]).ends(1);
        lab.cdi(["--version"]).ends(0);
        lab.cdi(["formats"]).ends(0);
        assert!(lab.cdi(["completions", "bash"]).ends(0).out.contains("_cdi"));
        lab.cdi(["man", "man"]).ends(0);
        assert!(lab.path("man/cdi-create.1").exists());
    }

    fn json_output_is_one_object_also_for_errors() {
        let lab = Lab::new();
        lab.image(2048, 512, &[(1, 1)]);
        for args in [
            &["info", "disk.cdimg"][..],
            &["map", "disk.cdimg"],
            &["map", "--extents", "disk.cdimg"],
            &["map", "--bad", "disk.cdimg"],
            &["map", "--export-badblocks", "disk.cdimg"],
            &["verify", "disk.cdimg"],
            &["formats"],
            &["doctor"],
            &["list"],
            &["stats"],
            &["completions", "zsh"],
        ] {
            assert!(lab.cdi(args.iter().chain(&["--json"])).json().is_object(), "{args:?}");
        }
        assert!(lab.cdi(["create", "disk.raw", "j.cdimg", "--mapfile", "none", "--json"]).ends(0).json()["image_bytes"].is_u64());
        let ran = lab.cdi(["info", "not-there.cdimg", "--json"]).ends(1);
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((&error["error"]["exit"], &error["error"]["kind"]), (&1.into(), &"failed".into()));
        assert_eq!(ran.out, "");
    }

    fn an_interrupted_create_leaves_nothing() {
        let lab = Lab::new();
        // Noise at the hardest level takes long enough to be interrupted.
        let mut random = Random::new(1);
        let noise: Vec<u8> = (0..24 << 20).map(|_| (random.next() >> 60) as u8).collect();
        lab.write("noise.raw", noise);
        let child =
            lab.command().args(["create", "noise.raw", "noise.cdimg", "--level", "19"]).spawn().unwrap();
        crate::common::wait_until("it has begun", || {
            fs::read_dir(&lab.dir)
                .unwrap()
                .any(|e| e.unwrap().file_name().to_str().unwrap().contains("partial"))
        });
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGINT)
            .unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
        let names: Vec<_> =
            fs::read_dir(&lab.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names, ["noise.raw"]);
    }

    #[needs(Loop)]
    fn a_full_disk_is_reported_and_leaves_nothing() {
        let lab = Lab::new();
        let mut random = Random::new(1);
        let noise: Vec<u8> = (0..4 << 20).map(|_| random.next() as u8).collect();
        lab.write("noise.raw", noise);
        fs::create_dir(lab.path("small")).unwrap();
        crate::common::run(
            "mount",
            ["-t", "tmpfs", "-o", "size=1m", "small", lab.path("small").to_str().unwrap()],
        );
        let ran = lab.cdi(["create", "noise.raw", "small/noise.cdimg"]).ends(1);
        assert!(ran.err.contains("No space left") && ran.err.contains("hint: make room"), "{}", ran.err);
        assert_eq!(fs::read_dir(lab.path("small")).unwrap().count(), 0);
        lab.cdi(["create", "noise.raw", "noise.cdimg"]).ends(0);
        lab.cdi(["extract", "noise.cdimg", "small/noise.raw"]).ends(1);
        assert_eq!(fs::read_dir(lab.path("small")).unwrap().count(), 0);
        crate::common::run("umount", [lab.path("small")]);
    }

    fn an_image_can_be_imaged_again() {
        let lab = Lab::new();
        lab.image(4096, 512, &[(9, 3)]);
        let a = lab.cdi(["info", "--json", "disk.cdimg"]).json();
        for codec in ["none", "zstd", "deflate", "lz4"] {
            let words = ["--codec", codec, "--chunk", "64k", "--note", "second", "--force"];
            lab.cdi(["create", "disk.cdimg", "b.cdimg"].iter().chain(&words)).ends(4);
            let b = lab.cdi(["info", "--json", "b.cdimg"]).json();
            assert_eq!(a["metadata"]["blake3_rescued"], b["metadata"]["blake3_rescued"], "{codec}");
            assert_eq!(a["blocks"], b["blocks"], "{codec}");
            assert_eq!(b["metadata"]["notes"][0], "second");
            let kept = lab.cdi(["map", "--json", "--extents", "b.cdimg"]).ends(0).json();
            let mut extents = kept["extents"].as_array().unwrap().iter();
            match codec {
                "none" => assert!(extents.all(|extent| extent["kind"] != "compressed"), "{kept}"),
                _ => assert!(extents.any(|extent| extent["codec"] == codec), "{codec}: {kept}"),
            }
            lab.cdi(["verify", "b.cdimg"]).ends(0);
        }
    }

    fn usage_errors_are_json_with_json() {
        let lab = Lab::new();
        for words in [&["nonsense", "--json"][..], &["create", "--json"], &["info", "--json", "--nonsense"]] {
            let ran = lab.cdi(words).ends(2);
            let error: serde_json::Value =
                serde_json::from_str(&ran.err).unwrap_or_else(|e| panic!("{e}: {}", ran.err));
            assert_eq!(error["error"]["kind"], "usage");
        }
        lab.cdi(["--json", "--help"]).ends(0);
    }

    /// A compressed or otherwise packed disk on stdin is not the disk.
    #[needs(Program("gzip"))]
    fn an_image_on_stdin_is_not_taken_for_a_disk() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(1 << 20));
        lab.cdi(["create", "disk.raw", "disk.cdimg"]).ends(0);
        lab.write("disk.raw.gz", filter("gzip", &[], &lab.read("disk.raw")));
        let dir = lab.path("").display().to_string();
        let cdi = env!("CARGO_BIN_EXE_cdi");
        for (name, hint) in [("disk.raw.gz", "gzip -dc"), ("disk.cdimg", "cdi create FILE")] {
            let script = format!("cd {dir} && {cdi} create - new.cdimg <{name} 2>err; test $? = 3");
            run("sh", ["-c", &script]);
            let err = String::from_utf8(lab.read("err")).unwrap();
            assert!(err.contains("not the disk itself") && err.contains(hint), "{err}");
            assert!(!lab.path("new.cdimg").exists());
            let script = format!("cd {dir} && {cdi} -q create --force --format raw - raw.cdimg <{name}");
            run("sh", ["-c", &script]);
        }
    }
);
