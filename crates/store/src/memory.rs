//! The embedded store without its disk, for tests and for clusters that need not survive.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    Entry, Event, Expect, Page, Result, Rev, Store, Watch,
    embedded::{Options, store_by_engine},
    engine::{Engine, Journal},
    state::State,
};

pub struct Memory {
    engine: Engine,
}

impl Memory {
    /// # Panics
    /// If the process can start no further thread.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self::with(&Options::default())
    }

    /// # Panics
    /// If the process can start no further thread.
    pub fn with(options: &Options) -> Self {
        let engine = Engine::start(State::new(options.keep()), NoJournal).expect("a thread for the store's committer");
        Memory { engine }
    }
}

store_by_engine!(Memory);

struct NoJournal;

impl Journal for NoJournal {
    fn append(&mut self, _: &[Event]) -> Result<()> {
        Ok(())
    }

    fn committed(&mut self, _: &State) {}
}
