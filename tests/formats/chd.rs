//! MAME's CHD.

use std::fs;

use super::{extracted, verified};
use crate::common::{Lab, disk, run};

pub fn chd_make(lab: &Lab, out: &str, words: &[&str]) {
    let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    let first = ["createhd", "-f", "-i", &path("disk.raw"), "-o", &path(out)].map(str::to_owned);
    run("chdman", first.into_iter().chain(words.iter().map(|w| (*w).to_owned())));
}

tests!(
    #[needs(Program("chdman"))]
    fn every_compression_of_chdman_reads_correctly() {
        let lab = Lab::new();
        let mut truth = disk(4 << 20);
        // Sound is compressed by FLAC; repeated parts are stored once.
        for (n, sample) in truth[1 << 20..2 << 20].chunks_exact_mut(2).enumerate() {
            let wave = (((n / 2) as f64 / 30.0).sin() * 9000.0) as i16;
            sample.copy_from_slice(&wave.to_le_bytes());
        }
        truth.copy_within(0..1 << 19, 3 << 20);
        truth[5 << 19..3 << 20].fill(0);
        lab.write("disk.raw", &truth);
        for words in [
            &[][..],
            &["-c", "zlib"],
            &["-c", "lzma"],
            &["-c", "huff"],
            &["-c", "flac"],
            &["-c", "none"],
            &["-hs", "512"],
            &["-hs", "65536"],
        ] {
            chd_make(&lab, "a.chd", words);
            assert!(extracted(&lab, "a.chd", 0) == truth, "{words:?}");
            let stored_hashes = verified(&lab, "a.chd", 0)["stored_hashes"].clone();
            assert!(
                words == ["-c", "none"] || stored_hashes[0]["matches"] == true,
                "{words:?}: {stored_hashes}"
            );
        }
        // A child, and the same without its parent.
        chd_make(&lab, "parent.chd", &[]);
        truth[2 << 20..][..100_000].fill(7);
        lab.write("disk.raw", &truth);
        let parent = lab.path("parent.chd").to_str().unwrap().to_owned();
        chd_make(&lab, "child.chd", &["-op", &parent]);
        fs::remove_file(lab.path("a.chd")).unwrap();
        assert!(extracted(&lab, "child.chd", 0) == truth);
        assert_eq!(verified(&lab, "child.chd", 0)["stored_hashes"][0]["matches"], true);
        fs::create_dir(lab.path("away")).unwrap();
        fs::rename(&parent, lab.path("away/parent.chd")).unwrap();
        assert!(lab.cdi(["info", "child.chd"]).ends(3).err.contains("parent not found"));
    }
);
