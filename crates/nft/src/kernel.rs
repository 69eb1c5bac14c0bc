//! The one door to the kernel.

use std::io;

use crate::{
    batch::Batch,
    value::{Table, TableRef},
};

/// Calls its argument with every part in order; the same parts each time.
pub type Parts<'a> = dyn Fn(&mut dyn FnMut(&Batch)) + 'a;

/// The parts as one batch.
pub(crate) fn whole(parts: &Parts<'_>) -> Batch {
    let mut whole = Batch::default();
    parts(&mut |part| whole.append(part.clone()));
    whole
}

/// Who can keep tables: the kernel through [`crate::Netlink`], or [`crate::Fake`].
pub trait Kernel {
    /// All of it or, on an error, nothing.
    fn commit(&mut self, batch: &Batch) -> Result<(), Error>;

    /// The same for one transaction in parts, each of which is made when its turn comes: a whole cluster's rules need not
    /// be in memory at once.
    fn commit_parts(&mut self, parts: &Parts<'_>) -> Result<(), Error> {
        self.commit(&whole(parts))
    }

    /// None when the table does not exist. Elements of dynamic sets are not read.
    fn dump(&mut self, table: &TableRef) -> Result<Option<Table>, Error>;

    /// A number that grows by one with every transaction of anybody in the network namespace.
    fn generation(&mut self) -> Result<u32, Error>;

    /// True while nobody else is able to change the table, so that its content need not be compared.
    fn exclusive(&mut self, table: &TableRef) -> Result<bool, Error>;
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nftables: no access ({0}): run as root or with CAP_NET_ADMIN in this network namespace")]
    Denied(io::Error),
    #[error("nftables is not available in this kernel ({0}): load the module nf_tables")]
    Unavailable(io::Error),
    #[error("nftables: {action} in table {table}: {cause}; the whole transaction was refused")]
    Refused { table: String, action: String, cause: io::Error },
    #[error("nftables: table {0} belongs to another process: stop that process or choose another table name")]
    Owned(String),
    #[error("nftables: a transaction is longer than this process may send ({0}): with CAP_NET_ADMIN it may be longer")]
    TooLong(io::Error),
    #[error("nftables: {0} failed: {1}")]
    Socket(&'static str, io::Error),
    #[error("nftables: the kernel changed its tables while they were read; try again")]
    Interrupted,
    #[error("nftables: an answer of the kernel could not be understood: {0}")]
    Malformed(&'static str),
}
