//! QEMU's QED, against qemu-img.

use super::{qemu_img, qemu_io, same_as_qemu};
use crate::common::{Lab, disk};

tests!(
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn every_cluster_reads_as_by_qemu() {
        let lab = Lab::new();
        let mut truth = disk(6 << 20);
        truth[1 << 20..3 << 20].fill(0);
        lab.write("disk.raw", &truth);
        for option in ["cluster_size=64k", "cluster_size=4k,table_size=2", "cluster_size=1M,table_size=16"] {
            qemu_img(&lab, &["convert", "-O", "qed", "-o", option, "@disk.raw", "@all.qed"]);
            same_as_qemu(&lab, "all.qed");
            assert!(lab.read("cdi.raw") == truth);
            for (base, format) in [("disk.raw", "raw"), ("all.qed", "qed")] {
                let words = ["create", "-q", "-f", "qed", "-o", option, "-b", base, "-F", format];
                qemu_img(&lab, &[&words[..], &["@top.qed", "9M"]].concat());
                // Zeros that hide the backing file, within a cluster and of whole ones.
                let io = [
                    "write -q -P 7 1000k 3k",
                    "write -q -z 4M 1100k",
                    "write -q -P 9 5M 512",
                    "write -q -P 1 7M 1k",
                ];
                qemu_io(&lab, "top.qed", &io.map(str::to_owned));
                same_as_qemu(&lab, "top.qed");
            }
        }
    }

    #[needs(Program("qemu-img"))]
    fn inconsistent_headers_are_refused_by_their_place() {
        let lab = Lab::new();
        qemu_img(&lab, &["create", "-q", "-f", "qed", "@a.qed", "6M"]);
        let whole = lab.read("a.qed");
        for (at, bytes, says) in [
            (4, &[0, 4, 0, 0][..], "at byte 4: invalid cluster size: 1024 bytes"),
            (8, &[3], "at byte 8: invalid length of the tables: 3 clusters"),
            (8, &[32], "at byte 8: invalid length of the tables"),
            (16, &[8], "at byte 16: the image requires unknown features (0x8)"),
            (16, &[1], "at byte 56: the image has a backing file, but does not record its name"),
            (40, &[1], "at byte 40: there is no first-level table"),
            (46, &[1], "at byte 40: there is no first-level table"),
            (48, &[1], "at byte 48: invalid disk size"),
            (48, &[0, 0, 0, 0, 0, 0, 0, 0x40], "larger than its tables can describe"),
        ] {
            let mut bad = whole.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            lab.write("bad.qed", bad);
            let err = lab.cdi(["info", "bad.qed"]).ends(3).err;
            assert!(err.contains(says), "{says}: {err}");
        }
        let mut open = whole;
        open[16] = 2;
        lab.write("open.qed", open);
        assert!(lab.cdi(["info", "open.qed"]).ends(0).err.contains("was not closed properly"));
    }

    /// What a table says is not believed.
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn an_entry_that_leads_nowhere_is_an_error() {
        let lab = Lab::new();
        qemu_img(&lab, &["create", "-q", "-f", "qed", "-o", "cluster_size=4k", "@a.qed", "1M"]);
        qemu_io(&lab, "a.qed", &["write -q -P 7 0 4k".to_owned()]);
        let whole = lab.read("a.qed");
        let number = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap());
        let l2_at = number(40) as usize;
        let entry_at = number(l2_at) as usize;
        let wrong = [whole.len() as u64, number(entry_at) + 512, 2, u64::MAX];
        for (at, wrong) in wrong.map(|wrong| (l2_at, wrong)).into_iter().chain(wrong.map(|w| (entry_at, w))) {
            let mut bad = whole.clone();
            bad[at..at + 8].copy_from_slice(&wrong.to_le_bytes());
            lab.write("bad.qed", bad);
            let err = lab.cdi(["extract", "--force", "bad.qed", "out.raw"]).ends(4).err;
            assert!(err.contains(&format!("at byte {at} ")), "{err}");
        }
    }

    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn a_cluster_that_is_used_twice_is_reported() {
        let lab = Lab::new();
        qemu_img(&lab, &["create", "-q", "-f", "qed", "-o", "cluster_size=4k", "@a.qed", "1M"]);
        qemu_io(&lab, "a.qed", &["write -q -P 7 0 8k".to_owned()]);
        lab.cdi(["verify", "a.qed"]).ends(0);
        let mut bytes = lab.read("a.qed");
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let entries = number(number(40) as usize) as usize;
        bytes.copy_within(entries..entries + 8, entries + 8);
        lab.write("a.qed", bytes);
        let out = lab.cdi(["verify", "a.qed"]).ends(4).out;
        assert!(out.contains(&format!("at file offset {}: the cluster at byte", entries + 8)), "{out}");
        assert!(out.contains("is used for two parts of the disk"), "{out}");
    }
);
