//! Threads: a pool that takes jobs from a queue, work on every core with results in order, one thread by itself; and locks
//! that a panic does not break.

use std::sync::mpsc::{Receiver, SendError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use crate::error::Error;

/// Starts a thread that nobody waits for.
pub fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<(), Error> {
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map(|_| ()).map_err(|e| Error::failed("a thread cannot be started").because(e))
}

/// Locks `mutex`, also after a panic of who had it: what is behind our locks is whole between any two statements.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the next job of a queue that several threads take from. None when there will be no more.
pub fn next<T>(jobs: &Mutex<Receiver<T>>) -> Option<T> {
    lock(jobs).recv().ok()
}

/// Threads that take jobs from one queue. They end when this is dropped and the queue is empty.
pub struct Pool<J>(SyncSender<J>);

impl<J> Clone for Pool<J> {
    fn clone(&self) -> Pool<J> {
        Pool(self.0.clone())
    }
}

impl<J: Send + 'static> Pool<J> {
    /// Starts `threads` threads of this name, each with a worker of its own, or as many of them as the system has left; an
    /// error if that is none. At most `waiting` jobs wait for a thread.
    pub fn start<W: FnMut(J) + Send + 'static>(
        name: &str,
        threads: usize,
        waiting: usize,
        new_worker: impl Fn() -> W,
    ) -> io::Result<Pool<J>> {
        let (queue, jobs) = sync_channel(waiting);
        let jobs = Arc::new(Mutex::new(jobs));
        for n in 0..threads {
            let (jobs, mut worker) = (Arc::clone(&jobs), new_worker());
            let run = move || {
                while let Some(job) = next(&jobs) {
                    worker(job);
                }
            };
            match thread::Builder::new().name(name.into()).spawn(run) {
                // One does, if more slowly.
                Err(_) if n > 0 => break,
                started => started?,
            };
        }
        Ok(Pool(queue))
    }

    /// Waits for a place in the queue, and puts the job there. Gives it back if there is no thread any more.
    pub fn send(&self, job: J) -> Result<(), J> {
        self.0.send(job).map_err(|SendError(job)| job)
    }

    /// Puts the job into the queue if there is a place. Gives it back if there is none.
    pub fn try_send(&self, job: J) -> Result<(), J> {
        self.0.try_send(job).map_err(|e| match e {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

/// Runs `work` on the items on `threads` threads and hands the results to `sink`, in the order of the items, on
/// the calling thread. Only a few items a thread are under way at once. The first error of `sink` ends it all.
pub fn ordered<I, O, W, E>(
    threads: usize,
    items: impl Iterator<Item = I> + Send,
    new_worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, I) -> O + Sync,
    mut sink: impl FnMut(O) -> Result<(), E>,
) -> Result<(), E>
where
    I: Send,
    O: Send,
{
    let depth = threads * 4;
    // Each job carries the way back for its result; the ways back stand in a queue, in order.
    let (jobs_in, jobs_out) = sync_channel::<(I, SyncSender<O>)>(depth);
    let (results_in, results_out) = sync_channel::<Receiver<O>>(depth);
    let jobs_out = Mutex::new(jobs_out);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut worker = new_worker();
                while let Some((item, back)) = next(&jobs_out) {
                    // Nobody listens any more after an error: go on to the end of the queue.
                    let _ = back.send(work(&mut worker, item));
                }
            });
        }
        scope.spawn(move || {
            for item in items {
                let (back, result) = sync_channel(1);
                if results_in.send(result).is_err() || jobs_in.send((item, back)).is_err() {
                    return;
                }
            }
        });
        for result in results_out {
            // A worker that panicked takes the program with it when the scope ends.
            let Ok(result) = result.recv() else { break };
            sink(result)?;
        }
        Ok(())
    })
}

/// How many threads to work with: one a core.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(2, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_an_error_ends_it() {
        let mut got = Vec::new();
        ordered(
            4,
            0..1000u64,
            || (),
            |(), i| i * i,
            |o| {
                got.push(o);
                Ok::<_, ()>(())
            },
        )
        .unwrap();
        assert!(got.iter().copied().eq((0..1000).map(|i| i * i)));
        let mut seen = 0;
        let end = ordered(
            4,
            0..u64::MAX,
            || (),
            |(), i| i,
            |o| {
                seen += 1;
                if o == 50 { Err(o) } else { Ok(()) }
            },
        );
        assert_eq!((end, seen), (Err(50), 51));
    }
}
