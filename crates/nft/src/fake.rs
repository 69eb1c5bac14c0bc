//! A kernel in memory, with the real one's behaviour at errors: one bad change and the whole batch is refused.

use std::io;

use crate::{
    batch::{Batch, State, StateError, apply},
    kernel::{Error, Kernel},
    value::{Table, TableRef},
};

#[derive(Clone, Debug, Default)]
pub struct Fake {
    pub state: State,
    pub generation: u32,
    /// Commits seen, accepted or not.
    pub commits: usize,
    /// This many of the next commits are refused with ENOMEM.
    pub fail_next: usize,
    pub exclusive: bool,
}

fn errno(e: &StateError) -> i32 {
    match e {
        StateError::Absent(_) => libc::ENOENT,
        StateError::Exists(_) => libc::EEXIST,
        StateError::Busy(_) => libc::EBUSY,
    }
}

fn refused(table: String, action: String, errno: i32) -> Error {
    Error::Refused { table, action, cause: io::Error::from_raw_os_error(errno) }
}

impl Kernel for Fake {
    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        self.commits += 1;
        if self.fail_next > 0 {
            self.fail_next -= 1;
            return Err(refused("?".into(), "injected failure".into(), libc::ENOMEM));
        }
        self.state = apply(&self.state, batch).map_err(|e| refused("?".into(), e.to_string(), errno(&e)))?;
        self.generation += 1;
        Ok(())
    }

    fn dump(&mut self, table: &TableRef) -> Result<Option<Table>, Error> {
        Ok(self.state.get(table).cloned())
    }

    fn generation(&mut self) -> Result<u32, Error> {
        Ok(self.generation)
    }

    fn exclusive(&mut self, table: &TableRef) -> Result<bool, Error> {
        Ok(self.exclusive && self.state.contains_key(table))
    }
}
