//! The threads that compress what was read.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use cdi_base::error::Error;
use cdi_base::workers;
use cdi_image::cdimg::index::Geometry;
use cdi_image::codec::Compressor;

use crate::buffer::Buffer;
use crate::compress::{Bytes, Shared, compress};

/// How many pieces of the disk wait to be compressed: more than there are buffers for.
const WAITING: usize = 1 << 12;

/// Threads that compress.
pub(super) struct Pool(workers::Pool<(u64, Buffer, SyncSender<Bytes>)>);

impl Pool {
    /// Starts as many as the options say.
    pub(super) fn start(shared: &Arc<Shared>, geometry: Geometry) -> Result<Pool, Error> {
        let pool = workers::Pool::start("compress", shared.options.threads, WAITING, || {
            let shared = Arc::clone(shared);
            let mut compressor: Option<Compressor> = None;
            move |(start, raw, back): (u64, Buffer, SyncSender<Bytes>)| {
                let _ = back.send(compress(geometry, &shared, &mut compressor, start, raw));
            }
        });
        pool.map(Pool).map_err(|e| Error::failed("cannot start threads").because(e))
    }

    /// Has bytes of the disk compressed; the answer comes when they are.
    pub(super) fn compress(&self, start: u64, raw: Buffer) -> Receiver<Bytes> {
        let (back, result) = sync_channel(1);
        // Without a worker the receiver finds nobody, and says so.
        let _ = self.0.send((start, raw, back));
        result
    }
}
