//! Writes iBored's images, by the format's description.

use std::io::Write;

const IDENT: &[u8] =
    b"iBored compressed disk image\rhttp://github.com/tempelmann/iBored-compressed-disk-image\r\0";

/// zlib as version 1 has it: flushed, but not ended.
fn zlib(data: &[u8], ended: bool) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(data).unwrap();
    if ended {
        return encoder.finish().unwrap();
    }
    encoder.flush().unwrap();
    encoder.get_ref().clone()
}

/// Runs of eight bytes that repeat, and what is between them.
fn run_length(data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut segment = |out: usize, pattern: &[u8]| {
        let len = (16 + pattern.len()).next_multiple_of(8);
        body.extend_from_slice(b"\0RLS");
        [len, out, pattern.len()].iter().for_each(|n| body.extend_from_slice(&(*n as u32).to_le_bytes()));
        body.extend_from_slice(pattern);
        body.resize(body.len().next_multiple_of(8), 0);
    };
    let mut at = 0;
    let mut literal = 0;
    while at < data.len() {
        let pattern = &data[at..(at + 8).min(data.len())];
        let run = data[at..].chunks(8).take_while(|c| pattern.starts_with(c)).map(<[u8]>::len).sum::<usize>();
        if run < 32 {
            at += pattern.len();
            continue;
        }
        if literal < at {
            segment(at - literal, &data[literal..at]);
        }
        segment(run, pattern);
        at += run;
        literal = at;
    }
    if literal < data.len() {
        segment(data.len() - literal, &data[literal..]);
    }
    let mut chunk = b"\0RLE".to_vec();
    [body.len() + 16, data.len(), 0].iter().for_each(|n| chunk.extend_from_slice(&(*n as u32).to_le_bytes()));
    [chunk, body].concat()
}

/// An image of `data`: its chunks last first, the table between, the information about the disk at the end.
pub fn image(data: &[u8], version: u8, method: u8, chunk: usize) -> Vec<u8> {
    let info = br#"{"model":"an old disk"}"#;
    let mut file = vec![0; 256];
    let mut offsets = Vec::new();
    let chunks: Vec<&[u8]> = data.chunks(chunk).collect();
    for part in chunks.iter().rev() {
        offsets.push(file.len() as u64);
        let compressed = if method == 1 { zlib(part, version == 2) } else { run_length(part) };
        if version == 2 {
            file.extend_from_slice(&(compressed.len() as u64).to_le_bytes());
        }
        file.extend_from_slice(&compressed);
    }
    let table = file.len() as u64;
    offsets.iter().rev().for_each(|o| file.extend_from_slice(&o.to_le_bytes()));
    let info_at = file.len() as u64;
    file.extend_from_slice(info);
    file[..IDENT.len()].copy_from_slice(IDENT);
    file[0x5A..0x5D].copy_from_slice(&[2, version, method]);
    file[0x5E..0x60].copy_from_slice(&256u16.to_le_bytes());
    for (at, n) in [(0x60, data.len() as u64), (0x68, chunk as u64), (0x70, info_at), (0x80, table)] {
        file[at..at + 8].copy_from_slice(&n.to_le_bytes());
    }
    file[0x78..0x7C].copy_from_slice(&(info.len() as u32).to_le_bytes());
    file[0x7C..0x80].copy_from_slice(&4096u32.to_le_bytes());
    file
}
