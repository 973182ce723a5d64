//! VirtualBox disk images (`.vdi`): dynamic and fixed.
//!
//! Sources: VirtualBox's own header (VDICore.h), and the images that qemu-img writes and reads. All numbers are
//! little-endian. The file consists of a header of 512 bytes, a block table and the blocks.

use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};

use super::chain::{self, Chain, Found, zeros};
use crate::bytes::{flaw, le32, le64};
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;

/// VDI images.
pub const FORMAT: Format = Format {
    name: "vdi",
    summary: "VirtualBox's VDI: dynamic and fixed",
    integrity: "none: the format has no checksums, so damage cannot be detected",
    suffixes: &["vdi"],
    probe: |input| input.bytes(64, 4, "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: [u8; 4] = 0xBEDA_107Fu32.to_le_bytes();
const HEADER: usize = 512;
/// Block table entries without a block: never written, and known to be zeros.
const UNUSED: u32 = u32::MAX;
const ZERO: u32 = u32::MAX - 1;

/// A disk and the location of its blocks.
pub(super) struct Layer {
    file: FileNo,
    size: u64,
    /// The file offsets of the block table and of the blocks, and the block size, in bytes.
    table: u64,
    data: u64,
    block: u64,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let top = open_layer(&input, Input::MAIN)?;
    Ok(Box::new(Chain::of(input, top, options, Vec::new())))
}

pub(super) fn open_layer(input: &Input, file: FileNo) -> Result<Layer, Error> {
    let header = input.bytes_of(file, 0, HEADER, "the header")?;
    if header[64..68] != MAGIC {
        return flaw(64, "not a VDI image");
    }
    let version = le32(&header, 68);
    if version >> 16 != 1 {
        return flaw(
            68,
            format!(
                "unsupported version {}.{} (only version 1 is supported)",
                version >> 16,
                version & 0xFFFF
            ),
        );
    }
    match le32(&header, 76) {
        1 | 2 => {}
        4 => {
            return flaw(76, "differencing image (not supported: VDI does not record the parent's path)");
        }
        kind => return flaw(76, format!("unknown image type {kind}")),
    }
    let size = le64(&header, 368);
    let (table, data) = (u64::from(le32(&header, 340)), u64::from(le32(&header, 344)));
    let (block, extra, count) =
        (u64::from(le32(&header, 376)), le32(&header, 380), u64::from(le32(&header, 384)));
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(368, format!("invalid disk size: {size} bytes"));
    }
    if !block.is_power_of_two() || !(512..=1 << 30).contains(&block) || extra != 0 {
        return flaw(
            376,
            format!("unsupported block size: {block} bytes, with {extra} extra bytes per block"),
        );
    }
    if count < size.div_ceil(block) {
        return flaw(384, format!("{count} blocks of {block} bytes are too few for a disk of {size} bytes"));
    }
    if table.checked_add(count * 4).is_none_or(|end| end > input.len_of(file)) {
        return flaw(340, format!("the block table at byte {table} extends past the end of the file"));
    }
    Ok(Layer { file, size, table, data, block })
}

impl chain::Layer for Layer {
    fn size(&self) -> u64 {
        self.size
    }

    fn find(&self, input: &Input, offset: u64, _: u64) -> Result<Found, ReadError> {
        let block = offset / self.block;
        let disk = block * self.block..((block + 1) * self.block).min(self.size);
        let entry_at = self.table + block * 4;
        let mut entry = [0; 4];
        input.read_exact_at(self.file, &mut entry, entry_at)?;
        let entry = u32::from_le_bytes(entry);
        if entry == UNUSED || entry == ZERO {
            let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
            let is = |entry: &[u8]| matches!(le32(entry, 0), UNUSED | ZERO);
            let count =
                chain::count_matching(&read, entry_at, self.size.div_ceil(self.block) - block, 4, &is)?
                    .max(1);
            let end = disk.start.saturating_add(count * self.block).min(self.size);
            return Ok(Found::Here(zeros(disk.start, end)));
        }
        let at = self.data + u64::from(entry) * self.block;
        if at + (disk.end - disk.start) > input.len_of(self.file) {
            return Err(ReadError::Corrupt { at: entry_at });
        }
        Ok(Found::Here(Extent { disk, origin: Origin::Stored { file: self.file, at } }))
    }

    fn check(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let Some(mut uses) = chain::Uses::new(input.len_of(self.file), self.block) else { return Ok(()) };
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let table = (self.table, self.size.div_ceil(self.block), 4);
        let place =
            |entry: &[u8]| Some(le32(entry, 0)).filter(|n| *n < ZERO).map(|n| u64::from(n) * self.block);
        uses.mark_table(&read, table, &place, report, check_cancelled)
    }
}
