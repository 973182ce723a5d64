//! Asks for a passphrase on the terminal, which does not show it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use cdi_base::error::{Error, Kind};
use cdi_image::passphrase::Passphrase;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use zeroize::{Zeroize, Zeroizing};

use super::{Ui, printable};

impl Ui {
    /// Asks for the passphrase of an image. None if there is nobody to ask: the program is used by another one.
    pub fn ask_passphrase(&self, image: &Path) -> Result<Option<Passphrase>, Error> {
        if self.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(None);
        }
        let terminal = Path::new("/dev/tty");
        let Ok(file) = File::options().read(true).write(true).open(terminal) else { return Ok(None) };
        let failed = |e| Error::io("cannot ask for the passphrase", terminal, e);
        let question = format!("passphrase of {}: ", printable(&image.display().to_string()));
        let silent = Silent::new(&file).map_err(failed)?;
        (&file).write_all(question.as_bytes()).map_err(failed)?;
        let line = read_line(&file).map_err(failed);
        drop(silent);
        (&file).write_all(b"\n").map_err(failed)?;
        match line? {
            Some(line) => Ok(Some(Passphrase::new(line.to_vec()))),
            None => Err(Error::new(Kind::Interrupted, "interrupted")),
        }
    }
}

/// A terminal that shows nothing and passes each key on, until this is dropped.
struct Silent<'a> {
    file: &'a File,
    before: Termios,
}

impl Silent<'_> {
    fn new(file: &File) -> io::Result<Silent<'_>> {
        let before = tcgetattr(file)?;
        let mut silent = before.clone();
        // Ctrl-C is read like any other key: as a signal it would end the program before the terminal shows text again.
        silent.local_flags &=
            !(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        silent.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        silent.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(file, SetArg::TCSADRAIN, &silent)?;
        Ok(Silent { file, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.file, SetArg::TCSADRAIN, &self.before);
    }
}

/// Reads a line from a terminal that does not edit it. None if the user interrupts.
fn read_line(mut keys: impl Read) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // As long as it may become, so that it never has to be copied to grow: the old copy would stay in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(Passphrase::MAX));
    let mut key = [0];
    loop {
        let read = match keys.read(&mut key) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        match key[0] {
            _ if read == 0 => return Ok(None),
            b'\r' | b'\n' => break,
            // Ctrl-C, Ctrl-\, and Ctrl-D where nothing was typed.
            3 | 28 => return Ok(None),
            4 if line.is_empty() => return Ok(None),
            4 => break,
            // Backspace removes a character of UTF-8.
            8 | 127 => while line.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {},
            // Ctrl-U.
            21 => line.clear(),
            byte if line.len() < Passphrase::MAX => line.push(byte),
            _ => {}
        }
    }
    key.zeroize();
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_edited_like_any_other() {
        let read = |keys: &[u8]| read_line(keys).unwrap().map(|line| line.to_vec());
        assert_eq!(read(b"abc\r"), Some(b"abc".to_vec()));
        assert_eq!(read("ab\u{e4}\x7f\x08c\n".as_bytes()), Some(b"ac".to_vec()));
        assert_eq!(read(b"wrong\x15right\n"), Some(b"right".to_vec()));
        assert_eq!(read(b"ab\x04"), Some(b"ab".to_vec()));
        for keys in [&b"ab\x03"[..], b"\x04", b"ab\x1c", b"ab"] {
            assert_eq!(read(keys), None);
        }
        assert_eq!(read(&[&[b'x'; 5000][..], b"\n"].concat()).unwrap().len(), Passphrase::MAX);
    }
}
