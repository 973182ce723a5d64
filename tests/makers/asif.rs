//! Writes images in Apple's sparse image format (ASIF).

use std::collections::BTreeMap;

use super::put;

/// How an image is written.
#[derive(Clone, Copy)]
pub struct Asif {
    /// The sector size, the chunk size, and the size to which the disk can grow, in bytes.
    pub sector: u64,
    pub chunk: u64,
    pub max_size: u64,
    /// The versions of the two directories. The one with the lower version lists no tables.
    pub versions: [u64; 2],
    /// What the file has where a sector of a chunk was never written.
    pub garbage: u8,
}

impl Default for Asif {
    /// Chunks so small that a table describes 64 MiB.
    fn default() -> Asif {
        Asif { sector: 512, chunk: 32 << 10, max_size: 1 << 30, versions: [2, 1], garbage: 0 }
    }
}

const LIST: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
    <plist version=\"1.0\">\n<dict>\n\t<key>internal metadata</key>\n\t<dict>\n\t\t<key>stable uuid</key>\n\
    \t\t<string>0bd3e5a7-73a1-4f0c-8bd1-fcf0b5ab1d4e</string>\n\t</dict>\n\t<key>user metadata</key>\n\t<dict/>\n\
    </dict>\n</plist>\n";

/// Returns the image of a disk of `size` bytes that has these bytes at these offsets, multiples of the chunk size, and
/// zeros elsewhere. Chunks are in reverse order; sectors of zeros count as never written.
pub fn asif(how: Asif, size: u64, parts: &[(u64, &[u8])]) -> Vec<u8> {
    let group_chunks = 4 * how.sector;
    let groups = how.chunk / (8 * (group_chunks + 1));
    let table_chunks = groups * group_chunks;
    let tables = how.max_size.div_ceil(table_chunks * how.chunk);
    let directory_len = (8 + 8 * tables).next_multiple_of(512);
    let directories = [512, 512 + directory_len];

    // The chunks of the disk, and that of the metadata, which is stored like one at the far end.
    let mut data: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (at, bytes) in parts {
        assert!(at % how.chunk == 0 && at + bytes.len() as u64 <= size);
        for (n, chunk) in bytes.chunks(how.chunk as usize).enumerate() {
            data.insert(at / how.chunk + n as u64, chunk.to_vec());
        }
    }
    let metadata_chunk = how.max_size / how.chunk - 1;
    let mut metadata = b"meta".to_vec();
    put!(metadata, 1u32, 512u32, (LIST.len() as u64).next_multiple_of(512));
    metadata.resize(512, 0);
    metadata.extend(LIST.as_bytes());
    data.insert(metadata_chunk, metadata);

    let first = (directories[1] + directory_len).div_ceil(how.chunk);
    let mut file = vec![0; (first * how.chunk) as usize];
    // The lists: of a table's entries, and of a group's bits.
    let mut lists: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut bits: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let sectors = how.chunk / how.sector;
    for (number, mut chunk) in data.into_iter().rev() {
        chunk.resize(how.chunk as usize, 0);
        let (table, in_table) = (number / table_chunks, number % table_chunks);
        let (group, slot) = (in_table / group_chunks, in_table % group_chunks);
        let list = lists.entry(table).or_insert_with(|| vec![0; (how.chunk / 8) as usize]);
        let mut written = 0;
        let mut states = vec![0; (sectors / 4) as usize];
        for (n, sector) in chunk.chunks_mut(how.sector as usize).enumerate() {
            if sector.iter().all(|b| *b == 0) {
                sector.fill(how.garbage);
            } else {
                written += 1;
                states[n / 4] |= 1 << (n % 4 * 2);
            }
        }
        let status = match written {
            0 => continue,
            n if n == sectors => 1,
            _ => {
                let bits = bits.entry((table, group)).or_insert_with(|| vec![0; how.chunk as usize]);
                bits[(slot * sectors / 4) as usize..][..states.len()].copy_from_slice(&states);
                3
            }
        };
        list[(in_table + in_table / group_chunks) as usize] =
            (status << 62) | (file.len() as u64 / how.chunk);
        file.extend(chunk);
    }
    for ((table, group), bits) in bits {
        let entry = group * (group_chunks + 1) + group_chunks;
        lists.get_mut(&table).unwrap()[entry as usize] = file.len() as u64 / how.chunk;
        file.extend(bits);
    }
    let mut places = vec![0; tables as usize];
    for (table, list) in lists {
        places[table as usize] = file.len() as u64 / how.chunk;
        file.extend(list.iter().flat_map(|entry| entry.to_be_bytes()));
    }

    let mut header = b"shdw".to_vec();
    put!(header, 1u32, 512u32, 0u32, directories[0], directories[1]);
    header.extend((1..=16).map(|n| n * 15));
    put!(header, size / how.sector, how.max_size / how.sector, how.chunk as u32, how.sector as u16, 0u16);
    put!(header, metadata_chunk, 0u64, 0u64, 0u32, 0u32, 0u32);
    file[..header.len()].copy_from_slice(&header);
    for (at, version) in directories.into_iter().zip(how.versions) {
        let is_valid = version == *how.versions.iter().max().unwrap();
        let mut directory = version.to_be_bytes().to_vec();
        directory.extend(places.iter().filter(|_| is_valid).flat_map(|place| place.to_be_bytes()));
        file[at as usize..][..directory.len()].copy_from_slice(&directory);
    }
    file
}
