//! The files next to a remote one.
//!
//! Where files can be listed, one request answers for all segments and maps of an image: a list from its stem on, up to a
//! number of files. Everything else is asked for by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cdi_base::error::Error;
use cdi_base::workers::lock;
use futures_util::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path as Key;

use super::RemoteFile;
use super::fault::Fault;
use super::location::Location;
use super::object::{Object, Version, in_time};
use super::runtime::Threads;
use super::session::Shared;
use super::store::Store;
use crate::input::source::{Folder, Found};

/// How many files of a listing are kept, to find files by their names.
const LISTED: usize = 10_000;
/// The maximum number of files of which the names are wanted.
const NAMED: usize = 1 << 18;

/// The place of a remote file, with the files next to it.
pub(super) struct RemoteFolder {
    session: Shared,
    store: Arc<Store>,
    /// The image's own address, or that of the folder with a slash at its end.
    of: Location,
    prefix: Key,
    url: PathBuf,
    listed: Mutex<Option<Listed>>,
    /// The files to which access was denied, which may be there or not.
    denied: Mutex<BTreeSet<PathBuf>>,
}

/// A part of a list of files, in the order of their names.
#[derive(Default)]
struct Listed {
    /// Names up to this one are not in it. Empty: it begins with the first.
    after: String,
    /// Names from here on are not in it. None: it ends with the last.
    before: Option<String>,
    files: BTreeMap<String, Version>,
}

impl Listed {
    /// Returns whether the list answers for `name`.
    fn covers(&self, name: &str) -> bool {
        name > self.after.as_str() && self.before.as_deref().is_none_or(|before| name < before)
    }
}

impl RemoteFolder {
    /// Returns the folder of the file at `of`, whose address is `url`.
    pub(super) fn of_file(session: &Shared, store: &Arc<Store>, of: &Location, url: &Path) -> RemoteFolder {
        let prefix = of.key.parent().unwrap_or(Key::ROOT);
        let url = url.parent().unwrap_or(url).to_owned();
        RemoteFolder {
            session: Arc::clone(session),
            store: Arc::clone(store),
            of: of.clone(),
            prefix,
            url,
            listed: Mutex::new(None),
            denied: Mutex::default(),
        }
    }

    /// Returns the folder at `of`.
    pub(super) fn at(session: &Shared, store: &Arc<Store>, of: &Location, url: &Path) -> RemoteFolder {
        let (session, store) = (Arc::clone(session), Arc::clone(store));
        let (listed, denied) = (Mutex::new(None), Mutex::default());
        RemoteFolder {
            session,
            store,
            of: of.clone(),
            prefix: of.key.clone(),
            url: url.to_owned(),
            listed,
            denied,
        }
    }

    fn key(&self, dir: &Path, name: &str) -> Option<Key> {
        let mut key = self.prefix.clone();
        for part in dir.components() {
            match part {
                Component::Normal(part) => key = key.join(part.to_str()?.to_owned()),
                Component::CurDir => {}
                _ => return None,
            }
        }
        // `join` would write some characters as %XX.
        Key::parse(format!("{key}/{name}").trim_start_matches('/')).ok()
    }

    fn url(&self, dir: &Path, name: &str) -> PathBuf {
        let dir = dir.strip_prefix(".").unwrap_or(dir);
        self.url.join(dir).join(self.of.written(name))
    }

    /// Lists the files in the folder whose names come after `after`: the first `most` of them.
    fn list(&self, folder: &Key, after: &str, most: usize) -> Result<Listed, Fault> {
        let depth = folder.parts_count() + 1;
        let offset = Key::parse(format!("{folder}/{after}").trim_start_matches('/'));
        let work = async |client: &dyn ObjectStore| {
            let prefix = Some(folder).filter(|folder| !folder.is_root());
            let mut all = match offset {
                Ok(offset) if !after.is_empty() => client.list_with_offset(prefix, &offset),
                _ => client.list(prefix),
            };
            let mut listed = Listed { after: after.to_owned(), ..Listed::default() };
            let mut seen = 0;
            while let Some(meta) = all.next().await {
                let meta = meta.map_err(|e| Fault::of(&e))?;
                let name = meta.location.parts().nth(depth - 1).map(|part| part.as_ref().to_owned());
                seen += 1;
                if seen > most {
                    listed.before = name;
                    break;
                }
                if let Some(name) = name.filter(|_| meta.location.parts_count() == depth) {
                    listed.files.insert(name, Version::of(&meta)?);
                }
            }
            Ok(listed)
        };
        let end = Instant::now() + self.session.limit();
        let stops = || self.session.watch.stops();
        self.store.wait(Threads::Any, &stops, async |client| in_time(end, work(client)).await)
    }

    /// Returns what the list says about `name`: None if it says nothing.
    fn listed(&self, name: &str) -> Option<Option<Version>> {
        let own = self.of.key.filename().unwrap_or_default();
        let stem = own.split('.').next().unwrap_or_default();
        let after = if self.prefix == self.of.key { "" } else { stem };
        if !self.store.root().can_list() || name <= after {
            return None;
        }
        let mut listed = lock(&self.listed);
        // A list that may not be read answers for nothing.
        let nothing = || Listed { after: name.to_owned(), before: Some(String::new()), ..Listed::default() };
        let list = listed.get_or_insert_with(|| {
            self.list(&self.prefix, after, LISTED).unwrap_or_else(|fault| {
                // A server that does not answer is not asked for each file.
                if fault == Fault::TimedOut {
                    self.session.watch.note(&self.url, "cannot list", &fault);
                }
                nothing()
            })
        });
        list.covers(name).then(|| list.files.get(name).cloned())
    }

    fn look(&self, key: Key, url: &Path) -> Result<Object, Fault> {
        let stops = || self.session.watch.stops();
        Object::find(&self.store, key, url, self.session.limit(), &stops)
    }

    fn found(&self, object: Object) -> Found {
        let version = object.version();
        let modified = Some(version.modified).filter(|time| *time > std::time::SystemTime::UNIX_EPOCH);
        let (len, path) = (version.len, object.url().to_owned());
        Found { source: Arc::new(RemoteFile::new(&self.session, object)), path, len, modified }
    }
}

impl Folder for RemoteFolder {
    fn find(&self, dir: &Path, name: &str) -> Result<Option<Found>, Error> {
        let Some(key) = self.key(dir, name) else { return Ok(None) };
        let url = self.url(dir, name);
        let listed = if dir.as_os_str().is_empty() { self.listed(name) } else { None };
        let object = match listed {
            Some(None) => return Ok(None),
            Some(Some(version)) => Object::known(&self.store, key, &url, version),
            None => match self.look(key, &url) {
                Ok(object) => object,
                Err(Fault::Missing) => return Ok(None),
                // Who may not list a bucket is denied what is not there, as well.
                Err(Fault::Denied(_)) if self.store.root().can_list() => {
                    lock(&self.denied).insert(dir.join(name));
                    return Ok(None);
                }
                Err(fault) => {
                    self.session.watch.note(&url, "cannot open", &fault);
                    return Err(Error::io("cannot open", &url, fault.io()));
                }
            },
        };
        Ok(Some(self.found(object)))
    }

    fn is_denied(&self, path: &Path) -> bool {
        lock(&self.denied).contains(path)
    }

    fn denied(&self) -> Option<PathBuf> {
        let denied = lock(&self.denied);
        let path = denied.first()?;
        Some(self.url(path.parent().unwrap_or(Path::new("")), path.file_name()?.to_str()?))
    }

    fn fault(&self) -> Option<Error> {
        self.session.watch.error()
    }

    fn require(&self, begins: bool) {
        self.session.watch.require(begins);
    }

    fn opened(&self) {
        self.session.watch.opened();
    }

    fn names(&self, dir: &Path) -> Result<Option<Vec<String>>, Error> {
        let Some(key) = self.key(dir, "x").and_then(|inside| inside.parent()) else { return Ok(None) };
        let failed = |fault: Fault| Error::io("cannot list", &self.url.join(dir), fault.io());
        if !self.store.root().can_list() {
            // Of the files next to an image, a list is of use but not needed.
            let what = || Fault::Failed("web servers do not list files".into());
            return if dir.components().all(|c| c == Component::CurDir) {
                Ok(None)
            } else {
                Err(failed(what()))
            };
        }
        match self.list(&key, "", NAMED) {
            Ok(listed) if listed.before.is_some() => {
                Err(Error::bad_image(format!("has more than {NAMED} files")).at(&self.url.join(dir)))
            }
            Ok(listed) => {
                Ok(Some(listed.files.into_keys().collect()).filter(|names: &Vec<_>| !names.is_empty()))
            }
            Err(Fault::Denied(_)) => Ok(None),
            Err(fault) => {
                self.session.watch.note(&self.url.join(dir), "cannot list", &fault);
                Err(failed(fault))
            }
        }
    }
}
