//! Threads: a pool that takes jobs from a queue, parallel work with results in order, and single threads; and locks
//! that survive a panic.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SendError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{io, thread};

use crate::error::Error;

/// Starts a detached thread.
pub fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<(), Error> {
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map(|_| ()).map_err(|e| Error::failed("cannot start a thread").because(e))
}

/// Locks `mutex`, even if a thread panicked while holding it: the data behind our locks is consistent between any two
/// statements.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the next job of a queue that several threads take from. Returns None when there are no more jobs.
pub fn next<T>(jobs: &Mutex<Receiver<T>>) -> Option<T> {
    lock(jobs).recv().ok()
}

/// Threads that take jobs from one queue. They exit once all handles are dropped and the queue is empty.
pub struct Pool<J>(SyncSender<J>);

impl<J> Clone for Pool<J> {
    fn clone(&self) -> Pool<J> {
        Pool(self.0.clone())
    }
}

impl<J: Send + 'static> Pool<J> {
    /// Starts `threads` threads with this name, each with its own worker, or fewer if the system allows no more.
    /// Returns an error if not even one can be started. At most `waiting` jobs are queued.
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
                // A single thread is enough, only slower.
                Err(_) if n > 0 => break,
                started => started?,
            };
        }
        Ok(Pool(queue))
    }

    /// Queues a job, and waits for a free slot if the queue is full. Returns the job if all threads have exited.
    pub fn send(&self, job: J) -> Result<(), J> {
        self.0.send(job).map_err(|SendError(job)| job)
    }

    /// Queues a job if a slot is free. Otherwise returns it.
    pub fn try_send(&self, job: J) -> Result<(), J> {
        self.0.try_send(job).map_err(|e| match e {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

/// Runs `work` on the items on `threads` threads and passes the results to `sink`, in the order of the items, on the
/// calling thread. Only a few items per thread are in flight at a time. Stops at the first error of `sink`, and
/// returns it.
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
    // Each job carries the sender for its result; the receivers are queued in the order of the items.
    let (jobs_in, jobs_out) = sync_channel::<(I, SyncSender<O>)>(depth);
    let (results_in, results_out) = sync_channel::<Receiver<O>>(depth);
    let jobs_out = Mutex::new(jobs_out);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut worker = new_worker();
                while let Some((item, reply)) = next(&jobs_out) {
                    // After an error the receiver is gone: drain the queue.
                    let _ = reply.send(work(&mut worker, item));
                }
            });
        }
        scope.spawn(move || {
            for item in items {
                let (reply, result) = sync_channel(1);
                if results_in.send(result).is_err() || jobs_in.send((item, reply)).is_err() {
                    return;
                }
            }
        });
        for result in results_out {
            // A worker panicked; the scope propagates the panic when it ends.
            let Ok(result) = result.recv() else { break };
            sink(result)?;
        }
        Ok(())
    })
}

type Task<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A value with a thread of its own, on which everything is done with it, in order.
pub struct Background<T> {
    /// The thread, or the value where the system allows no more threads.
    at: Result<(SyncSender<Task<T>>, thread::JoinHandle<T>), T>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts a thread with this name for what `new` returns. Up to `waiting` tasks are queued.
    pub fn start(name: &str, waiting: usize, new: impl Fn() -> T) -> Background<T> {
        let (queue, tasks) = sync_channel::<Task<T>>(waiting);
        let mut value = new();
        let run = move || {
            tasks.into_iter().for_each(|task| task(&mut value));
            value
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run);
        Background { at: thread.map(|thread| (queue, thread)).map_err(|_| new()) }
    }

    /// Does something with the value after everything before. Waits if too much is queued.
    pub fn run(&mut self, task: impl FnOnce(&mut T) + Send + 'static) {
        match &mut self.at {
            // If the thread panicked, `finish` tells.
            Ok((queue, _)) => drop(queue.send(Box::new(task))),
            Err(value) => task(value),
        }
    }

    /// Waits until everything is done, and returns the value.
    pub fn finish(self) -> T {
        match self.at {
            Ok((queue, thread)) => {
                drop(queue);
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            }
            Err(value) => value,
        }
    }
}

/// Returns the number of threads to use: one per core, or 2 if the number of cores is unknown. Looked up once: a process
/// that is confined cannot read how many its control group may use.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(2, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_in_the_background_are_done_in_order() {
        let mut numbers = Background::start("numbers", 2, Vec::new);
        (0..100).for_each(|n| numbers.run(move |numbers: &mut Vec<u32>| numbers.push(n)));
        assert!(numbers.finish().into_iter().eq(0..100));
    }

    #[test]
    fn results_arrive_in_order_and_an_error_stops_the_work() {
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
