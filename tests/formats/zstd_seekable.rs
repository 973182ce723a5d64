//! zstd's seekable format.

use super::{extracted, truth};
use crate::common::Lab;
use crate::makers;

tests!(
    fn frames_of_every_size_are_read() {
        let lab = Lab::new();
        let truth = truth();
        for frame in [512, 65536, 100_000] {
            lab.write("a.zst", makers::zstd_seekable(&truth, frame));
            assert!(extracted(&lab, "a.zst", 0) == truth, "{frame}");
        }
        // Compressed in one piece: the message says what to do.
        lab.write("b.zst", zstd::bulk::compress(&truth, 1).unwrap());
        lab.write("b.raw.gz", b"\x1F\x8B\x08\0\0\0\0\0\0\x03");
        for (name, word) in [("b.zst", "decompress it: zstd -dc"), ("b.raw.gz", "gzip -dc")] {
            let ran = lab.cdi(["info", name]).ends(3);
            assert!(ran.err.contains("not a disk image") && ran.err.contains(word), "{}", ran.err);
        }
    }
);
