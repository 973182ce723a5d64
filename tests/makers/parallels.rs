//! Writes Parallels' expanding disks, and the descriptors of their directories.

/// Returns an expanding disk of the older variant (`WithoutFreeSpace`) with clusters of `tracks` sectors, in reverse order.
/// Clusters of zeros are left out.
pub fn parallels(disk: &[u8], tracks: u32) -> Vec<u8> {
    let cluster = tracks as usize * 512;
    let count = disk.len().div_ceil(cluster);
    let mut file = b"WithoutFreeSpace".to_vec();
    for number in [2, 16, 1, tracks, count as u32, (disk.len() / 512) as u32, 0, 0x312E_3276, 0, 0, 0, 0] {
        file.extend(number.to_le_bytes());
    }
    let data = (64 + count * 4).next_multiple_of(512);
    file.resize(data, 0);
    for n in (0..count).rev() {
        let bytes = &disk[n * cluster..disk.len().min((n + 1) * cluster)];
        if bytes.iter().any(|b| *b != 0) {
            let place = (file.len() / 512) as u32;
            file[64 + n * 4..][..4].copy_from_slice(&place.to_le_bytes());
            file.extend(bytes);
            file.resize(file.len() + cluster - bytes.len(), 0);
        }
    }
    file
}

/// A part of a disk: its end in sectors, and its files: the identifier of the snapshot, whether it is plain, and its name.
pub type Part<'a> = (u64, &'a [(&'a str, bool, &'a str)]);

/// Returns a DiskDescriptor.xml of a disk of `sectors` sectors. Snapshots are identifiers, each with its parent's.
pub fn parallels_descriptor(
    sectors: u64,
    parts: &[Part<'_>],
    shots: &[(&str, &str)],
    top: Option<&str>,
) -> String {
    let mut storages = String::new();
    let mut start = 0;
    for (end, images) in parts {
        storages += &format!("<Storage><Start>{start}</Start><End>{end}</End><Blocksize>2048</Blocksize>");
        for (guid, is_plain, file) in *images {
            let kind = if *is_plain { "Plain" } else { "Compressed" };
            storages +=
                &format!("<Image><GUID>{guid}</GUID><Type>{kind}</Type>\n<File>{file}</File></Image>");
        }
        storages += "</Storage>\n";
        start = *end;
    }
    let shot = |(guid, parent): &(&str, &str)| {
        format!("<Shot>\n<GUID>{guid}</GUID><ParentGUID>{parent}</ParentGUID></Shot>")
    };
    let shots: String = shots.iter().map(shot).collect();
    let top = top.map_or(String::new(), |top| format!("<TopGUID>{top}</TopGUID>"));
    format!(
        "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\">\n<Disk_Parameters>\
         <Disk_size>{sectors}</Disk_size><PhysicalSectorSize>4096</PhysicalSectorSize><Padding>0</Padding>\
         <Encryption><Engine>{{00000000-0000-0000-0000-000000000000}}</Engine><Data></Data><Salt/></Encryption>\
         </Disk_Parameters>\n<StorageData>{storages}</StorageData><Snapshots>{top}{shots}</Snapshots>\
         </Parallels_disk_image>\n"
    )
}
