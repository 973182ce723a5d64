//! An index whose entries contradict each other.

use std::path::Path;
use std::sync::Arc;

use cdi_base::error::ReadError;
use cdi_image::codec::{Codec, Sum};
use cdi_image::details::ImageDetails;
use cdi_image::disk::{Disk, Options};
use cdi_image::extent::{CompressedChunk, Extent, Origin};
use cdi_image::image::{Image, Opened};
use cdi_image::input::Input;
use xxhash_rust::xxh3::xxh3_64;

/// An image of which the second chunk says of the first one's place that another checksum is right.
struct Liar {
    sum: u64,
    details: ImageDetails,
}

impl Image for Liar {
    fn size(&self) -> u64 {
        8192
    }
    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let chunk = offset / 4096;
        let sum = Sum::Xxh3(self.sum ^ chunk);
        let (file, codec) = (Input::MAIN, Codec::Stored);
        let compressed = CompressedChunk { file, at: 0, len: 4096, skip: 0, uncompressed: 4096, codec, sum };
        Ok(Extent { disk: chunk * 4096..(chunk + 1) * 4096, origin: Origin::Compressed(compressed) })
    }
    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

tests!(
    fn a_wrong_index_entry_is_never_answered_from_the_cache() {
        let bytes = vec![0x5A; 4096];
        let image = Liar { sum: xxh3_64(&bytes), details: ImageDetails::default() };
        let input = Arc::new(Input::new(Box::new(bytes.clone()), Path::new("liar")).unwrap());
        let opened = Opened { image: Box::new(image), input, format: cdi_image::open::FORMATS[0] };
        let disk = Disk::new(opened, Options::default());
        let mut buf = vec![0; 4096];
        for _ in 0..2 {
            disk.read_at(&mut buf, 0).unwrap();
            assert!(buf == bytes);
            assert_eq!(disk.read_at(&mut buf, 4096), Err(ReadError::Corrupt { at: 0 }));
        }
        assert_eq!(disk.stats().chunks_damaged, 2);
    }
);
