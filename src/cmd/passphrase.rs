//! The passphrase of an encrypted image: from a file, a file descriptor or the terminal; never from the command line or
//! the environment, which other processes can see.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_image::passphrase::Passphrase;
use zeroize::Zeroizing;

use crate::cli;
use crate::ui::Ui;

/// How often a passphrase is asked for that turns out to be wrong.
const TRIES: u32 = 3;

/// Calls `open` with the passphrase that was given, if one was, and asks for one if the image needs it. The passphrase is
/// kept in `image`, so that it is read once, however often the image is opened.
pub(super) fn with_passphrase<T>(
    image: &cli::Image,
    ui: &Ui,
    open: impl Fn(Option<Passphrase>) -> Result<T, Error>,
) -> Result<T, Error> {
    let args = &image.open;
    if args.passphrase.get().is_none()
        && let Some(passphrase) = given(args)?
    {
        args.passphrase.set(passphrase);
    }
    let mut result = open(args.passphrase.get());
    if args.passphrase.get().is_some() {
        return result;
    }
    for _ in 0..TRIES {
        let needed = [Advice::Passphrase, Advice::WrongPassphrase];
        let Some(e) = result.as_ref().err().filter(|e| e.advice.iter().any(|a| needed.contains(a))) else {
            break;
        };
        if e.advice.contains(&Advice::WrongPassphrase) {
            ui.warning(e);
        }
        cdi_system::keep_memory_private();
        let Some(passphrase) = ui.ask_passphrase(&image.image)? else { break };
        result = open(Some(passphrase.clone()));
        if result.is_ok() {
            args.passphrase.set(passphrase);
        }
    }
    result
}

/// Reads the passphrase that the options name.
fn given(args: &cli::OpenArgs) -> Result<Option<Passphrase>, Error> {
    let path = match (&args.passphrase_file, args.passphrase_fd) {
        (Some(path), _) => path.clone(),
        (None, Some(number)) => PathBuf::from(format!("/dev/fd/{number}")),
        (None, None) => return Ok(None),
    };
    read(&path).map(Some)
}

fn read(path: &Path) -> Result<Passphrase, Error> {
    let failed = |e| Error::io("cannot read the passphrase", path, e);
    // As long as it may become, so that it never has to be copied to grow: the old copy would stay in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(Passphrase::MAX + 1));
    let mut file = File::open(path).map_err(failed)?.take(Passphrase::MAX as u64 + 1);
    cdi_system::keep_memory_private();
    let mut part = Zeroizing::new([0; 256]);
    loop {
        match file.read(&mut *part) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(&part[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    if text.len() > Passphrase::MAX {
        let what = format!("more than {} bytes: not a passphrase", Passphrase::MAX);
        return Err(Error::usage(what).at(path));
    }
    let passphrase = Passphrase::from_text(&text);
    if passphrase.is_empty() {
        return Err(Error::usage("empty: there is no passphrase").at(path));
    }
    Ok(passphrase)
}
