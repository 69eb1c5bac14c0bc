//! What only a store in etcd can go through: other servers, lost answers, an etcd that goes and comes back, certificates.

mod common;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{next, runtime};
use futures::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use skiff_store::{
    Error, Event, Expect, Store,
    etcd::{Etcd, Options, TlsFiles, Unusable},
};
use skiff_testkit::etcd::Etcd as Process;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

const SOON: Duration = Duration::from_secs(60);

/// Between a server and etcd: lets nothing through while shut, and drops its connections when told to.
struct Link {
    endpoint: String,
    shut: Arc<AtomicBool>,
    cuts: Arc<AtomicU64>,
}

impl Link {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (shut, cuts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let link = Link { endpoint, shut: shut.clone(), cuts: cuts.clone() };
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if shut.load(Ordering::Relaxed) {
                    continue;
                }
                let (shut, cuts, seen) = (shut.clone(), cuts.clone(), cuts.load(Ordering::Relaxed));
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let cut = async {
                        while cuts.load(Ordering::Relaxed) == seen && !shut.load(Ordering::Relaxed) {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        () = cut => {}
                    }
                });
            }
        });
        link
    }

    fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }

    fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::Relaxed);
    }
}

fn start(dir: &Path, flags: &[&str]) -> Process {
    Process::start_with(dir, flags).expect("etcd starts")
}

/// Adds one to a number, by what was read; None: whether it was added is unknown.
async fn add_one(store: &Etcd, key: &str) -> Option<u64> {
    loop {
        let Ok(found) = store.get(key).await else { continue };
        let (number, expect) = match &found {
            None => (0, Expect::Absent),
            Some(entry) => (number(&entry.value), Expect::Rev(entry.modified)),
        };
        match store.put(key, (number + 1).to_string().into(), expect).await {
            Ok(_) => return Some(number + 1),
            Err(Error::Conflict { .. }) => {}
            Err(_) => return None,
        }
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).expect("text").parse().expect("a number")
}

#[test]
fn lost_answers_are_neither_lost_nor_repeated_writes() {
    let Some(endpoint) = common::etcd() else { return };
    let port = endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    runtime().block_on(async {
        let options = common::etcd_options(endpoint);
        let link = Link::to(port).await;
        let through = Options { endpoints: vec![link.endpoint.clone()], ..options.clone() };
        let servers = [common::open_etcd(&through).await, common::open_etcd(&options).await];
        let mut watch = servers[0].watch("/n", 0).await.expect("watches");
        let cutting = async {
            // A number of times, so that it ends however slow the machine is.
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                link.cut();
            }
        };
        let adding = async {
            let all = join_all((0..4).map(|n| {
                let store = &servers[n % 2];
                async move {
                    let mut added = Vec::new();
                    for _ in 0..50 {
                        added.push(add_one(store, "/n").await);
                    }
                    added
                }
            }));
            all.await.concat()
        };
        let (added, ()) = tokio::join!(adding, cutting);
        let mut numbers: Vec<u64> = added.iter().copied().flatten().collect();
        let sure = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), sure, "two additions with one result");
        assert_eq!(sure, 200, "every answer was found out");
        let last = servers[1].get("/n").await.expect("read").expect("there");
        assert_eq!(number(&last.value), 200);
        // And the watch through the bad link saw each once, in order.
        for expected in 1..=200 {
            let Event::Put { entry, .. } = next(&mut watch).await else { panic!("no put") };
            assert_eq!(number(&entry.value), expected);
        }
    });
}

#[test]
fn an_etcd_that_comes_back_has_everything() {
    let Some(dir) = common::etcd_dir() else { return };
    let mut etcd = start(dir.path(), &[]);
    runtime().block_on(async {
        let options = common::etcd_options(&etcd.endpoint());
        let store = Arc::new(common::open_etcd(&options).await);
        let mut watch = store.watch("/", 0).await.expect("watches");
        let mut acked = 0;
        for round in 0..3 {
            for _ in 0..20 {
                acked = store.put("/a", format!("{round}").into(), Expect::Any).await.expect("written").modified;
            }
            etcd.kill();
            let writing = tokio::spawn({
                let store = store.clone();
                async move { store.put("/during", "x".into(), Expect::Any).await }
            });
            etcd.run().expect("etcd starts again");
            // It was tried until etcd was back.
            acked = writing.await.expect("no panic").expect("written").modified.max(acked);
        }
        let last = tokio::time::timeout(SOON, async {
            let mut seen = 0;
            while seen < acked {
                let rev = next(&mut watch).await.rev();
                assert_eq!(rev, seen + 1, "nothing lost, nothing twice");
                seen = rev;
            }
            seen
        });
        assert_eq!(last.await.expect("everything is seen"), acked);
        assert_eq!(store.revision().await.expect("read"), acked);
        let fresh = common::open_etcd(&options).await;
        assert_eq!(fresh.get("/a").await.expect("read").expect("there").value, "2");
    });
}

#[test]
fn without_etcd_nothing_is_answered_and_nothing_hangs() {
    let Some(dir) = common::etcd_dir() else { return };
    let mut etcd = start(dir.path(), &[]);
    runtime().block_on(async {
        let store = common::open_etcd(&common::etcd_options(&etcd.endpoint())).await;
        store.put("/a", "1".into(), Expect::Any).await.expect("written");
        etcd.kill();
        let read = tokio::time::timeout(SOON, store.get("/a")).await.expect("answered");
        let words = read.expect_err("old values are not the newest").to_string();
        assert!(words.contains("cannot read etcd") && words.contains(&etcd.endpoint()), "{words}");
        let written = tokio::time::timeout(SOON, store.put("/a", "2".into(), Expect::Any)).await.expect("answered");
        let words = written.expect_err("not written").to_string();
        assert!(words.contains("whether this was written is unknown"), "{words}");
        etcd.run().expect("etcd starts again");
        store.put("/a", "3".into(), Expect::Any).await.expect("written");
        assert_eq!(store.get("/a").await.expect("read").expect("there").value, "3");
    });
}

#[test]
fn a_watch_goes_on_at_another_server() {
    let Some(endpoint) = common::etcd() else { return };
    runtime().block_on(async {
        let options = common::etcd_options(endpoint);
        let first = common::open_etcd(&options).await;
        for n in 0..50 {
            first.put(&format!("/a/{n}"), "x".into(), Expect::Any).await.expect("written");
        }
        let mut watch = first.watch("/a/", 0).await.expect("watches");
        for _ in 0..20 {
            next(&mut watch).await;
        }
        drop((watch, first));
        // One that is started only now knows the same revisions, and the changes since then.
        let second = common::open_etcd(&options).await;
        let mut watch = second.watch("/a/", 20).await.expect("goes on");
        second.delete("/a/0", Expect::Any).await.expect("deleted");
        for expected in 21..=51 {
            assert_eq!(next(&mut watch).await.rev(), expected);
        }
    });
}

#[test]
fn a_server_that_missed_too_much_reads_everything_anew() {
    let Some(dir) = common::etcd_dir() else { return };
    let etcd = start(dir.path(), &[]);
    runtime().block_on(async {
        let often = Duration::from_millis(50);
        let options = Options { compact_every: often, ..common::etcd_options(&etcd.endpoint()) };
        let link = Link::to(etcd.port()).await;
        let cut_off = Options {
            endpoints: vec![link.endpoint.clone()],
            compact_every: Duration::from_secs(3600),
            ..options.clone()
        };
        let (here, there) = (common::open_etcd(&options).await, common::open_etcd(&cut_off).await);
        here.put("/old", "x".into(), Expect::Any).await.expect("written");
        let mut watch = there.watch("/", 0).await.expect("watches");
        assert_eq!(next(&mut watch).await.rev(), 1);
        link.shut(true);
        here.delete("/old", Expect::Any).await.expect("deleted");
        // Until etcd has forgotten what the other has not seen.
        let probe = Options { compact_every: Duration::from_secs(3600), ..options.clone() };
        let forgotten = async {
            loop {
                here.put("/new", "x".into(), Expect::Any).await.expect("written");
                let fresh = common::open_etcd(&probe).await;
                if matches!(fresh.watch("/", 1).await, Err(Error::Compacted { .. })) {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, forgotten).await.expect("etcd forgets");
        link.shut(false);
        let ended = tokio::time::timeout(SOON, async {
            use futures::StreamExt;
            loop {
                match watch.next().await {
                    Some(Ok(Event::Progress(_))) => {}
                    other => return other,
                }
            }
        });
        let ended = ended.await.expect("told");
        assert!(matches!(ended, Some(Err(Error::Compacted { .. }))), "{ended:?}");
        assert_eq!(there.get("/old").await.expect("read"), None);
        assert_eq!(there.get("/new").await.expect("read"), here.get("/new").await.expect("read"));
        there.put("/new", "y".into(), Expect::Any).await.expect("written");
        assert_eq!(here.get("/new").await.expect("read").expect("there").value, "y");
    });
}

#[test]
fn an_etcd_without_room_refuses_with_its_reason() {
    let Some(dir) = common::etcd_dir() else { return };
    let etcd = start(dir.path(), &["--quota-backend-bytes=1048576"]);
    runtime().block_on(async {
        let store = common::open_etcd(&common::etcd_options(&etcd.endpoint())).await;
        let value = bytes::Bytes::from(vec![b'x'; 200_000]);
        let mut written = 0;
        let refused = loop {
            match store.put(&format!("/{written}"), value.clone(), Expect::Absent).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
        };
        let Error::Io { reason, fatal: false } = &refused else { panic!("{refused:?}") };
        assert!(reason.contains("space exceeded") && reason.contains("etcdctl defrag"), "{reason}");
        assert_eq!(store.list("/", None, 0, None).await.expect("lists").entries.len(), written);
        let too_large = store.put("/large", vec![b'x'; 2_000_000].into(), Expect::Any).await;
        assert!(matches!(too_large, Err(Error::Io { fatal: false, .. })), "{too_large:?}");
    });
}

#[test]
fn keys_of_somebody_else_are_not_taken_for_own_ones() {
    let Some(endpoint) = common::etcd() else { return };
    runtime().block_on(async {
        let outer = common::etcd_options(endpoint);
        let inner = Options { prefix: format!("{}/key", outer.prefix), ..outer.clone() };
        let store = common::open_etcd(&inner).await;
        store.put("/a", "1".into(), Expect::Any).await.expect("written");
        let foreign = Etcd::open(outer).await.err().expect("refused").to_string();
        assert!(foreign.contains("was not written by this version of skiff"), "{foreign}");
    });
}

struct Files {
    ca: String,
    certificate: String,
    key: String,
}

/// An authority, and a certificate of it that is good for both ends.
fn certificates(dir: &Path, name: &str) -> Files {
    let ca_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).expect("signed");
    let issuer = Issuer::from_params(&params, &ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("signed");
    let save = |what: &str, pem: String| {
        let path = dir.join(format!("{name}-{what}.pem"));
        std::fs::write(&path, pem).expect("written");
        path.display().to_string()
    };
    Files {
        ca: save("ca", ca.pem()),
        certificate: save("certificate", leaf.pem()),
        key: save("key", key.serialize_pem()),
    }
}

impl Files {
    fn tls(&self) -> TlsFiles {
        let path = |file: &String| Some(file.into());
        TlsFiles { ca: path(&self.ca), certificate: path(&self.certificate), key: path(&self.key) }
    }
}

#[test]
fn both_ends_show_their_certificates() {
    let Some(dir) = common::etcd_dir() else { return };
    let files = certificates(dir.path(), "good");
    let flag = |name: &str, file: &str| format!("--{name}={file}");
    let flags = [
        flag("cert-file", &files.certificate),
        flag("key-file", &files.key),
        flag("trusted-ca-file", &files.ca),
        "--client-cert-auth".to_owned(),
    ];
    let etcd = start(dir.path(), &flags.each_ref().map(String::as_str));
    runtime().block_on(async {
        let with = |tls: TlsFiles| Options { tls, ..common::etcd_options(&etcd.endpoint()) };
        // It listens before it serves.
        let store = tokio::time::timeout(SOON, async {
            loop {
                if let Ok(store) = Etcd::open(with(files.tls())).await {
                    return store;
                }
            }
        });
        let store = store.await.expect("opens");
        store.put("/a", "1".into(), Expect::Any).await.expect("written");
        let nobody = TlsFiles { certificate: None, key: None, ..files.tls() };
        assert!(Etcd::open(with(nobody)).await.is_err(), "a client without a certificate");
        let stranger = certificates(dir.path(), "other");
        let wrong_ca = TlsFiles { ca: Some(stranger.ca.into()), ..files.tls() };
        let error = Etcd::open(with(wrong_ca)).await.err().expect("another authority").to_string();
        assert!(error.contains("TLS") && error.contains(&etcd.endpoint()), "{error}");
    });
}

#[test]
fn what_cannot_be_used_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = certificates(dir.path(), "good");
    let text = dir.path().join("text");
    std::fs::write(&text, "no certificate").expect("written");
    let one = || vec!["https://127.0.0.1:1".to_owned()];
    let told = |endpoints: Vec<String>, prefix: &str, tls: TlsFiles| -> Unusable {
        let options = Options { tls, ..Options::new(endpoints, prefix) };
        runtime().block_on(Etcd::open(options)).err().expect("refused")
    };
    let missing = TlsFiles { ca: Some(dir.path().join("missing")), ..TlsFiles::default() };
    let no_pem = TlsFiles { ca: Some(text), ..TlsFiles::default() };
    let half = TlsFiles { key: None, ..files.tls() };
    let other_key = certificates(dir.path(), "other").key;
    let mixed = TlsFiles { key: Some(other_key.into()), ..files.tls() };
    for (endpoints, prefix, tls, words) in [
        (vec![], "/x", TlsFiles::default(), "no etcd endpoint"),
        (vec!["127.0.0.1:2379".to_owned()], "/x", TlsFiles::default(), "must be http://HOST:PORT"),
        (one(), "/x", TlsFiles::default(), "needs the certificate of the authority"),
        (one(), "x", files.tls(), "must begin with /"),
        (one(), "/", files.tls(), "must begin with /"),
        (one(), "/x", missing, "missing: No such file"),
        (one(), "/x", no_pem, "there is no certificate in it"),
        (one(), "/x", half, "go together"),
        (one(), "/x", mixed, "key.pem"),
        (one(), "/x", files.tls(), "cannot read etcd: https://127.0.0.1:1/"),
    ] {
        let error = told(endpoints, prefix, tls).to_string();
        assert!(error.contains(words), "{error} does not say {words}");
    }
}
