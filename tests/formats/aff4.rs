//! AFF4.

use cdi_image::badmap::Status;
use cdi_image::image::OpenOptions;
use cdi_image::open::open;

use super::{extracted, truth, verified};
use crate::common::Lab;
use crate::makers::{self, Aff4};

tests!(
    fn every_compression_is_read_with_unreadable_and_unknown_parts() {
        let lab = Lab::new();
        let mut truth = truth();
        for how in [Aff4::Snappy, Aff4::Lz4, Aff4::Deflate, Aff4::Stored, Aff4::Old] {
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
        // A stored chunk is checked by nothing but the stream's hash.
        let whole = makers::aff4(&truth, Aff4::Stored, 5 << 16, 9 << 16);
        let at = whole.windows(64).position(|w| w == &truth[4 << 16..][..64]).unwrap();
        let mut broken = whole;
        broken[at + 1] ^= 0x20;
        lab.write("b.aff4", broken);
        let told = verified(&lab, "b.aff4", 4);
        assert!(told["errors"][0]["what"].as_str().unwrap().contains("MD5 mismatch of stream"), "{told}");
    }
);
