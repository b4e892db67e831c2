//! Waiting for events, on any monitor: conditions, a history, callbacks. May import monitor, queue, qmp and error.
//!
//! `condition` and `named` say what can be waited for, `waiter` waits, `ext` puts it on every monitor; `history` keeps what
//! came; `handler`, `callbacks` and `pool` are for programs made of callbacks.

mod callbacks;
mod condition;
mod ext;
mod handler;
mod history;
mod named;
mod pool;
mod waiter;

pub use callbacks::{CallbackOptions, Callbacks};
pub use condition::Wait;
pub use ext::{WaitExt, Waited};
pub use handler::EventHandler;
pub use history::{After, Found, History, HistoryEntry};
pub use named::Tray;
