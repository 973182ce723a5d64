//! Whether a server answers. While it does not, reads must not each wait for it: there are few threads that read, and the
//! next reads would wait for these.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cdi_base::workers::lock;

use super::fault::Fault;

/// How long to wait before a read tries again whether the server answers: this part of the time limit of reads.
const PAUSE: u32 = 30;
/// How long such a read waits for the first bytes: this part of the time limit.
const PROBE: u32 = 12;

/// What is known of a server that answers or does not.
pub(super) struct Outage {
    start: Instant,
    /// The time limit of reads.
    limit: Duration,
    /// When bytes of a file last came, in milliseconds from the start; 0 if none did.
    heard: AtomicU64,
    down: Mutex<Option<Down>>,
}

/// The server does not answer.
struct Down {
    since: Instant,
    fault: Fault,
    next: Instant,
    is_tried: bool,
}

/// A read that may ask the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    began: Instant,
    is_probe: bool,
}

impl Outage {
    pub(super) fn new(limit: Duration) -> Outage {
        Outage { start: Instant::now(), limit, heard: AtomicU64::new(0), down: Mutex::default() }
    }

    /// Notes that bytes came.
    pub(super) fn note_heard(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.fetch_max(now, Ordering::Relaxed);
    }

    /// Returns whether bytes came after `when`.
    fn is_heard_since(&self, when: Instant) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        heard > 0 && self.start + Duration::from_millis(heard) > when
    }

    /// Begins a read. While the server does not answer, that is an error, but for one read every few seconds; `may_try`
    /// says whether this one may be it.
    pub(super) fn begin(&self, may_try: bool) -> Result<Turn, Fault> {
        let began = Instant::now();
        let mut state = lock(&self.down);
        let Some(down) = state.as_mut().filter(|down| !self.is_heard_since(down.since)) else {
            *state = None;
            return Ok(Turn { began, is_probe: false });
        };
        if !may_try || down.is_tried || began < down.next {
            return Err(down.fault.clone());
        }
        down.is_tried = true;
        Ok(Turn { began, is_probe: true })
    }

    /// Returns why a read must not wait any longer.
    pub(super) fn stops(&self, turn: Turn) -> Option<Fault> {
        if turn.is_probe {
            let is_over = turn.began.elapsed() > self.limit / PROBE && !self.is_heard_since(turn.began);
            return is_over.then_some(Fault::TimedOut);
        }
        let state = lock(&self.down);
        state.as_ref().filter(|down| !self.is_heard_since(down.since)).map(|down| down.fault.clone())
    }

    /// Takes note of how a read ended.
    pub(super) fn end(&self, turn: Turn, fault: Option<&Fault>) {
        let mut state = lock(&self.down);
        let now = Instant::now();
        match (fault, &mut *state) {
            (None, _) => *state = None,
            (Some(fault), None) if fault.is_outage() && !self.is_heard_since(turn.began) => {
                *state = Some(Down {
                    since: now,
                    fault: fault.clone(),
                    next: now + self.limit / PAUSE,
                    is_tried: false,
                });
            }
            (Some(fault), Some(down)) if turn.is_probe && fault.is_outage() => {
                (down.next, down.is_tried) = (now + self.limit / PAUSE, false);
            }
            // It answers, if not as it should.
            (Some(_), Some(_)) if turn.is_probe => *state = None,
            (Some(_), _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_a_server_is_silent_one_read_asks_and_the_others_fail() {
        let outage = Outage::new(Duration::from_secs(60));
        let (one, two) = (outage.begin(true).unwrap(), outage.begin(true).unwrap());
        assert_eq!(outage.stops(two), None);
        outage.end(one, Some(&Fault::TimedOut));
        assert_eq!(outage.stops(two), Some(Fault::TimedOut));
        assert!(outage.begin(true).is_err(), "it was asked just now");
        lock(&outage.down).as_mut().unwrap().next = Instant::now();
        assert!(outage.begin(false).is_err());
        let probe = outage.begin(true).unwrap();
        assert!(outage.begin(true).is_err() && outage.stops(probe).is_none());
        outage.end(probe, None);
        assert!(outage.begin(false).is_ok());
    }

    #[test]
    fn a_server_that_sends_slowly_answers() {
        let outage = Outage::new(Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
        let turn = outage.begin(true).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        outage.note_heard();
        outage.end(turn, Some(&Fault::TimedOut));
        assert!(outage.begin(false).is_ok());
    }
}
