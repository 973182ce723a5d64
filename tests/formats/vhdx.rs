//! Hyper-V's VHDX.

use std::fs;

use super::extracted;
use crate::common::{Lab, disk, run};
use crate::makers::{self, le, vhdx_regions};

tests!(
    #[needs(Program("qemu-img"))]
    fn a_log_is_replayed_and_a_parent_is_read() {
        let lab = Lab::new();
        let truth = disk(6 << 20);
        lab.write("disk.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        run(
            "qemu-img",
            ["convert", "-O", "vhdx", "-o", "block_size=1M", &path("disk.raw"), &path("parent.vhdx")],
        );
        let whole = fs::read(lab.path("parent.vhdx")).unwrap();
        let (bat, metadata) = vhdx_regions(&whole);
        // The table of blocks is only in the log: as after a crash, when it was not written to its place yet.
        let mut broken = whole.clone();
        let page: Vec<u8> = broken[bat..bat + 4096].to_vec();
        broken[bat..bat + 4096].fill(0);
        let newer =
            if le(&whole, (64 << 10) + 8) > le(&whole, (128 << 10) + 8) { 64 << 10 } else { 128 << 10 };
        let log = le(&whole, newer + 72);
        let guid = [9; 16];
        broken[newer + 48..newer + 64].copy_from_slice(&guid);
        makers::vhdx_sign(&mut broken[newer..newer + 4096]);
        let mut entry = b"loge\0\0\0\0".to_vec();
        entry.extend(8192u32.to_le_bytes());
        entry.extend(0u32.to_le_bytes());
        entry.extend(7u64.to_le_bytes());
        entry.extend(1u32.to_le_bytes());
        entry.extend([0; 4]);
        entry.extend(guid);
        entry.extend((whole.len() as u64).to_le_bytes());
        entry.extend((whole.len() as u64).to_le_bytes());
        entry.extend(b"desc");
        entry.extend(&page[4092..]);
        entry.extend(&page[..8]);
        entry.extend((bat as u64).to_le_bytes());
        entry.extend(7u64.to_le_bytes());
        entry.resize(4096, 0);
        entry.extend(b"data");
        entry.extend(0u32.to_le_bytes());
        entry.extend(&page[8..4092]);
        entry.extend(7u32.to_le_bytes());
        makers::vhdx_sign(&mut entry);
        broken[log..log + 8192].copy_from_slice(&entry);
        lab.write("log.vhdx", &broken);
        assert!(extracted(&lab, "log.vhdx", 0) == truth);
        broken[log + 5000] ^= 1;
        lab.write("log.vhdx", &broken);
        assert!(lab.cdi(["info", "log.vhdx"]).ends(3).err.contains("contains no complete sequence"));

        // A child: its first block is the parent's, of its second every third sector is its own.
        let mut child = whole.clone();
        let at = child.len().next_multiple_of(1 << 20);
        child.resize(at + (2 << 20), 0xEE);
        let (bitmap, block) = (at, at + (1 << 20));
        child[bitmap..block].fill(0);
        let mut expect = truth.clone();
        for sector in (0..2048usize).step_by(3) {
            let bit = 2048 + sector;
            child[bitmap + bit / 8] |= 1 << (bit % 8);
            child[block + sector * 512..][..512].fill(sector as u8);
            expect[(1 << 20) + sector * 512..][..512].fill(sector as u8);
        }
        let entry = |child: &mut [u8], n: usize, state: u64, at: usize| {
            let value = state | (at as u64 >> 20) << 20;
            child[bat + n * 8..][..8].copy_from_slice(&value.to_le_bytes());
        };
        entry(&mut child, 0, 0, 0);
        entry(&mut child, 1, 7, block);
        entry(&mut child, 4096, 6, bitmap);
        // In the metadata: that there is a parent, and which.
        let count = u16::from_le_bytes([child[metadata + 10], child[metadata + 11]]) as usize;
        for n in 0..count {
            let e = metadata + 32 + n * 32;
            if child[e..e + 4] == 0xCAA1_6737u32.to_le_bytes() {
                let item = metadata + u32::from_le_bytes(child[e + 16..e + 20].try_into().unwrap()) as usize;
                child[item + 4] |= 2;
            }
        }
        let name = &whole[newer + 32..newer + 48];
        let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        let hex: String = order.iter().map(|n| format!("{:02X}", name[*n])).collect();
        let guid =
            format!("{{{}-{}-{}-{}-{}}}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        let locator = |pairs: &[(&str, &str)]| {
            let mut head = vec![0; 18];
            head.extend((pairs.len() as u16).to_le_bytes());
            let mut texts = Vec::new();
            for (key, value) in pairs {
                for text in [key, value] {
                    let at = 20 + pairs.len() * 12 + texts.len();
                    texts.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
                    head.extend((at as u32).to_le_bytes());
                }
                head.extend((key.len() as u16 * 2).to_le_bytes());
                head.extend((value.len() as u16 * 2).to_le_bytes());
            }
            [head, texts].concat()
        };
        let mut with = |linkage: &str| {
            let item = locator(&[("parent_linkage", linkage), ("relative_path", ".\\parent.vhdx")]);
            let e = metadata + 32 + count * 32;
            let mut told = [
                0x2D, 0x5F, 0xD3, 0xA8, 0x0B, 0xB3, 0x4D, 0x45, 0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB,
                0x0C,
            ]
            .to_vec();
            told.extend((200u32 << 10).to_le_bytes());
            told.extend((item.len() as u32).to_le_bytes());
            told.extend([4, 0, 0, 0, 0, 0, 0, 0]);
            child[e..e + 32].copy_from_slice(&told);
            child[metadata + 10..metadata + 12].copy_from_slice(&(count as u16 + 1).to_le_bytes());
            child[metadata + (200 << 10)..][..item.len()].copy_from_slice(&item);
            lab.write("child.avhdx", &child);
        };
        with(&guid);
        assert!(extracted(&lab, "child.avhdx", 0) == expect);
        with("{00000000-0000-0000-0000-000000000000}");
        assert!(lab.cdi(["info", "child.avhdx"]).ends(3).err.contains("its GUID does not match"));
    }
);
