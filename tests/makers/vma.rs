//! Writes Proxmox's backup archives.

use md5::{Digest, Md5};

use super::put;
use crate::common::Random;

const CLUSTER: usize = 65_536;

/// Returns an archive of these disks, by their names. With a seed, the clusters of all disks are in an order of their own.
pub fn vma(disks: &[(&str, &[u8])], shuffled: Option<u64>) -> Vec<u8> {
    let uuid: [u8; 16] = *b"0123456789abcdef";
    let mut texts = vec![0];
    let mut text = |bytes: &[u8]| {
        let place = texts.len() as u32;
        texts.extend((bytes.len() as u16).to_le_bytes());
        texts.extend(bytes);
        place
    };
    let (name, config) = (text(b"qemu-server.conf\0"), text(b"scsi0: local:vm-100-disk-0\n"));
    let places: Vec<u32> = disks.iter().map(|(name, _)| text(&[name.as_bytes(), b"\0"].concat())).collect();
    let texts_len = texts.len() as u32;
    texts.resize(texts.len().next_multiple_of(512), 0);
    let mut file = b"VMA\0".to_vec();
    put!(file, 1u32);
    file.extend(uuid);
    put!(file, 1_700_000_000u64);
    file.resize(48, 0);
    put!(file, 12_288u32, texts_len, 12_288 + texts.len() as u32);
    file.resize(2044, 0);
    put!(file, name);
    file.resize(3068, 0);
    put!(file, config);
    file.resize(4096 + 32, 0);
    for ((_, disk), place) in disks.iter().zip(places) {
        put!(file, place, 0u32, disk.len() as u64, 0u64, 0u64);
    }
    file.resize(12_288, 0);
    file.extend(texts);
    let clusters =
        |disk: usize| (0..disks[disk].1.len().div_ceil(CLUSTER)).map(move |cluster| (disk, cluster));
    let mut all: Vec<_> = (0..disks.len()).flat_map(clusters).collect();
    if let Some(seed) = shuffled {
        let mut random = Random::new(seed);
        (1..all.len()).for_each(|n| all.swap(n, random.below(n as u64 + 1) as usize));
    }
    for part in all.chunks(59) {
        file.extend(extent(disks, part, uuid));
    }
    sign_vma(&mut file);
    file
}

/// An extent with these clusters, each by the number of its disk and its own.
fn extent(disks: &[(&str, &[u8])], clusters: &[(usize, usize)], uuid: [u8; 16]) -> Vec<u8> {
    let (mut list, mut data) = (Vec::new(), Vec::new());
    for (disk, cluster) in clusters {
        let bytes = &disks[*disk].1[cluster * CLUSTER..];
        let mut mask = 0u16;
        for (n, block) in bytes[..bytes.len().min(CLUSTER)].chunks(4096).enumerate() {
            if block.iter().any(|b| *b != 0) {
                mask |= 1 << n;
                data.extend(block);
                data.resize(data.len().next_multiple_of(4096), 0);
            }
        }
        put!(list, mask, 0u8, *disk as u8 + 1, *cluster as u32);
    }
    let mut header = b"VMAE\0\0".to_vec();
    put!(header, (data.len() / 4096) as u16);
    header.extend(uuid);
    header.resize(40, 0);
    header.extend(list);
    header.resize(512, 0);
    [header, data].concat()
}

/// Computes the checksums of an archive again, as far as its headers lead.
pub fn sign_vma(file: &mut [u8]) {
    let number =
        |file: &[u8], at: usize| file.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().unwrap()));
    let Some(len) = number(file, 56).map(|len| len as usize) else { return };
    if !sign(file, 0, len, 32) {
        return;
    }
    let mut at = len;
    while sign(file, at, 512, 24) {
        at += 512 + usize::from(u16::from_be_bytes([file[at + 6], file[at + 7]])) * 4096;
    }
}

/// Signs the header of `len` bytes at `at`, whose checksum is `sum` bytes from there. Returns whether there is one.
fn sign(file: &mut [u8], at: usize, len: usize, sum: usize) -> bool {
    let Some(header) = file.get_mut(at..at + len).filter(|header| header.len() >= 64) else { return false };
    header[sum..sum + 16].fill(0);
    let value = Md5::digest(&header[..]);
    header[sum..sum + 16].copy_from_slice(&value);
    true
}
