//! Chunks that are tried when an image is opened, to notice a wrong passphrase and an encryption that no mark shows.

use cdi_base::error::Error;
use cdi_base::units::index;

use super::xways::{DECRYPT, MISSING, Unlocked, wrong};
use super::{Codec, Ewf};
use crate::passphrase::Passphrase;

/// How many chunks are tried to find an intact one.
const MAX_TRIED: u64 = 64;

/// Returns the numbers of the chunks to try, of the first `count`.
fn samples(image: &Ewf, count: u64) -> impl Iterator<Item = u64> + use<> {
    let count = image.tables.count().min(count);
    (0..count).step_by(index(count.div_ceil(MAX_TRIED).max(1)))
}

/// Refuses a passphrase with which no chunk can be decrypted, unless it is known to be right.
pub(super) fn check_passphrase(
    image: &mut Ewf,
    unlocked: &Unlocked,
    passphrase: &Passphrase,
) -> Result<(), Error> {
    let (mut is_proven, mut failed) = (false, 0);
    for chunk in samples(image, image.size.div_ceil(image.chunk)) {
        let Ok(place) = image.place(chunk) else { continue };
        let is_intact = image.read_chunk(chunk * image.chunk, &mut Vec::new());
        // A single byte can be decrypted to that of a chunk of zeros by a wrong key.
        if is_intact && place.len > 1 {
            is_proven = true;
            break;
        }
        failed += u32::from(!is_intact);
    }
    if !is_proven && unlocked.is_doubtful {
        return Err(wrong(passphrase, "it does not open this encrypted image"));
    }
    let warning = match (is_proven || failed == 0, unlocked.is_checked) {
        (true, _) if unlocked.is_doubtful => {
            "what passphrases are checked with is damaged in this image; chunks can be decrypted with this one".into()
        }
        (false, true) => {
            format!("the passphrase is right, but all of {failed} sampled chunks are damaged")
        }
        (false, false) => {
            let why = format!(
                "none of {failed} sampled chunks can be decrypted with it (or all are damaged: the image has nothing \
                 else to check a passphrase with)"
            );
            return Err(wrong(passphrase, &why));
        }
        (true, _) => return Ok(()),
    };
    image.details.warnings.push(warning);
    Ok(())
}

/// Refuses images with intact structures, but no intact chunk, that some program encrypted without a mark. `is_marked` says
/// that X-Ways' mark is there, but not how the image is encrypted.
pub(super) fn refuse_encrypted(image: &mut Ewf, is_marked: bool) -> Result<(), Error> {
    let (mut tried, mut seen) = (0u32, [0u32; 256]);
    for chunk in samples(image, image.size / image.chunk) {
        let Ok(place) = image.place(chunk) else { continue };
        if image.read_chunk(chunk * image.chunk, &mut Vec::new()) {
            if is_marked {
                let warning = "the header says that the image is encrypted, but its chunks are not";
                image.details.warnings.push(warning.into());
            }
            return Ok(());
        }
        let mut start = vec![0; index(place.len.min(4096))];
        if image.input.read_exact_at(place.file, &mut start, place.at).is_err() {
            continue;
        }
        // A zlib stream with a valid header is only damaged, not encrypted.
        if !is_marked
            && place.codec == Codec::ZlibPadded
            && start[0] & 0x0F == 8
            && (u32::from(start[0]) << 8 | u32::from(start[1])) % 31 == 0
        {
            return Ok(());
        }
        start.iter().for_each(|byte| seen[usize::from(*byte)] += 1);
        tried += 1;
    }
    if is_marked {
        return Err(Error::bad_image(MISSING));
    }
    let bytes: u32 = seen.iter().sum();
    // In random data, no byte value is much more frequent than the others.
    let is_random = bytes >= 4096 && seen.iter().all(|n| *n > 0 && *n < bytes / 256 * 3);
    if tried < 2 || !is_random {
        return Ok(());
    }
    Err(Error::bad_image(format!(
        "encrypted or completely damaged image: its structures are intact, but none of {tried} sampled chunks passes \
         its check, and all look random"
    ))
    .hint(DECRYPT))
}
