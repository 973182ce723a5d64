//! Sectors that contain the mark of a bad sector: for formats that mark these where their data would be.

use cdi_base::error::ReadError;
use cdi_base::units::index;

use super::core::Core;

impl Core {
    /// Looks for bad sectors, which contain `mark`, in `buf`, which was read from `at`. The first one is an error or, if
    /// `filled`, all of them are filled according to the policy.
    pub(super) fn apply_mark(
        &self,
        mark: &[u8],
        buf: &mut [u8],
        at: u64,
        filled: bool,
    ) -> Result<(), ReadError> {
        let sector = u64::from(self.sector);
        let mut from = 0;
        while from < buf.len() && mark.len() as u64 == sector {
            let offset = at + from as u64;
            let start = offset - offset % sector;
            let to = buf.len().min(from + index(start + sector - offset));
            let part = index(offset - start)..index(offset - start) + (to - from);
            let is_whole = part.len() == mark.len();
            if buf[from..to] == mark[part] && (is_whole || self.is_marked(mark, start)?) {
                if !filled {
                    return Err(ReadError::Bad { sector: start / sector, good: from, untried: false });
                }
                self.fill_bad(&mut buf[from..to], offset);
            }
            from = to;
        }
        Ok(())
    }

    /// Checks whether the sector at `start` contains `mark`, of which only a part was read.
    fn is_marked(&self, mark: &[u8], start: u64) -> Result<bool, ReadError> {
        if start + mark.len() as u64 > self.image.size() {
            return Ok(false);
        }
        let mut sector = vec![0; mark.len()];
        self.read_held(&mut sector, start, false)?;
        Ok(sector == mark)
    }
}
