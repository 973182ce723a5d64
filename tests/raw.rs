//! Raw images as people have them: shorter than their disk, in pieces by every program's counting, with a map next to them,
//! and files that only say that they are raw.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{Lab, Ran, Random, disk, mapfile, run};

fn bad_of(lab: &Lab, words: &[&str]) -> Vec<(u64, u64, String)> {
    let json = lab.cdi([&["map", "--bad", "--json"], words].concat()).ends(0).json();
    let ranges = json["ranges"].as_array().unwrap().iter();
    let number = |r: &serde_json::Value, name: &str| r[name].as_u64().unwrap();
    ranges
        .map(|r| (number(r, "first_sector"), number(r, "sectors"), r["status"].as_str().unwrap().into()))
        .collect()
}

tests!(
    fn a_disk_ends_where_its_map_does() {
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
        // 100 KiB that were read are not there: that is said, and is no success.
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
        let out = fs::read(lab.path("out.raw")).unwrap();
        assert!(out.len() == 1 << 20 && out[..1000 * 512] == truth[..1000 * 512]);
        // With the disk, the rest is read; and without its map the file is no image of it.
        lab.write("the.disk", &truth);
        lab.cdi(["create", "the.disk", "x.cdimg", "--resume", "--retry-passes", "1"]).ends(0);
        lab.cdi(["extract", "x.cdimg", "y.raw"]).ends(0);
        assert!(fs::read(lab.path("y.raw")).unwrap() == truth);
    }

    #[needs(Loop, Program("ddrescue"))]
    fn what_ddrescue_stopped_at_is_gone_on_with() {
        let lab = Lab::new();
        let truth = disk(16 << 20);
        let raw = lab.write("the.disk", &truth);
        let device = run("losetup", ["-f", "--show", raw.to_str().unwrap()]);
        let device = device.trim();
        run(
            "ddrescue",
            [
                "-q",
                "-s",
                "4Mi",
                device,
                lab.path("dd.raw").to_str().unwrap(),
                lab.path("dd.map").to_str().unwrap(),
            ],
        );
        assert_eq!(fs::metadata(lab.path("dd.raw")).unwrap().len(), 4 << 20);
        let made = lab.cdi(["create", "dd.raw", "x.cdimg"]);
        let resumed = lab.cdi(["create", device, "x.cdimg", "--resume"]);
        run("losetup", ["-d", device]);
        assert!(made.ends(4).err.contains("dd.map"));
        resumed.ends(0);
        lab.cdi(["extract", "x.cdimg", "y.raw"]).ends(0);
        assert!(fs::read(lab.path("y.raw")).unwrap() == truth);
    }

    fn logs_and_lists_reach_past_the_file() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        lab.write("d.raw", &truth[..1 << 19]);
        let log = "# sectorsize 512\n0x800 0x7f\n0x0 0x400 0x7f 0x0 0x0\n0x400 0x10 0x40 0x0 0x0\n0x410 0x3f0 0x0 0x0 0x0\n";
        lab.write("d.log", log);
        let expect = vec![(1024, 16, "bad-sector".to_owned()), (1040, 1008, "non-tried".into())];
        assert_eq!(bad_of(&lab, &["d.raw", "--mapfile", "d.log"]), expect);
        // Next to the image it is found, too.
        assert_eq!(bad_of(&lab, &["d.raw"]), expect);
        let list: String = (512..520).map(|n| format!("{n}\n")).collect();
        lab.write("list", list);
        let words = ["d.raw", "--mapfile", "none"];
        assert_eq!(bad_of(&lab, &words), []);
        let words = ["d.raw", "--badblocks", "list", "--block-size", "1024"];
        assert_eq!(bad_of(&lab, &words), [(1024, 16, "bad-sector".into())]);
        let info = lab.cdi([&["info", "--json"], &words[..]].concat()).ends(0).json();
        assert_eq!(info["size_bytes"].as_u64(), Some((1 << 19) + 8192));
        // With a block size that is not the list's, the numbers are anywhere.
        lab.cdi(["info", "d.raw", "--badblocks", "list", "--block-size", "4096"]).ends(3);
    }

    fn a_disk_of_unknown_size_is_as_long_as_is_known() {
        let lab = Lab::new();
        lab.write("d.raw", disk(1 << 20));
        // As ddrescue writes it on macOS; a sector short of it, too.
        for end in ["0x7FFFFFFFFFEFEFFF", "0x7FFFFFFFFFEFEE00"] {
            lab.write("d.map", format!("0 ?\n0 0x100000 +\n0x100000 0x1000 -\n0x101000 {end} ?\n"));
            let info = lab.cdi(["info", "--json", "d.raw"]).ends(0).json();
            assert_eq!(info["size_bytes"].as_u64(), Some((1 << 20) + 4096), "{end}");
        }
    }

    fn pieces_are_counted_as_every_program_counts() {
        let lab = Lab::new();
        let truth = noise(1100 * 512 - 100);
        /// A directory, how long a piece is, and what they are called.
        type Scheme<'a> = (&'a str, usize, &'a dyn Fn(usize) -> String);
        let names: [Scheme; 8] = [
            // FTK Imager: 1500 MB each by default.
            ("ftk", 512, &|n| format!("d.{:03}", n + 1)),
            ("zero", 512, &|n| format!("d.{n:03}")),
            ("two", 10_000, &|n| format!("d.{:02}", n + 1)),
            ("four", 100_000, &|n| format!("d.{:04}", n + 1)),
            ("plain", 50_000, &|n| format!("d.{}", n + 1)),
            ("line", 50_000, &|n| format!("d_{:03}", n + 1)),
            ("suffix", 50_000, &|n| format!("d_{:03}.img", n + 1)),
            ("letters", 50_000, &|n| format!("d.dd.a{}", char::from(b'a' + n as u8))),
        ];
        for (dir, piece, name) in names {
            in_pieces(&lab, dir, &truth, piece, name).ends(0);
            assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{dir}");
        }
        // That it is raw is said: it still is all pieces.
        lab.cdi(["extract", "--force", "--format", "raw", "two/d.01", "out.raw"]).ends(0);
        assert!(fs::read(lab.path("out.raw")).unwrap() == truth);
    }

    #[needs(Program("split"))]
    fn split_s_pieces_are_found() {
        let lab = Lab::new();
        let truth = noise(700_000);
        lab.write("whole", &truth);
        for (n, (options, prefix, first)) in [
            (&["-b", "700"][..], "x", "xaa"),
            (&["-b", "700"], "disk.img.", "disk.img.aa"),
            (&["-d", "-b", "700"], "disk.", "disk.00"),
            (&["-x", "-b", "700"], "disk.", "disk.00"),
            (&["-a", "3", "-b", "700"], "disk.", "disk.aaa"),
            (&["-d", "-a", "4", "-b", "700"], "disk_", "disk_0000"),
        ]
        .into_iter()
        .enumerate()
        {
            let dir = lab.path(&format!("s{n}"));
            fs::create_dir(&dir).unwrap();
            let mut split = Command::new("split");
            split.args(options).arg("../whole").arg(prefix).current_dir(&dir);
            // What else is called after the disk, the whole disk among it, is no piece of it.
            for other in [
                "disk.raw",
                "disk.dd",
                "disk.img",
                "disk.map",
                "disk.log",
                "disk.txt",
                "disk.img.gz",
                "disk.img.md5",
            ] {
                fs::write(dir.join(other), if other.ends_with("gz") { &truth[..99] } else { &truth[..] })
                    .unwrap();
            }
            if !split.status().unwrap().success() {
                // An older one cannot count so.
                continue;
            }
            let _ = fs::remove_file(lab.path("out.raw"));
            lab.cdi(["extract", &format!("s{n}/{first}"), "out.raw"]).ends(0);
            assert!(fs::read(lab.path("out.raw")).unwrap() == truth, "{options:?}");
            lab.cdi(["info", &format!("s{n}/disk.raw")]).ends(0);
            lab.cdi(["info", &format!("s{n}/disk.dd")]).ends(0);
        }
    }

    fn pieces_that_do_not_fit_are_refused() {
        let lab = Lab::new();
        let truth = noise(100_000);
        let name = |n: usize| format!("d.{:03}", n + 1);
        in_pieces(&lab, "p", &truth, 9000, &name).ends(0);
        // One in the middle is no disk.
        let ran = lab.cdi(["info", "--format", "raw", "p/d.004"]).ends(3);
        assert!(ran.err.contains("'d.001'"), "{}", ran.err);
        let cut = fs::File::options().write(true).open(lab.path("p/d.004")).unwrap();
        cut.set_len(8999).unwrap();
        assert!(lab.cdi(["info", "p/d.001"]).ends(3).err.contains("'d.004' has 8999 bytes"));
        for missing in 4..8 {
            fs::remove_file(lab.path(&format!("p/d.{missing:03}"))).unwrap();
            let ran = lab.cdi(["info", "p/d.001"]).ends(3);
            assert!(ran.err.contains("'d.004' is missing, but 'd.0"), "{}", ran.err);
        }
        // Longer than the first one.
        in_pieces(&lab, "q", &truth, 9000, &name).ends(0);
        lab.write("q/d.001", &truth[..5000]);
        lab.cdi(["info", "q/d.001"]).ends(3);
    }

    fn neighbours_are_not_pieces() {
        let lab = Lab::new();
        let (one, two) = (noise(300_000), noise(200_000));
        // Disks of a virtual machine.
        for (first, second) in [("vm-disk-0.raw", "vm-disk-1.raw"), ("server_1.img", "server_2.img")] {
            lab.write(first, &one);
            lab.write(second, &two);
            let info = lab.cdi(["info", "--json", first]).ends(0).json();
            assert_eq!(info["size_bytes"].as_u64(), Some(300_000), "{first}");
        }
        // Of these nobody knows: it is asked for, and never guessed.
        for (first, second) in [("disk.0", "disk.1"), ("copy_001.img", "copy_002.img")] {
            lab.write(first, &one);
            lab.write(second, &one);
            let ran = lab.cdi(["info", first]).ends(3);
            assert!(ran.err.contains("ln -s"), "{}", ran.err);
        }
        // Nor is a letter, or a date, a counter for sure.
        for (first, second) in [("sdaa", "sdab"), ("2024-01-01", "2024-01-02"), ("case.01", "case.02")] {
            lab.write(first, &one);
            lab.write(second, &one);
            for format in [&[][..], &["--format", "raw"]] {
                lab.cdi([&["info", first], format].concat()).ends(3);
            }
        }
        // A partition table that ends with the file: a disk of its own. One that goes on: a piece.
        let mut table = vec![0; 300_000];
        (table[510], table[511], table[450]) = (0x55, 0xAA, 0x83);
        for (sectors, code) in [(500u32, 3), (5000, 0)] {
            table[458..462].copy_from_slice(&sectors.to_le_bytes());
            lab.write("t.1", &table);
            lab.write("t.2", &two);
            lab.cdi(["info", "t.1"]).ends(code);
        }
        // However sure the name is: two disks are no disk.
        (table[458], table[459]) = (100, 0);
        lab.write("s.001", &table);
        lab.write("s.002", &table);
        lab.cdi(["info", "s.001"]).ends(3);
    }

    fn a_hole_is_seen_however_it_is_counted() {
        let lab = Lab::new();
        let truth = noise(1_000_000);
        let piece = |dir: &str, name: String, n: usize| {
            fs::create_dir_all(lab.path(dir)).unwrap();
            let len = truth.len().min((n + 1) * 30_000);
            lab.write(&format!("{dir}/{name}"), &truth[n * 30_000..len])
        };
        // In hexadecimal digits, of which one is missing: not the decimal ones.
        (0..34).filter(|n| *n != 10).for_each(|n| drop(piece("hex", format!("d.{n:02x}"), n)));
        assert!(lab.cdi(["info", "hex/d.00"]).ends(3).err.contains("'d.0a' is missing"));
        piece("hex", "d.0a".into(), 10);
        lab.cdi(["extract", "hex/d.00", "out.raw"]).ends(0);
        assert!(fs::read(lab.path("out.raw")).unwrap() == truth);
        // The second one, where counting began at 0.
        (0..34).for_each(|n| drop(piece("zero", format!("d.{n:03}"), n)));
        assert!(lab.cdi(["info", "zero/d.001"]).ends(3).err.contains("'d.000'"));
        // A last one that is not there, or is empty.
        fs::remove_file(lab.path("zero/d.033")).unwrap();
        std::os::unix::fs::symlink("/no/such/file", lab.path("zero/d.033")).unwrap();
        assert!(lab.cdi(["info", "zero/d.000"]).ends(3).err.contains("dangling symbolic link"));
        fs::remove_file(lab.path("zero/d.033")).unwrap();
        lab.write("zero/d.033", "");
        assert!(lab.cdi(["info", "zero/d.000"]).ends(3).err.contains("has 0 bytes"));
        // A link to the first one.
        fs::remove_file(lab.path("zero/d.033")).unwrap();
        std::os::unix::fs::symlink(lab.path("zero/d.000"), lab.path("l.000")).unwrap();
        assert!(lab.cdi(["info", "l.000"]).ends(3).err.contains("symbolic link to the first piece"));
        std::os::unix::fs::symlink(lab.path("zero/d.000"), lab.path("alone.raw")).unwrap();
        lab.cdi(["info", "alone.raw"]).ends(0);
    }

    fn a_map_next_to_an_image_is_used() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        lab.write("d.raw", &truth);
        let map = mapfile(2048, 512, &[(100, 2)]);
        for name in ["d.map", "d.mapfile", "d.log", "d.raw.map"] {
            lab.write(name, &map);
            let ran = lab.cdi(["info", "d.raw"]).ends(0);
            assert!(ran.err.contains(name), "{}", ran.err);
            assert_eq!(bad_of(&lab, &["d.raw"]), [(100, 2, "bad-sector".into())], "{name}");
            lab.cdi(["create", "--force", "d.raw", "x.cdimg"]).ends(4);
            lab.cdi(["create", "--force", "d.raw", "x.cdimg", "--mapfile", "none"]).ends(0);
            // A disk that is read is none that has been imaged.
            let ran = lab.cdi(["create", "--rescue", "d.raw", "y.cdimg"]).ends(2);
            assert!(ran.err.contains(name), "{}", ran.err);
            fs::remove_file(lab.path(name)).unwrap();
        }
        // Any program's log.
        lab.write("d.log", "12:00 started\n");
        let ran = lab.cdi(["info", "d.raw"]).ends(0);
        assert!(!ran.err.contains("d.log"), "{}", ran.err);
        // In pieces.
        for (n, piece) in truth.chunks(500_000).enumerate() {
            lab.write(&format!("p.{n:03}"), piece);
        }
        lab.write("p.map", &map);
        assert_eq!(bad_of(&lab, &["p.000"]), [(100, 2, "bad-sector".into())]);
        // With it, in order: stdout has what the file has, and no success.
        let ran = lab.command().args(["extract", "-q", "p.000", "-"]).output().unwrap();
        assert!(ran.status.code() == Some(4) && ran.stdout == truth);
    }

    fn a_map_that_does_not_fit_is_said() {
        let lab = Lab::new();
        lab.write("d.raw", disk(1 << 20));
        let said = |word: &str, code| {
            let ran = lab.cdi(["info", "d.raw"]).ends(code);
            assert!(ran.err.contains("d.map") && ran.err.contains(word), "{word}: {}", ran.err);
        };
        lab.write("d.map", mapfile(1024, 512, &[(100, 2)]));
        said("next to the image: it is the map of a disk of 524288 bytes", 0);
        lab.write("d.map", "nothing");
        said("ignoring", 0);
        lab.write("d.map", mapfile(4096, 512, &[(100, 2)]));
        said("missing from the image", 4);
        lab.write("d.map", mapfile(2048, 512, &[(100, 2)]));
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
        fs::File::options().write(true).open(lab.path("d.map")).unwrap().set_modified(old).unwrap();
        said("is older than the image", 0);
        assert_eq!(bad_of(&lab, &["d.raw"]), [(100, 2, "bad-sector".into())]);
    }

    fn containers_are_refused_by_name() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        let kinds: [(&[u8], &str); 6] = [
            (b"\x1F\x8B\x08\0\0", "gzip -dc"),
            (b"\x3A\xFF\x26\xED\x01\0\0\0", "simg2img"),
            (b"QED\0", "qemu-img convert"),
            (b"QFI\xFB\0\0\0\x01", "qemu-img convert"),
            (b"partclone-image", "partclone.restore"),
            (b"WithoutFreeSpace", "parallels"),
        ];
        for (magic, way_out) in kinds {
            for name in ["c.img", "c.dd", "c.001", "c", "c.unknown"] {
                lab.write(name, [magic, &truth].concat());
                let ran = lab.cdi(["info", name]).ends(3);
                assert!(ran.err.contains(way_out), "{name}: {}", ran.err);
                assert!(!ran.err.contains("--format raw"), "{}", ran.err);
                // Whoever knows better says so.
                lab.cdi(["info", "--format", "raw", name]).ends(0);
                fs::remove_file(lab.path(name)).unwrap();
            }
        }
        // What it says can be done as it is said: it writes over nothing, and a shell takes names for names.
        for name in ["disk.raw", "a b;c.img"] {
            lab.write(name, [b"\x1F\x8B\x08\0\0", &truth[..]].concat());
            let said = lab.cdi(["info", name]).ends(3).err;
            let stem = name.rsplit_once('.').unwrap().0;
            let (file, out) = (name, format!("{stem}-plain.raw"));
            let quoted = |word: &str| if word.contains(' ') { format!("'{word}'") } else { word.to_owned() };
            assert!(said.contains(&format!("gzip -dc {} > {};", quoted(file), quoted(&out))), "{said}");
        }
        // A tape, or a stick that was written by tar, is what is called raw; an archive is what is not.
        let mut tar = truth.clone();
        tar[257..262].copy_from_slice(b"ustar");
        lab.write("t.img", &tar);
        lab.cdi(["info", "t.img"]).ends(0);
        lab.write("t.ova", &tar);
        assert!(lab.cdi(["info", "t.ova"]).ends(3).err.contains("tar -xf"));
        lab.write("c.unknown", &truth);
        assert!(lab.cdi(["info", "c.unknown"]).ends(3).err.contains("--format raw"));
        lab.write("luks.img", [b"LUKS\xBA\xBE\0\x02", &truth[..]].concat());
        lab.cdi(["info", "luks.img"]).ends(0);
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
);

/// A random disk of so many bytes: pieces of it are not like each other.
fn noise(len: usize) -> Vec<u8> {
    let random = &mut Random::new(5);
    (0..len).map(|_| (random.next() >> 40) as u8).collect()
}

/// Writes the pieces of a disk under these names into a directory of their own, and opens the first one.
fn in_pieces(lab: &Lab, dir: &str, truth: &[u8], piece: usize, name: &dyn Fn(usize) -> String) -> Ran {
    fs::create_dir(lab.path(dir)).unwrap();
    for (n, bytes) in truth.chunks(piece).enumerate() {
        lab.write(&format!("{dir}/{}", name(n)), bytes);
    }
    let _ = fs::remove_file(lab.path("out.raw"));
    lab.cdi(["extract", &format!("{dir}/{}", name(0)), "out.raw"])
}
