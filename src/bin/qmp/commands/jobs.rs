//! `qmp jobs`: how far the jobs are, until none is at work any more.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use libvirt_qmp::types::{Job, Migration};
use libvirt_qmp::{
    DomainExt, Error, ErrorClass, Event, EventFilter, EventOptions, Monitor, MonitorExt,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::connect::{Settings, with_monitor};
use crate::event::next;
use crate::failure::{Exit, Failure, say};
use crate::output::{Output, printable, to_line};

/// How often QEMU is asked while nothing happens.
const INTERVAL: Duration = Duration::from_secs(1);
/// How soon it is asked again at the earliest, however much happens.
const PAUSE: Duration = Duration::from_millis(100);
/// Under this name a migration is a job.
const MIGRATION: &str = "migration";

const HELP: &str = "\
Where standard error is a terminal there is a bar for each job. Where standard output
is none, or with --json, each job is a line of it when it has done its work or has
ended. A mirror that is ready has done its work, and waits to be completed. A job
that failed or was cancelled makes for exit code 1.";

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Print each job as a JSON object
    #[arg(long)]
    json: bool,
    /// Wait for jobs to come, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Name or UUID; to be left out on QEMU's own socket
    domain: Option<String>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: Args,
    output: &mut Output,
) -> Result<(), Failure> {
    with_monitor(settings, args.domain.as_deref(), async |monitor| {
        let mut board = Board::new(args.json);
        let watched = watch(monitor, &args, &mut board, output).await;
        board.bars.leave();
        watched?;
        match board.failed.take() {
            Some(reason) => Err(Failure::new(Exit::Failed, reason)),
            None => Ok(()),
        }
    })
    .await
}

async fn watch(
    monitor: &dyn Monitor,
    args: &Args,
    board: &mut Board,
    output: &mut Output,
) -> Result<(), Failure> {
    let about_jobs = EventFilter::glob("JOB_*")
        .or(EventFilter::glob("BLOCK_JOB_*"))
        .or(EventFilter::glob("MIGRATION*"));
    // Before the first question, so that nothing happens in between.
    let mut events = monitor.events_with(EventOptions::new(about_jobs)).await?;
    loop {
        let asked = Instant::now();
        board.update(jobs(monitor).await?);
        board.tell(output).await?;
        if board.is_quiet() && !args.follow {
            return Ok(());
        }
        tokio::select! {
            event = next(&mut events) => match event {
                Some(Ok(event)) => board.note(&event),
                Some(Err(error)) if error.leaves_stream_open() => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(asked + INTERVAL) => {}
        }
        // What comes at once is asked about at once.
        let more = async {
            while let Some(Ok(event)) = next(&mut events).await {
                board.note(&event);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = more => {}
            () = tokio::time::sleep_until(asked + PAUSE) => {}
        }
    }
}

/// The jobs of QEMU, a migration among them.
async fn jobs(monitor: &dyn Monitor) -> Result<Vec<State>, Error> {
    let mut states: Vec<State> = match monitor.jobs().await {
        Ok(jobs) => jobs.into_iter().map(State::of_job).collect(),
        // Before QEMU 3.0 there were block jobs alone.
        Err(Error::Qmp(error)) if error.class == ErrorClass::CommandNotFound => {
            let jobs = monitor.block_jobs().await?.into_iter();
            jobs.map(|job| State {
                id: job.device,
                kind: job.kind.to_string(),
                status: job.status.to_string(),
                current: job.offset,
                total: job.len,
                error: job.error,
            })
            .collect()
        }
        Err(error) => return Err(error),
    };
    match monitor.query::<Migration>("migrate").await {
        Ok(migration) => states.extend(State::of_migration(migration)),
        // There is nothing to migrate.
        Err(Error::Qmp(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(states)
}

/// A job, as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct State {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    status: String,
    current: i64,
    total: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl State {
    fn of_job(job: Job) -> Self {
        State {
            id: job.id,
            kind: job.kind.to_string(),
            status: job.status.to_string(),
            current: job.current_progress,
            total: job.total_progress,
            error: job.error,
        }
    }

    /// None where there has been no migration.
    fn of_migration(migration: Migration) -> Option<Self> {
        let status = migration.status?.to_string();
        if status == "none" {
            return None;
        }
        let ram = migration.ram.unwrap_or_default();
        let error = match status.as_str() {
            "failed" => Some(migration.error_desc.unwrap_or_else(|| status.clone())),
            _ => None,
        };
        let current = match status.as_str() {
            "completed" => ram.total,
            _ => ram.total.saturating_sub(ram.remaining),
        };
        Some(State {
            id: MIGRATION.to_owned(),
            kind: MIGRATION.to_owned(),
            status,
            current,
            total: ram.total,
            error,
        })
    }

    /// Whether nothing more comes of it by itself.
    fn is_settled(&self) -> bool {
        const SETTLED: [&str; 10] = [
            "ready",
            "standby",
            "pending",
            "concluded",
            "null",
            "completed",
            "failed",
            "cancelled",
            "postcopy-paused",
            "ended",
        ];
        SETTLED.contains(&self.status.as_str())
    }

    fn is_over(&self) -> bool {
        self.is_settled() && !["ready", "standby", "pending"].contains(&self.status.as_str())
    }

    fn failure(&self) -> Option<String> {
        let id = printable(&self.id);
        match &self.error {
            Some(error) => Some(format!("job {id} failed: {}", printable(error))),
            None if self.status == "cancelled" => Some(format!("job {id} was cancelled")),
            None => None,
        }
    }
}

/// All jobs that were seen at work, in the order they came.
struct Board {
    jobs: Vec<(State, bool)>,
    /// What events said of the end of jobs, which may be gone when QEMU is asked.
    ends: HashMap<String, End>,
    bars: Bars,
    lines: Option<Lines>,
    failed: Option<String>,
    is_first: bool,
}

#[derive(Clone, Copy)]
enum Lines {
    Text,
    Json,
}

#[derive(Clone)]
enum End {
    Completed { error: Option<String> },
    Cancelled,
}

impl Board {
    fn new(json: bool) -> Self {
        let lines = match json {
            true => Some(Lines::Json),
            false if std::io::stdout().is_terminal() => None,
            false => Some(Lines::Text),
        };
        Board {
            jobs: Vec::new(),
            ends: HashMap::new(),
            bars: Bars::new(),
            lines,
            failed: None,
            is_first: true,
        }
    }

    /// Keeps what an event says of the end of a block job.
    fn note(&mut self, event: &Event) {
        #[derive(Deserialize)]
        struct Told {
            device: String,
            #[serde(default)]
            error: Option<String>,
        }
        let Ok(Told { device, error }) = event.data_as::<Told>() else {
            return;
        };
        let end = match event.name.as_str() {
            "BLOCK_JOB_COMPLETED" => End::Completed { error },
            "BLOCK_JOB_CANCELLED" => End::Cancelled,
            _ => return,
        };
        // Only of jobs that were seen: what others do does not pile up here.
        if self.jobs.iter().any(|(job, _)| job.id == device) {
            self.ends.insert(device, end);
        }
    }

    /// Takes what QEMU says now.
    fn update(&mut self, now: Vec<State>) {
        for (job, _) in &mut self.jobs {
            if !job.is_over() && !now.iter().any(|state| state.id == job.id) {
                gone(job, self.ends.remove(&job.id));
            }
        }
        for state in now {
            match self.jobs.iter_mut().find(|(job, _)| job.id == state.id) {
                Some((job, told)) => {
                    // One that is completed after it was ready, or a new one of the same name, is told of again.
                    *told &= job.status == state.status;
                    *job = state;
                }
                // What was over before is not what its user waits for, unless it waits itself.
                None if self.is_first && state.is_over() && state.status != "concluded" => {}
                None => self.jobs.push((state, false)),
            }
        }
        self.is_first = false;
        for (job, _) in &self.jobs {
            self.bars.show(job);
        }
    }

    /// Prints the jobs that have settled since.
    async fn tell(&mut self, output: &mut Output) -> Result<(), Failure> {
        for (job, told) in &mut self.jobs {
            if !job.is_settled() || *told {
                continue;
            }
            *told = true;
            if let Some(reason) = job.failure()
                && let Some(before) = self.failed.replace(reason)
            {
                say(&before);
            }
            match self.lines {
                Some(Lines::Json) => output.line(to_line(job)?).await?,
                Some(Lines::Text) => output.line(as_text(job)).await?,
                None => {}
            }
        }
        // What is over is said and forgotten; a job of its name that comes is another one.
        let bars = &mut self.bars;
        self.jobs.retain(|(job, _)| {
            let stays = !job.is_over() || job.status == "concluded" || job.id == MIGRATION;
            if !stays {
                bars.forget(&job.id);
            }
            stays
        });
        Ok(())
    }

    /// Whether no job is at work.
    fn is_quiet(&self) -> bool {
        self.jobs.iter().all(|(job, _)| job.is_settled())
    }
}

/// A job that QEMU has no more, by what it said of its end.
fn gone(job: &mut State, end: Option<End>) {
    match end {
        Some(End::Completed { error }) => {
            job.status = "completed".to_owned();
            if error.is_none() {
                job.current = job.total;
            }
            job.error = error;
        }
        Some(End::Cancelled) => job.status = "cancelled".to_owned(),
        // A job of another kind, or one whose event got lost.
        None => job.status = "ended".to_owned(),
    }
}

fn as_text(job: &State) -> String {
    let State {
        id,
        kind,
        status,
        current,
        total,
        ..
    } = job;
    printable(&format!("{id} {kind} {status} {current}/{total}"))
}

/// The bars on standard error; nothing where that is no terminal.
struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        Bars {
            all: MultiProgress::new(),
            bars: HashMap::new(),
        }
    }

    fn show(&mut self, job: &State) {
        let bar = self.bars.entry(job.id.clone()).or_insert_with(|| {
            let style = ProgressStyle::with_template(
                "{prefix} [{bar:30}] {percent:>3} % {bytes}/{total_bytes} {msg}",
            );
            let bar = self.all.add(ProgressBar::new(0));
            bar.set_prefix(format!("{} {}", printable(&job.id), printable(&job.kind)));
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        let part = |number: i64| u64::try_from(number).unwrap_or(0);
        bar.set_length(part(job.total));
        bar.set_position(part(job.current));
        bar.set_message(printable(&job.status));
        // Now, whatever the rate of drawing: the next change may be long in coming.
        bar.tick();
    }

    /// Leaves the bar where it is.
    fn forget(&mut self, id: &str) {
        if let Some(bar) = self.bars.remove(id) {
            bar.abandon();
        }
    }

    fn leave(&mut self) {
        for (_, bar) in self.bars.drain() {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, status: &str, current: i64) -> State {
        State {
            id: id.to_owned(),
            kind: "mirror".to_owned(),
            status: status.to_owned(),
            current,
            total: 100,
            error: None,
        }
    }

    fn board() -> Board {
        let mut board = Board::new(true);
        board.bars.all = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden());
        board
    }

    #[tokio::test]
    async fn a_job_is_at_work_until_it_is_ready() {
        let mut board = board();
        board.update(vec![job("a", "running", 0), job("b", "running", 5)]);
        assert!(!board.is_quiet());
        board.update(vec![job("a", "ready", 100), job("b", "running", 6)]);
        assert!(!board.is_quiet());
        board.update(vec![job("a", "ready", 100), job("b", "concluded", 100)]);
        assert!(board.is_quiet());
    }

    #[test]
    fn what_is_gone_ended_as_its_event_says() {
        let mut done = job("a", "running", 7);
        gone(&mut done, Some(End::Completed { error: None }));
        assert_eq!((done.status.as_str(), done.current), ("completed", 100));
        assert_eq!(done.failure(), None);
        let mut failed = job("a", "running", 7);
        let error = Some("no space".to_owned());
        gone(&mut failed, Some(End::Completed { error }));
        assert_eq!(failed.current, 7);
        assert_eq!(failed.failure().as_deref(), Some("job a failed: no space"));
        let mut cancelled = job("a", "running", 7);
        gone(&mut cancelled, Some(End::Cancelled));
        assert_eq!(cancelled.failure().as_deref(), Some("job a was cancelled"));
        let mut unknown = job("a", "running", 7);
        gone(&mut unknown, None);
        assert!(unknown.is_settled() && unknown.failure().is_none());
    }

    #[test]
    fn a_migration_is_a_job() {
        let read = |text: &str| {
            let migration: Migration = serde_json::from_str(text).unwrap();
            State::of_migration(migration)
        };
        assert_eq!(read("{}"), None);
        let ram = r#""transferred":1,"remaining":60,"total":100,"duplicate":0,"skipped":0,"normal":0,
            "normal-bytes":0,"dirty-pages-rate":0,"mbps":0,"dirty-sync-count":1,"postcopy-requests":0,"page-size":4096,
            "multifd-bytes":0,"pages-per-second":0,"precopy-bytes":0,"downtime-bytes":0,"postcopy-bytes":0,
            "dirty-sync-missed-zero-copy":0"#;
        let active = read(&format!(r#"{{"status":"active","ram":{{{ram}}}}}"#)).unwrap();
        assert_eq!((active.current, active.total), (40, 100));
        assert!(!active.is_settled());
        let done = read(&format!(r#"{{"status":"completed","ram":{{{ram}}}}}"#)).unwrap();
        assert_eq!((done.current, done.is_settled()), (100, true));
        let failed = read(r#"{"status":"failed","error-desc":"no route"}"#).unwrap();
        assert_eq!(
            failed.failure().as_deref(),
            Some("job migration failed: no route")
        );
    }
}
