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
    }
);
