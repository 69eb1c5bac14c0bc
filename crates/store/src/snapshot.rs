//! A snapshot is the whole state in one file, written beside the running store and named only when it is durable.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use crate::{
    Entry, Result, Rev,
    frame::{self, Bad, Record},
    log::{damaged, failed, remove, segment_path, snapshot_path, sync_dir},
    state::{Keep, State},
};

/// How many entries share a frame.
const FRAME_ENTRIES: usize = 64;

/// At most one snapshot is written at a time.
#[derive(Default)]
pub(crate) struct Snapshot {
    running: Option<JoinHandle<()>>,
}

impl Snapshot {
    pub(crate) fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    pub(crate) fn start(&mut self, dir: PathBuf, covered: u64, rev: Rev, entries: Vec<Entry>) {
        let work = move || match write(&dir, covered, rev, &entries) {
            Ok(()) => remove_replaced(&dir, covered),
            Err(error) => tracing::warn!("no snapshot of the store, its log is kept instead: {error}"),
        };
        match std::thread::Builder::new().name("skiff-snapshot".into()).spawn(work) {
            Ok(thread) => self.running = Some(thread),
            Err(error) => tracing::warn!("no snapshot of the store, its log is kept instead: {error}"),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Some(thread) = self.running.take()
            && thread.join().is_err()
        {
            tracing::error!("writing a snapshot of the store panicked");
        }
    }
}

pub(crate) fn write(dir: &Path, covered: u64, rev: Rev, entries: &[Entry]) -> Result<()> {
    let (unfinished, path) = (dir.join("snapshot.tmp"), snapshot_path(dir, covered));
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let file = file.map_err(failed("create", &unfinished))?;
    let mut out = BufWriter::new(&file);
    write_frames(&mut out, rev, entries).and_then(|()| out.flush()).map_err(failed("write", &unfinished))?;
    drop(out);
    file.sync_all().map_err(failed("sync", &unfinished))?;
    fs::rename(&unfinished, &path).map_err(failed("rename", &unfinished))?;
    sync_dir(dir)
}

pub(crate) fn write_frames(out: &mut impl Write, rev: Rev, entries: &[Entry]) -> io::Result<()> {
    out.write_all(frame::HEADER)?;
    let mut write = |records: &[Record]| {
        let frame = frame::encode(records.iter()).ok_or(io::ErrorKind::FileTooLarge)?;
        out.write_all(&frame)
    };
    write(&[Record::SnapshotHead { rev }])?;
    for some in entries.chunks(FRAME_ENTRIES) {
        let records: Vec<_> = some.iter().cloned().map(Record::Put).collect();
        write(&records)?;
    }
    write(&[Record::SnapshotEnd { count: entries.len() as u64 }])
}

/// What the snapshot covers. A crash on the way leaves files that the next start removes.
fn remove_replaced(dir: &Path, covered: u64) {
    let replaced = |number: &u64| segment_path(dir, *number).exists();
    (1..=covered).rev().take_while(replaced).for_each(|number| remove(&segment_path(dir, number)));
    let old = (1..covered).rev().map(|number| snapshot_path(dir, number)).find(|path| path.exists());
    old.iter().for_each(|path| remove(path));
}

/// The state that a snapshot holds. It had its name after it was durable, so anything missing is damage.
pub(crate) fn read(path: &Path, keep: Keep) -> Result<State> {
    let bytes = fs::read(path).map_err(failed("read", path))?;
    let (rev, entries) = parse(&bytes).map_err(|at| damaged(path, at))?;
    Ok(State::restored(keep, rev, entries))
}

/// An error is the byte at which it is not what a snapshot is.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Rev, Vec<Entry>), usize> {
    let (records, bad) = frame::decode(bytes);
    if let Some(Bad::Torn { at } | Bad::Damaged { at }) = bad {
        return Err(at);
    }
    open_up(records).ok_or(bytes.len())
}

fn open_up(records: Vec<Record>) -> Option<(Rev, Vec<Entry>)> {
    let expected = records.len().checked_sub(2)? as u64;
    let mut records = records.into_iter();
    let Record::SnapshotHead { rev } = records.next()? else { return None };
    let mut entries = Vec::with_capacity(expected as usize);
    for record in records {
        match record {
            Record::Put(entry) if entry.modified <= rev => entries.push(entry),
            Record::SnapshotEnd { count } if count == expected && entries.len() as u64 == count => {}
            _ => return None,
        }
    }
    (entries.len() as u64 == expected).then_some((rev, entries))
}
