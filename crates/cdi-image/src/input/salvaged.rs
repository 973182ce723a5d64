//! A file of which not everything can be read, for a repair: zeros stand where nothing can be read, and no checksum holds
//! there.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cdi_base::error::Error;
use cdi_base::units::index;

use super::{Input, ReadAt};

/// How much is given up together, in bytes: a page, in which the system reads files.
const PIECE: u64 = 4096;

/// Where a file could not be read first, in bytes, once that has happened.
pub type FirstUnreadable = Arc<OnceLock<u64>>;

struct Salvaged {
    source: Arc<dyn ReadAt>,
    first: FirstUnreadable,
}

impl ReadAt for Salvaged {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        match self.source.read_at(buf, at) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {}
            read => return read,
        }
        let mut done = 0;
        while done < buf.len() {
            let from = at + done as u64;
            let len = index(PIECE - from % PIECE).min(buf.len() - done);
            let piece = &mut buf[done..done + len];
            match self.source.read_at(piece, from) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    let _ = self.first.set(from);
                    piece.fill(0);
                    done += len;
                }
            }
        }
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        self.source.len()
    }
}

/// Returns `input` with zeros in place of what cannot be read. A file on another system stays as it is: what a server does
/// not give now, it may give later.
pub fn salvaged(input: Input) -> Result<(Input, FirstUnreadable), Error> {
    let first = FirstUnreadable::default();
    if input.is_remote() || input.is_directory() {
        return Ok((input, first));
    }
    let name: PathBuf = input.name().to_owned();
    let source = Arc::new(Salvaged { source: input.source(), first: Arc::clone(&first) });
    Ok((input.within(source, &name)?, first))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    struct Failing(Vec<u8>);

    impl ReadAt for Failing {
        fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
            let end = at + buf.len() as u64;
            if at < 9000 && end > 8500 {
                Err(io::Error::from_raw_os_error(5))
            } else {
                self.0.read_at(buf, at)
            }
        }
        fn len(&self) -> io::Result<u64> {
            ReadAt::len(&self.0)
        }
    }

    #[test]
    fn zeros_stand_where_nothing_can_be_read() {
        let input = Input::new(Box::new(Failing(vec![9; 20_000])), Path::new("x.cdimg")).unwrap();
        let (input, first) = salvaged(input).unwrap();
        let bytes = input.bytes(100, 19_000, "all").unwrap();
        let (from, to) = (8192 - 100, 12_288 - 100);
        assert!(bytes[..from].iter().chain(&bytes[to..]).all(|b| *b == 9));
        assert!(bytes[from..to].iter().all(|b| *b == 0));
        assert_eq!(first.get(), Some(&8192));
    }
}
