//! Scans on demand: the partition table when `files` is first looked into, a volume when its directory is. One thread scans,
//! one after another: more would only make the disk seek, and need the memory of several catalogues.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cdi_base::error::ReadError;
use cdi_base::workers::{self, lock};
use cdi_fs::catalogue::Catalogue;
use cdi_fs::recognize::Recognized;
use cdi_fs::volumes::layout;

use super::listing::Listing;
use super::volumes::{Volume, volumes};
use super::watched::Watched;
use crate::served::Served;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// What volumes there are.
    Layout,
    /// The files of a volume, by index.
    Volume(usize),
}

/// What is known of something that can be scanned.
enum Stage<T> {
    New,
    Queued,
    Done(Arc<T>),
    /// The scan panicked.
    Failed,
}

/// A volume's files, and when they were asked for last.
struct Slot {
    stage: Stage<Listing>,
    used: u64,
    /// How many scans could have had other results: the disk was being imaged.
    generation: u8,
    /// Whether something could not be read that may be readable once the disk is imaged.
    partial: bool,
}

impl Slot {
    fn new(stage: Stage<Listing>, generation: u8) -> Slot {
        Slot { stage, used: 0, generation, partial: false }
    }
}

type Waiter = Box<dyn FnOnce() + Send>;

struct State {
    layout: Stage<Vec<Volume>>,
    /// Whether something of it could not be read that may be readable once the disk is imaged.
    layout_partial: bool,
    /// The generation at which those of volumes begin: others after the layout was scanned again.
    generation: u8,
    volumes: Vec<Slot>,
    queue: VecDeque<Scan>,
    /// Whether there is a thread that scans.
    scanning: bool,
    /// What is done when a scan has ended.
    waiters: Vec<(Scan, Waiter)>,
    /// Counts uses.
    clock: u64,
}

/// All scans of a disk.
pub(super) struct Scans {
    pub(super) disk: Served,
    state: Mutex<State>,
    changed: Condvar,
    /// Nobody needs what is scanned any more.
    pub(super) stopped: AtomicBool,
    /// The most entries and names of volumes that are kept, besides the one that was used last.
    max_weight: usize,
    started: Instant,
    /// Counts scans, for tests.
    count: AtomicU64,
    /// Whether a read of the scan that is running has failed.
    pub(super) failed: AtomicBool,
    /// When the disk answered the scan last, in milliseconds after `started`.
    answered: AtomicU64,
}

impl Scans {
    pub(super) fn new(disk: Served, max_weight: usize) -> Arc<Scans> {
        let state = State {
            layout: Stage::New,
            layout_partial: false,
            generation: 0,
            volumes: Vec::new(),
            queue: VecDeque::new(),
            scanning: false,
            waiters: Vec::new(),
            clock: 0,
        };
        Arc::new(Scans {
            disk,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            max_weight,
            started: Instant::now(),
            count: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            answered: AtomicU64::new(0),
        })
    }

    /// Ends a scan that is running, soon.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns whether something must be scanned before it can be used, and begins with that.
    pub(super) fn begin(self: &Arc<Self>, scan: Scan) -> bool {
        self.pending(&mut self.lock(), scan).is_some()
    }

    /// Returns the scan that must end first: that of the layout, or the one that is meant. Begins with it.
    fn pending(self: &Arc<Self>, state: &mut State, scan: Scan) -> Option<Scan> {
        if state.layout_partial && !self.disk.is_live() {
            // The numbers of volumes may be others then.
            (state.layout, state.layout_partial) = (Stage::New, false);
            state.volumes.clear();
            state.generation = state.generation.wrapping_add(64);
        }
        let is_new = match scan {
            Scan::Layout => queued(&mut state.layout),
            // There are as many as the layout has; others are missing.
            Scan::Volume(index) => match state.volumes.get_mut(index) {
                Some(slot) => {
                    if slot.partial && !self.disk.is_live() {
                        (slot.stage, slot.partial) = (Stage::New, false);
                    }
                    queued(&mut slot.stage)
                }
                None => return self.pending(state, Scan::Layout),
            },
        }?;
        if is_new {
            state.queue.push_back(scan);
        }
        if !state.scanning {
            let scans = Arc::clone(self);
            if let Err(e) = workers::spawn("files-scan", move || scans.work()) {
                // Nothing else is queued, or there would be a thread. The next request tries again.
                log::error!("{e}");
                state.queue.clear();
                match scan {
                    Scan::Layout => state.layout = Stage::New,
                    Scan::Volume(index) => state.volumes[index].stage = Stage::New,
                }
                return None;
            }
            state.scanning = true;
        }
        Some(scan)
    }

    /// Calls `then` when something has been scanned, on the thread that scans; or at once, if there is nothing to wait for. What
    /// it needs may have to be scanned still: of a volume, only the layout may be known by then.
    pub(super) fn when_done(self: &Arc<Self>, scan: Scan, then: Waiter) {
        let mut state = self.lock();
        match self.pending(&mut state, scan) {
            Some(scan) => state.waiters.push((scan, then)),
            None => {
                drop(state);
                then();
            }
        }
    }

    /// Waits until something has been scanned, or until `end`. Returns whether it has.
    pub(super) fn wait(self: &Arc<Self>, scan: Scan, end: Instant) -> bool {
        let mut state = self.lock();
        while self.pending(&mut state, scan).is_some() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopped.load(Ordering::Relaxed) {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Returns how long the disk has not answered the scan that is running.
    pub(super) fn quiet(&self) -> Duration {
        let answered = Duration::from_millis(self.answered.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(answered)
    }

    /// Returns how many scans were begun.
    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the volumes, and waits for them.
    pub(super) fn layout(self: &Arc<Self>) -> Result<Arc<Vec<Volume>>, ReadError> {
        self.get(Scan::Layout, |state| match &state.layout {
            Stage::Done(layout) => Some(Arc::clone(layout)),
            _ => None,
        })
    }

    /// Returns the files of a volume, and waits for them.
    pub(super) fn listing(self: &Arc<Self>, index: usize) -> Result<Arc<Listing>, ReadError> {
        self.get(Scan::Volume(index), |state| {
            state.clock += 1;
            let clock = state.clock;
            let slot = state.volumes.get_mut(index)?;
            slot.used = clock;
            match &slot.stage {
                Stage::Done(listing) => Some(Arc::clone(listing)),
                _ => None,
            }
        })
    }

    fn get<T>(
        self: &Arc<Self>,
        scan: Scan,
        done: impl Fn(&mut State) -> Option<Arc<T>>,
    ) -> Result<Arc<T>, ReadError> {
        let mut state = self.lock();
        loop {
            if let Some(found) = done(&mut state) {
                return Ok(found);
            }
            let waits = self.pending(&mut state, scan).is_some();
            if !waits || self.stopped.load(Ordering::Relaxed) {
                return Err(super::FAILED);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Scans what is queued, until there is nothing more.
    fn work(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.queue.pop_front();
                state.scanning = next.is_some();
                next
            };
            let Some(scan) = next else { return };
            self.answered();
            self.count.fetch_add(1, Ordering::Relaxed);
            self.failed.store(false, Ordering::Relaxed);
            let live = self.disk.is_live();
            let scanned = catch_unwind(AssertUnwindSafe(|| self.scan(scan)));
            if scanned.is_err() {
                log::error!("a scan for files panicked: a bug in cdi");
            }
            let done = self.finish(scan, scanned.unwrap_or(Scanned::Failed), live);
            self.changed.notify_all();
            for then in done {
                let called = catch_unwind(AssertUnwindSafe(then));
                if called.is_err() {
                    log::error!("an answer after a scan panicked: a bug in cdi");
                }
            }
        }
    }

    pub(super) fn answered(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.answered.store(now, Ordering::Relaxed);
    }

    fn scan(self: &Arc<Self>, scan: Scan) -> Scanned {
        match scan {
            Scan::Layout => Scanned::Layout(volumes(layout(&Watched(self)).parts)),
            Scan::Volume(index) => {
                let Ok(layout) = self.layout() else { return Scanned::Failed };
                let Some(Volume { title, part }) = layout.get(index) else { return Scanned::Failed };
                let Recognized::Files(found) = &part.contents else { return Scanned::Failed };
                let since = Instant::now();
                let mut go_on = |_| {
                    self.answered();
                    !self.stopped.load(Ordering::Relaxed)
                };
                let catalogue = Catalogue::scan(&**found, &part.volume(&Watched(self)), &mut go_on);
                // Of a scan that was stopped, the numbers would be others.
                if self.stopped.load(Ordering::Relaxed) {
                    return Scanned::Failed;
                }
                if catalogue.left_out > 0 {
                    log::warn!("{title}: {} records and names are not shown: too many", catalogue.left_out);
                }
                let listing = Listing::new(catalogue);
                log::info!("{title}: scanned in {:?}", since.elapsed());
                Scanned::Volume(Box::new(listing))
            }
        }
    }

    /// Notes the result of a scan. Returns those who waited for it.
    fn finish(&self, scan: Scan, scanned: Scanned, live: bool) -> Vec<Waiter> {
        let partial = live && self.failed.load(Ordering::Relaxed);
        let mut state = self.lock();
        match (scan, scanned) {
            (Scan::Layout, Scanned::Layout(volumes)) => {
                let slot = |volume: &Volume| match &volume.part.contents {
                    Recognized::Files(_) => Slot::new(Stage::New, state.generation),
                    _ => Slot::new(Stage::Failed, state.generation),
                };
                state.volumes = volumes.iter().map(slot).collect();
                state.layout = Stage::Done(Arc::new(volumes));
                state.layout_partial = partial;
            }
            (Scan::Volume(index), Scanned::Volume(listing)) => {
                state.clock += 1;
                let used = state.clock;
                if let Some(slot) = state.volumes.get_mut(index) {
                    // Of an image, every scan has the same result.
                    let differs = live || slot.generation > 0;
                    let generation = slot.generation.wrapping_add(u8::from(differs));
                    let mut listing = listing;
                    listing.generation = generation;
                    *slot = Slot { stage: Stage::Done(Arc::from(listing)), used, generation, partial };
                }
                drop_oldest(&mut state.volumes, self.max_weight);
            }
            (Scan::Layout, _) => state.layout = Stage::Failed,
            (Scan::Volume(index), _) => {
                if let Some(slot) = state.volumes.get_mut(index) {
                    slot.stage = Stage::Failed;
                }
            }
        }
        let (done, rest) = std::mem::take(&mut state.waiters).into_iter().partition(|(s, _)| *s == scan);
        state.waiters = rest;
        let done: Vec<(Scan, Waiter)> = done;
        done.into_iter().map(|(_, then)| then).collect()
    }
}

/// Notes that something is going to be scanned. Returns whether it is new, or None if it has been scanned.
fn queued<T>(stage: &mut Stage<T>) -> Option<bool> {
    match stage {
        Stage::New => {
            *stage = Stage::Queued;
            Some(true)
        }
        Stage::Queued => Some(false),
        Stage::Done(_) | Stage::Failed => None,
    }
}

/// Drops what was used least recently while there is too much.
fn drop_oldest(volumes: &mut [Slot], max_weight: usize) {
    let weight = |slot: &Slot| match &slot.stage {
        Stage::Done(listing) => listing.weight(),
        _ => 0,
    };
    loop {
        let mut kept: Vec<usize> = (0..volumes.len()).filter(|i| weight(&volumes[*i]) > 0).collect();
        kept.sort_by_key(|i| volumes[*i].used);
        let all: usize = kept.iter().map(|i| weight(&volumes[*i])).sum();
        if all <= max_weight || kept.len() < 2 {
            return;
        }
        volumes[kept[0]].stage = Stage::New;
    }
}

/// What a scan found.
enum Scanned {
    Layout(Vec<Volume>),
    Volume(Box<Listing>),
    Failed,
}
