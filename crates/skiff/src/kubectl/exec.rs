//! `exec`: a command in a container, over a WebSocket whose messages begin with a channel number.

mod terminal;

use futures::{SinkExt, StreamExt};
use http::Method;
use serde_json::Value;
use skiff_api::json;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;

use super::{
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    kinds::known,
    pods,
    session::{Call, Session},
    text::note,
};

pub(super) const FLAGS: &[Flag] = &[
    switch("stdin", "pass standard input to the command").short('i'),
    switch("tty", "give the command a terminal").short('t'),
    value("container", "the container; the first one without this").short('c'),
    switch("quiet", "print only the command's own output").short('q'),
    value("pod-running-timeout", "accepted; has no effect"),
    value("filename", "use the object in this file").short('f'),
];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The longest piece of standard input that is sent at once.
const PIECE: usize = 32 << 10;

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    let (before, command) = args.split();
    if before.is_empty() {
        return plain("pod, type/name or --filename must be specified");
    }
    if before.len() > 1 {
        return plain(
            "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\nSee 'kubectl exec -h' for help and examples",
        );
    }
    if command.is_empty() {
        return plain("you must specify at least one command for the container");
    }
    let pod = pods::behind(session, &before[0], args).await?;
    // Whether there is such a container is the server's to say.
    let container = match args.get("container") {
        Some(wanted) => wanted.to_owned(),
        None => pods::container(&pod, args)?,
    };
    let streams = Streams::wanted(args.on("stdin"), args.on("tty"));
    let mut call = subresource(&pod, "exec")?.query("container", container);
    for word in command {
        call = call.query("command", word);
    }
    stream(session, streams.ask(call), streams).await
}

/// `attach`: the streams of the container's own first process.
pub(super) async fn attach(session: &Session, args: &Args) -> Result<()> {
    let Some(word) = args.words.first() else {
        return plain("at least 1 argument is required for attach");
    };
    let pod = pods::behind(session, word, args).await?;
    let container = pods::container(&pod, args)?;
    let streams = Streams::wanted(args.on("stdin"), args.on("tty"));
    let call = subresource(&pod, "attach")?.query("container", container);
    stream(session, streams.ask(call), streams).await
}

pub(super) fn subresource(pod: &Value, name: &str) -> Result<Call> {
    Ok(Call::new(Method::GET, format!("{}/{name}", known("", "pods")?.path_of(pod))))
}

/// Which streams the two sides share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    stdin: bool,
    tty: bool,
}

impl Streams {
    pub(super) fn wanted(stdin: bool, tty: bool) -> Streams {
        let real = terminal::present();
        if tty && stdin && !real {
            note("Unable to use a TTY - input is not a terminal or the right kind of file\n");
        }
        Streams { stdin, tty: tty && (real || !stdin) }
    }

    pub(super) fn ask(self, call: Call) -> Call {
        let call = if self.stdin { call.query("stdin", "true") } else { call };
        let call = call.query("stdout", "true");
        if self.tty { call.query("tty", "true") } else { call.query("stderr", "true") }
    }
}

/// Carries the streams until the command ends; its exit code is the result.
pub(super) async fn stream(session: &Session, call: Call, streams: Streams) -> Result<()> {
    let connection = match session.connect(&call).await {
        Ok(connection) => connection,
        Err(e) => return Err(refusal(session, &call, e).await),
    };
    let closes = connection.supports_stream_close();
    let raw = match streams.tty && streams.stdin {
        true => terminal::Raw::enter(),
        false => None,
    };
    let (mut sink, mut source) = connection.into_stream().split();
    let (input, mut typed) = tokio::sync::mpsc::channel::<Message>(16);
    let sender = tokio::spawn(async move {
        while let Some(message) = typed.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    if streams.tty {
        tokio::spawn(terminal::sizes(input.clone()));
    }
    if streams.stdin {
        tokio::spawn(send_stdin(input.clone(), closes));
    }
    let ended = receive(&mut source, &input).await;
    drop(raw);
    sender.abort();
    ended
}

/// A refused upgrade says nothing of its reason; the plain request does.
async fn refusal(session: &Session, call: &Call, error: Error) -> Error {
    match session.send(call).await {
        Err(why @ Error::Server(_)) if !why.is("BadRequest") || !why.to_string().to_lowercase().contains("upgrade") => {
            why
        }
        _ => error,
    }
}

async fn send_stdin(to: tokio::sync::mpsc::Sender<Message>, closes: bool) {
    let mut stdin = tokio::io::stdin();
    let mut piece = vec![0; PIECE];
    while let Ok(read @ 1..) = stdin.read(&mut piece).await {
        if to.send(framed(STDIN, &piece[..read])).await.is_err() {
            return;
        }
    }
    if closes {
        let _ = to.send(framed(CLOSE, &[STDIN])).await;
    }
}

pub(super) fn framed(channel: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::binary(message)
}

async fn receive<S, E>(source: &mut S, answers: &tokio::sync::mpsc::Sender<Message>) -> Result<()>
where
    S: futures::Stream<Item = std::result::Result<Message, E>> + Unpin,
    E: std::fmt::Display,
{
    while let Some(message) = source.next().await {
        let bytes = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Text(text)) => text.as_bytes().to_vec().into(),
            Ok(Message::Ping(bytes)) => {
                let _ = answers.try_send(Message::Pong(bytes));
                continue;
            }
            Ok(Message::Close(_)) => break,
            Ok(_) => continue,
            Err(e) => return plain(format!("error reading from error stream: {e}")),
        };
        match bytes.split_first() {
            Some((&STDOUT, text)) => write(&mut std::io::stdout().lock(), text)?,
            Some((&STDERR, text)) => write(&mut std::io::stderr().lock(), text)?,
            Some((&ERROR, status)) if !status.is_empty() => return verdict(status),
            _ => {}
        }
    }
    Ok(())
}

fn write(to: &mut impl std::io::Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(|_| Error::Closed)
}

/// What the error channel says of the command's end.
fn verdict(status: &[u8]) -> Result<()> {
    let Ok(status) = serde_json::from_slice::<Value>(status) else {
        return plain(String::from_utf8_lossy(status).into_owned());
    };
    if json::text(&status, "status") == "Success" {
        return Ok(());
    }
    if json::text(&status, "reason") == "NonZeroExitCode" {
        let causes = json::list(&status, "details.causes").iter();
        let code = causes
            .filter(|c| json::text(c, "reason") == "ExitCode")
            .find_map(|c| json::text(c, "message").parse().ok());
        return match code {
            Some(0) => Ok(()),
            Some(code) => Err(Error::Command(code)),
            None => plain("error stream protocol error: no exit code in the status"),
        };
    }
    match json::text(&status, "message") {
        "" => plain("error executing remote command"),
        message if json::text(&status, "reason") == "InternalError" => {
            plain(format!("Internal error occurred: {}", message.trim_start_matches("Internal error occurred: ")))
        }
        message => plain(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        assert!(verdict(br#"{"status":"Success"}"#).is_ok());
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        let error = verdict(failed).unwrap_err();
        assert_eq!((error.exit_code(), error.report()), (7, "command terminated with exit code 7\n".into()));
        assert!(verdict(b"garbage").is_err());
        assert!(verdict(br#"{"status":"Failure","reason":"NonZeroExitCode"}"#).is_err());
    }
}
