//! The files about the disk, as of one moment: those of a disk that is being imaged change.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use cdi_base::printable;
use cdi_base::workers::lock;
use cdi_image::badmap::BadBlocks;
use cdi_image::badmap::mapfile::Mapfile;
use cdi_image::text::listing::Index;

use crate::served::Served;
use crate::texts;

/// A file about the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    /// `badblocks.json`.
    BadBlocks,
    /// `badblocks.map`.
    Mapfile,
    /// `info.json`.
    Info,
}

/// All of them, as of one moment.
pub(crate) struct Documents {
    served: Served,
    /// The map of that moment; None: that of the image, which does not change.
    map: Option<BadBlocks>,
    info: Vec<u8>,
    /// Indexed on first use: a long map is a long text.
    badblocks: OnceLock<Index>,
    mapfile: OnceLock<Index>,
    /// When they were made; None: they do not change.
    made: Option<(Instant, SystemTime)>,
}

impl Documents {
    fn of(served: &Served) -> Documents {
        let (map, info) = match served.now() {
            Ok(disk) => (None, texts::info(disk)),
            Err(live) => {
                let bad = live.bad();
                let info = texts::live_info(live, &bad);
                (Some(bad), info)
            }
        };
        Documents {
            made: map.is_some().then(|| (Instant::now(), SystemTime::now())),
            map,
            info: printable::json(&format!("{info:#}\n")).into_bytes(),
            served: served.clone(),
            badblocks: OnceLock::new(),
            mapfile: OnceLock::new(),
        }
    }

    /// Returns when they were made, if they change.
    pub(crate) fn made(&self) -> Option<SystemTime> {
        self.made.map(|(_, time)| time)
    }

    fn map(&self) -> Cow<'_, BadBlocks> {
        self.map.as_ref().map_or_else(|| self.served.bad(), Cow::Borrowed)
    }

    /// Returns the length of one of them in bytes.
    pub(crate) fn size(&self, which: Document) -> u64 {
        let (map, size, sector) = (self.map(), self.served.size(), self.served.sector());
        match which {
            Document::BadBlocks => {
                let text = texts::BadBlocks { map: &map, size, sector };
                self.badblocks.get_or_init(|| Index::of(&text)).size()
            }
            Document::Mapfile => self.mapfile.get_or_init(|| Index::of(&Mapfile { map: &map, size })).size(),
            Document::Info => self.info.len() as u64,
        }
    }

    /// Fills `buf` with the bytes of one of them from `offset`. Returns whether it has all of them.
    fn read(&self, which: Document, offset: u64, buf: &mut [u8]) -> bool {
        let (map, size, sector) = (self.map(), self.served.size(), self.served.sector());
        match which {
            Document::BadBlocks => {
                let text = texts::BadBlocks { map: &map, size, sector };
                self.badblocks.get_or_init(|| Index::of(&text)).read(&text, offset, buf)
            }
            Document::Mapfile => {
                let text = Mapfile { map: &map, size };
                self.mapfile.get_or_init(|| Index::of(&text)).read(&text, offset, buf)
            }
            Document::Info => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let text = self.info.get(from..).and_then(|text| text.get(..buf.len()));
                text.map(|text| buf.copy_from_slice(text)).is_some()
            }
        }
    }
}

/// How old they may become while the disk is imaged.
const RENEW: Duration = Duration::from_secs(2);

/// The files about the disk as they are shown now.
pub(crate) struct Shown {
    served: Served,
    state: Mutex<State>,
}

struct State {
    documents: Arc<Documents>,
    /// When somebody read a part of one that was neither its start nor its end: what follows must fit.
    half_read: Option<Instant>,
}

impl Shown {
    /// Makes the files about `served`.
    pub(crate) fn new(served: &Served) -> Shown {
        let documents = Arc::new(Documents::of(served));
        Shown { served: served.clone(), state: Mutex::new(State { documents, half_read: None }) }
    }

    /// Returns the files as of now, or of a moment ago.
    pub(crate) fn now(&self) -> Arc<Documents> {
        let mut state = lock(&self.state);
        let is_old = state.documents.made.is_some_and(|(made, _)| made.elapsed() > RENEW);
        if is_old && state.half_read.is_none_or(|at| at.elapsed() > RENEW) {
            state.documents = Arc::new(Documents::of(&self.served));
            state.half_read = None;
        }
        Arc::clone(&state.documents)
    }

    /// Fills `buf` with the bytes of one of them from `offset`. Returns whether it has all of them.
    pub(crate) fn read(&self, which: Document, offset: u64, buf: &mut [u8]) -> bool {
        let documents = if offset == 0 { self.now() } else { Arc::clone(&lock(&self.state).documents) };
        if documents.made.is_some() {
            let ends = offset.saturating_add(buf.len() as u64) >= documents.size(which);
            lock(&self.state).half_read = (!ends).then(Instant::now);
        }
        documents.read(which, offset, buf)
    }
}
