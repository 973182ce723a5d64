//! Formats that cdi does not read.

use std::fs;

use crate::common::{Lab, disk};

tests!(
    fn unsupported_formats_are_refused_by_name_with_a_way_to_convert() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        let kinds: [(&[u8], &str); 2] =
            [(b"LZIP\x01\x0C\0\0", "lzip -dc"), (b"Bochs Virtual HD Image\0", "qemu-img convert")];
        for (magic, way_out) in kinds {
            for name in ["c.img", "c.dd", "c.001", "c", "c.unknown"] {
                lab.write(name, [magic, &truth].concat());
                let ran = lab.cdi(["info", name]).ends(3);
                assert!(ran.err.contains(way_out), "{name}: {}", ran.err);
                assert!(!ran.err.contains("--format raw"), "{}", ran.err);
                // An option overrides it.
                lab.cdi(["info", "--format", "raw", name]).ends(0);
                fs::remove_file(lab.path(name)).unwrap();
            }
        }
        // The command in the message works as it is: it overwrites nothing, and names are quoted for a shell.
        for name in ["disk.raw", "a b;c.img"] {
            lab.write(name, [b"LZIP\x01\x0C\0\0", &truth[..]].concat());
            let said = lab.cdi(["info", name]).ends(3).err;
            let stem = name.rsplit_once('.').unwrap().0;
            let (file, out) = (name, format!("{stem}-plain.raw"));
            let quoted = |word: &str| if word.contains(' ') { format!("'{word}'") } else { word.to_owned() };
            assert!(said.contains(&format!("lzip -dc {} > {};", quoted(file), quoted(&out))), "{said}");
        }
        // Also where the name has a placeholder of the hints in it, and where a link leads nowhere.
        lab.write("part.raw.lz", [b"LZIP\x01\x0C\0\0", &truth[..]].concat());
        std::os::unix::fs::symlink("nowhere", lab.path("part.raw-plain.raw")).unwrap();
        let said = lab.cdi(["info", "part.raw.lz"]).ends(3).err;
        assert!(said.contains("lzip -dc part.raw.lz > part.raw-plain-1.raw;"), "{said}");
        // A disk image whose contents were written by tar is raw; an archive by its name is not.
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

    /// What a hint says to type is typed where the files that it could hit are there already.
    fn a_hint_to_join_pieces_overwrites_nothing() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        for (first, second, head) in [("c.ac", "c.ae", &b""[..]), ("c.02", "c.05", b"LZIP\x01\x0C\0\0")] {
            for name in [first, second, "disk.raw", "joined", "c-joined.raw", "c-joined"] {
                lab.write(name, [head, &truth].concat());
            }
            let said = lab.cdi(["info", first]).ends(3).err;
            let command = said.split("cat … > ").nth(1).unwrap_or_else(|| panic!("{said}"));
            let out = command.split([';', '\n']).next().unwrap();
            assert!(!lab.path(out).exists(), "{said}");
        }
        // Suffixes of one length are no counters.
        for name in ["d.log", "d.map", "d.txt"] {
            lab.write(name, &truth);
        }
        assert!(!lab.cdi(["info", "d.log"]).ends(3).err.contains("join"));
    }

    fn a_mapfile_is_recognised_whatever_its_name_and_comments() {
        let lab = Lab::new();
        lab.image(2048, 512, &[(100, 3)]);
        let map = lab.read("disk.map");
        let map = String::from_utf8(map).unwrap();
        let bare: String = map.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
        for (name, text) in [("copy.map", &map), ("m.txt", &bare), ("m.img", &bare), ("m", &bare)] {
            lab.write(name, text);
            let said = lab.cdi(["info", name]).ends(3).err;
            assert!(said.contains("mapfile") && said.contains("--mapfile"), "{name}: {said}");
        }
        lab.write("m", "0 +\nsome other text\n");
        assert!(!lab.cdi(["info", "m"]).ends(3).err.contains("--mapfile"));
    }
);
