//! What ends the reads of an image's remote files: a fault, where one is enough, and the user.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cdi_base::error::{Error, Kind};
use cdi_base::workers::lock;

use super::fault::Fault;

/// The flags that end all reads of remote files once they are set.
static FLAGS: Mutex<Vec<Arc<AtomicBool>>> = Mutex::new(Vec::new());

/// From now on, remote reads of this process end once `flag` is set.
pub(in crate::input) fn end_reads_when(flag: &Arc<AtomicBool>) {
    lock(&FLAGS).push(Arc::clone(flag));
}

/// Takes back [`end_reads_when`].
pub(in crate::input) fn forget(flag: &Arc<AtomicBool>) {
    lock(&FLAGS).retain(|known| !Arc::ptr_eq(known, flag));
}

/// Returns whether reads are to end.
pub(super) fn is_ended() -> bool {
    lock(&FLAGS).iter().any(|flag| flag.load(Ordering::Relaxed))
}

/// The first fault of a server that a reader of the image has met, and what follows from it.
pub(super) struct Watch {
    first: Mutex<Option<(PathBuf, String, Fault)>>,
    /// How many want every read to succeed.
    required: AtomicUsize,
    /// Whether the image is being opened.
    opening: AtomicBool,
}

impl Watch {
    pub(super) fn new() -> Watch {
        Watch { first: Mutex::default(), required: AtomicUsize::new(0), opening: AtomicBool::new(true) }
    }

    /// Takes note of a fault, unless it is not the first: `what` could not be done with the file at `url`.
    pub(super) fn note(&self, url: &Path, what: impl Into<String>, fault: &Fault) {
        lock(&self.first).get_or_insert_with(|| (url.to_owned(), what.into(), fault.clone()));
    }

    /// Returns the first fault as an error of the whole work.
    pub(super) fn error(&self) -> Option<Error> {
        let (url, what, fault) = lock(&self.first).clone()?;
        if fault == Fault::Interrupted {
            return Some(Error::new(Kind::Interrupted, "interrupted"));
        }
        let changed = matches!(fault, Fault::Changed | Fault::Missing);
        let error = Error::io(what, &url, fault.io());
        Some(if self.opening.load(Ordering::Relaxed) {
            error
        } else if changed {
            error.hint("the file was replaced or removed while it was read; the same command reads it from the start")
        } else {
            error.hint(
                "this says nothing about the image: give the same command again when the server answers",
            )
        })
    }

    /// Begins, or ends, to want that every read succeeds. At the beginning, earlier faults are forgotten.
    pub(super) fn require(&self, begins: bool) {
        if !begins {
            self.required.fetch_sub(1, Ordering::Relaxed);
        } else if self.required.fetch_add(1, Ordering::Relaxed) == 0 {
            *lock(&self.first) = None;
        }
    }

    /// Notes that the image is open.
    pub(super) fn opened(&self) {
        self.opening.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_opening(&self) -> bool {
        self.opening.load(Ordering::Relaxed)
    }

    /// Returns why no read may wait any longer.
    pub(super) fn stops(&self) -> Option<Fault> {
        if is_ended() {
            return Some(Fault::Interrupted);
        }
        // While an image is opened, one fault is enough, too.
        if self.required.load(Ordering::Relaxed) == 0 && !self.is_opening() {
            return None;
        }
        lock(&self.first).as_ref().map(|(.., fault)| fault.clone())
    }
}
