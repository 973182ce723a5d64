//! Finds the end of a disk from its first sectors.

use cdi_base::units::SECTOR;

use crate::bytes::{le32, le64};

/// Returns the end of the disk in bytes, according to the partition table or file system in its first sectors, if any.
pub(crate) fn disk_end(start: &[u8]) -> Option<u64> {
    let sector = u64::from(SECTOR);
    if start.get(0x438..0x43A) == Some(&[0x53, 0xEF]) && start.len() >= 0x43A {
        // ext2 to ext4: the number of blocks, and their size.
        return u64::from(le32(start, 0x404)).checked_mul(1024u64.checked_shl(le32(start, 0x418))?);
    }
    if start.get(510..512)? != [0x55, 0xAA] {
        return None;
    }
    if start.get(512..520) == Some(b"EFI PART".as_slice()) && start.len() >= 552 {
        return le64(start, 544).checked_add(1)?.checked_mul(sector);
    }
    let bytes = u64::from(u16::from_le_bytes([start[11], start[12]]));
    if &start[3..11] == b"NTFS    " {
        return le64(start, 40).checked_mul(bytes);
    }
    if start.get(82..87) == Some(b"FAT32".as_slice()) {
        return u64::from(le32(start, 32)).checked_mul(bytes);
    }
    // In a boot sector, there is code where an MBR has its entries.
    let entries = || start[446..510].chunks_exact(16);
    if !entries().all(|entry| matches!(entry[0], 0 | 0x80)) {
        return None;
    }
    let ends = entries().filter(|entry| entry[4] != 0);
    ends.map(|entry| (u64::from(le32(entry, 8)) + u64::from(le32(entry, 12))) * sector).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_from_the_partition_table() {
        let mut mbr = vec![0; 512];
        (mbr[510], mbr[511], mbr[450]) = (0x55, 0xAA, 0x83);
        mbr[458..462].copy_from_slice(&1000u32.to_le_bytes());
        assert_eq!(disk_end(&mbr), Some(512_000));
        // A boot sector of a partition: code and text in place of the entries.
        mbr[446..460].copy_from_slice(b"Disk error   \r");
        assert_eq!(disk_end(&mbr), None);
        assert_eq!(disk_end(&[0; 2048]), None);
    }
}
