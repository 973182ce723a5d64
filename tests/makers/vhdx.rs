//! Variants of a VHDX that qemu-img wrote: with a log that has to be replayed, and as the child of another.

use crc::{CRC_32_ISCSI, Crc};

/// Computes the checksum of a structure, which is at its byte 4.
fn sign(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

fn le(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// Returns the offsets of two regions: the block allocation table and the metadata.
fn regions(bytes: &[u8]) -> (usize, usize) {
    let table = 192 << 10;
    let region = |n: usize| le(bytes, table + 16 + n * 32 + 16);
    let is_bat = bytes[table + 16..][..4] == 0x2DC2_7766u32.to_le_bytes();
    if is_bat { (region(0), region(1)) } else { (region(1), region(0)) }
}

/// Returns the offset of the current header, the newer one of two.
fn header(bytes: &[u8]) -> usize {
    if le(bytes, (64 << 10) + 8) > le(bytes, (128 << 10) + 8) { 64 << 10 } else { 128 << 10 }
}

/// Moves the block allocation table to the log, as after a crash before it was written to its place. Returns the image and
/// the offset of the log.
pub fn with_log(whole: &[u8]) -> (Vec<u8>, usize) {
    let mut image = whole.to_vec();
    let (bat, _) = regions(whole);
    let page: Vec<u8> = image[bat..bat + 4096].to_vec();
    image[bat..bat + 4096].fill(0);
    let header = header(whole);
    let log = le(whole, header + 72);
    let guid = [9; 16];
    image[header + 48..header + 64].copy_from_slice(&guid);
    sign(&mut image[header..header + 4096]);
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
    sign(&mut entry);
    image[log..log + 8192].copy_from_slice(&entry);
    (image, log)
}

/// Returns the GUID of an image as a child names it.
pub fn identity(whole: &[u8]) -> String {
    let guid = &whole[header(whole) + 32..][..16];
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let hex: String = order.iter().map(|n| format!("{:02X}", guid[*n])).collect();
    format!("{{{}-{}-{}-{}-{}}}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Makes an image with blocks of 1 MiB a child: its first block is the parent's; of its second block the sectors `own`,
/// each filled with its number, are its own. `linkage` is the parent's GUID, and `path` where it is.
pub fn child(whole: &[u8], own: &[usize], linkage: &str, path: &str) -> Vec<u8> {
    let (bat, metadata) = regions(whole);
    let mut child = whole.to_vec();
    let at = child.len().next_multiple_of(1 << 20);
    child.resize(at + (2 << 20), 0xEE);
    let (bitmap, block) = (at, at + (1 << 20));
    child[bitmap..block].fill(0);
    for sector in own {
        let bit = 2048 + sector;
        child[bitmap + bit / 8] |= 1 << (bit % 8);
        child[block + sector * 512..][..512].fill(*sector as u8);
    }
    for (n, state, at) in [(0, 0, 0), (1, 7, block), (4096, 6, bitmap)] {
        let value = state | (at as u64 >> 20) << 20;
        child[bat + n * 8..][..8].copy_from_slice(&value.to_le_bytes());
    }
    // In the metadata: that there is a parent, and which.
    let count = u16::from_le_bytes([child[metadata + 10], child[metadata + 11]]) as usize;
    for n in 0..count {
        let e = metadata + 32 + n * 32;
        if child[e..e + 4] == 0xCAA1_6737u32.to_le_bytes() {
            let item = metadata + u32::from_le_bytes(child[e + 16..e + 20].try_into().unwrap()) as usize;
            child[item + 4] |= 2;
        }
    }
    let item = locator(&[("parent_linkage", linkage), ("relative_path", path)]);
    let e = metadata + 32 + count * 32;
    let mut entry =
        [0x2D, 0x5F, 0xD3, 0xA8, 0x0B, 0xB3, 0x4D, 0x45, 0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C]
            .to_vec();
    entry.extend((200u32 << 10).to_le_bytes());
    entry.extend((item.len() as u32).to_le_bytes());
    entry.extend([4, 0, 0, 0, 0, 0, 0, 0]);
    child[e..e + 32].copy_from_slice(&entry);
    child[metadata + 10..metadata + 12].copy_from_slice(&(count as u16 + 1).to_le_bytes());
    child[metadata + (200 << 10)..][..item.len()].copy_from_slice(&item);
    child
}

/// Writes a parent locator.
fn locator(pairs: &[(&str, &str)]) -> Vec<u8> {
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
}
