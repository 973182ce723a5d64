//! Writes AFF4 images.

use std::io::{Cursor, Write};

use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha512;

/// How an AFF4 image's chunks are compressed.
#[derive(Clone, Copy, PartialEq)]
pub enum Aff4 {
    Snappy,
    Lz4,
    /// LZ4 blocks with their uncompressed lengths before them.
    Lz4Prefixed,
    Deflate,
    Stored,
    /// Snappy and uncompressed chunks, with hashes of the chunks, of the lists of these, and of the map.
    Hashed,
    /// As it was before the standard: other names, other indices. CompressedChunk by snappy.
    Old,
}

/// An AFF4 image in one volume. Of the disk the 64 KiB at `unreadable` could not be read, and those at `unknown` were not
/// tried; what is zeros for whole 64 KiB is a gap in the map.
pub fn aff4(disk: &[u8], how: Aff4, unreadable: usize, unknown: usize) -> Vec<u8> {
    const CHUNK: usize = 4096;
    const PER_BEVY: usize = 64;
    const RUN: usize = 65536;
    let (volume, map, stream) = ("aff4://11111111-aaaa-bbbb-cccc-000000000001", "aff4://m-1", "aff4://s-1");
    let schema = if how == Aff4::Old { "http://afflib.org/2009/aff4#" } else { "http://aff4.org/Schema#" };
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    let mut entry = |at: usize, from: usize, target: u32| {
        [at as u64, RUN as u64, from as u64].iter().for_each(|n| entries.extend(n.to_le_bytes()));
        entries.extend(target.to_le_bytes());
    };
    for (n, run) in disk.chunks(RUN).enumerate() {
        match n * RUN {
            at if at == unreadable => entry(at, at, 1),
            at if at == unknown => entry(at, at, 2),
            _ if run.iter().all(|b| *b == 0) => {}
            _ if run.iter().all(|b| *b == b'a') => entry(n * RUN, n * RUN, 3),
            at => {
                entry(at, data.len(), 0);
                data.extend_from_slice(run);
            }
        }
    }
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut member = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    member("container.description".into(), volume.as_bytes());
    // The lists of block hashes.
    let mut lists = [Vec::new(), Vec::new()];
    let escaped = |urn: &str| urn.replace(':', "%3A").replacen("//", "%2F%2F", 1);
    for (n, bevy) in data.chunks(CHUNK * PER_BEVY).enumerate() {
        let (mut compressed, mut index) = (Vec::new(), Vec::new());
        for chunk in bevy.chunks(CHUNK) {
            let mut one = match how {
                Aff4::Snappy | Aff4::Hashed | Aff4::Old => {
                    snap::raw::Encoder::new().compress_vec(chunk).unwrap()
                }
                Aff4::Lz4 => lz4_flex::block::compress(chunk),
                Aff4::Lz4Prefixed => lz4_flex::block::compress_prepend_size(chunk),
                Aff4::Deflate => {
                    let mut encoder =
                        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
                    encoder.write_all(chunk).unwrap();
                    encoder.finish().unwrap()
                }
                Aff4::Stored => chunk.to_vec(),
            };
            if one.len() >= CHUNK {
                one = chunk.to_vec();
            }
            if how != Aff4::Old {
                index.extend((compressed.len() as u64).to_le_bytes());
                index.extend((one.len() as u32).to_le_bytes());
            }
            compressed.extend(one);
            if how == Aff4::Old {
                index.extend((compressed.len() as u32).to_le_bytes());
            }
        }
        member(format!("{}/{n:08}", escaped(stream)), &compressed);
        if how == Aff4::Hashed {
            let md5: Vec<u8> = bevy.chunks(CHUNK).flat_map(|chunk| Md5::digest(chunk).to_vec()).collect();
            let sha1: Vec<u8> = bevy.chunks(CHUNK).flat_map(|chunk| Sha1::digest(chunk).to_vec()).collect();
            member(format!("{}/{n:08}.blockHash.md5", escaped(stream)), &md5);
            member(format!("{}/{n:08}.blockHash.sha1", escaped(stream)), &sha1);
            lists[0].extend(md5);
            lists[1].extend(sha1);
        }
        let suffix = if how == Aff4::Old { "/index" } else { ".index" };
        member(format!("{}/{n:08}{suffix}", escaped(stream)), &index);
    }
    member(format!("{}/map", escaped(map)), &entries);
    let end = if how == Aff4::Old { "\r\n" } else { "\n" };
    let byte = if how == Aff4::Old {
        "http://afflib.org/2012/SymbolicStream#61".into()
    } else {
        format!("{schema}SymbolicStream61")
    };
    let names = [stream.into(), format!("{schema}UnreadableData"), format!("{schema}UnknownData"), byte];
    let idx = format!("{}{end}", names.join(end));
    member(format!("{}/idx", escaped(map)), idx.as_bytes());
    let method = match how {
        Aff4::Snappy | Aff4::Hashed | Aff4::Old => "<http://code.google.com/p/snappy/>",
        Aff4::Lz4 | Aff4::Lz4Prefixed => "<https://code.google.com/p/lz4/>",
        Aff4::Deflate => "<https://tools.ietf.org/html/rfc1951>",
        Aff4::Stored => "<http://aff4.org/Schema#NullCompressor>",
    };
    let (size, held) = (disk.len(), data.len());
    let md5: String = Md5::digest(&data).iter().map(|b| format!("{b:02x}")).collect();
    let about = if how == Aff4::Old {
        format!(
            "<{map}> a aff4:Image , aff4:map ; aff4:size \"{size}\"^^xsd:long ; aff4:blockSize 512 .\n\
             <{stream}> a aff4:stream ; aff4:chunk_size {CHUNK} ; aff4:chunks_in_segment {PER_BEVY} ;\n\
             aff4:CompressionMethod {method} ; aff4:size {held} .\n"
        )
    } else {
        format!(
            "<aff4://i-1> a aff4:DiskImage , aff4:Image ; aff4:dataStream <{map}> ; aff4:size {size} ;\n\
             aff4:blockSize \"512\"^^xsd:int ; aff4:diskSerial \"SER . 1\" .\n\
             <{map}> a aff4:Map ; aff4:size {size} ; aff4:mapGapDefaultStream aff4:Zero .\n\
             <{stream}> a aff4:ImageStream ; aff4:chunkSize {CHUNK} ; aff4:chunksInSegment {PER_BEVY} ;\n\
             aff4:compressionMethod {method} ; aff4:size {held} ; aff4:hash \"{md5}\"^^aff4:MD5 .\n"
        )
    };
    let mut about = about;
    if how == Aff4::Hashed {
        let hash = |bytes: &[u8]| Sha512::digest(bytes).to_vec();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let parts = [hash(&lists[0]), hash(&lists[1]), hash(&entries), hash(idx.as_bytes())];
        let [md5, sha1, point, index] = parts.each_ref().map(|part| hex(part));
        let all = hex(&hash(&parts.concat()));
        about += &format!(
            "<{stream}/blockhash.md5> a aff4:BlockHashes ; aff4:hash \"{md5}\"^^aff4:SHA512 .\n\
             <{stream}/blockhash.sha1> a aff4:BlockHashes ; aff4:hash \"{sha1}\"^^aff4:SHA512 .\n\
             <{map}> aff4:mapPointHash \"{point}\"^^aff4:SHA512 ; aff4:mapIdxHash \"{index}\"^^aff4:SHA512 .\n\
             <aff4://i-1> aff4:hash \"{all}\"^^aff4:blockMapHashSHA512 .\n"
        );
    }
    let turtle = format!(
        "@prefix : <{volume}> .\n@prefix aff4: <{schema}> .\n@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .\n{about}"
    );
    member("information.turtle".into(), turtle.as_bytes());
    zip.set_comment(volume).unwrap();
    zip.finish().unwrap().into_inner()
}
