//! The pod network on the real kernel, in a network namespace of the test's own. Needs root.
#![allow(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use skiff_node::network::{Attachment, Network};
use skiff_testkit::tools;

fn privileged() -> bool {
    if !tools::is_root() {
        tools::skip("network namespaces need root");
    }
    tools::is_root()
}

/// On a thread of its own, in a fresh network namespace.
fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread, made for this, changes its namespace.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            test();
        });
        thread.join().unwrap();
    });
}

/// Runs in a pod's namespace, on a thread of its own.
fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = std::fs::File::open(netns).unwrap();
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn talk(from: &Attachment, to: &Attachment) -> IpAddr {
    let listener = inside(&to.netns, || TcpListener::bind((to.ip, 80)).unwrap());
    let mut client =
        inside(&from.netns, || TcpStream::connect_timeout(&(to.ip, 80).into(), Duration::from_secs(5)).unwrap());
    let (mut server, peer) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    peer.ip()
}

/// Whatever happens, no mount stays behind.
struct Clean<'a>(&'a Path);

impl Drop for Clean<'_> {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.0).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn links() -> usize {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().filter(|l| l.contains("skiff")).count()
}

#[test]
fn pods_reach_each_other_and_leave_nothing() {
    if !privileged() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("netns");
    let _clean = Clean(&directory);
    in_namespace(|| {
        let network = Network::open(directory.clone(), "10.244.7.0/24".parse().unwrap(), &[]).unwrap();
        network.fill().unwrap();
        let begun = Instant::now();
        let a = network.attach("a").unwrap();
        let b = network.attach("b").unwrap();
        eprintln!("two pods attached in {:?}", begun.elapsed());
        assert_eq!((a.ip.to_string(), b.ip.to_string()), ("10.244.7.2".into(), "10.244.7.3".into()));
        assert_eq!(talk(&a, &b), a.ip);
        // Itself by its own address, and the node reaches the pod.
        assert_eq!(talk(&a, &a), a.ip);
        let listener = inside(&b.netns, || TcpListener::bind((b.ip, 81)).unwrap());
        TcpStream::connect_timeout(&(b.ip, 81).into(), Duration::from_secs(5)).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), network.gateway());

        // The next agent: a still runs, b's record is lost.
        drop(network);
        let network =
            Network::open(directory.clone(), "10.244.7.0/24".parse().unwrap(), &[("a".into(), a.clone())]).unwrap();
        assert!(!b.netns.exists());
        let c = network.attach("c").unwrap();
        assert_ne!(c.ip, a.ip);
        assert_eq!(talk(&a, &c), a.ip);
        network.detach("a", &a).unwrap();
        network.detach("a", &a).unwrap();
        network.detach("c", &c).unwrap();
        network.close();
        assert_eq!(links(), 1, "only the bridge is left");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    });
}
