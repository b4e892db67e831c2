//! What the shell shows: on a terminal through a thread of its own, which prints above a line that is being typed; in a
//! script straight to standard output. Imports `output` and `failure`.

use std::io::Write;
use std::time::Duration;

use rustyline::ExternalPrinter;
use tokio::sync::{mpsc, oneshot};

use crate::failure::Failure;
use crate::output::Output;

/// Texts that may wait to be printed; who has more waits too.
const WAITING: usize = 256;
/// How long the last texts may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What prints above a line that is being typed.
pub(super) type Printer = Box<dyn ExternalPrinter + Send>;

/// Where texts go.
pub(super) enum Screen {
    Terminal(Terminal),
    Script(Output),
}

impl Screen {
    /// Shows whole lines, in their order.
    ///
    /// # Errors
    ///
    /// That of standard output in a script.
    pub(super) async fn show(&mut self, text: String) -> Result<(), Failure> {
        match self {
            Screen::Terminal(terminal) => terminal.show(text).await,
            Screen::Script(output) => return output.line(text).await,
        }
        Ok(())
    }

    /// Waits until everything is shown that came before.
    pub(super) async fn flush(&self) {
        if let Screen::Terminal(terminal) = self {
            terminal.flush().await;
        }
    }
}

/// A terminal that may be written to while a line is typed. Clones write to the same one.
#[derive(Clone)]
pub(super) struct Terminal {
    texts: mpsc::Sender<Text>,
}

enum Text {
    Lines(String),
    Flush(oneshot::Sender<()>),
}

impl Terminal {
    /// Prints by `printer`, or where there is none straight to standard output.
    pub(super) fn new(mut printer: Option<Printer>) -> Self {
        let (texts, mut waiting) = mpsc::channel(WAITING);
        // It ends when the last sender has gone.
        std::thread::spawn(move || {
            while let Some(text) = waiting.blocking_recv() {
                match text {
                    Text::Lines(text) => print(printer.as_mut(), text),
                    Text::Flush(done) => drop(done.send(())),
                }
            }
        });
        Terminal { texts }
    }

    /// Shows whole lines. Where the terminal is gone there is nobody to show them to.
    pub(super) async fn show(&self, mut text: String) {
        text.push('\n');
        let _ = self.texts.send(Text::Lines(text)).await;
    }

    /// Waits until everything is shown that came before, unless the terminal takes nothing.
    async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        let flushed = async {
            if self.texts.send(Text::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, flushed).await;
    }
}

fn print(printer: Option<&mut Printer>, text: String) {
    // Where the editor is gone, its printer fails.
    if let Some(printer) = printer
        && printer.print(text.clone()).is_ok()
    {
        return;
    }
    let mut stdout = std::io::stdout();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}
