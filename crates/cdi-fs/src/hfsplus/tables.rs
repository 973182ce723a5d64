//! What has to be known before records of the catalogue can be used.

use super::attributes::{self, Attributes};
use super::btree::{Lost, Tree};
use super::fork::Fork;
use super::header::Header;
use super::overflow::{self, ForkKind, OverflowExtents};
use super::records;
use crate::volume::Volume;

/// The numbers of the file system's own files.
pub(super) const CATALOGUE: u32 = 4;
pub(super) const BAD_BLOCKS: u32 = 5;
pub(super) const ALLOCATION: u32 = 6;
pub(super) const STARTUP: u32 = 7;
pub(super) const ATTRIBUTES: u32 = 8;

/// What has to be known before records of the catalogue can be used.
pub(super) struct Tables {
    pub(super) extents: Option<Tree>,
    pub(super) overflow: OverflowExtents,
    pub(super) attributes_file: Option<Tree>,
    pub(super) attributes: Attributes,
    pub(super) allocation: Fork,
    pub(super) startup: Fork,
    pub(super) catalogue: Option<Tree>,
    /// The catalogue's file, also if it has no nodes that could be used.
    pub(super) catalogue_fork: Fork,
}

/// The nodes of the two trees of which something is lost.
pub(super) struct Damaged {
    pub(super) extents: Vec<Lost>,
    pub(super) attributes: Vec<Lost>,
}

impl Tables {
    /// Reads the extents overflow file and the attributes file, and opens the catalogue.
    pub(super) fn load(volume: &Volume<'_>, header: &Header) -> (Tables, Damaged) {
        let extents = Tree::open(volume, header.extents.clone(), overflow::length);
        let (overflow, lost_extents) = match &extents {
            Some(tree) => OverflowExtents::load(volume, tree),
            None => (OverflowExtents::default(), Vec::new()),
        };
        let complete = |fork: &Fork, id: u32| {
            let mut fork = fork.clone();
            overflow.complete(&mut fork, id, ForkKind::Data, header.layout, &mut Vec::new());
            fork
        };
        let catalogue_fork = complete(&header.catalogue, CATALOGUE);
        let attributes_file =
            Tree::open(volume, complete(&header.attributes, ATTRIBUTES), attributes::length);
        let (attributes, lost_attributes) = match &attributes_file {
            Some(tree) => Attributes::load(volume, tree),
            None => (Attributes::default(), Vec::new()),
        };
        let damaged = Damaged { extents: lost_extents, attributes: lost_attributes };
        let tables = Tables {
            allocation: complete(&header.allocation, ALLOCATION),
            startup: complete(&header.startup, STARTUP),
            catalogue: Tree::open(volume, catalogue_fork.clone(), records::length),
            catalogue_fork,
            attributes_file,
            attributes,
            extents,
            overflow,
        };
        (tables, damaged)
    }
}
