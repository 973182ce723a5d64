//! Apple's dmg (UDIF).

use cdi_base::printable::hex;
use sha2::{Digest, Sha256};

use super::{dmg_sample, extracted, truth, verified};
use crate::common::Lab;
use crate::makers::{self, Tables};

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
        let ran = lab.cdi(["info".as_ref(), dmg_sample("input_aes256.dmg").as_os_str()]).ends(3);
        assert!(
            ran.err.contains("encrypted disk image (not supported)") && ran.err.contains("hdiutil convert"),
            "{}",
            ran.err
        );
    }
);
