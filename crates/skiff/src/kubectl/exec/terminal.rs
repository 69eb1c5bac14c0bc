//! The terminal on this side: raw while a remote command owns it, and its size whenever that changes.

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::Sender,
};
use tokio_tungstenite::tungstenite::Message;

pub(super) fn present() -> bool {
    isatty(std::io::stdin())
}

/// The terminal is put back as it was when this is dropped.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn enter() -> Option<Raw> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Sends the size now and after each change.
pub(super) async fn sizes(to: Sender<Message>) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = tcgetwinsize(std::io::stdout()) {
            let text = json!({"Width": size.ws_col, "Height": size.ws_row}).to_string();
            if to.send(super::framed(super::RESIZE, text.as_bytes())).await.is_err() {
                return;
            }
        }
        if changed.recv().await.is_none() {
            return;
        }
    }
}
