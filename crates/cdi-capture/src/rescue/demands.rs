//! Reads that programs ask for while the disk is imaged: they come before the next read of the passes, and take turns with
//! them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use cdi_base::workers::lock;

use super::passes::{Demanded, Read, Why};
use super::reader::{CoordinatorGone, End, Reader};

/// The answer to a demand.
#[derive(Debug)]
pub(super) enum Answer {
    /// Bytes of the disk from an offset on, at least those at the start of the demand.
    Bytes(u64, Vec<u8>),
    /// The start was read a moment ago, and will be in the image in another moment.
    Coming,
    /// The start cannot be read; whether it may turn out to be good.
    Failed { untried: bool },
}

/// A range of the disk that a program asks for.
pub(super) struct Demand {
    number: u64,
    /// The range, and the byte that must be read first.
    pub range: Range<u64>,
    pub at: u64,
    pub answer: SyncSender<Answer>,
}

struct Queue {
    /// Whether there is a disk to read.
    open: bool,
    /// The number of the next demand.
    next: u64,
    waiting: VecDeque<Demand>,
}

/// The demands that wait for the disk, the oldest first.
pub(super) struct Demands(Mutex<Queue>);

impl Demands {
    /// Creates the queue for a disk that is about to be read.
    pub(super) fn new() -> Demands {
        Demands(Mutex::new(Queue { open: true, next: 0, waiting: VecDeque::new() }))
    }

    /// Sets whether the disk is being read. Demands that wait when it no longer is fail.
    pub(super) fn set_open(&self, open: bool) {
        let mut queue = lock(&self.0);
        queue.open = open;
        if !open {
            queue.waiting.clear();
        }
    }

    /// Returns whether the disk is being read.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.0).open
    }

    /// Adds a demand. Returns its number, and where the answer comes; None if the disk is not being read.
    pub(super) fn add(&self, range: Range<u64>, at: u64) -> Option<(u64, Receiver<Answer>)> {
        let mut queue = lock(&self.0);
        if !queue.open {
            return None;
        }
        let (answer, receiver) = sync_channel(1);
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back(Demand { number, range, at, answer });
        Some((number, receiver))
    }

    /// Withdraws a demand that waits.
    pub(super) fn withdraw(&self, number: u64) {
        lock(&self.0).waiting.retain(|demand| demand.number != number);
    }

    /// Takes the oldest demand.
    pub(super) fn take(&self) -> Option<Demand> {
        lock(&self.0).waiting.pop_front()
    }
}

/// How the time of the disk is divided: demands come first, but the passes have at least a quarter of the time while there are
/// demands all the time.
pub(super) struct Turns {
    /// The time that demands may take before a read of the passes, in seconds.
    credit: f64,
}

/// The time that demands may take after a second of the passes, and the most that they can save up, in seconds.
const SHARE: f64 = 3.0;
const MOST: f64 = 3.0;

impl Turns {
    pub(super) fn new() -> Turns {
        Turns { credit: MOST }
    }

    /// Returns whether it is the turn of a demand.
    pub(super) fn is_demands(&self) -> bool {
        self.credit > 0.0
    }

    /// Notes that a demand took the disk for this long.
    pub(super) fn demand_took(&mut self, took: Duration) {
        // A read that hangs must not be held against the others for hours.
        self.credit = (self.credit - took.as_secs_f64()).max(-MOST);
    }

    /// Notes that a read of the passes took this long.
    pub(super) fn pass_took(&mut self, took: Duration) {
        self.credit = (self.credit + SHARE * took.as_secs_f64()).min(MOST);
    }
}

impl Reader {
    /// Answers the demand that has waited longest, if it is its turn. Returns whether there was one.
    pub(super) fn answer_demand(&mut self) -> Result<Result<bool, End>, CoordinatorGone> {
        let demand =
            self.live.as_ref().filter(|_| self.turns.is_demands()).and_then(|live| live.demands.take());
        let Some(Demand { range, at, answer, .. }) = demand else { return Ok(Ok(false)) };
        // If nobody waits for the answer any more, what was read is in the image even so.
        let reply = |what| {
            let _ = answer.try_send(what);
        };
        let range = match self.passes.demanded(at, &range) {
            Demanded::Read(range) => range,
            Demanded::Held => {
                // It may be waiting for the pieces next to it.
                self.send_pieces()?;
                reply(Answer::Coming);
                return Ok(Ok(true));
            }
            Demanded::Failed { untried } => {
                reply(Answer::Failed { untried });
                return Ok(Ok(true));
            }
        };
        let start = Instant::now();
        {
            let mut view = lock(&self.view);
            (view.at, view.reading) = (range.start, Some(start));
        }
        let read = Read { range, why: Why::Demand };
        let result = self.read(&read, start)?;
        self.turns.demand_took(start.elapsed());
        self.send_map_changes()?;
        let mut view = lock(&self.view);
        view.count(&self.passes);
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(end) => return Ok(Err(end)),
        };
        view.demanded.reads += 1;
        view.demanded.bytes += bytes.len() as u64;
        view.demanded.failed += u64::from((bytes.len() as u64) < read.range.end - read.range.start);
        drop(view);
        reply(match self.passes.demanded(at, &read.range) {
            Demanded::Held => Answer::Bytes(read.range.start, bytes),
            Demanded::Failed { untried } => Answer::Failed { untried },
            Demanded::Read(_) => Answer::Failed { untried: true },
        });
        Ok(Ok(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_demands_nor_passes_wait_forever() {
        for (demand, pass) in [(1, 1), (10, 1), (1, 100), (30_000, 5), (5, 30_000)] {
            let (demand, pass) = (Duration::from_millis(demand), Duration::from_millis(pass));
            let mut turns = Turns::new();
            let (mut demands, mut passes) = (Duration::ZERO, Duration::ZERO);
            // Demands all the time, for long.
            let (mut in_a_row, mut longest) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..100_000 {
                if turns.is_demands() {
                    turns.demand_took(demand);
                    demands += demand;
                    in_a_row = Duration::ZERO;
                } else {
                    turns.pass_took(pass);
                    passes += pass;
                    in_a_row += pass;
                    longest = longest.max(in_a_row);
                }
            }
            let share = passes.as_secs_f64() / (demands + passes).as_secs_f64();
            assert!(share > 0.02 && share < 0.999, "{demand:?} {pass:?}: the passes have {share}");
            assert!(longest <= Duration::from_secs(2).max(pass), "{demand:?} {pass:?}: {longest:?}");
        }
    }

    #[test]
    fn a_demand_is_answered_withdrawn_or_refused() {
        let demands = Demands::new();
        let (first, _answer) = demands.add(0..512, 0).unwrap();
        let (_, second) = demands.add(512..1024, 512).unwrap();
        demands.withdraw(first);
        let taken = demands.take().unwrap();
        assert_eq!(taken.range, 512..1024);
        taken.answer.send(Answer::Coming).unwrap();
        assert!(matches!(second.recv(), Ok(Answer::Coming)));
        let (_, third) = demands.add(0..512, 0).unwrap();
        demands.set_open(false);
        assert!(third.recv().is_err() && demands.take().is_none() && demands.add(0..512, 0).is_none());
    }
}
