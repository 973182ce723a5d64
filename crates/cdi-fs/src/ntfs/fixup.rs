//! The update sequence: how a record shows that it was written as a whole.
//!
//! The last two bytes of each sector of a record are replaced by a number that is the same in all of them, and kept in the
//! record's head. Facts: `ntfs_fix_post_read` in Linux's fs/ntfs3/record.c, mst.c of ntfs-3g.

use cdi_base::units::index;

use crate::bytes::{array, le16};

/// The smallest part of a record with a number of its own, in bytes. It is 512 on disks with larger sectors too.
const STRIDE: usize = 512;

/// Puts back what the sequence number replaced. `record` is a record of `full` bytes, or its beginning; the error says what
/// makes no sense.
pub(super) fn apply(record: &mut [u8], full: u64) -> Result<(), &'static str> {
    let full = index(full);
    let head = (le16(record, 4), le16(record, 6));
    let (Some(at), Some(count)) = head else { return Err("it is too short") };
    let (at, count) = (usize::from(at), usize::from(count));
    let stride = count.checked_sub(1).filter(|&parts| parts > 0).map_or(0, |parts| full / parts);
    if stride < STRIDE || !stride.is_power_of_two() || (count - 1) * stride != full {
        return Err("its update sequence has a wrong length");
    }
    if at % 2 != 0 || at < 0x28 || at + 2 * count > (STRIDE - 2).min(record.len()) {
        return Err("its update sequence is at a wrong place");
    }
    let number: [u8; 2] = array(record, at).ok_or("it is too short")?;
    for part in 1..count {
        let end = part * stride - 2;
        if end + 2 > record.len() {
            break;
        }
        if record[end..end + 2] != number {
            return Err("it was written in part only (its update sequence does not fit)");
        }
        record.copy_within(at + 2 * part..at + 2 * part + 2, end);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Vec<u8> {
        let mut record = vec![0u8; 1024];
        record[4] = 0x30;
        record[6] = 3;
        record[0x30..0x36].copy_from_slice(&[7, 0, 1, 2, 3, 4]);
        record[510..512].copy_from_slice(&[7, 0]);
        record[1022..].copy_from_slice(&[7, 0]);
        record
    }

    #[test]
    fn a_whole_record_gets_its_bytes_back() {
        let mut whole = record();
        apply(&mut whole, 1024).unwrap();
        assert_eq!((&whole[510..512], &whole[1022..]), (&[1u8, 2][..], &[3u8, 4][..]));
        let mut part = record()[..512].to_vec();
        apply(&mut part, 1024).unwrap();
        assert_eq!(part[510..], [1, 2]);
    }

    #[test]
    fn a_torn_one_is_refused() {
        for (at, byte) in [(1022, 8), (6, 0), (6, 1), (6, 4), (4, 0x10), (4, 0x31), (5, 2), (7, 0xFF)] {
            let mut torn = record();
            torn[at] = byte;
            assert!(apply(&mut torn, 1024).is_err(), "{at}");
        }
        for len in 0..64 {
            assert!(apply(&mut record()[..len], 1024).is_err() || len >= 0x36);
        }
    }
}
