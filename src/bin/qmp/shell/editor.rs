//! The line editor, on a thread of its own: editing, history, completion and hints by rustyline. Imports `complete`,
//! `history`, `hmp`, `line` and `live`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Helper};
use tokio::sync::{mpsc, oneshot};

use super::history::{History, LINES};
use super::live::Live;
use super::screen::Printer;
use super::{complete, hmp, line};

/// Candidates that are listed without a question.
const LISTED: usize = 300;
/// How often the editor is told to end, and for how long it is waited for each time.
const TRIES: u32 = 20;
const EACH: Duration = Duration::from_millis(50);

/// What came of a prompt.
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D on an empty line.
    End,
    /// The terminal cannot be read.
    Failed(ReadlineError),
}

/// The thread that reads lines.
pub(super) struct Editor {
    prompts: blocking::Sender<String>,
    typed: mpsc::Receiver<Typed>,
    thread: JoinHandle<()>,
    ended: Arc<AtomicBool>,
}

impl Editor {
    /// Starts it, and gives what prints above its line, where the terminal can do that.
    ///
    /// # Errors
    ///
    /// Where the terminal cannot be used.
    pub(super) async fn start(
        live: Arc<Live>,
        hmp: bool,
        history: Option<History>,
    ) -> Result<(Self, Option<Printer>), ReadlineError> {
        let (prompts, asked) = blocking::channel();
        let (answers, typed) = mpsc::channel(1);
        let (ready, is_ready) = oneshot::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = ended.clone();
        let thread = std::thread::spawn(move || match Reader::new(live, hmp, history) {
            Ok(mut reader) => {
                let printer = reader.editor.create_external_printer();
                let _ = ready.send(Ok(printer.ok().map(|printer| Box::new(printer) as Printer)));
                reader.serve(&asked, &answers, &is_over);
            }
            Err(error) => drop(ready.send(Err(error))),
        });
        let printer = is_ready.await.map_err(|_| ReadlineError::Eof)??;
        let editor = Editor {
            prompts,
            typed,
            thread,
            ended,
        };
        Ok((editor, printer))
    }

    /// Shows a prompt, after which [`typed`](Self::typed) tells what came of it.
    pub(super) fn prompt(&self, prompt: String) {
        // Where the thread is gone, `typed` says so.
        let _ = self.prompts.send(prompt);
    }

    /// What came of the prompt. Dropping the future loses nothing.
    pub(super) async fn typed(&mut self) -> Typed {
        let typed = self.typed.recv().await;
        typed.unwrap_or(Typed::Failed(ReadlineError::Eof))
    }

    /// Ends the thread, in the middle of a line too, and waits a moment until it has put the terminal back.
    pub(super) async fn stop(self) {
        let Editor {
            prompts,
            thread,
            ended,
            ..
        } = self;
        ended.store(true, Ordering::SeqCst);
        drop(prompts);
        for _ in 0..TRIES {
            if thread.is_finished() {
                break;
            }
            // The editor's own handler makes it give up its line. Before that is in place, ours takes it.
            let _ = kill_process(getpid(), Signal::INT);
            tokio::time::sleep(EACH).await;
        }
    }
}

/// What runs on the thread.
struct Reader {
    editor: rustyline::Editor<Assistant, FileHistory>,
    history: Option<History>,
    hmp: bool,
}

impl Reader {
    fn new(live: Arc<Live>, hmp: bool, history: Option<History>) -> Result<Self, ReadlineError> {
        let config = Config::builder()
            .max_history_size(LINES)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .auto_add_history(false)
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .completion_prompt_limit(LISTED)
            .build();
        let mut editor = rustyline::Editor::with_config(config)?;
        editor.set_helper(Some(Assistant {
            live,
            hmp,
            files: FilenameCompleter::new(),
        }));
        let mut reader = Reader {
            editor,
            history,
            hmp,
        };
        if let Some(history) = &reader.history {
            history.load(&mut reader.editor);
        }
        Ok(reader)
    }

    /// Answers prompts until there are no more.
    fn serve(
        &mut self,
        prompts: &blocking::Receiver<String>,
        answers: &mpsc::Sender<Typed>,
        ended: &AtomicBool,
    ) {
        while let Ok(prompt) = prompts.recv() {
            if ended.load(Ordering::SeqCst) {
                return;
            }
            let typed = match self.editor.readline(&prompt) {
                Ok(line) => {
                    self.remember(&line);
                    Typed::Line(line)
                }
                Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Typed::Interrupted,
                Err(ReadlineError::Eof) => Typed::End,
                Err(error) => Typed::Failed(error),
            };
            if answers.blocking_send(typed).is_err() {
                return;
            }
        }
    }

    fn remember(&mut self, line: &str) {
        let kept = super::secret::without_secrets(line, self.hmp);
        let Some(kept) = kept.filter(|kept| !kept.trim().is_empty()) else {
            return;
        };
        // A history that is full of others is no reason to stop.
        if self.editor.add_history_entry(kept).unwrap_or(false)
            && let Some(history) = &self.history
        {
            history.append(&mut self.editor);
        }
    }
}

/// What helps with a line.
struct Assistant {
    live: Arc<Live>,
    hmp: bool,
    files: FilenameCompleter,
}

impl Helper for Assistant {}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let text = &line[..pos];
        if self.hmp {
            let (commands, info) = self.live.hmp_names();
            let (start, names) = hmp::complete(text, &commands, &info);
            let pair = |name: String| Pair {
                replacement: format!("{name} "),
                display: name,
            };
            return Ok((start, names.into_iter().map(pair).collect()));
        }
        if complete::is_file(text) {
            return self.files.complete_path(line, pos);
        }
        let Some(schema) = self.live.schema() else {
            return Ok((pos, Vec::new()));
        };
        let completion = complete::complete(text, &schema, &*self.live);
        let pairs = completion.candidates.into_iter().map(|candidate| Pair {
            display: candidate.shown,
            replacement: candidate.text,
        });
        Ok((completion.start, pairs.collect()))
    }
}

/// A hint that only tells.
struct Told(String);

impl Hint for Told {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Assistant {
    type Hint = Told;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<Told> {
        if self.hmp || pos < line.len() {
            return None;
        }
        // Only what is here already: a hint is not worth a wait.
        let schema = self.live.known_schema()?;
        complete::hint(line, &schema).map(Told)
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match self.hmp || line::is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}
