//! The threads that compress the data.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use cdi_base::error::Error;
use cdi_base::workers;
use cdi_image::cdimg::index::Geometry;
use cdi_image::codec::Compressor;

use crate::buffer::Buffer;
use crate::compress::{Bytes, Shared, compress};

/// The maximum number of pieces that wait to be compressed: more than there are buffers.
const WAITING: usize = 1 << 12;

/// A pool of compression threads.
pub(super) struct Pool(workers::Pool<(u64, Buffer, SyncSender<Bytes>)>);

impl Pool {
    /// Starts the number of threads given in the options.
    pub(super) fn start(shared: &Arc<Shared>, geometry: Geometry) -> Result<Pool, Error> {
        let pool = workers::Pool::start("compress", shared.options.threads, WAITING, || {
            let shared = Arc::clone(shared);
            let mut compressor: Option<Compressor> = None;
            move |(start, raw, reply): (u64, Buffer, SyncSender<Bytes>)| {
                let _ = reply.send(compress(geometry, &shared, &mut compressor, start, raw));
            }
        });
        pool.map(Pool).map_err(|e| Error::failed("cannot start threads").because(e))
    }

    /// Queues bytes of the disk for compression. The receiver gets the result.
    pub(super) fn compress(&self, start: u64, raw: Buffer) -> Receiver<Bytes> {
        let (reply, result) = sync_channel(1);
        // If all workers have exited, the receiver reports that it is disconnected.
        let _ = self.0.send((start, raw, reply));
        result
    }
}
