//! The stages of a run of imaging: which part of the disk the passes are on, and what comes after it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::error::Error;
use cdi_base::workers::lock;
use serde_json::json;

use super::ranges::Ranges;
use super::scan::{Scan, Survey};
use super::{FileCount, First, Order};
use crate::rescue::demands::Turns;
use crate::rescue::event;
use crate::rescue::passes::{Next, Passes, Position, Why};
use crate::rescue::reader::{CoordinatorGone, End, Found, Reader};

/// The maximum number of times that an image is scanned for metadata. A directory can say where the next one is: a chain of
/// them could go on for as long as the disk is large.
const MAX_ROUNDS: u32 = 64;
/// The smallest unit of what is wanted, in bytes: the block size of most file systems.
const GRAIN: u64 = 4096;

/// Where a run is.
pub(in crate::rescue) struct Stages {
    order: Order,
    path: PathBuf,
    state: State,
    /// What comes after this stage.
    next: VecDeque<First>,
    /// The position in the whole domain, to be continued after the last stage.
    position: Option<Position>,
    /// Everything that was wanted so far; of metadata, and in all.
    metadata: Ranges,
    covered: Ranges,
    /// How many bytes were read in this run before the last scan.
    scanned_at: u64,
    /// Whether the disk has shown an error, or a read took long.
    pub(in crate::rescue) trouble: bool,
}

enum State {
    /// The whole domain is being read, and nothing has called for another order yet.
    Waiting,
    /// Metadata is being read: the number of scans so far.
    Metadata(u32),
    /// This is being read.
    Reading(First),
    /// The last stage.
    Last,
}

impl Stages {
    /// Returns the stages of a run that writes the image at `path`.
    pub(in crate::rescue) fn new(order: Order, path: &Path, passes: &Passes) -> Stages {
        let grain = passes.plan().unit.max(GRAIN);
        Stages {
            state: if order.first.is_empty() { State::Last } else { State::Waiting },
            // Metadata comes first in any case.
            next: order.first.iter().filter(|first| !matches!(first, First::Metadata)).cloned().collect(),
            trouble: passes.met_errors(),
            order,
            path: path.to_owned(),
            position: None,
            metadata: Ranges::new(grain),
            covered: Ranges::new(grain),
            scanned_at: 0,
        }
    }

    /// Returns whether it is time to leave the order of the sectors.
    pub(in crate::rescue) fn are_due(&self, passes: &Passes) -> bool {
        let trouble = self.trouble || passes.is_slow();
        let due = !self.order.in_trouble_only || (trouble && passes.is_copying());
        matches!(self.state, State::Waiting) && due
    }

    /// Returns whether other parts of the disk may have to be read after this one.
    pub(in crate::rescue) fn are_left(&self) -> bool {
        matches!(self.state, State::Metadata(_) | State::Reading(_))
    }
}

impl Reader {
    /// Begins the next stage, after the passes over this one have ended. Returns whether there may be something to read.
    pub(in crate::rescue) fn next_stage(&mut self) -> Result<bool, CoordinatorGone> {
        while !self.is_stopped() {
            let begun = match &self.stages.state {
                State::Last => {
                    self.count_files()?;
                    return Ok(false);
                }
                State::Waiting if !self.stages.are_due(&self.passes) => return Ok(false),
                State::Waiting => {
                    self.stages.position = Some(self.passes.position());
                    self.stages.state = State::Metadata(0);
                    false
                }
                State::Metadata(round) => self.metadata_round(*round)?,
                State::Reading(first) => {
                    let first = first.clone();
                    self.end_stage(&first)?;
                    if self.stages.next.is_empty() {
                        self.count_files()?;
                    }
                    self.begin_next()?
                }
            };
            if begun {
                break;
            }
        }
        Ok(true)
    }

    /// Looks for metadata that is not read yet. Returns whether there may be something to read now.
    fn metadata_round(&mut self, round: u32) -> Result<bool, CoordinatorGone> {
        let Some(survey) = self.survey(&First::Metadata)? else { return Ok(self.begin_last()) };
        self.stages.metadata.add_all(survey.wanted.clone());
        self.stages.covered.add_all(survey.wanted);
        if round < MAX_ROUNDS && self.passes.begin_part(self.stages.metadata.get(), Some(0)) {
            self.stages.state = State::Metadata(round + 1);
            let total = self.stages.metadata.bytes_within(&self.passes.plan().domain);
            self.begin_stage("metadata", total)?;
            return Ok(true);
        }
        if round > 0 {
            self.end_stage(&First::Metadata)?;
        }
        if survey.file_systems.is_empty() && !self.stages.order.only {
            return Ok(self.begin_last());
        }
        self.begin_next()
    }

    /// Begins what is next in the order. Returns whether there may be something to read.
    fn begin_next(&mut self) -> Result<bool, CoordinatorGone> {
        let Some(first) = self.stages.next.pop_front() else { return Ok(self.begin_last()) };
        let Some(Survey { mut ranges, .. }) = self.survey(&first)? else { return Ok(self.begin_last()) };
        if matches!(first, First::Files { .. }) && ranges.get().is_empty() {
            lock(&self.view).unmatched.push(first.name().to_owned());
        }
        self.stages.covered.add_all(ranges.clone());
        let last = self.stages.order.only && self.stages.next.is_empty();
        let all = last || matches!(first, First::Used);
        let part = if all { &mut self.stages.covered } else { &mut ranges };
        let total = part.bytes_within(&self.passes.plan().domain);
        let any = self.passes.begin_part(part.get(), Some(0));
        if last {
            let left_out = self.passes.leave_out_the_rest();
            let mut view = lock(&self.view);
            (view.wanted, view.left_out) = (total, Some(left_out));
        }
        self.begin_stage(first.name(), total)?;
        self.stages.state = State::Reading(first);
        Ok(any)
    }

    /// Counts the files that can be read, if something was read since they were counted.
    fn count_files(&mut self) -> Result<(), CoordinatorGone> {
        let (known, read) = {
            let view = lock(&self.view);
            (view.files.is_some(), view.read)
        };
        if known && self.stages.scanned_at != read {
            self.survey(&First::Metadata)?;
        }
        Ok(())
    }

    /// Begins the last stage: the rest of the disk, and the retry passes. If the run is being stopped, nothing.
    fn begin_last(&mut self) -> bool {
        if self.is_stopped() {
            return true;
        }
        self.stages.state = State::Last;
        lock(&self.view).in_stage = false;
        if self.stages.order.only && lock(&self.view).left_out.is_some() {
            let retries = self.passes.plan().retries;
            self.passes.begin_part(self.stages.covered.get(), retries);
        } else if let Some(position) = self.stages.position.take() {
            self.passes.continue_at(&position);
        }
        true
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Shows and logs what is being read now: `total` bytes, of which some may have been read before.
    fn begin_stage(&self, name: &str, total: u64) -> Result<(), CoordinatorGone> {
        let left = self.passes.areas().left();
        lock(&self.view).begin_stage(name, total, left);
        self.send(Found::Event(event(
            "stage",
            json!({ "stage": name, "wanted_bytes": total, "left_bytes": left }),
        )))
    }

    fn end_stage(&self, first: &First) -> Result<(), CoordinatorGone> {
        lock(&self.view).count(&self.passes);
        let left = self.passes.areas().left();
        self.send(Found::Event(event("stage-ended", json!({ "stage": first.name(), "left_bytes": left }))))
    }

    /// Finds out whether errors of demands during a scan were due to a dead drive: they must not be taken for those of the next
    /// stage.
    fn settle_now(&mut self) -> Result<(), CoordinatorGone> {
        while self.ended.is_none() && self.passes.settle() {
            match self.passes.next_read() {
                Next::Read(read) if read.why == Why::Check => {
                    if let Err(end) = self.read(&read, Instant::now())? {
                        self.ended = Some(end);
                    }
                }
                Next::Dead => self.ended = Some(End::Dead),
                _ => break,
            }
        }
        self.send_map_changes()
    }

    /// Runs `scan` on a thread of its own, and answers the programs that read the disk meanwhile.
    fn answer_meanwhile<T: Send>(
        &mut self,
        scan: impl FnOnce() -> T + Send,
    ) -> Result<thread::Result<T>, CoordinatorGone> {
        thread::scope(|scope| {
            let scan = scope.spawn(scan);
            while !scan.is_finished() {
                // The passes do not need the disk now.
                self.turns = Turns::new();
                match self.answer_demand()? {
                    Ok(true) => {}
                    Ok(false) => thread::sleep(Duration::from_millis(2)),
                    Err(end) => {
                        self.ended = Some(end);
                        break;
                    }
                }
            }
            Ok(scan.join())
        })
    }

    /// Scans the image for `first`. None if the run is being stopped, or if the image cannot be scanned: then the order of the
    /// sectors is as good as any.
    fn survey(&mut self, first: &First) -> Result<Option<Survey>, CoordinatorGone> {
        self.send_pieces()?;
        self.send_map_changes()?;
        let start = Instant::now();
        {
            let mut view = lock(&self.view);
            (view.reading, view.scanning) = (None, Some(start));
            self.stages.scanned_at = view.read;
            view.count(&self.passes);
        }
        let (written, wait) = sync_channel(1);
        self.send(Found::Checkpoint(written))?;
        wait.recv().map_err(|_| CoordinatorGone)?;
        let plan = self.passes.plan();
        let scan = Scan {
            path: &self.stages.path,
            domain: &plan.domain,
            grain: plan.unit.max(GRAIN),
            trim: plan.trim,
            scrape: plan.scrape,
            stop: &self.stop,
        };
        // A mistake in the code for a file system must not end the imaging.
        let result = match self.live.is_some() {
            false => catch_unwind(AssertUnwindSafe(|| scan.survey(first))),
            true => {
                let (scan, domain, path) = (scan, plan.domain.clone(), self.stages.path.clone());
                let (stop, Scan { grain, trim, scrape, .. }) = (Arc::clone(&self.stop), scan);
                let scan = move || {
                    Scan { path: &path, domain: &domain, grain, trim, scrape, stop: &stop }.survey(first)
                };
                self.answer_meanwhile(scan)?
            }
        };
        let result = result.unwrap_or_else(|_| Err(Error::failed("the scan has failed")));
        self.settle_now()?;
        let took = start.elapsed();
        {
            let mut view = lock(&self.view);
            view.scanning = None;
            view.last_good += took;
            if let Ok(survey) = &result
                && survey.files != FileCount::default()
                && !self.is_stopped()
            {
                view.files = Some(survey.files);
            }
        }
        if self.is_stopped() {
            return Ok(None);
        }
        let mut what = json!({
            "for": first.name(),
            "milliseconds": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        let survey = match result {
            Ok(mut survey) => {
                what["file_systems"] = json!(survey.file_systems);
                what["files"] = json!(survey.files.known);
                what["files_whole"] = json!(survey.files.whole);
                what["unreadable_records"] = json!(survey.files.unreadable_records);
                what["wanted_bytes"] = json!(survey.wanted.bytes_within(&self.passes.plan().domain));
                Some(survey)
            }
            Err(e) => {
                what["error"] = json!(e.to_string());
                None
            }
        };
        self.send(Found::Event(event("scan", what)))?;
        Ok(survey)
    }
}
