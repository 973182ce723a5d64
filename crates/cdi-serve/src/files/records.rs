//! The records of the files that were read last, so that a file that is read in order has its record parsed once.

use std::sync::{Arc, Mutex};

use cdi_base::workers::lock;
use cdi_fs::file_system::{Data, Place, Record, Run};

/// The most records that are kept.
const MAX_RECORDS: usize = 64;
/// The most memory of all that are kept, in bytes; the one that was used last is kept however large it is.
const MAX_MEMORY: usize = 16 << 20;

/// What is needed of a record to read the file.
pub(super) struct Opened {
    pub data: Data,
    pub target: Option<Vec<u8>>,
}

impl Opened {
    pub(super) fn new(record: Record) -> Opened {
        Opened { data: record.data, target: record.target }
    }

    fn memory(&self) -> usize {
        let place = match &self.data.place {
            Place::Inline(bytes) => bytes.capacity(),
            Place::Runs(runs) | Place::Units(_, runs) => runs.capacity() * size_of::<Run>(),
        };
        place + self.target.as_ref().map_or(0, Vec::capacity)
    }
}

/// The records that were used last, the last one first, by the number of the file.
#[derive(Default)]
pub(super) struct Records(Mutex<Vec<(u64, Arc<Opened>)>>);

impl Records {
    /// Returns a record that is kept.
    pub(super) fn get(&self, file: u64) -> Option<Arc<Opened>> {
        let mut kept = lock(&self.0);
        let at = kept.iter().position(|(f, _)| *f == file)?;
        kept[..=at].rotate_right(1);
        Some(Arc::clone(&kept[0].1))
    }

    /// Keeps a record.
    pub(super) fn keep(&self, file: u64, opened: &Arc<Opened>) {
        let mut kept = lock(&self.0);
        kept.retain(|(f, _)| *f != file);
        kept.insert(0, (file, Arc::clone(opened)));
        kept.truncate(MAX_RECORDS);
        let mut memory = 0;
        let within = kept.iter().take_while(|(_, opened)| {
            memory += opened.memory();
            memory <= MAX_MEMORY
        });
        let within = within.count().max(1);
        kept.truncate(within);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_records_are_kept_and_not_more_than_fit() {
        let opened = |len: usize| {
            let data = Data { size: len as u64, place: Place::Inline(vec![0; len]), packed: None };
            Arc::new(Opened { data, target: None })
        };
        let records = Records::default();
        for file in 0..=MAX_RECORDS as u64 {
            records.keep(file, &opened(1));
            assert!(records.get(1).is_some() || file == 0);
        }
        assert!(records.get(0).is_none(), "the oldest");
        assert!(records.get(2).is_some() && records.get(1).is_some());
        records.keep(100, &opened(MAX_MEMORY + 1));
        assert!(records.get(100).is_some() && records.get(1).is_none());
        records.keep(101, &opened(1));
        assert!(records.get(100).is_none() && records.get(101).is_some());
    }
}
