//! Where indexes of packed images are kept: next to the image if the user wants that, otherwise in the user's cache.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cdi_base::error::{Error, Kind};
use cdi_base::units::human;
use cdi_base::workers::lock;
use cdi_capture::guard::{Guard, Over};
use cdi_image::indexes::{IndexFile, Indexes, index_name};
use cdi_image::input::is_remote;
use cdi_system::output_file::OutputFile;

use crate::ui::{Progress, Ui};

/// Indexes that took less time than this to make are not kept in the cache.
const WORTH_KEEPING: Duration = Duration::from_secs(1);
/// The maximum size of the cache in bytes. Indexes that were not used for the longest time are removed first.
const MAX_CACHE: u64 = 8 << 30;

/// Returns the directory in which indexes are kept, if the user has one.
fn cache_dir() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = match absolute("XDG_CACHE_HOME") {
        Some(cache) => cache,
        None if cfg!(target_os = "macos") => absolute("HOME")?.join("Library/Caches"),
        None => absolute("HOME")?.join(".cache"),
    };
    Some(cache.join("cdi"))
}

/// What both kinds share: the progress, and Ctrl-C.
struct Display {
    ui: Ui,
    check: Box<dyn Fn() -> Result<(), Error> + Send + Sync>,
    /// The progress, and how far it is.
    shown: Mutex<Option<(Progress, u64)>>,
}

impl Display {
    fn progress(&self, done: u64, total: u64) -> Result<(), Error> {
        let mut shown = lock(&self.shown);
        let (progress, before) = shown.get_or_insert_with(|| (self.ui.progress("indexing", total), 0));
        progress.advance(done.saturating_sub(*before));
        *before = done.max(*before);
        (self.check)()
    }

    /// Ends the display, and returns the elapsed time and the rate.
    fn finish(&self) -> String {
        lock(&self.shown).take().map_or(String::new(), |(progress, _)| progress.finish())
    }
}

/// Lets nobody read an index who may not read the image: it has parts of the disk in it.
fn hide_like(index: &File, packed: &Path) -> Result<(), Error> {
    if is_remote(packed) {
        return Ok(());
    }
    let mode = packed.metadata().map_err(|e| Error::io("cannot get the file status", packed, e))?.mode();
    let permissions = fs::Permissions::from_mode(mode & 0o644 | 0o600);
    index.set_permissions(permissions).map_err(|e| Error::failed("cannot protect the index").because(e))
}

/// Indexes in the user's cache.
pub struct CachedIndexes(Arc<Display>);

impl CachedIndexes {
    /// Returns the user's cache; while an index is made, `check` is called, and its error ends it.
    pub fn new(ui: Ui, check: impl Fn() -> Result<(), Error> + Send + Sync + 'static) -> CachedIndexes {
        CachedIndexes(Arc::new(Display { ui, check: Box::new(check), shown: Mutex::new(None) }))
    }

    fn path(packed: &Path) -> Option<PathBuf> {
        let whole = if is_remote(packed) { packed.to_owned() } else { packed.canonicalize().ok()? };
        let hash = xxhash_rust::xxh3::xxh3_64(whole.as_os_str().as_encoded_bytes());
        let name = whole.file_name()?.to_string_lossy().into_owned();
        // A file name has at most 255 bytes.
        let short: String = name.chars().take(40).collect();
        Some(cache_dir()?.join(format!("{short}-{hash:016x}.cdi-index")))
    }
}

impl fmt::Debug for CachedIndexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachedIndexes")
    }
}

impl Indexes for CachedIndexes {
    fn find(&self, packed: &Path) -> Option<File> {
        let path = CachedIndexes::path(packed)?;
        path.symlink_metadata().ok().filter(|meta| meta.is_file())?;
        let file = File::options().read(true).write(true).open(path).ok()?;
        // So that it counts as used.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    fn create(&self, packed: &Path) -> Result<Option<Box<dyn IndexFile>>, Error> {
        let Some(path) = CachedIndexes::path(packed) else { return Ok(None) };
        let Some(dir) = path.parent() else { return Ok(None) };
        // Without a cache, the index is made each time.
        if fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).is_err() {
            return Ok(None);
        }
        let Ok((output, file)) = Guard::new(Over { force: true, ..Over::default() }).create(&path) else {
            return Ok(None);
        };
        hide_like(&file, packed)?;
        Ok(Some(Box::new(CachedFile { file, output, path, display: Arc::clone(&self.0) })))
    }

    fn progress(&self, _: &Path, done: u64, total: u64) -> Result<(), Error> {
        self.0.progress(done, total)
    }
}

/// An index that is being written into the cache.
struct CachedFile {
    file: File,
    output: OutputFile,
    path: PathBuf,
    display: Arc<Display>,
}

impl IndexFile for CachedFile {
    fn file(&self) -> &File {
        &self.file
    }

    fn keep(self: Box<Self>, took: Duration, packed: &Path) -> Result<(), Error> {
        self.display.finish();
        if took < WORTH_KEEPING {
            return Ok(());
        }
        let ui = self.display.ui;
        // An index that cannot be kept is not an error of what the user wanted.
        match self.output.publish() {
            // Another process has made it in the meantime.
            Err(e) if e.kind == Kind::Busy => {}
            Ok(()) => ui.message(format!(
                "made an index of {} in {:.0} s and kept it in {} ({})",
                packed.display(),
                took.as_secs_f64(),
                self.path.display(),
                human(self.file.metadata().map_or(0, |meta| meta.len()))
            )),
            Err(e) => ui.warning(format!("the index of {} cannot be kept: {e:#}", packed.display())),
        }
        if let Some(dir) = self.path.parent() {
            prune(dir, &self.path, MAX_CACHE);
        }
        Ok(())
    }
}

/// Removes what killed processes have left, and the indexes that were not used for the longest time, until the rest has
/// at most `max` bytes. `newest` stays.
fn prune(dir: &Path, newest: &Path, max: u64) {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let mut all: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // Of a process that was killed.
        let is_partial = path.extension().is_some_and(|suffix| suffix == "partial");
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if is_partial && age.is_some_and(|age| age > DAY) {
            let _ = fs::remove_file(&path);
        }
        let is_index = path.extension().is_some_and(|suffix| suffix == "cdi-index");
        if let (true, Ok(meta)) = (is_index && path != newest, entry.metadata()) {
            all.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
        }
    }
    all.sort();
    let mut total: u64 =
        newest.metadata().map_or(0, |meta| meta.len()) + all.iter().map(|(_, len, _)| len).sum::<u64>();
    for (_, len, path) in all {
        if total <= max {
            break;
        }
        if fs::remove_file(path).is_ok() {
            total -= len;
        }
    }
}

/// Indexes next to the images: what `cdi index` makes.
pub struct IndexesNextTo {
    display: Arc<Display>,
    over: Over,
    made: Arc<Mutex<Vec<Made>>>,
}

/// An index that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// The packed file.
    pub packed: PathBuf,
    /// Its index.
    pub index: PathBuf,
    /// The length of the index in bytes.
    pub bytes: u64,
    /// The elapsed time and the rate.
    pub took: String,
}

impl IndexesNextTo {
    /// Makes indexes next to the images, under the rules of `over`.
    pub fn new(
        ui: Ui,
        over: Over,
        check: impl Fn() -> Result<(), Error> + Send + Sync + 'static,
    ) -> IndexesNextTo {
        let display = Arc::new(Display { ui, check: Box::new(check), shown: Mutex::new(None) });
        IndexesNextTo { display, over, made: Arc::default() }
    }

    /// Returns the indexes that were made so far.
    pub fn made(&self) -> Vec<Made> {
        lock(&self.made).clone()
    }
}

impl fmt::Debug for IndexesNextTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexesNextTo")
    }
}

impl Indexes for IndexesNextTo {
    fn find(&self, _: &Path) -> Option<File> {
        None
    }

    fn create(&self, packed: &Path) -> Result<Option<Box<dyn IndexFile>>, Error> {
        let path = index_name(packed);
        // An index that no longer fits is of no use.
        let mut start = [0; 8];
        let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
        let is_index = is_file
            && File::open(&path)
                .is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start == *b"CDIINDEX");
        let over = Over { force: self.over.force || is_index, ..self.over };
        let (output, file) = Guard::new(over).create(&path)?;
        hide_like(&file, packed)?;
        let (display, made) = (Arc::clone(&self.display), Arc::clone(&self.made));
        Ok(Some(Box::new(FileNextTo { file, output, path, display, made })))
    }

    fn must_keep(&self) -> bool {
        true
    }

    fn progress(&self, _: &Path, done: u64, total: u64) -> Result<(), Error> {
        self.display.progress(done, total)
    }
}

/// An index that is being written next to its image.
struct FileNextTo {
    file: File,
    output: OutputFile,
    path: PathBuf,
    display: Arc<Display>,
    made: Arc<Mutex<Vec<Made>>>,
}

impl IndexFile for FileNextTo {
    fn file(&self) -> &File {
        &self.file
    }

    fn keep(self: Box<Self>, _: Duration, packed: &Path) -> Result<(), Error> {
        let failed = |e| Error::io("cannot write", &self.path, e);
        self.file.sync_all().map_err(failed)?;
        let bytes = self.file.metadata().map_err(failed)?.len();
        self.output.publish()?;
        let took = self.display.finish();
        lock(&self.made).push(Made { packed: packed.to_owned(), index: self.path, bytes, took });
        Ok(())
    }
}
