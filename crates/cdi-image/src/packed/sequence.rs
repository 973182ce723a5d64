//! Packed files whose data refers to what came before it: they are decompressed in order, and can be continued where a
//! block begins, with the bytes before it (the window).
//!
//! In the pass that makes the index, one thread decompresses and another computes checksums.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use cdi_base::error::Error;
use cdi_base::units::index;

use super::build::{Builder, FoundPoint, Span, Stop, contents, span_len};
use super::stream::is_damage;

/// The maximum length of a window, in bytes.
pub(super) const WINDOW: usize = 64 << 10;
/// The maximum length of a span in bytes: if a block is longer, spans begin within it.
const MAX_SPAN: usize = 4 << 20;

/// How long before a span is long enough blocks are looked at, in bytes.
const NEARLY: usize = 64 << 10;

/// The maximum number of members that end in a span.
const MAX_MEMBERS: usize = 4096;

/// Why [`Sequence::step`] returned.
pub(super) enum Step {
    /// The output is full.
    Full,
    /// The next byte begins a block, at this bit of the packed file, or where a [`Locate`] finds it from there.
    Block(u64),
    /// A member has ended; its checksum as by the [`MemberSum`], if it has one.
    Member(Option<u64>),
}

/// A packed file that is decompressed in order: members with blocks in them.
pub(super) trait Sequence: Send {
    /// Begins the next member, unless the position is within one. Returns the bit of the packed file where its data
    /// begins, or None if there is no other: what follows the last member is not an error.
    fn begin(&mut self) -> io::Result<Option<u64>>;

    /// Decompresses into `out` from `at` on, and moves `at`. `out` before `at` holds what was decompressed before: as much
    /// as there is of the last [`WINDOW`] bytes. Must be within a member. Bytes that were decompressed before an error are
    /// counted in `at`. Without `stops`, it need not stop where blocks begin.
    fn step(&mut self, out: &mut [u8], at: &mut usize, stops: bool) -> io::Result<Step>;

    /// Returns how many of the bytes before the next one may be referred to, in bytes, at most [`WINDOW`].
    fn history(&self) -> usize;

    /// Returns the offset of the next byte in the packed file.
    fn position(&self) -> u64;

    /// How many bytes before the place where damage is noticed may be wrong already: what is decompressed from damaged data
    /// may be plausible for some time. None: those of the last block.
    fn doubtful(&self) -> Option<u64>;

    /// Returns what the packing needs to know at the restart point that [`Step::Block`] or [`Sequence::begin`] has just
    /// reported.
    fn extra(&self) -> u32 {
        0
    }
}

/// The checksum of a member, while it is computed.
pub(super) trait MemberSum {
    /// Adds bytes.
    fn update(&mut self, bytes: &[u8]);
    /// Returns the checksum, and starts again.
    fn finish(&mut self) -> u64;
    /// Returns whether the length of a member is right, by its two checksums, which differ. If it is not, what comes after
    /// the member is not where it belongs.
    fn has_same_len(&self, stored: u64, computed: u64) -> bool;
}

/// Reads on from a restart point.
pub(super) struct SequenceReader {
    sequence: Box<dyn Sequence>,
    /// A window, then data up to `end`, of which the part from `unread` on was not read yet.
    buffer: Vec<u8>,
    unread: usize,
    end: usize,
    within: bool,
}

impl SequenceReader {
    /// Continues `sequence`, which is at a block, with `window` before it.
    pub(super) fn new(sequence: Box<dyn Sequence>, window: &[u8]) -> SequenceReader {
        let mut buffer = vec![0; WINDOW + (256 << 10)];
        let start = WINDOW - window.len().min(WINDOW);
        buffer[start..WINDOW].copy_from_slice(&window[window.len() - (WINDOW - start)..]);
        SequenceReader { sequence, buffer, unread: WINDOW, end: WINDOW, within: true }
    }
}

impl Read for SequenceReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.unread == self.end {
            self.buffer.copy_within(self.end - WINDOW..self.end, 0);
            (self.unread, self.end) = (WINDOW, WINDOW);
            if !self.within && self.sequence.begin()?.is_none() {
                return Ok(0);
            }
            let step = self.sequence.step(&mut self.buffer, &mut self.end, false);
            // What was decompressed before an error is read first.
            if self.end == WINDOW || step.is_ok() {
                self.within = !matches!(step?, Step::Member(_));
            }
        }
        let n = out.len().min(self.end - self.unread);
        out[..n].copy_from_slice(&self.buffer[self.unread..self.unread + n]);
        self.unread += n;
        Ok(n)
    }
}

/// Decompressed bytes on their way to the thread that computes checksums.
struct Batch {
    /// [`WINDOW`] bytes for what came before, then the data up to `end`.
    buffer: Vec<u8>,
    end: usize,
    /// The restart point at the start of the data.
    point: Option<Place>,
    /// Where members end in the data, with their checksums.
    members: Vec<(usize, Option<u64>)>,
    /// How far the packed file was read, in bytes.
    position: u64,
    /// How the file ends, if this is the last batch.
    end_of_file: Option<End>,
}

/// A restart point, as it is reported.
struct Place {
    bit: u64,
    /// Whether that is where a member begins, and not a block.
    is_member: bool,
    /// What the packing needs to know.
    extra: u32,
    /// The length of the window, in bytes.
    window: usize,
}

/// The end of the file.
enum End {
    /// As it should be.
    Good,
    /// It is damaged or too short; what was decompressed from this offset on may be wrong.
    Damaged(u64),
    /// The file cannot be read.
    Unreadable(io::Error),
}

/// Returns the bit at which a block begins, by the bit that [`Step::Block`] has reported, what is before the block and what is
/// after its start, decompressed. None if it cannot be found.
pub(super) type Locate<'a> = dyn Fn(u64, &[u8], &[u8]) -> Option<u64> + 'a;

/// Decompresses a whole packed file, and adds its spans.
pub(super) fn scan(
    sequence: &mut dyn Sequence,
    mut sum: Box<dyn MemberSum>,
    locate: &Locate<'_>,
    builder: &mut Builder<'_>,
) -> Result<(), Stop> {
    let (full_in, full) = sync_channel(4);
    let (free, free_out) = sync_channel(8);
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("decompress".into());
        thread.spawn_scoped(scope, || decompress(sequence, full_in, free_out))?;
        check(full, &free, &mut *sum, locate, builder)
    })
}

/// Decompresses the whole file, until the receiver is gone.
#[expect(clippy::needless_pass_by_value, reason = "the channels end with this thread")]
fn decompress(sequence: &mut dyn Sequence, full: SyncSender<Batch>, free: Receiver<Vec<u8>>) {
    let mut batch = Batch::new(vec![0; WINDOW + MAX_SPAN]);
    let mut unpacked = 0;
    let mut within = false;
    // Where the last block begins in the decompressed bytes.
    let mut last_block = 0;
    let end_of_file = loop {
        // Where a block begins, if one does.
        let mut block = None;
        if !within {
            match sequence.begin() {
                Ok(Some(bit)) => (block, within) = (Some((bit, true)), true),
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        }
        let mut is_full = false;
        if block.is_none() {
            // Up to shortly before the next point is due, it does not matter where blocks begin.
            let due = WINDOW + index(span_len(unpacked)).min(MAX_SPAN / 2) - NEARLY;
            let stops = batch.point.is_none() || batch.end >= due;
            let end = if stops { batch.buffer.len() } else { due };
            match sequence.step(&mut batch.buffer[..end], &mut batch.end, stops) {
                Ok(Step::Block(bit)) => block = Some((bit, false)),
                Ok(Step::Full) => is_full = stops,
                Ok(Step::Member(sum)) => {
                    batch.members.push((batch.end, sum));
                    within = false;
                }
                Err(e) => break Err(e),
            }
        }
        // Members may be empty, and many.
        is_full |= batch.members.len() >= MAX_MEMBERS;
        let (extra, window) = (sequence.extra(), sequence.history());
        let point = block.map(|(bit, is_member)| Place { bit, is_member, extra, window });
        if point.is_some() {
            last_block = unpacked + batch.len();
        }
        // A batch that began within a block ends with it.
        let is_ready = batch.is_ready(unpacked) || (batch.point.is_none() && batch.len() > 0);
        if is_full || (point.is_some() && is_ready) {
            unpacked += batch.len();
            let buffer = free.try_recv().unwrap_or_else(|_| vec![0; WINDOW + MAX_SPAN]);
            let mut next = Batch { point, ..Batch::new(buffer) };
            next.buffer[..WINDOW].copy_from_slice(&batch.buffer[batch.end - WINDOW..batch.end]);
            batch.position = sequence.position();
            if full.send(std::mem::replace(&mut batch, next)).is_err() {
                return;
            }
        } else if batch.len() == 0 && point.is_some() {
            batch.point = point;
        }
    };
    batch.position = sequence.position();
    batch.end_of_file = Some(match end_of_file {
        Ok(()) => End::Good,
        Err(e) if is_damage(&e) => End::Damaged(match sequence.doubtful() {
            Some(bytes) => (unpacked + batch.len()).saturating_sub(bytes),
            None => last_block,
        }),
        Err(e) => End::Unreadable(e),
    });
    let _ = full.send(batch);
}

impl Batch {
    fn new(buffer: Vec<u8>) -> Batch {
        Batch { buffer, end: WINDOW, point: None, members: Vec::new(), position: 0, end_of_file: None }
    }

    fn len(&self) -> u64 {
        (self.end - WINDOW) as u64
    }

    /// Returns whether the data, which begins at offset `start`, is long enough for a span.
    fn is_ready(&self, start: u64) -> bool {
        self.len() >= span_len(start).min(MAX_SPAN as u64 / 2)
    }
}

/// Computes the checksums of what `full` delivers.
#[expect(clippy::needless_pass_by_value, reason = "the other thread ends when the receiver is gone")]
fn check(
    full: Receiver<Batch>,
    free: &SyncSender<Vec<u8>>,
    sum: &mut dyn MemberSum,
    locate: &Locate<'_>,
    builder: &mut Builder<'_>,
) -> Result<(), Stop> {
    // Where the current member begins, and from where on nothing is where it belongs.
    let (mut member, mut moved) = (0, u64::MAX);
    for batch in &full {
        builder.progress(batch.position)?;
        let start = builder.size;
        let mut from = WINDOW;
        for (end, stored) in &batch.members {
            sum.update(&batch.buffer[from..*end]);
            from = *end;
            let member_end = start + (*end - WINDOW) as u64;
            let computed = sum.finish();
            builder.is_checked &= stored.is_some();
            if let Some(stored) = stored.filter(|stored| *stored != computed) {
                builder.suspect(member..member_end);
                if !sum.has_same_len(stored, computed) {
                    moved = moved.min(member_end);
                }
            }
            member = member_end;
        }
        let data = &batch.buffer[WINDOW..batch.end];
        sum.update(&batch.buffer[from..batch.end]);
        let mut point: Option<FoundPoint> = None;
        if let Some(Place { bit, is_member, extra, window }) = batch.point {
            let window = &batch.buffer[WINDOW - window.min(WINDOW)..WINDOW];
            if let Some(bit) = if is_member { Some(bit) } else { locate(bit, window, data) } {
                point = Some((bit, extra, pack(window)?));
            }
        }
        builder.add(Span { len: data.len() as u64, contents: contents(data), point })?;
        if batch.end_of_file.is_some() {
            builder.suspect(moved.min(builder.size)..builder.size);
        }
        match batch.end_of_file {
            None => {}
            Some(End::Good) => return Ok(()),
            Some(End::Damaged(from)) => {
                (builder.cut, builder.is_checked) = (true, false);
                builder.suspect(from.max(member)..builder.size);
                return Ok(());
            }
            Some(End::Unreadable(e)) => return Err(e.into()),
        }
        // The other thread makes new buffers if it gets none back.
        let _ = free.try_send(batch.buffer);
    }
    Err(Error::failed("the thread that decompresses has ended").into())
}

/// Compresses a window.
fn pack(window: &[u8]) -> io::Result<Vec<u8>> {
    if window.is_empty() { Ok(Vec::new()) } else { zstd::bulk::compress(window, 1) }
}
