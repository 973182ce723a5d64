//! Reports the structures of the file system itself, other than the catalogue.

use std::ops::Range;

use super::bitmap;
use super::btree::{Lost, Tree};
use super::fork::Fork;
use super::header::{self, Found, HEADER, HEADER_SIZE, JOURNAL_INFO, Journal};
use super::node::NodeKind;
use super::tables::{BAD_BLOCKS, Damaged, Tables};
use crate::file_system::{Damage, Structure, Visitor};
use crate::volume::Volume;

/// Reports all structures but the catalogue. Returns whether the scan goes on.
pub(super) fn report(
    volume: &Volume<'_>,
    found: &Found,
    tables: &Tables,
    damaged: Damaged,
    visitor: &mut dyn Visitor,
) -> bool {
    let reports = headers(volume, found).into_iter().chain(journal(volume, found));
    for structure in reports.chain(files(volume, found, tables)) {
        if !visitor.structure(structure) {
            return false;
        }
    }
    let costs = [
        ("extents overflow file", &tables.extents, damaged.extents, "extents of fragmented files"),
        (
            "attributes file",
            &tables.attributes_file,
            damaged.attributes,
            "attributes of files: which are compressed",
        ),
    ];
    costs.into_iter().all(|(what, tree, lost, cost)| {
        let Some(tree) = tree else { return true };
        visitor.structure(whole(what, &tree.fork)) && self::lost(what, tree, &lost, cost, visitor)
    })
}

/// Reports the nodes of a tree of which something is lost.
pub(super) fn lost(what: &str, tree: &Tree, lost: &[Lost], cost: &str, visitor: &mut dyn Visitor) -> bool {
    tree.damaged.iter().chain(lost).all(|lost| {
        let (kind, cost) = match lost.kind {
            Some(NodeKind::Leaf) => ("leaf node", cost),
            Some(NodeKind::Index) => ("index node", "nothing is lost: leaf nodes are scanned"),
            Some(NodeKind::Header) if lost.node == 0 => {
                ("header node", "the size of nodes is guessed, and unused nodes are looked at if need be")
            }
            Some(NodeKind::Header) => ("map node", "nothing is lost: unused nodes are looked at as well"),
            None => ("node", cost),
        };
        visitor.structure(Structure {
            what: format!("{kind} {} of the {what}", lost.node),
            at: tree.on_volume(lost.node),
            damage: Some((lost.damage.clone(), cost.into())),
        })
    })
}

/// Returns a file of the file system as a structure.
pub(super) fn whole(what: &str, fork: &Fork) -> Structure {
    Structure { what: what.into(), at: fork.on_volume(0..fork.size), damage: None }
}

fn headers(volume: &Volume<'_>, found: &Found) -> Vec<Structure> {
    let base = found.inside.start;
    let check = |at: u64| match header::read(volume, at, base) {
        Ok(Some(_)) => None,
        Ok(None) => Some(Damage::Invalid("there is no volume header".into())),
        Err(damage) => Some(damage),
    };
    let mut all = Vec::new();
    if base > 0 {
        all.push(Structure { what: "HFS wrapper".into(), at: vec![at(HEADER)], damage: None });
    }
    let first = base + HEADER;
    let damage = check(first);
    // A partition may be larger than its volume.
    let layout = found.header.layout;
    let end = base.saturating_add(u64::from(layout.blocks) * u64::from(layout.block_size));
    let copies = [header::copy_place(&found.inside), header::copy_place(&(base..end.min(found.inside.end)))];
    let good = copies.into_iter().flatten().find(|at| check(*at).is_none());
    let copy = good.or(copies[0]);
    all.push(Structure {
        what: "volume header".into(),
        at: vec![at(first)],
        damage: damage.map(|d| (d, "its copy is used".into())),
    });
    if let Some(copy) = copy {
        let damage = check(copy).map(|d| (d, "nothing is lost: the first volume header is used".into()));
        all.push(Structure { what: "alternate volume header".into(), at: vec![at(copy)], damage });
    }
    all
}

fn at(start: u64) -> Range<u64> {
    start..start + HEADER_SIZE as u64
}

fn journal(volume: &Volume<'_>, found: &Found) -> Vec<Structure> {
    let layout = found.header.layout;
    let Some(block) = found.header.journal else { return Vec::new() };
    let start = layout.base.saturating_add(u64::from(block) * u64::from(layout.block_size));
    let info = start..start.saturating_add(JOURNAL_INFO as u64);
    let (damage, journal) = match header::journal(volume, start, layout.base) {
        Ok(Journal::Here(range)) => (None, Some(range)),
        Ok(Journal::Elsewhere) => (None, None),
        Err(damage) => (Some((damage, "nothing is lost: the journal is not used".into())), None),
    };
    let info = Structure { what: "journal info block".into(), at: vec![info], damage };
    let journal = journal.map(|range| Structure { what: "journal".into(), at: vec![range], damage: None });
    std::iter::once(info).chain(journal).collect()
}

fn files(volume: &Volume<'_>, found: &Found, tables: &Tables) -> Vec<Structure> {
    let layout = found.header.layout;
    let mut allocation = whole("allocation file", &tables.allocation);
    let needed = u64::from(layout.blocks).div_ceil(8);
    allocation.damage = match bitmap::damage(volume, &tables.allocation, layout) {
        Some((error, blocks)) => Some((error.into(), format!("{blocks} blocks count as used"))),
        None if tables.allocation.on_volume(0..needed).iter().map(|r| r.end - r.start).sum::<u64>()
            < needed =>
        {
            let damage = Damage::Invalid("it is shorter than the volume needs".into());
            Some((damage, "blocks of which it says nothing count as used".into()))
        }
        None => None,
    };
    let mut all = vec![allocation];
    if tables.startup.size > 0 {
        all.push(whole("startup file", &tables.startup));
    }
    let bad = tables.overflow.of(BAD_BLOCKS, layout);
    if !bad.is_empty() {
        all.push(Structure { what: "blocks set aside as bad".into(), at: bad, damage: None });
    }
    all
}
