//! Raw images in pieces, by every program's counting.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use cdi_base::error::ReadError;
use cdi_image::disk::Disk;

use crate::common::{Lab, Ran, Random, disk, mapfile};

/// Returns a random disk of `len` bytes, of which no two pieces are alike.
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

tests!(
    fn pieces_numbered_by_any_program_are_found() {
        let lab = Lab::new();
        let truth = noise(1100 * 512 - 100);
        /// A directory, the length of a piece, and their names.
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
            assert!(lab.read("out.raw") == truth, "{dir}");
        }
        // With --format raw it is still all pieces.
        lab.cdi(["extract", "--force", "--format", "raw", "two/d.01", "out.raw"]).ends(0);
        assert!(lab.read("out.raw") == truth);
    }

    /// Of many pieces, not all are kept open.
    fn a_piece_that_was_replaced_is_an_error_when_it_is_opened_again() {
        let lab = Lab::new();
        let truth = noise(100 * 512);
        for (n, bytes) in truth.chunks(512).enumerate() {
            lab.write(&format!("d.{:03}", n + 1), bytes);
        }
        let disk = Disk::open(lab.path("d.001")).unwrap();
        let mut buf = vec![0; truth.len()];
        disk.read_at(&mut buf, 0).unwrap();
        assert!(buf == truth);
        // As long and as old as it.
        let modified = fs::metadata(lab.path("d.002")).unwrap().modified().unwrap();
        let other = fs::File::create(lab.path("other")).unwrap();
        lab.write("other", [7; 512]);
        other.set_modified(modified).unwrap();
        fs::rename(lab.path("other"), lab.path("d.002")).unwrap();
        let read = disk.read_at(&mut buf[..512], 512);
        assert_eq!(read, Err(ReadError::Io { errno: nix::errno::Errno::ESTALE as i32 }));
        disk.read_at(&mut buf[..512], 1024).unwrap();
        assert!(buf[..512] == truth[1024..1536]);
    }

    #[needs(Program("split"))]
    fn pieces_written_by_split_are_found() {
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
            // Other files named after the disk, among them the whole disk, are not pieces.
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
            assert!(lab.read("out.raw") == truth, "{options:?}");
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

    /// The pieces and the map next to an image whose name is no text.
    fn a_name_that_is_not_utf_8_hides_nothing() {
        let lab = Lab::new();
        let named = |name: &[u8]| lab.dir.join(OsStr::from_bytes(name));
        let truth = disk(8192 * 512);
        fs::write(named(b"d\xff.raw"), &truth).unwrap();
        fs::write(named(b"d\xff.map"), mapfile(8192, 512, &[(100, 3)])).unwrap();
        let ran = lab.cdi([OsStr::new("map"), OsStr::new("--bad"), named(b"d\xff.raw").as_os_str()]).ends(0);
        assert!(ran.out.contains("bad-sector"), "{}{}", ran.out, ran.err);
        for (n, piece) in truth.chunks(1 << 20).enumerate() {
            fs::write(named(&[b"p\xff.", format!("{:03}", n + 1).as_bytes()].concat()), piece).unwrap();
        }
        let ran = lab.cdi([OsStr::new("info"), named(b"p\xff.001").as_os_str()]).ends(3);
        assert!(ran.err.contains("not UTF-8"), "{}", ran.err);
    }

    fn other_files_are_not_mistaken_for_pieces() {
        let lab = Lab::new();
        let (one, two) = (noise(300_000), noise(200_000));
        // Disks of a virtual machine.
        for (first, second) in [("vm-disk-0.raw", "vm-disk-1.raw"), ("server_1.img", "server_2.img")] {
            lab.write(first, &one);
            lab.write(second, &two);
            let info = lab.cdi(["info", "--json", first]).ends(0).json();
            assert_eq!(info["size_bytes"].as_u64(), Some(300_000), "{first}");
        }
        // These are ambiguous: an error asks, nothing is guessed.
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
        // A partition table that ends with the file: a whole disk. One that reaches further: a piece.
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

    fn a_missing_piece_is_an_error_however_pieces_are_numbered() {
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
        assert!(lab.read("out.raw") == truth);
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

    fn pieces_of_a_raw_image_are_one_disk() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        for (n, part) in truth.chunks(400_000).enumerate() {
            lab.write(&format!("d.{n:03}"), part);
        }
        lab.cdi(["extract", "d.000", "out.raw"]).ends(0);
        assert!(lab.read("out.raw") == truth);
        fs::rename(lab.path("d.001"), lab.path("away")).unwrap();
        let ran = lab.cdi(["info", "d.000"]).ends(3);
        assert!(ran.err.contains("piece 'd.001' is missing"), "{}", ran.err);
        // With a map, and attached as one.
        fs::rename(lab.path("away"), lab.path("d.001")).unwrap();
        lab.write("d.map", crate::common::mapfile(2048, 512, &[(600, 2)]));
        lab.cdi(["create", "d.000", "d.cdimg", "--mapfile", "d.map"]).ends(4);
    }
);
