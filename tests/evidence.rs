//! Evidence: hashes that other programs confirm, a log of how an image was made, and reproducible images.

use std::fs;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::common::{Lab, Ran, disk};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Returns the hash of this name in the output of a command.
fn printed(ran: &Ran, name: &str) -> String {
    let line = ran.out.lines().find_map(|l| l.strip_prefix(&format!("{name:<8} ")));
    line.unwrap_or_else(|| panic!("no {name}: {}", ran.out)).to_owned()
}

tests!(
    fn hashes_are_stored_verified_and_printed() {
        let lab = Lab::new();
        let mut truth = lab.image(4096, 512, &[(100, 3)]);
        truth[100 * 512..103 * 512].fill(0);
        let (md5, sha1, sha256) =
            (hex(&Md5::digest(&truth)), hex(&Sha1::digest(&truth)), hex(&Sha256::digest(&truth)));
        let blake3 = blake3::hash(&truth).to_hex().to_string();
        let all = "md5,sha1,sha256,blake3";
        let created = lab.cdi(["create", "disk.raw", "h.cdimg", "--hash", all]).ends(4);
        let verified = lab.cdi(["verify", "disk.cdimg", "--hash", all]).ends(0);
        let extracted = lab.cdi(["extract", "disk.cdimg", "out.raw", "--hash", all]).ends(4);
        for ran in [&created, &verified, &extracted] {
            for (name, hash) in [("MD5", &md5), ("SHA-1", &sha1), ("SHA-256", &sha256), ("BLAKE3", &blake3)] {
                assert_eq!(printed(ran, name), *hash);
            }
        }
        let info = lab.cdi(["info", "--json", "h.cdimg"]).ends(0).json();
        assert_eq!(info["metadata"]["md5_zero_filled"].as_str(), Some(&*md5));
        let json = lab.cdi(["verify", "--json", "disk.cdimg", "--hash", "md5"]).ends(0).json();
        assert_eq!(json["md5_zero_filled"].as_str(), Some(&*md5));
        // As a rescued disk, in one pass and resumed.
        for size in ["1M", "2M"] {
            let words =
                ["create", "--rescue", "plain.raw", "r.cdimg", "--hash", "md5", "--resume", "--size", size];
            lab.write("plain.raw", &truth);
            let code = if size == "2M" { 0 } else { 4 };
            lab.cdi(words).ends(code);
        }
        let info = lab.cdi(["info", "--json", "r.cdimg"]).ends(0).json();
        assert_eq!(info["metadata"]["md5_zero_filled"].as_str(), Some(&*md5));
    }

    fn the_hashes_of_an_image_are_its_own() {
        let lab = Lab::new();
        lab.image(4096, 512, &[]);
        lab.cdi(["create", "disk.raw", "h.cdimg", "--hash", "md5,sha1"]).ends(0);
        // A converted image whose source was damaged has hashes of what is left.
        let mut bytes = lab.read("h.cdimg");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        lab.write("damaged.cdimg", &bytes);
        lab.cdi(["create", "damaged.cdimg", "new.cdimg"]).ends(4);
        lab.cdi(["verify", "new.cdimg"]).ends(0);
        let metadata = lab.cdi(["info", "--json", "new.cdimg"]).ends(0).json()["metadata"].clone();
        assert!(metadata.get("md5_zero_filled").is_none() && metadata["sha256_zero_filled"].is_string());
        // A hash can be added to an image of a disk that is complete already.
        lab.write("plain.raw", lab.read("disk.raw"));
        lab.cdi(["create", "plain.raw", "r.cdimg", "--rescue"]).ends(0);
        let again = lab.cdi(["create", "plain.raw", "r.cdimg", "--resume", "--hash", "md5"]).ends(0);
        assert_eq!(printed(&again, "MD5"), hex(&Md5::digest(lab.read("disk.raw"))));
        let info = lab.cdi(["info", "--json", "r.cdimg"]).ends(0).json();
        assert_eq!(info["metadata"]["md5_zero_filled"], hex(&Md5::digest(lab.read("disk.raw"))));
        // Those that it had stay.
        lab.cdi(["create", "plain.raw", "r.cdimg", "--resume", "--hash", "sha1"]).ends(0);
        let metadata = lab.cdi(["info", "--json", "r.cdimg"]).ends(0).json()["metadata"].clone();
        assert!(metadata["sha1_zero_filled"].is_string());
        assert_eq!(metadata["md5_zero_filled"], info["metadata"]["md5_zero_filled"]);
    }

    fn converted_images_have_a_log() {
        let lab = Lab::new();
        lab.image(2048, 512, &[]);
        let events = lab.cdi(["info", "--events", "--json", "disk.cdimg"]).ends(0).json();
        let names: Vec<&str> =
            events["events"].as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap()).collect();
        assert_eq!(names, ["begun", "ended", "sealed"]);
        assert!(events["events"][0]["source"].as_str().unwrap().ends_with("disk.raw"));
        assert!(events["events"][0]["time"].as_str().unwrap().ends_with('Z'));
    }

    fn reproducible_images_are_equal() {
        let lab = Lab::new();
        // Many equal chunks, so that workers meet at them, and bad sectors.
        let mut bytes = disk(6 << 20);
        for at in (1..150).step_by(3) {
            bytes.copy_within(0..32 << 10, at * (32 << 10));
        }
        lab.write("a.raw", &bytes);
        lab.write("a.map", "0 +\n0 0x300000 +\n0x300000 0x1000 -\n0x301000 0x2FF000 +\n");
        let make = |name: &str, more: &[&str]| {
            lab.cdi([&["create", "-q", "a.raw", name, "--reproducible"], more].concat()).ends(4);
            lab.read(name)
        };
        let first = make("0.cdimg", &[]);
        for n in 1..6 {
            assert!(make(&format!("{n}.cdimg"), &[]) == first, "{n}");
        }
        assert!(make("note.cdimg", &["--note", "x"]) != first);
        // Also from another directory.
        fs::create_dir(lab.path("d")).unwrap();
        for name in ["a.raw", "a.map"] {
            fs::copy(lab.path(name), lab.path("d").join(name)).unwrap();
        }
        lab.cdi(["create", "-q", "d/a.raw", "d.cdimg", "--reproducible"]).ends(4);
        assert!(lab.read("d.cdimg") == first);
        fs::remove_file(lab.path("d.cdimg")).unwrap();
        assert!(lab.cdi(["info", "--json", "0.cdimg"]).ends(0).json()["metadata"]["created"].is_null());
        lab.cdi(["verify", "0.cdimg"]).ends(0);
        bytes[5 << 20] ^= 1;
        lab.write("a.raw", &bytes);
        assert!(make("other.cdimg", &[]) != first);
        let mut dated = lab.command();
        dated.args(["create", "-q", "a.raw", "d.cdimg", "--reproducible"]).env("SOURCE_DATE_EPOCH", "86400");
        assert_eq!(dated.status().unwrap().code(), Some(4));
        let info = lab.cdi(["info", "--json", "d.cdimg"]).ends(0).json();
        assert_eq!(info["metadata"]["created"], "1970-01-02T00:00:00Z");
        let mut wrong = lab.command();
        wrong.args(["create", "-q", "a.raw", "w.cdimg", "--reproducible"]).env("SOURCE_DATE_EPOCH", "today");
        assert_eq!(wrong.status().unwrap().code(), Some(2));
        lab.cdi(["create", "--rescue", "--reproducible", "a.raw", "r.cdimg", "--mapfile", "none"]).ends(2);
    }

    fn man_pages_and_help_have_examples() {
        let lab = Lab::new();
        lab.cdi(["man", "man"]).ends(0);
        for verb in ["create", "attach", "detach", "map", "verify", "exec"] {
            let long = lab.cdi(["help", verb]).ends(0).out;
            for section in ["Examples:", "Exit status:", "Files:", "See also:", "General options:"] {
                assert!(long.contains(section), "{verb}: no {section}");
            }
            assert!(long.lines().all(|l| l.chars().count() <= 110), "{verb}");
            assert!(
                long.find("General options:") > long.find("Arguments:"),
                "{verb}: general options come last"
            );
            let page = fs::read_to_string(lab.path(&format!("man/cdi-{verb}.1"))).unwrap();
            for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES", "EXIT STATUS", "FILES", "SEE ALSO"] {
                assert!(
                    page.contains(&format!(".SH {section}")) || page.contains(&format!(".SH \"{section}\"")),
                    "{verb}: no {section}"
                );
            }
        }
        let ran = lab.cdi(["umount"]).ends(2);
        assert!(ran.err.contains("'unmount'"), "{}", ran.err);
        // A path that is no text does not end the program.
        let wild = std::ffi::OsStr::new("\u{fffd}");
        lab.cdi([std::ffi::OsStr::new("info"), "--json".as_ref(), wild]).ends(1);
    }
);
