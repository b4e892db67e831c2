//! The part a stand-in plays: what it answers to which command, what it holds back, and what has come. Imports `reply`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::reply::Reply;

/// Makes a reply of a command's arguments.
type Make = Arc<dyn Fn(&Value) -> Reply + Send + Sync>;

/// What is answered to each command by its name, and the commands that came.
pub(super) struct Script {
    parts: Mutex<Parts>,
    /// Wakes those who wait for a command to come, or to be released.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Parts {
    lasting: HashMap<String, Answer>,
    /// Used before `lasting`, each of them once.
    once: HashMap<String, VecDeque<Answer>>,
    delays: HashMap<String, Duration>,
    held: HashSet<String>,
    log: Vec<Entry>,
}

#[derive(Clone)]
enum Answer {
    Fixed(Reply),
    Made(Make),
}

/// A command that came.
struct Entry {
    name: String,
    command: Value,
    /// Whether somebody has waited for it and got it.
    seen: bool,
}

impl Script {
    pub(super) fn new() -> Self {
        Script {
            parts: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    pub(super) fn on(&self, name: String, reply: Reply) {
        self.lock().lasting.insert(name, Answer::Fixed(reply));
    }

    pub(super) fn on_fn(&self, name: String, make: Make) {
        self.lock().lasting.insert(name, Answer::Made(make));
    }

    pub(super) fn once(&self, name: String, reply: Reply) {
        let answers = &mut self.lock().once;
        answers
            .entry(name)
            .or_default()
            .push_back(Answer::Fixed(reply));
    }

    pub(super) fn delay(&self, name: String, delay: Duration) {
        self.lock().delays.insert(name, delay);
    }

    pub(super) fn hold(&self, name: String) {
        self.lock().held.insert(name);
    }

    pub(super) fn release(&self, name: &str) {
        self.lock().held.remove(name);
        self.changed.send_replace(());
    }

    /// The names of the commands that the script answers, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let parts = self.lock();
        let mut names: Vec<String> = parts
            .lasting
            .keys()
            .chain(parts.once.keys())
            .cloned()
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether nothing was ever scripted.
    pub(super) fn is_empty(&self) -> bool {
        let parts = self.lock();
        parts.lasting.is_empty() && parts.once.is_empty()
    }

    /// Notes a command that came.
    pub(super) fn record(&self, name: String, command: Value) {
        self.lock().log.push(Entry {
            name,
            command,
            seen: false,
        });
        self.changed.send_replace(());
    }

    pub(super) fn commands(&self) -> Vec<Value> {
        let parts = self.lock();
        parts
            .log
            .iter()
            .map(|entry| entry.command.clone())
            .collect()
    }

    pub(super) fn clear_commands(&self) {
        self.lock().log.clear();
    }

    /// The next command of this name that no earlier wait has returned; waits until there is one.
    pub(super) async fn wait_for(&self, name: &str) -> Value {
        self.wait(|parts| {
            let mut log = parts.log.iter_mut();
            let entry = log.find(|entry| !entry.seen && entry.name == name)?;
            entry.seen = true;
            Some(entry.command.clone())
        })
        .await
    }

    /// Waits while this command is held, and then for its delay.
    pub(super) async fn wait_for_turn(&self, name: &str) {
        self.wait(|parts| (!parts.held.contains(name)).then_some(()))
            .await;
        let delay = self.lock().delays.get(name).copied();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
    }

    /// What the script says to this command; nothing where it says nothing.
    pub(super) fn answer(&self, name: &str, arguments: &Value) -> Option<Reply> {
        let answer = {
            let mut parts = self.lock();
            let once = parts.once.get_mut(name).and_then(VecDeque::pop_front);
            once.or_else(|| parts.lasting.get(name).cloned())?
        };
        // The user's function runs without the lock: it may use the stand-in.
        Some(match answer {
            Answer::Fixed(reply) => reply,
            Answer::Made(make) => make(arguments),
        })
    }

    async fn wait<T>(&self, mut found: impl FnMut(&mut Parts) -> Option<T>) -> T {
        // Made before the question is asked, it misses no change.
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = found(&mut self.lock()) {
                return found;
            }
            if changed.changed().await.is_err() {
                // The sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        // Nothing panics under this lock.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("names", &self.names())
            .field("commands", &self.lock().log.len())
            .finish()
    }
}
