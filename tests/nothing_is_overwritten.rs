//! No file that holds the only copy of something is overwritten: not what is being read, nor an unfinished image, nor a map
//! with more in it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::common::{Lab, LoopDevice, MountedDisk, Need, disk, mapfile, run, wait_until};

tests!(
    #[needs(Program("qemu-img"))]
    fn files_that_an_image_consists_of_are_never_overwritten() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        lab.write("base.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", &path("over.qcow2")]);
        for (n, piece) in truth.chunks(400_000).enumerate() {
            lab.write(&format!("p.{n:03}"), piece);
        }
        lab.write("p.map", mapfile(2048, 512, &[(9, 1)]));
        fs::hard_link(lab.path("base.raw"), lab.path("link.img")).unwrap();
        for (image, out) in
            [("over.qcow2", "base.raw"), ("over.qcow2", "link.img"), ("p.000", "p.001"), ("p.000", "p.map")]
        {
            let before = lab.read(out);
            for words in [["extract", image, out, "--force"], ["create", image, out, "--force"]] {
                lab.cdi(words).ends(2);
                assert!(lab.read(out) == before, "{words:?}");
            }
            lab.cdi(["map", image, "--export-mapfile", out, "--force"]);
            assert!(lab.read(out) == before, "{out}");
        }
        // Nor is an image that is mounted.
        if Need::Fuse.is_there() {
            lab.cdi(["create", "base.raw", "a.cdimg"]).ends(0);
            let before = lab.read("a.cdimg");
            lab.cdi(["mount", "a.cdimg", "m"]).ends(0);
            let ran = lab.cdi(["create", "p.000", "a.cdimg", "--force"]).ends(5);
            assert!(ran.err.contains("is mounted at"), "{}", ran.err);
            lab.cdi(["unmount", "m"]).ends(0);
            // Nor the parent of a mounted image.
            lab.cdi(["mount", "over.qcow2", "m"]).ends(0);
            let ran = lab.cdi(["extract", "a.cdimg", "base.raw", "--force"]).ends(5);
            assert!(ran.err.contains("is mounted at"), "{}", ran.err);
            lab.cdi(["unmount", "m"]).ends(0);
            assert!(lab.read("a.cdimg") == before);
            lab.cdi(["create", "p.000", "a.cdimg", "--force"]).ends(4);
        }
    }

    #[needs(Loop)]
    fn the_backing_file_of_a_loop_device_is_never_overwritten() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        let raw = lab.write("a.cdimg", &truth);
        let device = LoopDevice::new(&raw, &[]);
        let ran = lab.cdi(["create", &device.path, "a.cdimg", "--force"]).ends(2);
        assert!(ran.err.contains("is a backing file of"), "{}", ran.err);
        lab.cdi(["extract", &device.path, "a.raw", "--format", "raw"]).ends(0);
        drop(device);
        assert!(lab.read("a.cdimg") == truth && lab.read("a.raw") == truth);
    }

    #[needs(Loop, Program("mkfs.ext4"))]
    fn an_image_on_its_own_disk_is_refused() {
        let lab = Lab::new();
        fs::File::create(lab.path("disk.raw")).unwrap().set_len(16 << 20).unwrap();
        let outer = MountedDisk::ext4(&lab.path("disk.raw"), lab.path("mnt"));
        // A file system in a file on the disk is also on the disk.
        let _inner = MountedDisk::ext4(&lab.write("mnt/inner.raw", vec![0; 1 << 20]), lab.path("mnt2"));
        for image in ["mnt/a.cdimg", "mnt2/a.cdimg"] {
            let ran = lab.cdi(["create", &outer.device.path, image, "--force"]).ends(2);
            assert!(ran.err.contains("the disk to be imaged"), "{}", ran.err);
        }
    }

    fn every_command_keeps_an_unfinished_image() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(1 << 20));
        lab.cdi(["create", "disk.raw", "other.cdimg"]).ends(0);
        lab.cdi(["create", "--rescue", "disk.raw", "u.cdimg", "--size", "512k"]).ends(4);
        let before = lab.read("u.cdimg");
        let words: [&[&str]; 5] = [
            &["create", "disk.raw", "u.cdimg"],
            &["create", "--rescue", "disk.raw", "u.cdimg"],
            &["repair", "other.cdimg", "u.cdimg"],
            &["compact", "other.cdimg", "u.cdimg"],
            &["map", "other.cdimg", "--export-mapfile", "u.cdimg"],
        ];
        for words in words {
            let ran = lab.cdi([words, &["--force"]].concat()).ends(5);
            assert!(
                ran.err.contains("--resume") && ran.err.contains("is an unfinished disk image"),
                "{words:?}: {}",
                ran.err
            );
            assert!(lab.read("u.cdimg") == before, "{words:?}");
        }
        // One that cannot be opened may be one.
        lab.write("d.cdimg", &before[..before.len() / 2]);
        lab.cdi(["create", "disk.raw", "d.cdimg", "--force"]).ends(5);
        lab.cdi(["create", "disk.raw", "d.cdimg", "--discard-unfinished"]).ends(0);
        lab.cdi(["create", "--rescue", "disk.raw", "u.cdimg", "--resume"]).ends(0);
        lab.cdi(["create", "disk.raw", "u.cdimg", "--force"]).ends(0);
    }

    fn a_map_is_never_overwritten_by_one_with_less_information() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        fs::create_dir(lab.path("in")).unwrap();
        lab.write("in/disk.raw", &truth);
        let map = mapfile(2048, 512, &[(100, 5), (2000, 48)]);
        lab.write("disk.map", &map);
        // The image's own map is not next to it.
        let ran = lab.cdi(["map", "in/disk.raw", "--export-mapfile", "disk.map", "--force"]).ends(5);
        assert!(ran.err.contains("with more information"), "{}", ran.err);
        assert_eq!(fs::read_to_string(lab.path("disk.map")).unwrap(), map);
        lab.cdi(["create", "in/disk.raw", "a.cdimg", "--mapfile", "disk.map"]).ends(4);
        lab.cdi(["map", "a.cdimg", "--export-mapfile", "disk.map", "--force"]).ends(0);
        // Nor the map next to the extracted file.
        lab.write("disk.map", &map);
        lab.cdi(["create", "in/disk.raw", "b.cdimg"]).ends(0);
        for image in ["a.cdimg", "b.cdimg"] {
            lab.cdi(["extract", image, "disk"]).ends(5);
            lab.cdi(["extract", image, "disk", "--force"]).ends(5);
            assert!(!lab.path("disk").exists());
        }
        // Nor by a file that is not a map.
        let ran = lab.cdi(["map", "a.cdimg", "--picture", "disk.map", "--force"]).ends(5);
        assert!(ran.err.contains("is a mapfile or a list of bad blocks"), "{}", ran.err);
        assert_eq!(fs::read_to_string(lab.path("disk.map")).unwrap(), map);
        // But a map that cdi wrote is replaced together with its file.
        fs::remove_file(lab.path("disk.map")).unwrap();
        lab.cdi(["extract", "a.cdimg", "disk"]).ends(4);
        lab.cdi(["extract", "b.cdimg", "disk", "--force"]).ends(0);
        lab.cdi(["map", "a.cdimg", "--export-mapfile", "disk.map", "--force"]).ends(5);
        lab.write("disk.map", &map);
        // As input it works with every command.
        let json = lab.cdi(["map", "--bad", "--json", "in/disk.raw", "--mapfile", "disk.map"]).ends(0).json();
        assert_eq!(json["ranges"].as_array().unwrap().len(), 2);
        let out = lab.cdi(["map", "a.cdimg", "--export-badblocks"]).ends(0).out;
        assert!(out.starts_with("50\n51\n52\n1000\n"), "{out}");
        assert_eq!(
            lab.cdi(["map", "a.cdimg", "--export-mapfile", "-"]).ends(0).out.matches(" -\n").count(),
            2
        );
    }

    fn output_names_must_match_what_is_written() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(1 << 20));
        for out in ["x.img", "x.dd", "x.001", "x.e01", "x.qcow2"] {
            let ran = lab.cdi(["create", "disk.raw", out]).ends(2);
            assert!(ran.err.contains("use the name x.cdimg") && !lab.path(out).exists(), "{}", ran.err);
        }
        lab.cdi(["create", "disk.raw", "x.cdimg"]).ends(0);
        lab.cdi(["create", "disk.raw", "x"]).ends(0);
        for out in ["y.cdimg", "y.vmdk", "y.dmg"] {
            lab.cdi(["extract", "x.cdimg", out]).ends(2);
            assert!(!lab.path(out).exists());
        }
        for words in [["repair", "x.cdimg", "z.img"], ["compact", "x.cdimg", "z.img"]] {
            lab.cdi(words).ends(2);
        }
    }

    /// A loop device shows a file: one that must not be overwritten must not be overwritten through the device either.
    #[needs(Loop, Program("qemu-img"), Program("mkfs.ext4"))]
    fn files_are_not_overwritten_through_a_device_either() {
        let lab = Lab::new();
        lab.write("small.raw", disk(1 << 20));
        lab.cdi(["create", "small.raw", "small.cdimg"]).ends(0);
        lab.write("base.raw", disk(4 << 20));
        let base = lab.path("base.raw");
        run(
            "qemu-img",
            [
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                "base.raw",
                lab.path("top.qcow2").to_str().unwrap(),
            ],
        );
        lab.cdi(["create", "--rescue", "base.raw", "unfinished.cdimg", "--size", "2M"]).ends(4);
        lab.cdi(["create", "base.raw", "whole.cdimg", "--codec", "none"]).ends(0);
        for (image, below, code) in [
            ("top.qcow2", "base.raw", 2),
            ("whole.cdimg", "whole.cdimg", 2),
            ("small.cdimg", "unfinished.cdimg", 5),
        ] {
            let before = lab.read(below);
            let device = LoopDevice::new(&lab.path(below), &[]);
            lab.cdi(["extract", image, &device.path, "--force"]).ends(code);
            drop(device);
            assert!(lab.read(below) == before, "{image} over {below}");
        }
        // A file system that is mounted by way of another device.
        let _mounted = MountedDisk::ext4(&base, lab.path("mnt"));
        let other = LoopDevice::new(&base, &[]);
        lab.cdi(["extract", "small.cdimg", &other.path, "--force"]).ends(5);
        lab.cdi(["create", &other.path, "mnt/own.cdimg"]).ends(2);
    }

    /// A file that appears under the output's name while that is being written is not overwritten at the end.
    fn a_file_that_appears_under_the_output_name_is_kept() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(1 << 20));
        lab.cdi(["create", "--rescue", "disk.raw", "unfinished.cdimg", "--size", "512k"]).ends(4);
        lab.cdi(["create", "disk.raw", "old.cdimg"]).ends(0);
        for name in ["new.cdimg", "old.cdimg"] {
            let mut command = lab.command();
            command.args(["create", "-", name, "--force"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(&disk(2 << 20)).unwrap();
            wait_until("it is under way", || {
                fs::read_dir(&lab.dir)
                    .unwrap()
                    .any(|e| e.unwrap().file_name().to_str().unwrap().ends_with(".partial"))
            });
            fs::copy(lab.path("unfinished.cdimg"), lab.path("copy")).unwrap();
            fs::rename(lab.path("copy"), lab.path(name)).unwrap();
            drop(stdin);
            let ended = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(ended.status.code(), Some(5), "{said}");
            assert!(lab.read(name) == lab.read("unfinished.cdimg"), "{name}");
            // And the output is not lost.
            let partial = said.split_whitespace().last().unwrap();
            lab.cdi(["verify", partial]).ends(0);
            fs::remove_file(lab.path(partial)).unwrap();
        }
    }

    #[needs(Loop, Program("mkfs.ext4"))]
    fn a_disk_is_restored_to_a_device_only_if_that_is_safe() {
        let lab = Lab::new();
        let truth = lab.image(4096, 512, &[(100, 3)]);
        let size = truth.len() as u64;
        let target = lab.write("target", vec![0xEE; truth.len() + 4096]);
        let device = LoopDevice::new(&target, &[]);
        lab.cdi(["extract", "disk.cdimg", &device.path]).ends(5);
        lab.cdi(["extract", "disk.cdimg", &device.path, "--force"]).ends(4);
        let there = fs::read(&device.path).unwrap();
        run("mkfs.ext4", ["-q", "-F", &device.path]);
        let mounted = MountedDisk::mount(device, lab.path("mnt"));
        lab.cdi(["extract", "disk.cdimg", &mounted.device.path, "--force"]).ends(5);
        drop(mounted);
        fs::File::options().write(true).open(&target).unwrap().set_len(size - 512).unwrap();
        let small = LoopDevice::new(&target, &[]);
        let ran = lab.cdi(["extract", "disk.cdimg", &small.path, "--force"]).ends(2);
        assert!(ran.err.contains("nothing was written"), "{}", ran.err);
        let (bad, n) = (100 * 512, 3 * 512);
        assert!(there[..bad] == truth[..bad] && there[bad + n..truth.len()] == truth[bad + n..]);
        assert!(
            there[bad..bad + n].iter().all(|b| *b == 0) && there[truth.len()..].iter().all(|b| *b == 0xEE)
        );
        let ran = lab.cdi(["extract", "--json", "disk.cdimg", "-"]).ends(2);
        assert!(ran.out.is_empty());
        // A name that was mistyped.
        lab.cdi(["extract", "disk.cdimg", "/dev/no-such-disk", "--force"]).ends(2);
        assert!(!Path::new("/dev/no-such-disk").exists());
    }

    fn maps_and_pictures_are_not_written_over_images() {
        let lab = Lab::new();
        lab.image(2048, 512, &[(100, 3)]);
        lab.write("other.raw", disk(1 << 20));
        fs::copy(lab.path("disk.cdimg"), lab.path("copy")).unwrap();
        for (option, outs) in [
            ("--export-mapfile", &["other.raw", "copy", "new.img"][..]),
            ("--picture", &["other.raw", "copy", "a.png"]),
        ] {
            for out in outs {
                let before = fs::read(lab.path(out)).ok();
                lab.cdi(["map", "disk.cdimg", option, out, "--force"]).ends(2);
                assert!(fs::read(lab.path(out)).ok() == before, "{option} {out}");
            }
        }
        lab.cdi(["map", "disk.cdimg", "--picture", "a.svg"]).ends(0);
        lab.cdi(["map", "disk.cdimg", "--export-mapfile", "new.map"]).ends(0);
        // A name that a hint suggests is free.
        lab.cdi(["create", "disk.raw", "x.dmg", "--force"]).ends(2);
        let said = lab.cdi(["extract", "disk.cdimg", "other.cdimg"]).ends(2).err;
        assert!(!said.contains("other.raw") && said.contains("ends in .raw"), "{said}");
    }

    /// Who images the disk again wants more of it. What the error suggests first must keep what there is.
    fn the_way_to_more_of_a_disk_is_not_to_overwrite_its_image() {
        let lab = Lab::new();
        lab.write("plain.raw", disk(1 << 20));
        lab.cdi(["create", "--rescue", "plain.raw", "r.cdimg"]).ends(0);
        let before = lab.read("r.cdimg");
        let said = lab.cdi(["create", "--rescue", "plain.raw", "r.cdimg"]).ends(5).err;
        let hint = said.split("hint: ").nth(1).unwrap();
        assert!(hint.starts_with("--resume"), "{said}");
        assert!(lab.read("r.cdimg") == before);
        // What is not an image can only be overwritten.
        lab.write("x.cdimg", "text");
        let said = lab.cdi(["create", "--rescue", "plain.raw", "x.cdimg"]).ends(5).err;
        assert!(!said.contains("--resume") && said.contains("--force"), "{said}");
    }

    fn nothing_is_overwritten_without_force() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        let before = lab.read("disk.cdimg");
        let ran = lab.cdi(["create", "disk.raw", "disk.cdimg"]).ends(5);
        assert!(ran.err.contains("file exists") && ran.err.contains("--force"), "{}", ran.err);
        assert!(lab.read("disk.cdimg") == before);
        lab.cdi(["create", "disk.raw", "disk.raw", "--force"]).ends(2);
        lab.cdi(["extract", "disk.cdimg", "disk.raw"]).ends(5);
        lab.cdi(["create", "disk.raw", "disk.cdimg", "--force"]).ends(0);
        assert!(lab.read("disk.cdimg") != before, "it has a salt of its own");
        let names: Vec<_> = fs::read_dir(&lab.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().all(|n| !n.to_str().unwrap().contains("partial")), "{names:?}");
    }

    /// Input files are never overwritten: neither the mapfile nor the image itself.
    fn files_that_a_command_reads_are_never_overwritten() {
        let lab = Lab::new();
        let bytes = lab.image(2048, 512, &[(1, 1)]);
        let (map, image) = (lab.read("disk.map"), lab.read("disk.cdimg"));
        lab.cdi(["map", "disk.cdimg", "--export-mapfile", "disk.map"]).ends(5);
        lab.cdi(["map", "disk.cdimg", "--export-mapfile", "disk.cdimg", "--force"]).ends(2);
        lab.cdi(["extract", "disk.cdimg", "disk.cdimg", "--force"]).ends(2);
        lab.cdi(["extract", "disk.raw", "--mapfile", "disk.map", "disk.map", "--force"]).ends(2);
        lab.cdi(["create", "disk.raw", "disk.map", "--mapfile", "disk.map", "--force"]).ends(2);
        // A map that is in the way is reported before anything is copied.
        lab.write("out.raw.map", "precious");
        lab.cdi(["extract", "disk.cdimg", "out.raw"]).ends(5);
        assert_eq!(lab.read("out.raw.map"), b"precious");
        fs::copy(lab.path("disk.map"), lab.path("in.map")).unwrap();
        lab.cdi(["extract", "disk.raw", "--mapfile", "in.map", "in", "--force"]).ends(2);
        assert_eq!(lab.read("disk.map"), map);
        assert_eq!(lab.read("in.map"), map);
        assert!(lab.read("disk.cdimg") == image && lab.read("disk.raw") == bytes);
    }
);
