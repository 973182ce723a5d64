//! Writes sparse images and sparse bundles.

use super::put;

/// Returns a sparse image with bands of 512 bytes, so many that there is more than one node. Bands of zeros are left out, and the
/// others are in reverse order.
pub fn sparseimage(disk: &[u8]) -> Vec<u8> {
    let mut bands: Vec<usize> =
        (0..disk.len() / 512).filter(|n| disk[n * 512..][..512].iter().any(|b| *b != 0)).collect();
    bands.reverse();
    let (mut file, mut rest) = (Vec::new(), &bands[..]);
    loop {
        let first = file.is_empty();
        let (now, later) = rest.split_at(rest.len().min(if first { 1008 } else { 1010 }));
        let here = file.len() as u64;
        let next = if later.is_empty() { 0 } else { here + 4096 + now.len() as u64 * 512 };
        let mut node = b"sprs".to_vec();
        if first {
            put!(node, 3u32, 1u32, 1u32, (disk.len() / 512) as u32, next, (disk.len() / 512) as u64);
            node.resize(64, 0);
        } else {
            put!(node, 0u32, 1u32, next);
            node.resize(56, 0);
        }
        for n in now {
            put!(node, *n as u32 + 1);
        }
        node.resize(4096, 0);
        file.extend(node);
        now.iter().for_each(|n| file.extend_from_slice(&disk[n * 512..][..512]));
        rest = later;
        if rest.is_empty() {
            return file;
        }
    }
}

/// The files of a sparse bundle of 64 KiB bands: their names and bytes. Bands end with their last byte that is not zero.
pub fn sparsebundle(disk: &[u8]) -> Vec<(String, Vec<u8>)> {
    let list = format!(
        "<?xml version=\"1.0\"?><plist version=\"1.0\"><dict><key>band-size</key><integer>65536</integer>\
         <key>diskimage-bundle-type</key><string>com.apple.diskimage.sparsebundle</string><key>size</key>\
         <integer>{}</integer></dict></plist>",
        disk.len()
    );
    let bands = disk.chunks(65536).enumerate().filter_map(|(n, band)| {
        let end = band.iter().rposition(|b| *b != 0)? + 1;
        Some((format!("bands/{n:x}"), band[..end].to_vec()))
    });
    let mut files = vec![("Info.plist".into(), list.into_bytes()), ("token".into(), Vec::new())];
    files.extend(bands);
    files
}
