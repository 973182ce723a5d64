//! The threads that compress what was read.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use cdi_base::error::Error;
use cdi_base::workers;
use cdi_image::cdimg::index::Geometry;
use cdi_image::codec::Compressor;

use crate::buffer::Buffer;
use crate::compress::{Bytes, Shared, compress};

/// Threads that compress.
pub(super) struct Pool {
    jobs: Sender<(u64, Buffer, SyncSender<Bytes>)>,
}

impl Pool {
    /// One a core.
    pub(super) fn start(shared: &Arc<Shared>, geometry: Geometry) -> Result<Pool, Error> {
        let (jobs, queue) = channel::<(u64, Buffer, SyncSender<Bytes>)>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..shared.options.threads {
            let (shared, queue) = (Arc::clone(shared), Arc::clone(&queue));
            workers::spawn("compress", move || {
                let mut compressor: Option<Compressor> = None;
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((start, raw, back)) = job else { return };
                    let _ = back.send(compress(geometry, &shared, &mut compressor, start, raw));
                }
            })?;
        }
        Ok(Pool { jobs })
    }

    /// Has bytes of the disk compressed; the answer comes when they are.
    pub(super) fn compress(&self, start: u64, raw: Buffer) -> Receiver<Bytes> {
        let (back, result) = sync_channel(1);
        // Without a worker the receiver finds nobody, and says so.
        let _ = self.jobs.send((start, raw, back));
        result
    }
}
