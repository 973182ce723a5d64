//! Apple's encryption of disk images ("encrcdsa", version 2): a header, and the image in blocks, each encrypted by itself.
//! Version 1 ("cdsaencr") is in `first.rs`.
//!
//! Sources: the readers of encrypted images in dmgwiz, vfdecrypt and Hengeveld's dmgcrypt.py, the fork of sparsebundlefs
//! that reads encrypted bundles, the names of algorithms in Apple's CSSM headers, and images by hdiutil. All numbers are
//! big-endian. A dmg or sparse image is encrypted as a whole, so that another image is inside; of a sparse bundle the file
//! `token` is the header, and each band is a file whose blocks count from 0.

mod first;
mod header;
mod source;

use std::path::Path;
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw};

use self::first::Trailer;
use self::header::Header;
use self::source::Decrypted;
use super::{dmg, raw, sparseimage};
use crate::crypto::BlockKeys;
use crate::extent::FileNo;
use crate::image::OpenOptions;
use crate::input::{Input, ReadAt};
use crate::passphrase::Passphrase;

/// Returns whether the image's main file is encrypted, in either version.
pub(super) fn is_either(input: &Input) -> bool {
    is_encrypted(input, Input::MAIN) || first::is_encrypted(input)
}

/// Returns whether a file begins like an encrypted image.
pub(super) fn is_encrypted(input: &Input, file: FileNo) -> bool {
    input.bytes_of(file, 0, 8, "the header").is_ok_and(|b| b == header::MAGIC)
}

/// Returns the image inside of an encrypted one, or the same image if it is not encrypted.
pub fn decrypted(input: Input, options: &OpenOptions) -> Result<Input, Error> {
    let version_2 = is_encrypted(&input, Input::MAIN);
    if !(version_2 || first::is_encrypted(&input)) || input.is_directory() || !is_meant(&input, options) {
        return Ok(input);
    }
    let passphrase = options.passphrase.as_ref();
    let (unlocked, start, len) = if version_2 {
        let header = Header::read(&input, Input::MAIN)?;
        header.check_data(input.len())?;
        (Unlocked::by_header(&header, &input, passphrase)?, header.start, header.len)
    } else {
        let trailer = Trailer::read(&input)?;
        let passphrase = passphrase.ok_or_else(|| needed(&trailer.description()))?;
        let keys = trailer.unlock(passphrase)?;
        (Unlocked::new(keys, trailer.block, &input, trailer.description()), 0, trailer.len)
    };
    input.within(unlocked.source(input.joined(&[Input::MAIN]), start, len), input.name())
}

/// Returns whether the user means what is inside. A device, or a file that is named as raw, may be a disk that begins like
/// an encrypted image: what is on a disk must not decide how it is read.
fn is_meant(input: &Input, options: &OpenOptions) -> bool {
    let apple = [dmg::FORMAT.name, sparseimage::FORMAT.name];
    let suffix = input.path().extension().and_then(|s| s.to_str()).unwrap_or_default().to_ascii_lowercase();
    match options.format.as_deref() {
        None => !input.is_device(),
        Some(format) if format == raw::FORMAT.name => {
            options.passphrase.is_some() || apple.contains(&suffix.as_str())
        }
        Some(format) => apple.contains(&format),
    }
}

/// An encrypted image whose passphrase is known.
pub(super) struct Unlocked {
    keys: Arc<BlockKeys>,
    block: u32,
}

impl Unlocked {
    /// Unlocks the image whose header is in `file`.
    pub(super) fn of_file(
        input: &Input,
        file: FileNo,
        passphrase: Option<&Passphrase>,
    ) -> Result<Unlocked, Error> {
        let header = Header::read(input, file).map_err(|e| e.at(&input.path_of(file)))?;
        Unlocked::by_header(&header, input, passphrase)
    }

    fn by_header(header: &Header, input: &Input, passphrase: Option<&Passphrase>) -> Result<Unlocked, Error> {
        let how = header.description();
        let Some(passphrase) = passphrase else {
            header.refuse_without_passphrase()?;
            return Err(needed(&how));
        };
        Ok(Unlocked::new(header.unlock(passphrase)?, header.block, input, how))
    }

    fn new(keys: BlockKeys, block: u32, input: &Input, how: String) -> Unlocked {
        input.note_encryption(how);
        Unlocked { keys: Arc::new(keys), block }
    }

    /// Returns the size of the blocks in bytes.
    pub(super) fn block(&self) -> u32 {
        self.block
    }

    /// Returns a band of a sparse bundle as a file of its own: `len` bytes of `file`.
    pub(super) fn band(&self, input: &Input, file: FileNo, path: &Path) -> Result<FileNo, Error> {
        let source = self.source(input.joined(&[file]), 0, input.len_of(file));
        input.derive(source, path)
    }

    /// Returns what is encrypted in `source`: `len` bytes from offset `start` on.
    fn source(&self, source: Arc<dyn ReadAt>, start: u64, len: u64) -> Arc<dyn ReadAt> {
        Arc::new(Decrypted { source, start, len, block: self.block, keys: Arc::clone(&self.keys) })
    }
}

/// Returns the error about a missing passphrase.
fn needed(how: &str) -> Error {
    let what = format!("encrypted disk image ({how}): its passphrase is needed");
    Error::bad_image(what).hint(Advice::Passphrase)
}

/// Returns an error about an image that is encrypted in a way that is not supported.
fn unsupported<T>(at: u64, what: impl std::fmt::Display) -> Result<T, Error> {
    let error: Error = Flaw::at(at, format!("{what} (not supported)")).into();
    Err(error.hint(ON_A_MAC))
}

/// How an image that cannot be decrypted here is decrypted.
pub(super) const ON_A_MAC: &str =
    "on a Mac, decrypt it with 'hdiutil convert IMAGE -format UDRO -o PLAIN', which asks for the passphrase";
