//! A differencing VHD, as the child of one that qemu-img wrote.

/// Computes a checksum at `at`: the one's complement of the sum of all bytes, without its own.
fn sign(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = !bytes.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)));
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Returns a differencing image of two blocks of 2 MiB: of the first one the sectors `own`, each filled with its number, are
/// its own, and the second one it does not have. `path` is where its parent is.
pub fn child(parent: &[u8], own: &[usize], path: &str) -> Vec<u8> {
    let mut footer = parent[parent.len() - 512..].to_vec();
    let uuid = footer[68..84].to_vec();
    footer[16..24].copy_from_slice(&512u64.to_be_bytes());
    footer[60..64].copy_from_slice(&4u32.to_be_bytes());
    footer[68] ^= 1;
    sign(&mut footer, 64);
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[16..24].copy_from_slice(&1536u64.to_be_bytes());
    header[28..32].copy_from_slice(&2u32.to_be_bytes());
    header[32..36].copy_from_slice(&(2u32 << 20).to_be_bytes());
    header[40..56].copy_from_slice(&uuid);
    let name: Vec<u8> = path.encode_utf16().flat_map(u16::to_be_bytes).collect();
    header[64..64 + name.len()].copy_from_slice(&name);
    sign(&mut header, 36);
    let mut table = vec![0xFF; 512];
    table[..4].copy_from_slice(&4u32.to_be_bytes());
    let (mut bitmap, mut block) = (vec![0u8; 512], vec![0xEE; 2 << 20]);
    for sector in own {
        bitmap[sector / 8] |= 0x80 >> (sector % 8);
        block[sector * 512..][..512].fill(*sector as u8);
    }
    [&footer[..], &header, &table, &bitmap, &block, &footer].concat()
}
