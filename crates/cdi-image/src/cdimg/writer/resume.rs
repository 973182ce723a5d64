//! Resumes writing to an existing image.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::index;
use serde_json::json;
use zerocopy::byteorder::little_endian::U32;

use super::super::layout::*;
use super::super::nodes::CachedNodes;
use super::super::parity;
use super::super::reader::{LoadedState, load};
use super::super::record;
use super::super::scan::{ReplayedState, Step, Walk};
use super::super::seal::check_seal;
use super::super::store::Store;
use super::super::superblock::{is_valid_in, superblocks};
use super::{MAX_DIRTY_BYTES, Writer};
use crate::input::Input;
use crate::metadata::rfc3339;

impl Writer {
    /// Resumes the image in `input`, which is the file that `store` writes. Its state becomes "acquiring"; incomplete
    /// records that a crash left at the end are cut off. Also returns warnings for the user.
    pub fn resume(
        store: Box<dyn Store>,
        input: &Arc<Input>,
        path: &Path,
    ) -> Result<(Writer, Vec<String>), Error> {
        let nodes = CachedNodes::new(Arc::clone(input));
        let mut loaded = load(input, &nodes)?;
        let slot = index(loaded.superblock.generation.get() % 2);
        if !superblocks(input)[slot].1.is_some_and(|s| is_valid_in(slot, &s)) {
            let what = "cannot resume: the newest superblock is damaged";
            return Err(Error::bad_image(what).at(path).hint(Advice::Repair));
        }
        if loaded.superblock.state == STATE_ACQUIRING {
            recover_after_damage(input, &nodes, &mut loaded)?;
            if loaded.end < input.len() {
                let len = input.len() - loaded.end;
                loaded.warnings.push(format!("incomplete records at the end were removed ({len} bytes)"));
            }
        }
        let LoadedState { mut superblock, state, map_written, end, epoch, mut warnings, .. } = loaded;
        let sealed = superblock;
        superblock.state = STATE_ACQUIRING;
        superblock.epoch = U32::new(epoch.checked_add(1).ok_or_else(|| {
            Error::bad_image("cannot resume: the image was resumed too many times")
                .at(path)
                .hint(Advice::Compact)
        })?);
        let ReplayedState { index, mut bad, mut metadata } = state;
        let (seal, chain) = check_seal(input, &sealed, &metadata, bad.settle(), &mut || Ok(()))?;
        // The hashes are no longer valid once the image changes.
        let earlier_hashes = metadata.take_hashes();
        let has_parity = superblock.may_ignore.get() & HAS_PARITY != 0;
        let parity = || parity::find(input, &[sealed], parity::Effort::NearEnd);
        let mut writer = Writer {
            parity: has_parity.then(parity).flatten(),
            index: Arc::new(Mutex::new(index)),
            bad,
            map_written,
            chain,
            earlier_hashes,
            ..Writer::of(store, path, superblock, metadata, end)
        };
        if !seal.flaws.is_empty() {
            // The next seal is of the image as it is now. That this is not the one that was sealed must not be forgotten.
            let what: Vec<String> = seal.flaws.into_iter().map(|(flaw, _)| flaw.to_string()).collect();
            let now = rfc3339(SystemTime::now());
            writer.note(&json!({ "time": now, "event": "not-as-sealed", "what": what }));
            warnings.extend(what);
        }
        writer.out.cut()?;
        writer.out.sync()?;
        writer.checkpoint()?;
        Ok((writer, warnings))
    }
}

/// Replays valid records with disk data that follow damage: a crash may lose some of the last writes, but not later
/// ones. MAP records after damage are ignored, because they may refer to lost data.
fn recover_after_damage(input: &Input, nodes: &CachedNodes, into: &mut LoadedState) -> Result<(), Error> {
    let mut walk = Walk::new(input, into.superblock.salt.get(), into.end..input.len());
    let mut replayed = 0;
    while let Some(step) = walk.step()? {
        let Step::Header(at, header) = step else { continue };
        if header.epoch.get() < into.epoch || into.state.index.dirty_bytes() > MAX_DIRTY_BYTES {
            continue;
        }
        let Some(record) = record::with_payload(input, at, header)? else { continue };
        let bytes = matches!(record.kind(), Some(RecordType::Data | RecordType::Same | RecordType::Fill));
        if bytes && into.state.apply(&record, nodes, input.len()).is_ok() {
            replayed += 1;
        }
        (into.end, into.epoch) = (header.next(at).min(input.len()), header.epoch.get());
    }
    if replayed > 0 {
        into.warnings.push(format!("records recovered after a damaged part: {replayed}"));
    }
    Ok(())
}
