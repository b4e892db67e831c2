//! The shell at a terminal: prompts, events above the line that is typed, Ctrl-C and the end. Imports `editor`, `live`,
//! `history`, `log`, `screen` and `session`.

use std::io::stdin;
use std::sync::{Arc, Mutex, PoisonError};

use libvirt_qmp::{Error, Event, EventFilter, EventOptions, EventStream, Monitor, MonitorExt};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::editor::{Editor, Typed};
use super::history::History;
use super::line::Shown;
use super::live::Live;
use super::log::{Entry, Log};
use super::screen::{Screen, Terminal};
use super::session::{Next, Session};
use super::{How, Place};
use crate::event::{as_json, as_text, next};
use crate::failure::{Failure, chain};
use crate::interrupt::{Interrupt, Interrupts};
use crate::output::printable;

/// Runs the lines that are typed until their user leaves or the connection ends.
pub(super) async fn run(
    place: Place<'_>,
    how: &How,
    log: Option<Log>,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let settings = Kept::new();
    let Place {
        monitor,
        name,
        asks,
    } = place;
    let live = Arc::new(Live::new(monitor.clone(), Handle::current(), asks));
    let started = Editor::start(live.clone(), how.hmp, History::new(how.hmp)).await;
    let (editor, printer) =
        started.map_err(|error| Failure::usage(format!("the terminal cannot be used: {error}")))?;
    // A terminal without a printer is one that the editor leaves as it is, to read whole lines.
    if printer.is_some() {
        settings.keep_keys();
    }
    let terminal = Terminal::new(printer);
    let screen = Screen::Terminal(terminal.clone());
    let mut session = Session::new(&**monitor, how, screen, log.clone());
    let mut shell = Shell {
        editor,
        name: printable(name),
        hmp: how.hmp,
    };
    let watcher = Watcher {
        terminal,
        log,
        shown: session.events(),
    };
    let ended = watcher.start(&**monitor).await;
    if asks {
        greet(&**monitor, &mut session).await;
        // Hints and the first TAB find it there.
        let hmp = how.hmp;
        tokio::spawn(async move { live.prepare(hmp).await });
    }
    let result = shell.lines(&mut session, ended, interrupts).await;
    shell.editor.stop().await;
    session.flush().await;
    result
}

/// Says what it is that one talks to.
async fn greet(monitor: &dyn Monitor, session: &mut Session<'_>) {
    if let Ok(version) = monitor.version().await {
        // On a terminal showing does not fail.
        let text = format!(
            "QEMU {}; `help` says what can be typed",
            printable(&version.to_string())
        );
        let _ = session.show(text).await;
    }
}

struct Shell {
    editor: Editor,
    name: String,
    hmp: bool,
}

impl Shell {
    /// Reads lines and runs them.
    async fn lines(
        &mut self,
        session: &mut Session<'_>,
        mut ended: mpsc::Receiver<Error>,
        interrupts: &mut Interrupts,
    ) -> Result<(), Failure> {
        loop {
            session.flush().await;
            self.editor.prompt(self.prompt(session));
            let typed = tokio::select! {
                typed = self.editor.typed() => typed,
                Some(error) = ended.recv() => return Err(error.into()),
                interrupt = interrupts.next() => return Err(Failure::Interrupted(interrupt)),
            };
            let line = match typed {
                Typed::Line(line) => line,
                Typed::Interrupted => continue,
                Typed::End => return Ok(()),
                Typed::Failed(error) => {
                    let error = std::io::Error::other(error);
                    return Err(Failure::system("cannot read the terminal", error));
                }
            };
            if self.line(&line, session, interrupts).await? == Next::Leave {
                return Ok(());
            }
        }
    }

    /// Runs a line. What fails is shown, where the next line may do better.
    async fn line(
        &mut self,
        line: &str,
        session: &mut Session<'_>,
        interrupts: &mut Interrupts,
    ) -> Result<Next, Failure> {
        let performed = tokio::select! {
            performed = session.perform(line) => performed,
            interrupt = interrupts.next() => match interrupt {
                Interrupt::Keyboard => {
                    let text = "not waited for any more: the command may still run";
                    session.show(text.to_owned()).await?;
                    return Ok(Next::More);
                }
                other => return Err(Failure::Interrupted(other)),
            },
        };
        match performed {
            Err(failure) if !failure.is_final() => {
                session.show(text_of(&failure)).await?;
                Ok(Next::More)
            }
            performed => performed,
        }
    }

    fn prompt(&self, session: &Session<'_>) -> String {
        match (self.hmp, session.cpu()) {
            (true, Some(cpu)) => format!("{} (hmp, cpu {cpu})> ", self.name),
            (true, None) => format!("{} (hmp)> ", self.name),
            (false, _) => format!("{}> ", self.name),
        }
    }
}

/// What the user is told of a failure.
fn text_of(failure: &Failure) -> String {
    let Failure::Because { error, note, .. } = failure else {
        return "error".to_owned();
    };
    let lines: Vec<String> = chain(&**error).lines().map(printable).collect();
    let text = format!("error: {}", lines.join("\n"));
    match note {
        Some(note) => format!("{text}\n{note}"),
        None => text,
    }
}

/// What shows events as they come.
struct Watcher {
    terminal: Terminal,
    log: Option<Log>,
    shown: Arc<Mutex<Shown>>,
}

impl Watcher {
    /// Begins to show events. The receiver gets the reason why the connection ended, or nothing where events end without
    /// one or cannot be had.
    async fn start(self, monitor: &dyn Monitor) -> mpsc::Receiver<Error> {
        let (end, ended) = mpsc::channel(1);
        let options = EventOptions::new(EventFilter::any());
        match monitor.events_with(options).await {
            Ok(events) => {
                tokio::spawn(async move {
                    if let Some(error) = self.watch(events).await {
                        let _ = end.send(error).await;
                    }
                });
            }
            Err(error) => {
                let text = format!("no events: {}", printable(&chain(&error)));
                self.terminal.show(text).await;
            }
        }
        ended
    }

    async fn watch(&self, mut events: EventStream) -> Option<Error> {
        loop {
            match next(&mut events).await? {
                Ok(event) => self.event(&event).await,
                // The stream goes on after these two.
                Err(error @ (Error::EventsLost(_) | Error::Decode { .. })) => {
                    self.terminal.show(printable(&chain(&error))).await;
                }
                Err(error) => return Some(error),
            }
        }
    }

    async fn event(&self, event: &Event) {
        if let (Some(log), Ok(json)) = (&self.log, as_json(event)) {
            // The next command finds out what is wrong with the log.
            let _ = log.add(Entry::Event, &json);
        }
        let is_shown = match &*self.shown.lock().unwrap_or_else(PoisonError::into_inner) {
            Shown::All => true,
            Shown::None => false,
            Shown::Like(glob) => EventFilter::glob(glob).matches(event),
        };
        if is_shown {
            self.terminal.show(as_text(event)).await;
        }
    }
}

/// The terminal's settings, which come back at the end, whatever happens.
struct Kept(Option<Termios>);

impl Kept {
    fn new() -> Self {
        Kept(tcgetattr(stdin()).ok())
    }

    /// Keeps the keys that are pressed while no line is read, each for itself: of a Ctrl-D the terminal would make the end of a
    /// line that nobody reads. The editor has settings of its own, and puts these back after each line.
    fn keep_keys(&self) {
        if let Some(settings) = &self.0 {
            let mut settings = settings.clone();
            settings.local_modes.remove(LocalModes::ICANON);
            settings.special_codes[SpecialCodeIndex::VMIN] = 1;
            settings.special_codes[SpecialCodeIndex::VTIME] = 0;
            let _ = tcsetattr(stdin(), OptionalActions::Now, &settings);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // Where the terminal is gone there is nothing to put back.
            let _ = tcsetattr(stdin(), OptionalActions::Now, settings);
        }
    }
}
