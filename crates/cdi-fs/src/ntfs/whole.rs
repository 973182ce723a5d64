//! A base record with the records that extend it.
//!
//! A record whose attributes do not fit has a list of them all, and of the records that they are in. Facts:
//! `ATTR_LIST_ENTRY` in ntfs-3g's layout.h.

use std::ops::Range;

use crate::bytes::{le16, le32};
use crate::file_system::{Damage, MAX_RUNS};

use super::boot::Boot;
use super::io::Io;
use super::mft::Mft;
use super::record::{Attribute, Body, Head, Reference, attributes, kind};
use super::stream::{Stream, Value, join};
use super::table::Unit;

/// The largest attribute list, in bytes. Windows allows 256 KiB.
const MAX_LIST: u64 = 1 << 20;
/// The most that the records of one file have together, in bytes.
const MAX_RECORDS: u64 = 16 << 20;

/// A base record with the records that extend it, as far as they can be read.
#[derive(Debug)]
pub(super) struct Whole {
    /// Its number.
    pub(super) number: u64,
    /// The head of the base record.
    pub(super) head: Head,
    /// The records, the base first.
    units: Vec<Unit>,
    /// Where its attribute list is, if it is not in the record.
    list: Vec<Range<u64>>,
    /// Whether the attribute list is lost, so that extending records may be missing.
    pub(super) list_lost: bool,
    /// Why it is not complete.
    pub(super) damage: Option<Damage>,
}

/// Reads the records that extend `base`, which has the number `number`: those that its list names, and `others`.
pub(super) fn gather(io: &Io<'_>, mft: &Mft, number: u64, base: Unit, others: &[u64]) -> Option<Whole> {
    let head = Head::parse(&base.bytes)?;
    let (list, damage) = attributes(&base.bytes, &head);
    let entry = list.iter().find(|attribute| attribute.kind == kind::ATTRIBUTE_LIST).copied();
    let mut whole = Whole {
        number,
        head,
        units: Vec::new(),
        list: Vec::new(),
        list_lost: false,
        damage: damage.map(Damage::Invalid),
    };
    let mut more = match entry {
        Some(attribute) => whole.read_list(io, &attribute, &mft.boot),
        None => Vec::new(),
    };
    more.extend(others.iter().map(|&number| Reference { number, sequence: 0 }));
    whole.units.push(base);
    more.sort_unstable_by_key(|reference| reference.number);
    more.dedup_by_key(|reference| reference.number);
    for reference in more {
        if whole.units.len() as u64 * mft.boot.record >= MAX_RECORDS {
            whole.worse(Damage::Invalid("it has too many records".into()));
            break;
        }
        if reference.number != number {
            whole.extend(io, mft, reference.number);
        }
    }
    Some(whole)
}

impl Whole {
    /// Reads an attribute list, and returns the records that it names.
    fn read_list(&mut self, io: &Io<'_>, attribute: &Attribute<'_>, boot: &Boot) -> Vec<Reference> {
        let stream = join(std::slice::from_ref(attribute), boot);
        let Some(Stream { value, damage, .. }) = stream else { return Vec::new() };
        let mut lost = damage;
        let bytes = match value {
            Value::Resident(bytes) => bytes.to_vec(),
            Value::Mapped(mapped) => {
                self.list = mapped.extents.ranges().take(MAX_RUNS).collect();
                let (bytes, damage) = io.value(&mapped.extents, mapped.size.unwrap_or(0).min(MAX_LIST));
                lost = lost.or(damage);
                bytes
            }
        };
        let mut found = Vec::new();
        let mut at = 0;
        while at + 0x1A <= bytes.len() {
            let entry = (le16(&bytes, at + 4), Reference::parse(&bytes, at + 0x10), le32(&bytes, at));
            let (Some(len), Some(reference), Some(_)) = entry else { break };
            if usize::from(len) < 0x1A || len % 8 != 0 {
                lost = lost.or_else(|| Some(Damage::Invalid("an entry makes no sense".into())));
                break;
            }
            found.push(reference);
            at += usize::from(len);
        }
        if let Some(damage) = lost {
            self.list_lost = true;
            self.worse(match damage {
                Damage::Invalid(text) => Damage::Invalid(format!("attribute list: {text}")),
                unreadable => unreadable,
            });
        }
        found
    }

    /// Reads one of the records that extend it.
    fn extend(&mut self, io: &Io<'_>, mft: &Mft, number: u64) {
        let unit = match mft.read(io, number) {
            Ok(unit) => unit,
            Err(lost) => {
                return self.worse(match lost.damage {
                    Damage::Invalid(text) => {
                        Damage::Invalid(format!("record {number}, which extends it: {text}"))
                    }
                    unreadable => unreadable,
                });
            }
        };
        let ours = Head::parse(&unit.bytes).filter(|head| {
            let fits = head.base.sequence == 0 || head.base.sequence == self.head.sequence;
            head.used && fits && head.base.number == self.number && head.extends().is_some()
        });
        match ours {
            Some(_) => self.units.push(unit),
            None => self.worse(Damage::Invalid(format!("record {number} should extend it, and does not"))),
        }
    }

    fn worse(&mut self, damage: Damage) {
        self.damage = self.damage.take().or(Some(damage));
    }

    /// Returns where the records and the attribute list are.
    pub(super) fn places(&self) -> Vec<Range<u64>> {
        self.units.iter().flat_map(|unit| &unit.places).chain(&self.list).cloned().collect()
    }

    /// Returns the attributes of all its records.
    pub(super) fn attributes(&self) -> Attributes<'_> {
        let mut all = Attributes { list: Vec::new(), damage: None };
        for unit in &self.units {
            let Some(head) = Head::parse(&unit.bytes) else { continue };
            let (list, damage) = attributes(&unit.bytes, &head);
            if all.list.is_empty() {
                all.list = list
            } else {
                all.list.extend(list)
            };
            all.damage = all.damage.or(damage.map(Damage::Invalid));
        }
        let first = |attribute: &Attribute<'_>| match attribute.body {
            Body::Resident(_) => 0,
            Body::Mapped(mapped) => mapped.first,
        };
        all.list.sort_by(|a, b| (a.kind, a.name, first(a)).cmp(&(b.kind, b.name, first(b))));
        all
    }
}

/// The attributes of a base record and of those that extend it: by type, name, and first cluster.
#[derive(Debug)]
pub(super) struct Attributes<'w> {
    pub(super) list: Vec<Attribute<'w>>,
    /// What makes no sense among them.
    pub(super) damage: Option<Damage>,
}

impl<'w> Attributes<'w> {
    /// Returns the attributes of a type.
    pub(super) fn of(&self, kind: u32) -> &[Attribute<'w>] {
        let from = self.list.partition_point(|attribute| attribute.kind < kind);
        let to = self.list.partition_point(|attribute| attribute.kind <= kind);
        &self.list[from..to]
    }

    /// Returns whether there is an index of names.
    pub(super) fn is_directory(&self) -> bool {
        self.of(kind::INDEX_ROOT).iter().any(|root| root.name == super::file::INDEX)
    }

    /// Returns the resident values of a type.
    pub(super) fn values(&self, kind: u32) -> impl Iterator<Item = &'w [u8]> {
        self.of(kind).iter().filter_map(|attribute| match attribute.body {
            Body::Resident(value) => Some(value),
            Body::Mapped(_) => None,
        })
    }

    /// Returns the attributes of a type, each joined from its parts.
    pub(super) fn streams(&self, kind: u32, boot: &Boot) -> impl Iterator<Item = Stream<'w>> {
        let parts = self.of(kind).chunk_by(|a, b| a.name == b.name);
        parts.filter_map(|parts| join(parts, boot))
    }

    /// Returns the attribute with this type and name, joined from its parts.
    pub(super) fn stream(&self, kind: u32, name: &[u8], boot: &Boot) -> Option<Stream<'w>> {
        let mut parts = self.of(kind).chunk_by(|a, b| a.name == b.name);
        join(parts.find(|parts| parts[0].name == name)?, boot)
    }
}
