//! AFF4.

use cdi_image::badmap::Status;
use cdi_image::image::OpenOptions;
use cdi_image::open::open;

use md5::Digest;

use super::{extracted, path, truth, verified};
use crate::common::{Lab, run};
use crate::makers::{self, Aff4};

tests!(
    fn every_compression_is_read_with_unreadable_and_unknown_parts() {
        let lab = Lab::new();
        let mut truth = truth();
        for how in
            [Aff4::Snappy, Aff4::Lz4, Aff4::Lz4Prefixed, Aff4::Deflate, Aff4::Stored, Aff4::Hashed, Aff4::Old]
        {
            lab.write("a.aff4", makers::aff4(&truth, how, 5 << 16, 9 << 16));
            let opened = open(&lab.path("a.aff4"), &OpenOptions::default()).unwrap();
            let bad: Vec<_> =
                opened.image.bad().ranges().iter().map(|r| (r.start, r.end, r.status)).collect();
            assert_eq!(bad, [(5 << 16, 6 << 16, Status::Bad), (9 << 16, 10 << 16, Status::NonTried)]);
            truth[5 << 16..6 << 16].fill(0);
            truth[9 << 16..10 << 16].fill(0);
            assert!(extracted(&lab, "a.aff4", 4) == truth);
            let sound = verified(&lab, "a.aff4", 0);
            assert_eq!(sound["missing_bytes"], 2 << 16);
        }
        // The last chunk may be shorter, and is not padded.
        let odd = &truth[..truth.len() - 1000];
        for how in [Aff4::Snappy, Aff4::Lz4, Aff4::Lz4Prefixed, Aff4::Deflate, Aff4::Stored, Aff4::Hashed] {
            lab.write("a.aff4", makers::aff4(odd, how, usize::MAX, usize::MAX));
            assert!(extracted(&lab, "a.aff4", 0) == odd);
            verified(&lab, "a.aff4", 0);
        }
        // A stored chunk is checked by nothing but the stream's hash.
        let whole = makers::aff4(&truth, Aff4::Stored, 5 << 16, 9 << 16);
        let at = whole.windows(64).position(|w| w == &truth[4 << 16..][..64]).unwrap();
        let mut broken = whole;
        broken[at + 1] ^= 0x20;
        lab.write("b.aff4", broken);
        let checked = verified(&lab, "b.aff4", 4);
        assert!(
            checked["errors"][0]["what"].as_str().unwrap().contains("MD5 mismatch of stream"),
            "{checked}"
        );
    }

    /// The hash of a chunk is checked whenever it is read, those of the map and of the lists by verify.
    fn hashes_of_chunks_and_of_the_map_are_checked() {
        let lab = Lab::new();
        let truth = truth();
        let image = makers::aff4(&truth, Aff4::Hashed, usize::MAX, usize::MAX);
        lab.write("a.aff4", &image);
        assert!(extracted(&lab, "a.aff4", 0) == truth);
        // A chunk that is not compressed, so that nothing else would notice.
        let stored = |n: &usize| {
            let chunk = &truth[n * 4096..][..4096];
            image.windows(4096).position(|w| w == chunk)
        };
        let chunk = (0..truth.len() / 4096).find(|n| stored(n).is_some()).unwrap();
        let mut broken = image.clone();
        broken[stored(&chunk).unwrap() + 1] ^= 0x20;
        lab.write("a.aff4", broken);
        let checked = verified(&lab, "a.aff4", 4);
        assert_eq!(checked["lost_bytes"], 4096, "{checked}");
        let mut expect = truth.clone();
        expect[chunk * 4096..][..4096].fill(0);
        assert!(extracted(&lab, "a.aff4", 4) == expect);
        // An entry of the map leads to another place; the list of block hashes that is not used is damaged.
        let entry = [0, 1u64 << 16].map(u64::to_le_bytes).concat();
        let map = image.windows(16).position(|w| w == entry).unwrap() + 16;
        let sha1 = sha1::Sha1::digest(&truth[..4096]);
        let md5 = md5::Md5::digest(&truth[..4096]);
        let list = image.windows(16).position(|w| w == &md5[..]).unwrap();
        assert!(image.windows(20).any(|w| w == &sha1[..]));
        for (at, words) in [
            (map + 1, "mismatch of the map's part 'map'"),
            (list, "of block hashes (md5) of stream aff4://s-1"),
        ] {
            let mut broken = image.clone();
            broken[at] ^= 0x10;
            lab.write("a.aff4", broken);
            let checked = verified(&lab, "a.aff4", 4);
            let errors: Vec<_> =
                checked["errors"].as_array().unwrap().iter().map(|e| e["what"].as_str().unwrap()).collect();
            assert!(errors[0].contains("SHA-512 mismatch of") && errors[0].contains(words), "{errors:?}");
            let all = "SHA-512 mismatch of the lists of block hashes and the map together";
            assert!(errors[1].contains(all), "{errors:?}");
        }
    }

    /// As by a program that packs an image again.
    #[needs(Python("zipfile"))]
    fn members_that_zip_compresses_are_read() {
        const SCRIPT: &str = "import sys, zipfile\n\
            old = zipfile.ZipFile(sys.argv[1])\n\
            new = zipfile.ZipFile(sys.argv[2], 'w', getattr(zipfile, 'ZIP_' + sys.argv[3]))\n\
            for name in old.namelist():\n\
            \x20   new.writestr(name, old.read(name))\n\
            new.comment = old.comment\n\
            new.close()\n";
        let lab = Lab::new();
        let truth = truth();
        lab.write("a.aff4", makers::aff4(&truth, Aff4::Hashed, usize::MAX, usize::MAX));
        let [from, to] = ["a.aff4", "b.aff4"].map(|name| path(&lab, name));
        run("python3", ["-c", SCRIPT, &from, &to, "DEFLATED"]);
        assert!(extracted(&lab, "b.aff4", 0) == truth);
        verified(&lab, "b.aff4", 0);
        run("python3", ["-c", SCRIPT, &from, &to, "BZIP2"]);
        let ran = lab.cdi(["info", "b.aff4"]).ends(3);
        assert!(
            ran.err.contains("a zip member is compressed, not by deflate (not supported)"),
            "{}",
            ran.err
        );
        // What would need too much memory.
        lab.write("a.aff4", makers::aff4(&noise(40 << 20), Aff4::Stored, usize::MAX, usize::MAX));
        run("python3", ["-c", SCRIPT, &from, &to, "DEFLATED"]);
        let ran = lab.cdi(["info", "b.aff4"]).ends(3);
        assert!(ran.err.contains("a zip member is too long") && ran.err.contains("repack"), "{}", ran.err);
    }
);

fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}
