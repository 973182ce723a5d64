//! An image that is read while it is being written: its index is the writer's own.

use std::sync::{Arc, Mutex};

use cdi_base::error::ReadError;
use cdi_base::workers::lock;

use super::index::Index;
use super::nodes::CachedNodes;
use crate::details::ImageDetails;
use crate::extent::Extent;
use crate::image::Image;
use crate::input::Input;
use crate::metadata::Metadata;

/// The data of an unfinished image.
pub(super) struct LiveImage {
    index: Arc<Mutex<Index>>,
    nodes: CachedNodes,
    size: u64,
    details: ImageDetails,
}

impl LiveImage {
    /// Returns the image of a disk of `size` bytes with the index `index`, which refers to data in `input`.
    pub(super) fn new(
        index: &Arc<Mutex<Index>>,
        input: &Arc<Input>,
        size: u64,
        metadata: Metadata,
    ) -> LiveImage {
        LiveImage {
            index: Arc::clone(index),
            nodes: CachedNodes::new(Arc::clone(input)),
            size,
            details: ImageDetails { metadata, ..ImageDetails::default() },
        }
    }
}

impl Image for LiveImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        lock(&self.index).find(&self.nodes, offset)
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}
