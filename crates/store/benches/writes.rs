//! How many durable writes a second the embedded store takes from 1, 8 and 64 writers, and how fast it opens.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use skiff_store::{
    Expect, Store,
    embedded::{Embedded, Options},
};

const RUN: Duration = Duration::from_secs(2);

async fn writer(store: &Embedded, name: usize, until: Instant) -> u64 {
    let mut count = 0;
    while Instant::now() < until {
        let value = vec![b'x'; 400].into();
        store.put(&format!("/{name}/{}", count % 1000), value, Expect::Any).await.expect("written");
        count += 1;
    }
    count
}

fn main() {
    let dir = tempfile::tempdir_in(std::env::current_dir().expect("a directory")).expect("a directory");
    let begun = Instant::now();
    let store = Embedded::open(dir.path(), Options::default()).expect("opens");
    println!("open empty: {:?}", begun.elapsed());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for writers in [1, 8, 64] {
        let until = Instant::now() + RUN;
        let counts = runtime.block_on(futures::future::join_all((0..writers).map(|n| writer(&store, n, until))));
        println!("{writers} writers: {} durable writes/s", counts.iter().sum::<u64>() / RUN.as_secs());
    }
    drop(store);
    let begun = Instant::now();
    let store = Embedded::open(dir.path(), Options::default()).expect("opens");
    let rev = runtime.block_on(store.revision()).expect("read");
    println!("open after {rev} writes: {:?}", begun.elapsed());
}
