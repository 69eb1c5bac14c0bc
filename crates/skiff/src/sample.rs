//! The tour's image is this very program, called by other names: the two sample servers, and small stand-ins for the tools
//! that one would use in a pod. They show what the real ones show of names, addresses and connections.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use skiff_dns::wire::{self, Name, rtype};

/// Names that the program goes by in the image, below /bin.
pub(crate) const NAMES: [&str; 6] = ["ms-hello", "ms-bye", "curl", "nslookup", "nc", "printenv"];

const PATIENCE: Duration = Duration::from_secs(5);

type Outcome = Result<(), String>;

/// None when the name is none of ours.
pub(crate) fn called(name: &str, args: &[String]) -> Option<ExitCode> {
    let done = match name {
        "ms-hello" => serve("ms-hello", 7777, "This is the hello world custom node parent"),
        "ms-bye" => serve("ms-bye", 9999, "This is the test bye with custom node parent image"),
        "curl" => args.last().ok_or("curl URL".to_owned()).and_then(|url| say(&format!("{}\n", page(url)?))),
        "nslookup" => args.first().ok_or("nslookup NAME".to_owned()).and_then(|name| nslookup(name)),
        "nc" => connect(args),
        "printenv" => print_environment(),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{name}: {why}");
            ExitCode::FAILURE
        }
    })
}

fn say(text: &str) -> Outcome {
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| e.to_string())
}

/// One page for everybody, one line of log for each request, an end on SIGTERM when the last answer is given.
fn serve(name: &str, port: u16, page: &'static str) -> Outcome {
    static ENDING: AtomicBool = AtomicBool::new(false);
    let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|e| format!("port {port}: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            if let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                term.recv().await;
            }
        });
        ENDING.store(true, Ordering::Relaxed);
        // A connection of our own wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", port));
    });
    say(&format!("{name} listens on port {port}\n"))?;
    for stream in listener.incoming().flatten() {
        if ENDING.load(Ordering::Relaxed) {
            return Ok(());
        }
        let name = name.to_owned();
        // A client that goes away in the middle is its own affair.
        std::thread::spawn(move || answer(stream, &name, page).ok());
    }
    Ok(())
}

fn answer(mut stream: TcpStream, name: &str, page: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let client = stream.peer_addr()?.ip();
    let mut lines = BufReader::new(stream.try_clone()?.take(16 << 10)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    // A log that cannot be written must not cost the client its page.
    let _ = say(&format!("{name} {} from {client}\n", first.trim_end_matches(" HTTP/1.1")));
    let length = page.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
    )
}

fn reach(host: &str, port: u16) -> Result<(TcpStream, SocketAddr), String> {
    let mut last = format!("{host} has no address");
    for address in (host, port).to_socket_addrs().map_err(|e| format!("{host}: {e}"))? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok((stream, address)),
            Err(e) => last = format!("{host} [{address}]: {e}"),
        }
    }
    Err(last)
}

/// The body of the page at an `http://` address.
pub(crate) fn page(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    let (mut stream, _) = reach(host, port)?;
    let failed = |e: std::io::Error| format!("{url}: {e}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut text = String::new();
    stream.take(1 << 20).read_to_string(&mut text).map_err(failed)?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    Ok(body.to_owned())
}

/// `nc -zv HOST PORT`
fn connect(args: &[String]) -> Outcome {
    let [.., host, port] = args else { return Err("nc -zv HOST PORT".into()) };
    let number = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    let (_, address) = reach(host, number)?;
    say(&format!("{host} [{}] {port} open\n", address.ip()))
}

fn print_environment() -> Outcome {
    let mut lines: Vec<String> = std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect();
    lines.sort();
    say(&lines.concat())
}

/// Asks as the pod's resolv.conf says: names with few dots go through the search list first.
fn nslookup(name: &str) -> Outcome {
    let conf = std::fs::read_to_string("/etc/resolv.conf").map_err(|e| format!("/etc/resolv.conf: {e}"))?;
    let value =
        |key: &str| conf.lines().filter_map(move |l| l.strip_prefix(key)).map(str::trim).next().unwrap_or_default();
    let server: IpAddr = value("nameserver").parse().map_err(|_| "/etc/resolv.conf names no server".to_owned())?;
    say(&format!("Server:    {server}\n\n"))?;
    let searched = value("search").split_whitespace().map(|domain| format!("{name}.{domain}"));
    let candidates: Vec<String> = match name.ends_with('.') {
        true => vec![name.to_owned()],
        false => searched.chain([name.to_owned()]).collect(),
    };
    for full in candidates {
        let found = ask(server, &full)?;
        if !found.is_empty() {
            let lines = found.iter().map(|ip| format!("Name:      {full}\nAddress:   {ip}\n"));
            return say(&lines.collect::<String>());
        }
    }
    Err(format!("can't resolve {name}"))
}

fn ask(server: IpAddr, name: &str) -> Result<Vec<IpAddr>, String> {
    let failed = |e: std::io::Error| format!("{server}: {e}");
    let name = Name::parse(name).ok_or_else(|| format!("{name:?} is no name"))?;
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    socket.send_to(&wire::encode_query(1, &name, rtype::A), (server, 53)).map_err(failed)?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).map_err(failed)?;
    let answer = wire::parse_foreign(&buffer[..length]).ok_or("malformed answer")?;
    let address = |data: wire::Data| match data {
        wire::Data::Other { rtype: rtype::A, bytes } => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    };
    Ok(answer.response.answers.into_iter().filter_map(|r| address(r.data)).collect())
}
