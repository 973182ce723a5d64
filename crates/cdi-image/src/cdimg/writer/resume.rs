//! Going on with an image that is there already.

use std::path::Path;
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::index;
use zerocopy::byteorder::little_endian::U32;

use super::super::layout::*;
use super::super::nodes::CachedNodes;
use super::super::reader::{TakenIn, take_in};
use super::super::record;
use super::super::scan::{ReplayedState, Step, Walk};
use super::super::store::Store;
use super::super::superblock::{is_sound_in, superblocks};
use super::{MAX_HELD, Writer};
use crate::input::Input;

impl Writer {
    /// Goes on with the image in `input`, which is the file that `store` writes. Its state becomes "acquiring"; what a
    /// crash left at its end is cut off. Gives also what the user should know.
    pub fn resume(
        store: Box<dyn Store>,
        input: &Arc<Input>,
        path: &Path,
    ) -> Result<(Writer, Vec<String>), Error> {
        let nodes = CachedNodes::new(Arc::clone(input));
        let mut taken = take_in(input, &nodes)?;
        let slot = index(taken.superblock.generation.get() % 2);
        if !superblocks(input)[slot].1.is_some_and(|s| is_sound_in(slot, &s)) {
            let what = "the newest superblock is damaged: it is not gone on with";
            return Err(Error::bad_image(what).at(path).hint(Advice::Repair));
        }
        if taken.superblock.state == STATE_ACQUIRING {
            take_in_behind(input, &nodes, &mut taken)?;
            if taken.end < input.len() {
                let len = input.len() - taken.end;
                taken.warnings.push(format!("{len} bytes at the end that are no whole record were cut off"));
            }
        }
        let TakenIn { mut superblock, told, map_written, end, epoch, warnings, .. } = taken;
        superblock.state = STATE_ACQUIRING;
        superblock.epoch = U32::new(epoch.checked_add(1).ok_or_else(|| {
            Error::bad_image("it was gone on with too often").at(path).hint(Advice::Compact)
        })?);
        let ReplayedState { index, bad, mut metadata } = told;
        // From now on they are those of something else.
        let earlier_hashes = metadata.take_hashes();
        let mut writer = Writer {
            index,
            bad,
            map_written,
            earlier_hashes,
            ..Writer::of(store, path, superblock, metadata, end)
        };
        writer.out.cut()?;
        writer.out.sync()?;
        writer.checkpoint()?;
        Ok((writer, warnings))
    }
}

/// Takes in the bytes in sound records that lie behind damage: a crash may lose a part of what was written last, and not
/// what was written after it. What such records say of the map is left out, for it may be of bytes that are lost.
fn take_in_behind(input: &Input, nodes: &CachedNodes, into: &mut TakenIn) -> Result<(), Error> {
    let mut walk = Walk::new(input, into.superblock.salt.get(), into.end..input.len());
    let mut taken = 0;
    while let Some(step) = walk.step()? {
        let Step::Header(at, header) = step else { continue };
        if header.epoch.get() < into.epoch || into.told.index.held() > MAX_HELD {
            continue;
        }
        let Some(record) = record::with_payload(input, at, header)? else { continue };
        let bytes = matches!(record.kind(), Some(RecordType::Data | RecordType::Same | RecordType::Fill));
        if bytes && into.told.take(&record, nodes, input.len()).is_ok() {
            taken += 1;
        }
        (into.end, into.epoch) = (header.next(at).min(input.len()), header.epoch.get());
    }
    if taken > 0 {
        into.warnings.push(format!("{taken} records behind a damaged part were taken in"));
    }
    Ok(())
}
