//! Apple's dmg (UDIF).

use cdi_base::printable::hex;
use sha2::{Digest, Sha256};

use super::{dmg_sample, extracted, truth, verified};
use crate::common::Lab;
use crate::makers::encrypted::USUAL;
use crate::makers::{self, Tables};

/// Writes `a.dmg` in segments with `size` bytes of data each.
fn write_segments(lab: &Lab, tables: Tables, size: usize) -> Vec<Vec<u8>> {
    let segments = makers::dmg_segments(&makers::dmg(&truth(), tables), size);
    lab.write("a.dmg", &segments[0]);
    for (n, bytes) in segments.iter().enumerate().skip(1) {
        lab.write(&format!("a.{:03}.dmgpart", n + 1), bytes);
    }
    segments
}

tests!(
    fn every_kind_of_chunk_is_read() {
        let lab = Lab::new();
        let truth = truth();
        for tables in [Tables::PropertyList, Tables::ResourceFork] {
            let whole = makers::dmg(&truth, tables);
            lab.write("a.dmg", &whole);
            assert!(extracted(&lab, "a.dmg", 0) == truth);
            assert_eq!(verified(&lab, "a.dmg", 0)["stored_hashes"][0]["matches"], true);
            // A byte of a plain chunk, which only the checksums of the whole cover.
            let at = whole.windows(16).position(|w| w == &truth[4 << 16..][..16]).unwrap();
            let mut broken = whole.clone();
            broken[at + 100] ^= 1;
            lab.write("b.dmg", &broken);
            let told = verified(&lab, "b.dmg", 4);
            assert_eq!(told["stored_hashes"][0]["matches"], false);
            assert!(told["errors"][0]["what"].as_str().unwrap().contains("CRC-32 mismatch of the data"));
            // A trailer followed by a few bytes, and none at all.
            lab.write("c.dmg", [&whole[..], &[0; 300]].concat());
            assert!(extracted(&lab, "c.dmg", 0) == truth);
            lab.write("d.dmg", &whole[..whole.len() - 100]);
            let ran = lab.cdi(["info", "d.dmg"]).ends(3);
            assert!(ran.err.contains("no UDIF trailer") && ran.err.contains("--format raw"), "{}", ran.err);
        }
    }

    fn an_image_in_segments_is_that_in_one_file() {
        for (tables, size) in [(Tables::PropertyList, 100_001), (Tables::ResourceFork, 60_000)] {
            let lab = Lab::new();
            let segments = write_segments(&lab, tables, size);
            assert!(segments.len() > 5);
            assert!(extracted(&lab, "a.dmg", 0) == truth());
            let said = verified(&lab, "a.dmg", 0);
            assert_eq!(said["stored_hashes"][0]["matches"], true);
            let info = lab.cdi(["info", "--json", "a.dmg"]).ends(0).json();
            assert_eq!(info["image_bytes"], segments.iter().map(Vec::len).sum::<usize>());
            // A byte of the data of a later one.
            let mut broken = segments[2].clone();
            broken[100] ^= 1;
            lab.write("a.003.dmgpart", broken);
            let said = verified(&lab, "a.dmg", 4);
            let errors = said["errors"].as_array().unwrap();
            assert!(errors[0]["what"].as_str().unwrap().contains("CRC-32 mismatch of the data"), "{said}");
        }
    }

    fn a_missing_segment_and_one_of_another_image_are_named() {
        let lab = Lab::new();
        let segments = write_segments(&lab, Tables::PropertyList, 100_000);
        let count = segments.len();
        let said = |code: i32| lab.cdi(["info", "a.dmg"]).ends(code).err;
        let part = |at: usize, value: u8| {
            let mut bytes = segments[2].clone();
            let at = bytes.len() - 512 + at;
            bytes[at] ^= value;
            lab.write("a.003.dmgpart", bytes);
            said(3)
        };
        let err = part(64, 1);
        assert!(err.contains("a.003.dmgpart: at byte 100064: a segment of another image"), "{err}");
        let err = part(59, 1);
        assert!(err.contains(&format!("this is segment 2 of {count}, not 3 of {count}")), "{err}");
        let err = part(23, 1);
        assert!(err.contains("its data begins at byte 200001 of the image, not 200000"), "{err}");
        let err = part(32, 1);
        assert!(err.contains("a.003.dmgpart: at byte 100024: the data"), "{err}");
        lab.write("a.003.dmgpart", &segments[2][..1000]);
        assert!(said(3).contains("a.003.dmgpart: no UDIF trailer: the segment is truncated"));
        std::fs::remove_file(lab.path("a.003.dmgpart")).unwrap();
        let err = said(3);
        assert!(err.contains(&format!("segment 3 of {count} is missing: a.003.dmgpart")), "{err}");
        std::os::unix::fs::symlink("/dev/zero", lab.path("a.003.dmgpart")).unwrap();
        assert!(said(3).contains("a.003.dmgpart"));
        let err = lab.cdi(["info", "a.002.dmgpart"]).ends(3).err;
        assert!(err.contains(&format!("this is segment 2 of {count} of an image")), "{err}");
        assert!(err.contains("usually called a.dmg"), "{err}");
        // Nobody knows how encrypted images are split.
        lab.write("pass", USUAL.passphrases[0]);
        lab.write("b.dmg", makers::encrypted(&segments[0], &USUAL));
        let err = lab.cdi(["info", "b.dmg", "--passphrase-file", "pass"]).ends(3).err;
        assert!(err.contains("encrypted image in segments (not supported)"), "{err}");
    }

    #[needs(Corpus)]
    fn samples_match_their_stored_hashes() {
        let lab = Lab::new();
        let one = "1407509ff44696aab011815d84951ad2c53cb7345a71d9803b73817c2d2d83cf";
        let other = "3dabc11a062d044ff75043e6bddeea3821a2fdb9132d3b89d31ecb83bbaf6e7d";
        for (name, sum) in [
            ("input_adc.dmg", one),
            ("input_bzip2.dmg", one),
            ("input_lzfse.dmg", one),
            ("input_lzma.dmg", one),
            ("input_ro.dmg", one),
            ("input_zlib.dmg", one),
            ("input_non_null_data_offset.dmg", other),
        ] {
            let told = verified(&lab, dmg_sample(name).to_str().unwrap(), 0);
            assert_eq!(told["sha256_zero_filled"], serde_json::Value::Null, "{name} stores none");
            assert_eq!(
                hex(&Sha256::digest(extracted(&lab, dmg_sample(name).to_str().unwrap(), 0))),
                sum,
                "{name}"
            );
            assert!(told["stored_hashes"].as_array().unwrap().iter().all(|c| c["matches"] == true), "{name}");
        }
    }
);
