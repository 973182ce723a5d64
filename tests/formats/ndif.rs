//! DiskCopy 6 (NDIF).

use std::fs;

use super::{extracted, truth, verified};
use crate::common::Lab;
use crate::makers::ndif::{apple, mac_binary, ndif};

tests!(
    fn images_in_every_container_are_read_and_their_checksum_matches() {
        for shift in [0, 1000] {
            let lab = Lab::new();
            let (data, resources) = ndif(&truth(), shift);
            lab.write("a.bin", mac_binary(&data, &resources));
            lab.write("b.image", apple(Some(&data), &resources));
            lab.write("c.smi", &data);
            lab.write("._c.smi", apple(None, &resources));
            for image in ["a.bin", "b.image", "c.smi"] {
                lab.cdi(["-q", "extract", "--force", "--format", "ndif", image, "out.raw"]).ends(0);
                assert!(lab.read("out.raw") == truth(), "{image}, {shift}");
                let info = lab.cdi(["info", "--json", "--format", "ndif", image]).ends(0).json();
                assert_eq!(info["metadata"]["volume_name"], "My V?lume");
            }
            // Its name was changed by a program that left the checksum as it was.
            let mut renamed = mac_binary(&data, &resources);
            renamed[2] = b'V';
            lab.write("d.bin", renamed);
            let info = |image: &str| lab.cdi(["info", "--json", "--format", "ndif", image]).ends(0).json();
            assert_eq!(info("a.bin")["warnings"], serde_json::json!([]));
            assert!(
                info("d.bin")["warnings"][0].as_str().unwrap().contains("checksum of the MacBinary header")
            );
            // By its contents, where the name does not say otherwise.
            assert!(extracted(&lab, "c.smi", 0) == truth());
            let said = verified(&lab, "c.smi", 0);
            assert_eq!(said["stored_hashes"][0]["hash"], "DiskCopy CRC-32");
            assert_eq!(said["stored_hashes"][0]["matches"], true);
            let err = lab.cdi(["info", "a.bin"]).ends(3).err;
            assert!(err.contains("its name says raw, but it begins like a ndif image"), "{err}");
            // A byte of a plain chunk.
            let plain = truth()[3 << 16..][..16].to_vec();
            let at = data.windows(16).position(|w| w == plain).unwrap();
            let mut changed = data.clone();
            changed[at + 99] ^= 1;
            lab.write("c.smi", &changed);
            assert_eq!(verified(&lab, "c.smi", 4)["stored_hashes"][0]["matches"], false);
        }
    }

    fn what_is_not_supported_or_inconsistent_is_named() {
        let lab = Lab::new();
        let (data, resources) = ndif(&truth(), 0);
        lab.write("a.smi", &data);
        let said = |at: usize, bytes: &[u8]| {
            let mut fork = resources.clone();
            fork[260 + at..][..bytes.len()].copy_from_slice(bytes);
            lab.write("._a.smi", apple(None, &fork));
            lab.cdi(["info", "--format", "ndif", "a.smi"]).ends(3).err
        };
        let entry = |n: usize| 128 + 12 * n;
        for (at, bytes, expected) in [
            (0, &[0, 2][..], "version 2 (not supported)"),
            (87, &[1], "image in segments (not supported)"),
            (119, &[1], "encrypted image (not supported)"),
            (68, &[0; 4], "the disk has no sectors"),
            (70, &[9], "entry 16: the disk ends at sector 2048, not 2304"),
            (126, &[1], "entries do not fit into"),
            (124, &[0; 4], "there are no chunks"),
            (entry(3) + 3, &[0x80], "entry 3: compressed with KenCode (not supported)"),
            (entry(3) + 3, &[0x81], "entry 3: run lengths (not supported)"),
            (entry(3) + 3, &[0x82], "entry 3: compressed with LZH (not supported)"),
            (entry(3) + 3, &[0xF0], "entry 3: compressed with StuffIt (not supported)"),
            (entry(3) + 3, &[1], "entry 3: unknown chunk type 0x1"),
            (entry(0) + 2, &[1], "entry 0: invalid range of sectors: 1 to 128"),
            (entry(4), &[0, 0, 9], "entry 3: invalid range of sectors: 384 to 9"),
            (entry(3) + 4, &[0xFF], "entry 3: the chunk extends past the end of the data fork"),
            (entry(3) + 8, &[0, 0, 1], "bytes are too few for 65536 bytes of the disk"),
        ] {
            let err = said(at, bytes);
            assert!(err.contains(expected) && err.contains("._a.smi: at byte 82: the chunk table"), "{err}");
        }
        // Without the resource fork, and with another one.
        for fork in [&b""[..], b"\0\x05\x16\x07", &apple(None, &resources[..200])] {
            lab.write("._a.smi", fork);
            lab.cdi(["info", "--format", "ndif", "a.smi"]).ends(3);
        }
        fs::remove_file(lab.path("._a.smi")).unwrap();
        let err = lab.cdi(["info", "--format", "ndif", "a.smi"]).ends(3).err;
        assert!(err.contains("no resource fork with a chunk table") && err.contains("MacBinary"), "{err}");
        std::os::unix::fs::symlink("/etc/passwd", lab.path("._a.smi")).unwrap();
        assert!(lab.cdi(["info", "--format", "ndif", "a.smi"]).ends(3).err.contains("no resource fork"));
        lab.write("b.bin", mac_binary(&data, &resources).split_off(1));
        lab.cdi(["info", "--format", "ndif", "b.bin"]).ends(3);
    }
);
