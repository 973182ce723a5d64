//! The ciphers of encrypted images: pure functions over bytes. Keys are wiped from memory after their use.

#[cfg(feature = "apple")]
mod cbc;
#[cfg(feature = "ewf")]
mod counter;

#[cfg(feature = "apple")]
pub(crate) use cbc::{BlockKeys, open_3des, pbkdf2_sha1};
#[cfg(feature = "ewf")]
pub(crate) use counter::KeyStream;

/// The size in bytes of what AES encrypts at once.
pub(crate) const AES_BLOCK: usize = 16;

#[cfg(test)]
fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap()).collect()
}
