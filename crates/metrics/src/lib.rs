//! Figures in the text format of Prometheus, for every component that has some: a page that is written line by line,
//! histograms, and what the process knows of itself. Which figures there are is each component's own affair.

mod histogram;
mod page;
mod process;

pub use histogram::Histogram;
pub use page::Page;
pub use process::process;
