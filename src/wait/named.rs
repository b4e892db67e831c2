//! The waits for what happens in QEMU, by their QAPI names. Imports qmp and `condition`.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::condition::{Answer, Judge, Question, Verdict, Wait};
use crate::qmp::{Command, Event, EventFilter, from_json};

/// Which movement of a tray is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tray {
    /// Either: the next one.
    Any,
    /// It opens, or is open.
    Open,
    /// It closes, or is closed.
    Closed,
}

/// `DEVICE_DELETED`, `DEVICE_UNPLUG_GUEST_ERROR`, and `MEM_UNPLUG_ERROR` with its message.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Device {
    device: Option<String>,
    path: Option<String>,
    msg: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct TrayMoved {
    device: String,
    id: String,
    tray_open: bool,
}

/// Of `query-block`.
#[derive(Deserialize)]
struct Drive {
    #[serde(default)]
    device: String,
    qdev: Option<String>,
    tray_open: Option<bool>,
}

/// `JOB_STATUS_CHANGE`, and an entry of `query-jobs`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Job {
    id: String,
    status: String,
    error: Option<String>,
}

/// `BLOCK_JOB_COMPLETED` and the others of a block job, of which `BLOCK_JOB_PENDING` says `id`; and an entry of
/// `query-block-jobs`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct BlockJob {
    #[serde(alias = "id")]
    device: String,
    status: String,
    ready: bool,
    error: Option<String>,
}

/// `MIGRATION`, and `query-migrate`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Migration {
    status: String,
    error_desc: Option<String>,
}

/// Of `query-status`.
#[derive(Deserialize)]
struct Status {
    running: bool,
    status: String,
}

/// What a job's or a migration's end says, where nothing better is known.
const NO_REASON: &str = "QEMU gave no reason";
const CANCELLED: &str = "it was cancelled";

/// An event's data. What is not as it should be decodes as nothing, which is about no device and no job.
fn data<T: DeserializeOwned + Default>(event: &Event) -> T {
    event.data_as().unwrap_or_default()
}

fn value<T: DeserializeOwned>(answer: &Answer) -> Option<T> {
    from_json(answer.as_ref().ok()?.get().as_bytes()).ok()
}

fn met_if(met: bool) -> Verdict {
    if met { Verdict::Met } else { Verdict::Open }
}

fn named<'a>(
    what: String,
    events: impl IntoIterator<Item = &'a str>,
    judge: impl FnMut(&Event) -> Verdict + Send + 'static,
    question: Option<Question>,
) -> Wait {
    let judge: Judge = Box::new(judge);
    Wait {
        what,
        filter: EventFilter::names(events),
        judge,
        question,
    }
}

impl Wait {
    /// The device is gone: `DEVICE_DELETED`. `device` is its id, or the QOM path of one that has none, from the root.
    ///
    /// Fails where the guest refuses to give it up (`DEVICE_UNPLUG_GUEST_ERROR`, `MEM_UNPLUG_ERROR`). Whether it is gone
    /// already is asked with `qom-list`; not after a command of [`run_and_wait`](crate::WaitExt::run_and_wait), for QEMU lets
    /// go of what the device used, such as a block node, only with the event.
    pub fn device_deleted(device: impl Into<String>) -> Self {
        let wanted = device.into();
        let path = match wanted.starts_with('/') {
            true => wanted.clone(),
            false => format!("/machine/peripheral/{wanted}"),
        };
        let what = format!("removing device {wanted}");
        let mut question = Question::new("qom-list", |answer| {
            met_if(matches!(answer, Err(error) if error.is_device_not_found()))
        });
        question.command = Command::new("qom-list").arg("path", &path);
        question.after_command = false;
        let judge = move |event: &Event| {
            let told: Device = data(event);
            let is = |told: &Option<String>, wanted: &str| told.as_deref() == Some(wanted);
            if !is(&told.device, &wanted) && !is(&told.path, &path) {
                return Verdict::Open;
            }
            match event.name.as_str() {
                "DEVICE_DELETED" => Verdict::Met,
                name => Verdict::Failed(
                    told.msg
                        .unwrap_or_else(|| format!("the guest does not give it up ({name})")),
                ),
            }
        };
        let events = [
            "DEVICE_DELETED",
            "DEVICE_UNPLUG_GUEST_ERROR",
            "MEM_UNPLUG_ERROR",
        ];
        named(what, events, judge, Some(question))
    }

    /// The tray of a removable drive moves: `DEVICE_TRAY_MOVED`. `device` is the id of the device (or its QOM path), or the
    /// name of its backend. Whether it is open or closed already is asked with `query-block`.
    pub fn tray(device: impl Into<String>, tray: Tray) -> Self {
        let wanted = device.into();
        let what = format!("the tray of {wanted}");
        let asked = wanted.clone();
        // A drive without an id, or without a named backend, has an empty one.
        let is = |told: &str, wanted: &str| !wanted.is_empty() && told == wanted;
        let suits = move |open: bool| match tray {
            Tray::Any => true,
            Tray::Open => open,
            Tray::Closed => !open,
        };
        let question = Question::new("query-block", move |answer| {
            let drives: Vec<Drive> = value(answer).unwrap_or_default();
            let drive = drives.iter().find(|drive| {
                is(&drive.device, &asked) || drive.qdev.as_deref().is_some_and(|id| is(id, &asked))
            });
            met_if(drive.is_some_and(|drive| drive.tray_open.is_some_and(suits)))
        });
        let judge = move |event: &Event| {
            let moved: TrayMoved = data(event);
            met_if((is(&moved.device, &wanted) || is(&moved.id, &wanted)) && suits(moved.tray_open))
        };
        let question = (tray != Tray::Any).then_some(question);
        named(what, ["DEVICE_TRAY_MOVED"], judge, question)
    }

    /// The job is in this status (`JobStatus` of QAPI, such as `ready` or `concluded`): `JOB_STATUS_CHANGE`, or `query-jobs`
    /// where that was before.
    ///
    /// A job that is not listed has been dismissed, as nearly all block jobs are by themselves when they have concluded: that
    /// meets `null` and `concluded`. Any other status fails when the job concludes or is gone, with QEMU's text where it ended
    /// with an error. So start the job first, or with [`run_and_wait`](crate::WaitExt::run_and_wait).
    pub fn job_status(id: impl Into<String>, status: impl Into<String>) -> Self {
        let (id, wanted) = (id.into(), status.into());
        let what = format!("waiting for job {id} to be {wanted}");
        let goal = JobGoal { id, wanted };
        let judge = goal.clone().judge();
        let (asked, told) = (goal.clone(), goal);
        let question = Question::new("query-jobs", move |answer| asked.verdict(answer))
            .why(move |answer| told.find(answer)?.error);
        let events = [
            "JOB_STATUS_CHANGE",
            "BLOCK_JOB_COMPLETED",
            "BLOCK_JOB_CANCELLED",
        ];
        named(what, events, judge, Some(question))
    }

    /// The block job has completed: `BLOCK_JOB_COMPLETED`. `job` is its id, which is the name of its device where it was given
    /// none. Fails with QEMU's text where it completed with an error, and where it was cancelled.
    pub fn block_job_completed(job: impl Into<String>) -> Self {
        block_job(job.into(), &["BLOCK_JOB_COMPLETED"], |job| {
            met_if(job.status == "concluded")
        })
    }

    /// A read or a write of the block job has failed: `BLOCK_JOB_ERROR`. Fails where the job ends without one.
    pub fn block_job_error(job: impl Into<String>) -> Self {
        block_job(job.into(), &["BLOCK_JOB_ERROR"], |_| Verdict::Open)
    }

    /// The block job is ready to be completed: `BLOCK_JOB_READY`. Fails where it ends before.
    pub fn block_job_ready(job: impl Into<String>) -> Self {
        block_job(job.into(), &["BLOCK_JOB_READY"], |job| met_if(job.ready))
    }

    /// The block job is ready, or has completed without that: where its kind is not known. Whoever asks finds only the first.
    pub(crate) fn block_job_ready_or_completed(job: impl Into<String>) -> Self {
        let wanted = &["BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"];
        block_job(job.into(), wanted, |job| met_if(job.ready))
    }

    /// The block job was cancelled: `BLOCK_JOB_CANCELLED`. Fails where it completes instead, as one that was ready and is not
    /// cancelled by force does.
    pub fn block_job_cancelled(job: impl Into<String>) -> Self {
        block_job(job.into(), &["BLOCK_JOB_CANCELLED"], |_| Verdict::Open)
    }

    /// The block job waits to be finalized: `BLOCK_JOB_PENDING`, which comes where it was started with `auto-finalize` off.
    /// Fails where it ends before.
    pub fn block_job_pending(job: impl Into<String>) -> Self {
        block_job(job.into(), &["BLOCK_JOB_PENDING"], |job| {
            met_if(job.status == "pending")
        })
    }

    /// The guest runs: `RESUME`, or `query-status` where it does already.
    pub fn resume() -> Self {
        run_state("RESUME", |status| status.running)
    }

    /// The guest is stopped: `STOP`, or `query-status` where it is already.
    pub fn stop() -> Self {
        run_state("STOP", |status| !status.running)
    }

    /// The guest has shut down: `SHUTDOWN`, or `query-status` where it has and QEMU stays (`-no-shutdown`).
    pub fn shutdown() -> Self {
        run_state("SHUTDOWN", |status| status.status == "shutdown")
    }

    /// The guest was reset: `RESET`.
    pub fn reset() -> Self {
        Wait::event("RESET").called("the reset")
    }

    /// The guest was asked to power down: `POWERDOWN`. That it has done so is [`Wait::shutdown`].
    pub fn powerdown() -> Self {
        Wait::event("POWERDOWN").called("the powerdown")
    }

    /// The migration is in this status (`MigrationStatus` of QAPI, such as `completed`): `MIGRATION`, which QEMU sends only
    /// once its migration capability `events` is on, or `query-migrate` where that was before.
    ///
    /// Fails with QEMU's text where the migration ends in another status. What is asked is the last migration, if there was
    /// one: start the next by [`run_and_wait`](crate::WaitExt::run_and_wait).
    pub fn migration(status: impl Into<String>) -> Self {
        let wanted = status.into();
        let what = format!("waiting for the migration to be {wanted}");
        let asked = wanted.clone();
        let question = Question::new("query-migrate", move |answer| {
            let Some(migration) = value::<Migration>(answer) else {
                return Verdict::Open;
            };
            match migration_verdict(&asked, &migration.status) {
                Verdict::FailedAsk(reason) => {
                    Verdict::Failed(migration.error_desc.unwrap_or(reason))
                }
                verdict => verdict,
            }
        })
        .why(|answer| value::<Migration>(answer)?.error_desc);
        let judge =
            move |event: &Event| migration_verdict(&wanted, &data::<Migration>(event).status);
        named(what, ["MIGRATION"], judge, Some(question))
    }
}

fn migration_verdict(wanted: &str, status: &str) -> Verdict {
    match status {
        status if status == wanted => Verdict::Met,
        "failed" => Verdict::FailedAsk(NO_REASON.to_owned()),
        "cancelled" => Verdict::Failed(CANCELLED.to_owned()),
        "completed" => Verdict::Failed("it has completed".to_owned()),
        _ => Verdict::Open,
    }
}

fn run_state(event: &str, is_so: impl Fn(&Status) -> bool + Send + 'static) -> Wait {
    let question = Question::new("query-status", move |answer| {
        met_if(value::<Status>(answer).is_some_and(|status| is_so(&status)))
    });
    let judge = |_: &Event| Verdict::Met;
    named(
        format!("waiting for {event}"),
        [event],
        judge,
        Some(question),
    )
}

/// The wait for one of these events of a block job; `asked` judges what `query-block-jobs` says about it.
fn block_job(
    id: String,
    wanted: &'static [&'static str],
    asked: impl Fn(&BlockJob) -> Verdict + Send + 'static,
) -> Wait {
    let what = format!("waiting for {} of block job {id}", wanted.join(" or "));
    let asked_id = id.clone();
    let question = Question::new("query-block-jobs", move |answer| {
        let jobs: Vec<BlockJob> = value(answer).unwrap_or_default();
        // One that is not listed has ended, or was not begun: nobody knows how, or will be.
        let Some(job) = jobs.into_iter().find(|job| job.device == asked_id) else {
            return Verdict::Open;
        };
        match (job.error.as_deref(), asked(&job)) {
            (Some(error), _) if job.status == "concluded" => Verdict::Failed(error.to_owned()),
            (_, verdict) => verdict,
        }
    });
    let judge = move |event: &Event| {
        let job: BlockJob = data(event);
        if job.device != id {
            return Verdict::Open;
        }
        match (event.name.as_str(), job.error) {
            ("BLOCK_JOB_COMPLETED", Some(error)) => Verdict::Failed(error),
            (name, _) if wanted.contains(&name) => Verdict::Met,
            ("BLOCK_JOB_COMPLETED", None) => Verdict::Failed("it has completed".to_owned()),
            _ => Verdict::Failed(CANCELLED.to_owned()),
        }
    };
    let ends = ["BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"];
    let events = wanted.iter().copied().chain(ends);
    named(what, events, judge, Some(question))
}

/// The status a job is to have.
#[derive(Clone)]
struct JobGoal {
    id: String,
    wanted: String,
}

impl JobGoal {
    fn judge(self) -> impl FnMut(&Event) -> Verdict + Send + 'static {
        // A block job tells why it ended before its status does, and may be gone when asked.
        let mut reason = None;
        move |event| {
            if event.name != "JOB_STATUS_CHANGE" {
                let job: BlockJob = data(event);
                if job.device == self.id {
                    let cancelled = (event.name == "BLOCK_JOB_CANCELLED").then_some(CANCELLED);
                    reason = job.error.or(cancelled.map(str::to_owned));
                }
                return Verdict::Open;
            }
            let job: Job = data(event);
            if job.id != self.id {
                return Verdict::Open;
            }
            match (self.status(&job.status), reason.take()) {
                (Verdict::FailedAsk(_), Some(reason)) => Verdict::Failed(reason),
                (verdict, other) => {
                    reason = other;
                    verdict
                }
            }
        }
    }

    /// What the answer to `query-jobs` says.
    fn verdict(&self, answer: &Answer) -> Verdict {
        if value::<Vec<Job>>(answer).is_none() {
            return Verdict::Open;
        }
        match self.find(answer) {
            Some(job) => match (self.status(&job.status), job.error) {
                (Verdict::FailedAsk(_), Some(error)) => Verdict::Failed(error),
                (Verdict::FailedAsk(reason), None) => Verdict::Failed(reason),
                (verdict, _) => verdict,
            },
            None if self.wanted == "null" || self.wanted == "concluded" => Verdict::Met,
            None => Verdict::Failed(
                "there is no such job: it was dismissed, or has not begun".to_owned(),
            ),
        }
    }

    fn status(&self, status: &str) -> Verdict {
        match (status, self.wanted.as_str()) {
            (status, wanted) if status == wanted => Verdict::Met,
            ("null", "concluded") => Verdict::Met,
            ("concluded", "null") => Verdict::Open,
            ("concluded" | "null", _) => Verdict::FailedAsk(format!("it is {status} already")),
            _ => Verdict::Open,
        }
    }

    fn find(&self, answer: &Answer) -> Option<Job> {
        let jobs: Vec<Job> = value(answer)?;
        jobs.into_iter().find(|job| job.id == self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::qmp::{ErrorClass, QmpError};
    use Verdict::{Failed, FailedAsk, Met, Open};

    fn event(name: &str, data: &str) -> Event {
        Event::parse(format!(r#"{{"event":"{name}","data":{data}}}"#).as_bytes()).unwrap()
    }

    /// The verdicts on these events, one after another. Those that the filter leaves out are not to be named here.
    fn verdicts(mut wait: Wait, events: &[(&str, &str)]) -> Vec<Verdict> {
        let judge = |(name, data): &(&str, &str)| {
            let event = event(name, data);
            assert!(wait.filter.matches(&event), "{name} is not looked at");
            (wait.judge)(&event)
        };
        events.iter().map(judge).collect()
    }

    fn asked(wait: Wait, answer: &str) -> Verdict {
        let value = serde_json::value::RawValue::from_string(answer.to_owned()).unwrap();
        (wait.question.expect("a question").judge)(&Ok(value))
    }

    fn failed(reason: &str) -> Verdict {
        Failed(reason.to_owned())
    }

    #[test]
    fn a_device_by_id_and_by_path() {
        let deleted = [
            (
                "DEVICE_DELETED",
                r#"{"path":"/machine/peripheral/net0/virtio-backend"}"#,
            ),
            (
                "DEVICE_DELETED",
                r#"{"device":"net1","path":"/machine/peripheral/net1"}"#,
            ),
            (
                "DEVICE_DELETED",
                r#"{"device":"net0","path":"/machine/peripheral/net0"}"#,
            ),
        ];
        for wanted in ["net0", "/machine/peripheral/net0"] {
            let wait = Wait::device_deleted(wanted);
            assert_eq!(verdicts(wait, &deleted), [Open, Open, Met], "{wanted}");
        }
        let anonymous = [(
            "DEVICE_DELETED",
            r#"{"path":"/machine/peripheral-anon/device[3]"}"#,
        )];
        let wait = Wait::device_deleted("/machine/peripheral-anon/device[3]");
        assert_eq!(verdicts(wait, &anonymous), [Met]);
        let errors = [
            (
                "DEVICE_UNPLUG_GUEST_ERROR",
                r#"{"device":"dimm1","path":"/machine/peripheral/dimm1"}"#,
            ),
            ("MEM_UNPLUG_ERROR", r#"{"device":"dimm0","msg":"busy"}"#),
            (
                "DEVICE_UNPLUG_GUEST_ERROR",
                r#"{"path":"/machine/peripheral/dimm0"}"#,
            ),
        ];
        assert_eq!(
            verdicts(Wait::device_deleted("dimm0"), &errors),
            [
                Open,
                failed("busy"),
                failed("the guest does not give it up (DEVICE_UNPLUG_GUEST_ERROR)")
            ]
        );
    }

    #[test]
    fn a_device_that_is_gone_is_an_error_of_its_class() {
        let ask = |answer: Answer| {
            let wait = Wait::device_deleted("net0");
            (wait.question.expect("a question").judge)(&answer)
        };
        let error = |class| Err(Error::from(QmpError::new(class, "x")));
        assert_eq!(ask(error(ErrorClass::DeviceNotFound)), Met);
        assert_eq!(ask(error(ErrorClass::GenericError)), Open);
        assert_eq!(ask(error(ErrorClass::CommandNotFound)), Open);
        assert_eq!(asked(Wait::device_deleted("net0"), "[]"), Open);
        let question = Wait::device_deleted("net0").question.expect("a question");
        assert_eq!(
            question.command.to_json().unwrap(),
            br#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral/net0"}}"#
        );
        assert!(!question.after_command);
    }

    #[test]
    fn a_tray_by_device_and_by_id() {
        let moved = |device: &str, id: &str, open: bool| {
            format!(r#"{{"device":"{device}","id":"{id}","tray-open":{open}}}"#)
        };
        let (other, open, closed) = (
            moved("", "cd1", true),
            moved("", "cd0", true),
            moved("ide0", "cd0", false),
        );
        let name = "DEVICE_TRAY_MOVED";
        let events = [(name, other.as_str()), (name, &open), (name, &closed)];
        for (device, tray, expected) in [
            ("cd0", Tray::Any, [Open, Met, Met]),
            ("cd0", Tray::Open, [Open, Met, Open]),
            ("cd0", Tray::Closed, [Open, Open, Met]),
            ("ide0", Tray::Any, [Open, Open, Met]),
            ("", Tray::Any, [Open, Open, Open]),
        ] {
            assert_eq!(
                verdicts(Wait::tray(device, tray), &events),
                expected,
                "{device} {tray:?}"
            );
        }
        let drives = r#"[{"device":"","qdev":"cd1","tray_open":true},{"device":"ide0","qdev":"cd0","tray_open":false}]"#;
        assert_eq!(asked(Wait::tray("cd0", Tray::Closed), drives), Met);
        assert_eq!(asked(Wait::tray("ide0", Tray::Closed), drives), Met);
        assert_eq!(asked(Wait::tray("cd0", Tray::Open), drives), Open);
        assert_eq!(asked(Wait::tray("cd1", Tray::Open), drives), Met);
        assert_eq!(asked(Wait::tray("", Tray::Open), drives), Open);
        // A drive without a tray does not say.
        assert_eq!(
            asked(Wait::tray("cd2", Tray::Closed), r#"[{"device":"cd2"}]"#),
            Open
        );
        assert!(Wait::tray("cd0", Tray::Any).question.is_none());
    }

    #[test]
    fn a_job_by_its_status() {
        let status = |id: &str, status: &str| format!(r#"{{"id":"{id}","status":"{status}"}}"#);
        let other = status("b", "ready");
        let steps: Vec<_> = [
            "created",
            "running",
            "ready",
            "waiting",
            "pending",
            "concluded",
            "null",
        ]
        .map(|step| status("a", step))
        .into();
        let run = |wanted: &str| {
            let mut events = vec![("JOB_STATUS_CHANGE", other.as_str())];
            events.extend(
                steps
                    .iter()
                    .map(|step| ("JOB_STATUS_CHANGE", step.as_str())),
            );
            let first = verdicts(Wait::job_status("a", wanted), &events)
                .into_iter()
                .enumerate()
                .find(|(_, verdict)| *verdict != Open);
            first.expect("a verdict")
        };
        assert_eq!(run("created"), (1, Met));
        assert_eq!(run("ready"), (3, Met));
        assert_eq!(run("concluded"), (6, Met));
        assert_eq!(run("null"), (7, Met));
        assert_eq!(
            run("paused"),
            (6, FailedAsk("it is concluded already".to_owned()))
        );
        // `concluded` was missed, and a dismissed job has been.
        let dismissed = status("a", "null");
        let last = [("JOB_STATUS_CHANGE", dismissed.as_str())];
        assert_eq!(verdicts(Wait::job_status("a", "concluded"), &last), [Met]);
        assert_eq!(
            verdicts(Wait::job_status("a", "ready"), &last),
            [FailedAsk("it is null already".to_owned())]
        );
    }

    #[test]
    fn a_block_job_that_ends_with_an_error_says_which() {
        let completed = (
            "BLOCK_JOB_COMPLETED",
            r#"{"type":"mirror","device":"a","len":1,"offset":0,"speed":0,"error":"No space"}"#,
        );
        let concluded = ("JOB_STATUS_CHANGE", r#"{"id":"a","status":"concluded"}"#);
        let wait = Wait::job_status("a", "ready");
        assert_eq!(
            verdicts(wait, &[completed, concluded]),
            [Open, failed("No space")]
        );
        let cancelled = ("BLOCK_JOB_CANCELLED", r#"{"device":"a"}"#);
        let wait = Wait::job_status("a", "ready");
        assert_eq!(
            verdicts(wait, &[cancelled, concluded]),
            [Open, failed(CANCELLED)]
        );
        // Another job's error is not this one's.
        let wait = Wait::job_status("b", "ready");
        let end = ("JOB_STATUS_CHANGE", r#"{"id":"b","status":"concluded"}"#);
        assert_eq!(
            verdicts(wait, &[completed, end]),
            [Open, FailedAsk("it is concluded already".to_owned())]
        );
    }

    #[test]
    fn query_jobs_tells_what_was_missed() {
        let jobs = r#"[{"id":"a","type":"mirror","status":"ready"},
            {"id":"b","type":"create","status":"concluded","error":"No such file"},
            {"id":"c","type":"create","status":"concluded"}]"#;
        for (id, wanted, expected) in [
            ("a", "ready", Met),
            ("a", "concluded", Open),
            ("a", "null", Open),
            ("b", "concluded", Met),
            ("b", "ready", failed("No such file")),
            ("b", "null", Open),
            ("c", "ready", failed("it is concluded already")),
            ("d", "concluded", Met),
            ("d", "null", Met),
            (
                "d",
                "ready",
                failed("there is no such job: it was dismissed, or has not begun"),
            ),
        ] {
            assert_eq!(
                asked(Wait::job_status(id, wanted), jobs),
                expected,
                "{id} {wanted}"
            );
        }
        assert_eq!(asked(Wait::job_status("d", "null"), "7"), Open);
        let mut question = Wait::job_status("b", "ready").question.expect("a question");
        let value = serde_json::value::RawValue::from_string(jobs.to_owned()).unwrap();
        assert_eq!((question.why)(&Ok(value)).as_deref(), Some("No such file"));
    }

    #[test]
    fn block_jobs_by_their_events() {
        let about = |more: &str| format!(r#"{{"type":"backup","device":"j"{more}}}"#);
        let (plain, error) = (about(""), about(r#","error":"No space""#));
        let pending = r#"{"type":"backup","id":"j"}"#;
        let over = failed("it has completed");
        for (wait, event, data, expected) in [
            (
                Wait::block_job_completed("j"),
                "BLOCK_JOB_COMPLETED",
                plain.as_str(),
                Met,
            ),
            (
                Wait::block_job_completed("j"),
                "BLOCK_JOB_COMPLETED",
                &error,
                failed("No space"),
            ),
            (
                Wait::block_job_completed("j"),
                "BLOCK_JOB_CANCELLED",
                &plain,
                failed(CANCELLED),
            ),
            (
                Wait::block_job_completed("k"),
                "BLOCK_JOB_COMPLETED",
                &plain,
                Open,
            ),
            (Wait::block_job_ready("j"), "BLOCK_JOB_READY", &plain, Met),
            (
                Wait::block_job_ready("j"),
                "BLOCK_JOB_COMPLETED",
                &plain,
                over,
            ),
            (
                Wait::block_job_ready_or_completed("j"),
                "BLOCK_JOB_READY",
                &plain,
                Met,
            ),
            (
                Wait::block_job_ready_or_completed("j"),
                "BLOCK_JOB_COMPLETED",
                &plain,
                Met,
            ),
            (
                Wait::block_job_ready_or_completed("j"),
                "BLOCK_JOB_COMPLETED",
                &error,
                failed("No space"),
            ),
            (Wait::block_job_error("j"), "BLOCK_JOB_ERROR", &plain, Met),
            (
                Wait::block_job_cancelled("j"),
                "BLOCK_JOB_CANCELLED",
                &plain,
                Met,
            ),
            (
                Wait::block_job_cancelled("j"),
                "BLOCK_JOB_COMPLETED",
                &plain,
                failed("it has completed"),
            ),
            (
                Wait::block_job_pending("j"),
                "BLOCK_JOB_PENDING",
                pending,
                Met,
            ),
            (
                Wait::block_job_pending("k"),
                "BLOCK_JOB_PENDING",
                pending,
                Open,
            ),
        ] {
            let what = wait.what.clone();
            assert_eq!(
                verdicts(wait, &[(event, data)]),
                [expected],
                "{what}: {event} {data}"
            );
        }
        let jobs = r#"[{"device":"j","status":"ready","ready":true},{"device":"k","status":"pending","ready":false},
            {"device":"l","status":"concluded","ready":false},{"device":"m","status":"concluded","error":"No space"}]"#;
        assert_eq!(asked(Wait::block_job_ready("j"), jobs), Met);
        assert_eq!(asked(Wait::block_job_ready("k"), jobs), Open);
        assert_eq!(asked(Wait::block_job_pending("k"), jobs), Met);
        assert_eq!(asked(Wait::block_job_completed("j"), jobs), Open);
        assert_eq!(asked(Wait::block_job_completed("l"), jobs), Met);
        assert_eq!(
            asked(Wait::block_job_completed("m"), jobs),
            failed("No space")
        );
        assert_eq!(asked(Wait::block_job_completed("none"), jobs), Open);
    }

    #[test]
    fn run_states() {
        let running = r#"{"running":true,"status":"running"}"#;
        let shut = r#"{"running":false,"singlestep":false,"status":"shutdown"}"#;
        assert_eq!(asked(Wait::resume(), running), Met);
        assert_eq!(asked(Wait::resume(), shut), Open);
        assert_eq!(asked(Wait::stop(), running), Open);
        assert_eq!(asked(Wait::stop(), shut), Met);
        assert_eq!(asked(Wait::shutdown(), running), Open);
        assert_eq!(asked(Wait::shutdown(), shut), Met);
        for (wait, name) in [
            (Wait::resume(), "RESUME"),
            (Wait::stop(), "STOP"),
            (Wait::shutdown(), "SHUTDOWN"),
            (Wait::reset(), "RESET"),
            (Wait::powerdown(), "POWERDOWN"),
        ] {
            assert_eq!(verdicts(wait, &[(name, "{}")]), [Met], "{name}");
        }
    }

    #[test]
    fn a_migration_by_its_status() {
        let status = |status: &str| format!(r#"{{"status":"{status}"}}"#);
        let judged = |wanted: &str, told: &str| {
            verdicts(Wait::migration(wanted), &[("MIGRATION", &status(told))]).remove(0)
        };
        assert_eq!(judged("completed", "active"), Open);
        assert_eq!(judged("completed", "completed"), Met);
        assert_eq!(
            judged("completed", "failed"),
            FailedAsk(NO_REASON.to_owned())
        );
        assert_eq!(judged("completed", "cancelled"), failed(CANCELLED));
        assert_eq!(judged("failed", "failed"), Met);
        assert_eq!(judged("active", "completed"), failed("it has completed"));
        for (answer, expected) in [
            ("{}", Open),
            (r#"{"status":"setup"}"#, Open),
            (r#"{"status":"completed","ram":{}}"#, Met),
            (
                r#"{"status":"failed","error-desc":"No route"}"#,
                failed("No route"),
            ),
            (r#"{"status":"failed"}"#, failed(NO_REASON)),
        ] {
            assert_eq!(
                asked(Wait::migration("completed"), answer),
                expected,
                "{answer}"
            );
        }
    }

    #[test]
    fn data_that_make_no_sense_are_about_nothing() {
        for data in ["7", "[]", r#"{"device":7}"#, r#"{"id":{}}"#, "{}"] {
            for (wait, name) in [
                (Wait::device_deleted(""), "DEVICE_DELETED"),
                (Wait::tray("x", Tray::Any), "DEVICE_TRAY_MOVED"),
                (Wait::job_status("x", "null"), "JOB_STATUS_CHANGE"),
                (Wait::block_job_completed("x"), "BLOCK_JOB_COMPLETED"),
                (Wait::migration("completed"), "MIGRATION"),
            ] {
                assert_eq!(verdicts(wait, &[(name, data)]), [Open], "{name} {data}");
            }
        }
    }
}
