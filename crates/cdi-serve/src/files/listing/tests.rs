use std::collections::{BTreeMap, BTreeSet};

use cdi_base::readable::InMemory;
use cdi_fs::file_system::{Child, Damage, Data, FileSystem, Name, Place, Record, Visitor};
use cdi_fs::volume::Volume;

use super::*;

const ROOT: u64 = 2;

/// A file system of which only names exist: number, kind and the directories and names of each record. Those without a kind
/// are lost.
struct Made(Vec<One>);

type One = (u64, Option<Kind>, Vec<(u64, String)>);

impl FileSystem for Made {
    fn name(&self) -> &'static str {
        "made"
    }

    fn label(&self) -> Option<String> {
        None
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn id(&self) -> Option<String> {
        None
    }

    fn size(&self) -> u64 {
        1 << 20
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn scan(&self, _: &Volume<'_>, visitor: &mut dyn Visitor) {
        for (number, kind, names) in &self.0 {
            let (number, kind) = (*number, *kind);
            let names: Vec<Name> =
                names.iter().map(|(parent, name)| Name { parent: *parent, name: name.clone() }).collect();
            match kind {
                Some(kind) => visitor.record(Record {
                    names,
                    data: Data { size: 1, place: Place::Inline(vec![0]), packed: None },
                    ..Record::new(number, kind)
                }),
                None => {
                    for name in names {
                        visitor.child(Child { number, name, kind: None, size: None });
                    }
                    visitor.lost_record(number, 0..1, Some(true), Damage::Invalid("lost".into()))
                }
            };
        }
    }

    fn free(&self, _: &Volume<'_>, _: &mut dyn FnMut(Range<u64>)) {}

    fn record(&self, _: &Volume<'_>, _: u64) -> Result<Record, Damage> {
        Err(Damage::Invalid("there is none".into()))
    }
}

fn file(number: u64, names: &[(u64, &str)]) -> One {
    (number, Some(Kind::File), names.iter().map(|(parent, name)| (*parent, (*name).to_owned())).collect())
}

fn dir(number: u64, names: &[(u64, &str)]) -> One {
    let (number, _, names) = file(number, names);
    (number, Some(Kind::Directory), names)
}

fn lost(number: u64, names: &[(u64, &str)]) -> One {
    let (number, _, names) = file(number, names);
    (number, None, names)
}

fn listing(records: Vec<One>) -> Listing {
    let disk = InMemory::default();
    let volume = Volume::new(&disk, 0..0);
    Listing::new(Catalogue::scan(&Made(records), &volume, &mut |_| true))
}

/// Lists a directory in parts of `room` entries, and checks that each is found by its name.
fn list(listing: &Listing, directory: Local, room: usize) -> Vec<(String, Local)> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let mut left = room;
        let whole = listing.list(directory, from, &mut |found, name, next| {
            if left == 0 {
                return false;
            }
            left -= 1;
            all.push((name.to_owned(), found));
            assert!(next > from && next <= listing.end(directory));
            from = next;
            true
        });
        if whole {
            break;
        }
    }
    let names: BTreeSet<&String> = all.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), all.len(), "every name is there once: {all:?}");
    for (name, found) in &all {
        assert!(is_safe(name), "{name:?}");
        assert_eq!(listing.find(directory, name), Some(*found), "{name:?}");
        assert!(listing.has(*found));
    }
    all
}

/// Returns the paths of everything that can be reached, with numbers of entries, and checks that it is no circle.
fn tree(listing: &Listing) -> BTreeMap<String, u64> {
    let mut paths = BTreeMap::new();
    let mut left = vec![(Local::Root, String::new())];
    while let Some((directory, path)) = left.pop() {
        for (name, found) in list(listing, directory, 3) {
            let path = format!("{path}{name}");
            let number = match found {
                Local::Entry(index) => listing.entry(index).unwrap().number,
                _ => 0,
            };
            assert!(paths.insert(path.clone(), number).is_none());
            assert!(paths.len() < 1000, "a circle");
            if listing.number(found).is_some() || found == Local::LostAndFound {
                assert_eq!(listing.parent(found), directory, "{path}");
                left.push((found, path + "/"));
            }
        }
    }
    paths
}

fn paths(listing: &Listing) -> Vec<String> {
    tree(listing).into_iter().map(|(path, number)| format!("{path}={number}")).collect()
}

#[test]
fn files_are_where_their_names_say_and_nothing_is_lost() {
    let made = listing(vec![
        dir(ROOT, &[(ROOT, "..")]),
        dir(10, &[(ROOT, "docs")]),
        file(11, &[(10, "one"), (ROOT, "also one")]),
        (12, Some(Kind::Other), vec![(ROOT, "socket".into())]),
        lost(13, &[(10, "gone")]),
    ]);
    assert_eq!(paths(&made), ["also one=11", "docs=10", "docs/gone=13", "docs/one=11"]);
    assert_eq!(made.links(made.entry(2).unwrap()), 2);
    assert_eq!(made.find(Local::Root, "lost+found"), None);
    assert_eq!(made.find(Local::Root, "one"), None);
}

#[test]
fn names_that_no_system_takes_and_double_ones_are_changed_and_found_again() {
    let long = "ä".repeat(200);
    let names = ["", ".", "..", "a/b", "a_b", "a\0b", "a", "a", "a", "a~2", "/~2", "/", "~", "x~1", &long];
    let mut records = vec![dir(ROOT, &[])];
    records.extend((10..).zip(names).map(|(number, name)| file(number, &[(ROOT, name)])));
    let made = listing(records);
    let shown: BTreeMap<u64, String> = tree(&made).into_iter().map(|(name, number)| (number, name)).collect();
    let all: Vec<&str> = (10..10 + names.len() as u64).map(|n| shown[&n].as_str()).collect();
    assert_eq!(all.len(), names.len());
    // Those that can be shown are shown as they are; of double ones, the first.
    for (number, name) in (10..).zip(names).filter(|(_, name)| is_safe(name)) {
        assert!(
            shown[&number] == name || name == "a" && number > 16,
            "{number} {name:?}: {:?}",
            shown[&number]
        );
    }
    assert!(shown[&13].starts_with("a_b~") && shown[&15].starts_with("a_b~"), "{all:?}");
    assert!(shown[&17].starts_with("a~") && shown[&18].starts_with("a~"), "{all:?}");
    assert!(shown[&24].starts_with("ää") && shown[&24].len() <= 255);
    assert_eq!(made.find(Local::Root, "a~9"), None);
}

#[test]
fn what_lost_its_directory_or_name_is_in_lost_and_found() {
    let made = listing(vec![
        dir(ROOT, &[]),
        file(10, &[(50, "of a lost directory")]),
        dir(11, &[(50, "sub")]),
        file(12, &[(11, "below")]),
        file(13, &[]),
        dir(14, &[]),
        file(15, &[(14, "in it")]),
        file(16, &[(u64::MAX, "somewhere")]),
        // Its directory is a file.
        file(17, &[(10, "odd")]),
        // Only its name is left, and what is in it.
        lost(18, &[(ROOT, "dir")]),
        file(19, &[(18, "kept")]),
        // A file without a name, and a directory of the same number.
        file(20, &[(13, "in a file")]),
    ]);
    let expected = [
        "dir=18",
        "dir/kept=19",
        "lost+found=0",
        "lost+found/10=0",
        "lost+found/10/odd=17",
        "lost+found/13=13",
        "lost+found/13~=0",
        "lost+found/13~/in a file=20",
        "lost+found/14=14",
        "lost+found/14/in it=15",
        "lost+found/50=0",
        "lost+found/50/of a lost directory=10",
        "lost+found/50/sub=11",
        "lost+found/50/sub/below=12",
        "lost+found/unknown=0",
        "lost+found/unknown/somewhere=16",
    ];
    let mut all = paths(&made);
    let mut expected = expected.map(str::to_owned);
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
    assert_eq!(made.find(Local::LostAndFound, "12"), None);
    assert_eq!(made.find(Local::LostAndFound, "013"), None);
}

#[test]
fn the_lost_and_found_of_the_file_system_itself_is_used() {
    let made = listing(vec![
        dir(ROOT, &[]),
        dir(11, &[(ROOT, "lost+found")]),
        file(12, &[(11, "13")]),
        file(13, &[]),
        file(14, &[(99, "x")]),
    ]);
    assert_eq!(
        paths(&made),
        ["lost+found=11", "lost+found/13=12", "lost+found/13~=13", "lost+found/99=0", "lost+found/99/x=14"]
    );
    // A file of that name is none.
    let made = listing(vec![dir(ROOT, &[]), file(11, &[(ROOT, "lost+found")]), file(13, &[])]);
    assert_eq!(paths(&made), ["lost+found=11", "lost+found~=0", "lost+found~/13=13"]);
}

#[test]
fn circles_end_and_everything_in_them_is_shown_once() {
    let made = listing(vec![
        dir(ROOT, &[]),
        // In itself; two in each other, with one below; one with two names, the second in what is below it.
        dir(10, &[(10, "me")]),
        dir(11, &[(12, "b")]),
        dir(12, &[(11, "a")]),
        file(13, &[(12, "f")]),
        dir(14, &[(ROOT, "top"), (15, "again")]),
        dir(15, &[(14, "low")]),
        file(16, &[(15, "g")]),
    ]);
    let all = paths(&made);
    for end in ["/f=13", "/g=16", "10=10", "top=14"] {
        assert_eq!(all.iter().filter(|path| path.ends_with(end)).count(), 1, "{end}: {all:?}");
    }
    assert_eq!(tree(&made).values().filter(|n| **n > 0).count(), 7, "{all:?}");
}

#[test]
fn many_names_are_no_matter() {
    let mut records = vec![dir(ROOT, &[])];
    records.extend((10..100_010).map(|number| file(number, &[(ROOT, "the same")])));
    records.extend((200_000..300_000).map(|number| file(number, &[(ROOT, "")])));
    let made = listing(records);
    let since = std::time::Instant::now();
    assert_eq!(list(&made, Local::Root, 50).len(), 200_000);
    assert!(since.elapsed().as_secs() < 60, "{:?}", since.elapsed());
}
