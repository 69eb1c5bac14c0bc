//! The durable log: `log.N` files (segments), of which the last is written, and `snapshot.N`, the state after all segments
//! up to N. A snapshot replaces what it covers, so there is at most one and it is always whole: it gets its name after it
//! is durable.
//!
//! ```text
//! snapshot.3   log.4   log.5        the state is snapshot.3, then log.4, then log.5
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    Error, Event, Result,
    embedded::{Medium, Options},
    engine::Journal,
    frame::{self, Bad, Record},
    snapshot::{self, Snapshot},
    state::{Keep, State},
};

pub(crate) struct Log {
    dir: PathBuf,
    options: Options,
    number: u64,
    segment: Box<dyn Medium>,
    length: u64,
    /// How much a start would have to replay.
    since_snapshot: u64,
    snapshot: Snapshot,
    /// Set after a failed sync: what the disk holds is unknown, so nothing more is written.
    broken: Option<String>,
    _lock: File,
}

/// What the directory holds, by number.
#[derive(Default, PartialEq)]
pub(crate) struct Found {
    segments: BTreeMap<u64, PathBuf>,
    snapshots: BTreeMap<u64, PathBuf>,
    leftovers: Vec<PathBuf>,
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log.{number:010}"))
}

pub(crate) fn snapshot_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("snapshot.{number:010}"))
}

/// A disk error with the place and the step at which it happened.
pub(crate) fn failed<'a>(step: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |error| Error::Io { reason: format!("cannot {step} {}: {error}", path.display()), fatal: true }
}

impl Log {
    pub(crate) fn open(dir: &Path, keep: Keep, options: Options) -> Result<(Self, State)> {
        create_dir(dir)?;
        let lock = lock(dir)?;
        let found = Found::read(dir)?;
        let Replayed { state, covered, last, torn, bytes: since_snapshot } = replay_all(dir, &found, keep)?;
        if let (Some(path), Some((_, length))) = (torn, last) {
            cut_torn(path, length)?;
        }
        found.remove_covered(covered);
        let (number, length) = last.unwrap_or((covered + 1, 0));
        // Without even a header, a segment is none yet.
        let (segment, length) = match length {
            0 => (create_segment(dir, number)?, frame::HEADER.len() as u64),
            length => (reopen(&segment_path(dir, number))?, length),
        };
        let segment = (options.medium)(segment);
        let snapshot = Snapshot::default();
        let dir = dir.to_path_buf();
        let log = Log { dir, options, number, segment, length, since_snapshot, snapshot, broken: None, _lock: lock };
        Ok((log, state))
    }

    /// Takes back what a failed append may have left, so that the next commit follows the last good one.
    fn take_back(&mut self, error: io::Error) -> Error {
        let path = segment_path(&self.dir, self.number);
        let reason = format!("cannot write {}: {error}; nothing of this write is kept", path.display());
        match self.segment.cut(self.length) {
            Ok(()) => Error::Io { reason, fatal: false },
            Err(cut) => self.break_off(format!("{reason}, but the rest cannot be cut off: {cut}")),
        }
    }

    fn break_off(&mut self, reason: String) -> Error {
        let reason = format!("{reason}; the store is read-only until it is opened again");
        self.broken = Some(reason.clone());
        Error::Io { reason, fatal: true }
    }

    /// Starts the next segment and has the state before it written to a snapshot.
    fn roll(&mut self, state: &State) -> Result<()> {
        let next = self.number + 1;
        // The next segment's existence says that this one is whole, so it must not stay when this one goes on.
        let file = create_segment(&self.dir, next).inspect_err(|_| remove(&segment_path(&self.dir, next)))?;
        self.segment = (self.options.medium)(file);
        let covered = std::mem::replace(&mut self.number, next);
        self.length = frame::HEADER.len() as u64;
        self.since_snapshot = 0;
        self.snapshot.start(self.dir.clone(), covered, state.rev(), state.entries());
        Ok(())
    }
}

impl Journal for Log {
    fn append(&mut self, events: &[Event]) -> Result<()> {
        if let Some(reason) = &self.broken {
            return Err(Error::Io { reason: reason.clone(), fatal: true });
        }
        let records: Vec<Record> = events.iter().filter_map(record).collect();
        let too_large = || Error::Io { reason: "a commit of over 4 GiB".into(), fatal: false };
        let bytes = frame::encode(records.iter()).ok_or_else(too_large)?;
        self.segment.append(&bytes).map_err(|error| self.take_back(error))?;
        if let Err(error) = self.segment.sync() {
            let path = segment_path(&self.dir, self.number);
            return Err(self.break_off(format!("cannot sync {}: {error}", path.display())));
        }
        self.length += bytes.len() as u64;
        self.since_snapshot += bytes.len() as u64;
        Ok(())
    }

    fn committed(&mut self, state: &State) {
        let due = self.since_snapshot > self.options.snapshot_after.max(2 * state.live_bytes());
        if due
            && !self.snapshot.is_running()
            && let Err(error) = self.roll(state)
        {
            // The old segment goes on; tried again when it has grown by as much once more.
            self.since_snapshot = 0;
            tracing::warn!("the store's log grows without a snapshot: {error}");
        }
    }
}

fn record(event: &Event) -> Option<Record> {
    match event {
        Event::Put { entry, .. } => Some(Record::Put(entry.clone())),
        Event::Delete { rev, prev } => Some(Record::Delete { rev: *rev, key: prev.key.clone() }),
        Event::Progress(_) => None,
    }
}

/// The directory and those above it, durable: a log is worth nothing in a directory that a power cut takes away.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))?;
    let parents = missing.into_iter().filter_map(Path::parent);
    parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).try_for_each(sync_dir)
}

/// One process per directory. The lock ends with the process, however that ends.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(locked_by(dir, &path)),
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(failed("write", &path))?;
    Ok(file)
}

fn locked_by(dir: &Path, lock: &Path) -> Error {
    let pid = fs::read_to_string(lock).unwrap_or_default();
    let holder = match pid.trim() {
        "" => String::new(),
        pid => format!(" (pid {pid})"),
    };
    Error::Locked { path: dir.display().to_string(), holder }
}

impl Found {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.snapshots.is_empty()
    }

    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut found = Found::default();
        for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
            let path = entry.map_err(failed("read", dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.split_once('.').map(|(kind, number)| (kind, number.parse::<u64>())) {
                Some(("log", Ok(number))) => drop(found.segments.insert(number, path)),
                Some(("snapshot", Ok(number))) => drop(found.snapshots.insert(number, path)),
                Some(("snapshot", Err(_))) => found.leftovers.push(path),
                _ => {}
            }
        }
        Ok(found)
    }

    /// What a crash left between a snapshot and the removal of what it replaces.
    fn remove_covered(&self, covered: u64) {
        let segments = self.segments.range(..=covered);
        let snapshots = self.snapshots.range(..covered);
        let paths = segments.chain(snapshots).map(|(_, path)| path).chain(&self.leftovers);
        paths.for_each(|path| remove(path));
    }
}

pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("cannot remove {}, which is no longer needed: {error}", path.display());
    }
}

fn restore(found: &Found, keep: Keep) -> Result<(u64, State)> {
    match found.snapshots.last_key_value() {
        Some((&number, path)) => Ok((number, snapshot::read(path, keep)?)),
        None => Ok((0, State::new(keep))),
    }
}

fn in_sequence(dir: &Path, last: u64, number: u64) -> Result<()> {
    if number == last + 1 {
        return Ok(());
    }
    let missing = segment_path(dir, last + 1);
    let reason = format!("{} is missing but later files exist; restore it from a backup", missing.display());
    Err(Error::Io { reason, fatal: true })
}

/// The state in a directory's files, and what of them it is made of.
pub(crate) struct Replayed<'a> {
    pub(crate) state: State,
    /// The last segment that the snapshot covers.
    covered: u64,
    /// The newest segment and its good length.
    last: Option<(u64, u64)>,
    /// The newest segment, where it does not end with its good length.
    torn: Option<&'a Path>,
    /// The good length of all segments behind the snapshot.
    bytes: u64,
}

/// Changes nothing.
pub(crate) fn replay_all<'a>(dir: &Path, found: &'a Found, keep: Keep) -> Result<Replayed<'a>> {
    let (covered, state) = restore(found, keep)?;
    let mut all = Replayed { state, covered, last: None, torn: None, bytes: 0 };
    for (&number, path) in found.segments.range(covered + 1..) {
        let newest = found.segments.keys().next_back() == Some(&number);
        in_sequence(dir, all.last.map_or(covered, |(number, _)| number), number)?;
        let (good, whole) = replay(path, &mut all.state, newest)?;
        all.torn = (!whole).then_some(path);
        all.last = Some((number, good));
        all.bytes += good;
    }
    Ok(all)
}

/// Applies a segment to the state; the length that is good, and whether that is all of it.
fn replay(path: &Path, state: &mut State, newest: bool) -> Result<(u64, bool)> {
    let bytes = fs::read(path).map_err(failed("read", path))?;
    let (records, bad) = frame::decode(&bytes);
    let good = match bad {
        None => bytes.len(),
        Some(Bad::Torn { at }) if newest => at,
        Some(Bad::Torn { at } | Bad::Damaged { at }) => return Err(damaged(path, at)),
    };
    for record in records {
        let event = event(record, state).ok_or_else(|| damaged(path, good))?;
        state.apply(event);
    }
    Ok((good as u64, bad.is_none()))
}

fn cut_torn(path: &Path, good: u64) -> Result<()> {
    let file = reopen(path)?;
    let length = file.metadata().map_err(failed("read", path))?.len();
    let lost = length.saturating_sub(good);
    tracing::warn!("{}: {lost} bytes of an unfinished, never acknowledged write are cut off at {good}", path.display());
    file.set_len(good).and_then(|()| file.sync_all()).map_err(failed("truncate", path))
}

pub(crate) fn damaged(path: &Path, at: usize) -> Error {
    let path = path.display();
    Error::Io { reason: format!("{path} is damaged at byte {at}; restore it from a backup"), fatal: true }
}

/// The change that a record stands for; None if it does not follow from the state.
fn event(record: Record, state: &State) -> Option<Event> {
    match record {
        Record::Put(entry) if entry.modified > state.rev() => {
            let prev = state.get(&entry.key).cloned();
            Some(Event::Put { entry, prev })
        }
        Record::Delete { rev, key } if rev > state.rev() => {
            let prev = state.get(&key).cloned()?;
            Some(Event::Delete { rev, prev })
        }
        _ => None,
    }
}

/// A durable segment without frames. One that is left from a crash before its header was whole is made anew.
fn create_segment(dir: &Path, number: u64) -> Result<File> {
    let path = segment_path(dir, number);
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(&path).map_err(failed("create", &path))?;
    let begun = file.set_len(0).and_then(|()| (&file).write_all(frame::HEADER)).and_then(|()| file.sync_all());
    begun.map_err(failed("write", &path))?;
    sync_dir(dir)?;
    Ok(file)
}

fn reopen(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).open(path).map_err(failed("open", path))
}

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}
