//! Lists of bad blocks: mapfiles, logs and badblocks lists, given or next to an image.

use std::fs;

use super::{bad_of, truth};
use crate::common::{Lab, blocks, corpus, disk, mapfile};

tests!(
    fn badblocks_lists_and_logs_are_read() {
        let lab = Lab::new();
        lab.write("d.raw", truth());
        lab.write("bad.txt", "3\n4\n10\n");
        lab.write("log.txt", "# sectorsize 512\n0x800 0x7f\n0x0 0x6 0x7f 0x0 0x0\n0x6 0x4 0x40 0x0 0x31100\n0xa 0x7f6 0x7f 0x0 0x0\n");
        let bad = |words: &[&str]| {
            lab.cdi([&["create", "--force", "d.raw", "d.cdimg"], words].concat()).ends(4);
            let bad = lab.cdi(["map", "--bad", "--json", "d.cdimg"]).ends(0).json();
            let ranges = bad["ranges"].as_array().unwrap().clone();
            ranges
                .iter()
                .map(|r| (r["first_sector"].as_u64().unwrap(), r["sectors"].as_u64().unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(bad(&["--badblocks", "bad.txt", "--block-size", "1024"]), [(6, 4), (20, 2)]);
        assert_eq!(bad(&["--badblocks", "bad.txt", "--block-size", "4096"]), [(24, 16), (80, 8)]);
        assert_eq!(bad(&["--mapfile", "log.txt"]), [(6, 4)]);
        // The size of a block is not in the list; it is asked for.
        let ran = lab.cdi(["create", "d.raw", "x.cdimg", "--badblocks", "bad.txt"]).ends(2);
        assert!(ran.err.contains("--block-size"), "{}", ran.err);
        let ran = lab.cdi(["info", "d.raw", "--badblocks", "bad.txt", "--block-size", "1M"]).ends(3);
        assert!(ran.err.contains("block 10 of 1048576 bytes is past the end"), "{}", ran.err);
    }

    fn logs_and_lists_reach_past_the_file() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        lab.write("d.raw", &truth[..1 << 19]);
        let log = "# sectorsize 512\n0x800 0x7f\n0x0 0x400 0x7f 0x0 0x0\n0x400 0x10 0x40 0x0 0x0\n0x410 0x3f0 0x0 0x0 0x0\n";
        lab.write("d.log", log);
        let expect = vec![(1024, 16, "bad-sector".to_owned()), (1040, 1008, "non-tried".into())];
        assert_eq!(bad_of(&lab, &["d.raw", "--mapfile", "d.log"]), expect);
        // It is also found next to the image.
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
        // Written to stdout in order; the exit code is that of a disk with bad sectors.
        let ran = lab.command().args(["extract", "-q", "p.000", "-"]).output().unwrap();
        assert!(ran.status.code() == Some(4) && ran.stdout == truth);
    }

    fn a_map_that_does_not_fit_is_reported() {
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

    #[needs(Corpus)]
    fn mapfiles_from_ddrescue_s_own_tests_are_read() {
        let lab = Lab::new();
        let size = 0x11C48;
        let truth = disk(size);
        lab.write("d.raw", &truth);
        let mut read = 0;
        for entry in fs::read_dir(corpus().join("ddrescue")).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let ran = lab
                .command()
                .args(["create", "--discard-unfinished", "d.raw", "d.cdimg", "--mapfile"])
                .arg(&path)
                .output()
                .unwrap();
            assert_eq!(ran.status.code(), Some(4), "{path:?}");
            lab.cdi(["verify", "d.cdimg"]).ends(0);
            let _ = fs::remove_file(lab.path("e.raw.map"));
            lab.cdi(["extract", "--force", "d.cdimg", "e.raw"]).ends(4);
            let got = lab.read("e.raw");
            let map = blocks(&fs::read_to_string(lab.path("e.raw.map")).unwrap());
            // A sector is finished if finished blocks cover all of it, and no other block touches it.
            let all = blocks(&text);
            for (lba, sector) in truth.chunks(512).enumerate() {
                let (start, end) = (lba as u64 * 512, lba as u64 * 512 + sector.len() as u64);
                let covers = |byte: u64| all.iter().any(|(a, n, s)| s == "+" && (*a..a + n).contains(&byte));
                let other = all.iter().any(|(a, n, s)| s != "+" && *a < end && a + n > start);
                let finished = !other && (start..end).step_by(8).all(covers);
                let said = map.iter().find(|(a, n, _)| (*a..a + n).contains(&start)).unwrap();
                assert_eq!(said.2 == "+", finished, "{path:?}: sector {lba}");
                if finished {
                    assert!(got[start as usize..end as usize] == *sector, "{path:?}: sector {lba}");
                }
            }
            read += 1;
        }
        assert_eq!(read, 10);
    }
);
