//! Resource forks: old dmgs have one instead of a property list, and images by DiskCopy 6.
//!
//! Sources: "Inside Macintosh: More Macintosh Toolbox", chapter 1, "Resource Manager". All numbers are big-endian.

use crate::bytes::be32;

/// Returns the resources of one type: their names and contents. None if the fork is damaged.
pub(super) fn resources(fork: &[u8], kind: &[u8; 4]) -> Option<Vec<(String, Vec<u8>)>> {
    let number = |at: usize| Some(usize::from(u16::from_be_bytes(*fork.get(at..)?.first_chunk()?)));
    let (data, map) = (be32(fork, 0) as usize, be32(fork, 4) as usize);
    let types = map.checked_add(number(map.checked_add(24)?)?)?;
    let names = map.checked_add(number(map.checked_add(26)?)?)?;
    let (mut found, mut left) = (Vec::new(), fork.len());
    // Counts are stored minus one, so none is 0xFFFF.
    for n in 0..(number(types)? + 1) % 0x1_0000 {
        let entry = types + 2 + n * 8;
        if fork.get(entry..entry + 4)? != kind {
            continue;
        }
        for m in 0..=number(entry + 4)? {
            let reference = types + number(entry + 6)? + m * 12;
            let name = match number(reference + 2)? {
                0xFFFF => String::new(),
                at => {
                    let len = usize::from(*fork.get(names + at)?);
                    let text = fork.get(names + at + 1..names + at + 1 + len)?;
                    // Names are in the Mac's own character set; characters other than ASCII are not worth a conversion
                    // table.
                    text.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '?' }).collect()
                }
            };
            let at =
                data.checked_add(be32(fork.get(reference + 4..reference + 8)?, 0) as usize & 0xFF_FFFF)?;
            let len = be32(fork.get(at..at.checked_add(4)?)?, 0) as usize;
            // Resources do not share bytes, so all together they are no longer than the fork.
            left = left.checked_sub(len)?;
            found.push((name, fork.get(at + 4..(at + 4).checked_add(len)?)?.to_vec()));
        }
        break;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_found_by_type_with_their_names() {
        let mut fork = vec![0; 16];
        fork.extend(b"\0\0\0\x03abc\0\0\0\x01x");
        let map = fork.len();
        fork.extend([0; 24]);
        fork.extend(28u16.to_be_bytes());
        fork.extend((28u16 + 2 + 16 + 24).to_be_bytes());
        // Two types with one resource each.
        fork.extend(1u16.to_be_bytes());
        fork.extend([b"plst", &[0, 0, 0, 18][..]].concat());
        fork.extend([b"blkx", &[0, 0, 0, 30][..]].concat());
        fork.extend([0, 0, 0xFF, 0xFF, 0, 0, 0, 7, 0, 0, 0, 0]);
        fork.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        fork.extend(b"\x04name");
        fork[..4].copy_from_slice(&16u32.to_be_bytes());
        fork[4..8].copy_from_slice(&u32::try_from(map).unwrap().to_be_bytes());
        assert_eq!(resources(&fork, b"blkx"), Some(vec![("name".into(), b"abc".to_vec())]));
        assert_eq!(resources(&fork, b"plst"), Some(vec![(String::new(), b"x".to_vec())]));
        assert_eq!(resources(&fork, b"none"), Some(vec![]));
        for cut in 0..fork.len() {
            assert!(resources(&fork[..cut], b"blkx").is_none_or(|r| r.is_empty()), "{cut}");
        }
    }
}
