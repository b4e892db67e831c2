//! Names of what is in the running QEMU, for completion: asked for when they are wanted, and waited for only a moment.
//! Imports `given` and `hmp`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libvirt_qmp::{Command, Monitor, MonitorExt, Schema};
use serde_json::Value;
use tokio::runtime::Handle;

use super::given::Given;
use super::hmp;

/// How long the user is kept waiting for names.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long names are good for.
const FRESH: Duration = Duration::from_secs(2);
/// Answers that are kept.
const KEPT: usize = 64;

/// Where names come from.
pub(super) trait Names {
    /// What the argument `name` of a command may be; `typed` is what is there of it.
    fn values(&self, given: &Given<'_>, name: &str, typed: &str) -> Vec<String>;

    /// The properties of the device that `device_add` is to make.
    fn device_properties(&self, given: &Given<'_>) -> Vec<String>;
}

/// The names of a running QEMU. Asks from outside of the runtime, where waiting keeps nobody else.
pub(super) struct Live {
    monitor: Arc<dyn Monitor>,
    runtime: Handle,
    /// Whether QEMU may be asked at all.
    asks: bool,
    schema: OnceLock<Schema>,
    hmp: OnceLock<HmpNames>,
    kept: Mutex<HashMap<Question, (Instant, Vec<String>)>>,
}

/// The names of commands of the human monitor, and those of what its `info` shows.
type HmpNames = (Vec<String>, Vec<String>);

/// Something that QEMU can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    Nodes,
    BlockDevices,
    Bitmaps,
    Jobs,
    Chardevs,
    Iothreads,
    /// Ids of devices.
    Devices,
    /// Ids of objects.
    Objects,
    /// What is in this place of the QOM tree.
    Children(String),
    Properties(String),
    DeviceTypes,
    DeviceProperties(String),
}

impl Live {
    /// One that asks `monitor`, or knows nothing where that is not wanted.
    pub(super) fn new(monitor: Arc<dyn Monitor>, runtime: Handle, asks: bool) -> Self {
        Live {
            monitor,
            runtime,
            asks,
            schema: OnceLock::new(),
            hmp: OnceLock::new(),
            kept: Mutex::default(),
        }
    }

    /// Asks for what will be wanted first: the schema, or the names of HMP.
    pub(super) async fn prepare(&self, hmp: bool) {
        match (self.asks, hmp) {
            (false, _) => {}
            (true, true) => self.ask_hmp().await,
            (true, false) => self.ask_schema().await,
        }
    }

    async fn ask_schema(&self) {
        if let Ok(schema) = self.monitor.schema().await {
            self.schema.get_or_init(|| schema);
        }
    }

    async fn ask_hmp(&self) {
        let help = self.monitor.hmp("help", None).await;
        let info = self.monitor.hmp("info", None).await;
        if let (Ok(help), Ok(info)) = (help, info) {
            let names = (hmp::names(&help, None), hmp::names(&info, Some("info")));
            self.hmp.get_or_init(|| names);
        }
    }

    /// The schema where it is here.
    pub(super) fn known_schema(&self) -> Option<Schema> {
        self.schema.get().cloned()
    }

    /// The schema, waited for where that is bearable.
    pub(super) fn schema(&self) -> Option<Schema> {
        if self.schema.get().is_none() {
            self.wait(self.ask_schema());
        }
        self.known_schema()
    }

    /// The names of HMP, where they come in time.
    pub(super) fn hmp_names(&self) -> HmpNames {
        if self.hmp.get().is_none() {
            self.wait(self.ask_hmp());
        }
        self.hmp.get().cloned().unwrap_or_default()
    }

    /// Waits as long as is bearable.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        if !self.asks {
            return None;
        }
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, answer).await })
            .ok()
    }

    /// The answer to a question, or nothing where there is none in time.
    fn ask(&self, question: Question) -> Vec<String> {
        if let Some((when, names)) = self.kept().get(&question)
            && when.elapsed() < FRESH
        {
            return names.clone();
        }
        let answer = self.wait(question.answer(&*self.monitor));
        let names = answer.flatten().unwrap_or_default();
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(question, (Instant::now(), names.clone()));
        names
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Question, (Instant, Vec<String>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names for Live {
    fn values(&self, given: &Given<'_>, name: &str, typed: &str) -> Vec<String> {
        let mut names = Vec::new();
        for question in questions(given, name, typed) {
            let answer = self.ask(question.clone());
            match question {
                Question::Children(place) => {
                    names.extend(answer.into_iter().map(|child| format!("{place}{child}")));
                }
                _ => names.extend(answer),
            }
        }
        names.sort();
        names.dedup();
        names
    }

    fn device_properties(&self, given: &Given<'_>) -> Vec<String> {
        match given.value("driver") {
            Some(driver) => self.ask(Question::DeviceProperties(driver)),
            None => Vec::new(),
        }
    }
}

/// What QEMU is to be asked for an argument of a command. Its name tells: the schema has `str` for all of them.
fn questions(given: &Given<'_>, name: &str, typed: &str) -> Vec<Question> {
    let command = given.command;
    let is_job = command.starts_with("job-") || command.starts_with("block-job-");
    match name {
        "id" | "device" if is_job => vec![Question::Jobs],
        "id" if command == "device_del" => vec![Question::Devices],
        "id" if command.starts_with("blockdev-") => vec![Question::Devices],
        "id" if command == "object-del" => vec![Question::Objects],
        "id" if command.starts_with("chardev-") => vec![Question::Chardevs],
        "device" if command == "ringbuf-read" || command == "ringbuf-write" => {
            vec![Question::Chardevs]
        }
        "device" => vec![Question::BlockDevices, Question::Nodes, Question::Devices],
        "node-name" if command == "blockdev-add" => Vec::new(),
        "node" | "node-name" | "overlay" | "base-node" | "top-node" | "replaces" | "file"
        | "backing" | "parent" | "child" | "data-file" => vec![Question::Nodes],
        "target" if command.starts_with("blockdev-") => vec![Question::Nodes],
        "iothread" => vec![Question::Iothreads],
        "chardev" => vec![Question::Chardevs],
        "name" if command.starts_with("block-dirty-bitmap-") => match command {
            "block-dirty-bitmap-add" => Vec::new(),
            _ => vec![Question::Bitmaps],
        },
        "path" if command.starts_with("qom-") => {
            let place = typed.rfind('/').map_or("/", |slash| &typed[..=slash]);
            vec![Question::Children(place.to_owned())]
        }
        "property" if command.starts_with("qom-") => match given.value("path") {
            Some(path) => vec![Question::Properties(path)],
            None => Vec::new(),
        },
        "driver" if command == "device_add" => vec![Question::DeviceTypes],
        "typename" if command == "device-list-properties" => vec![Question::DeviceTypes],
        _ => Vec::new(),
    }
}

impl Question {
    /// What QEMU says, or nothing where it says something else.
    async fn answer(&self, monitor: &dyn Monitor) -> Option<Vec<String>> {
        let command = self.command();
        let answer: Value = monitor.execute(command).await.ok()?;
        let elements = answer.as_array()?;
        Some(match self {
            Question::Nodes => texts(elements, "node-name"),
            Question::BlockDevices => {
                let mut names = texts(elements, "device");
                names.retain(|name| !name.is_empty());
                names.extend(texts(elements, "qdev"));
                names
            }
            Question::Bitmaps => {
                let bitmaps = elements
                    .iter()
                    .filter_map(|node| node["dirty-bitmaps"].as_array());
                bitmaps.flat_map(|bitmaps| texts(bitmaps, "name")).collect()
            }
            Question::Jobs | Question::Iothreads => texts(elements, "id"),
            Question::Chardevs => texts(elements, "label"),
            Question::Devices | Question::Objects => children(elements).collect(),
            Question::Children(_) => children(elements).map(|name| name + "/").collect(),
            Question::Properties(_) => {
                let mut names = texts(elements, "name");
                names.sort();
                names
            }
            Question::DeviceTypes | Question::DeviceProperties(_) => texts(elements, "name"),
        })
    }

    fn command(&self) -> Command {
        let listed = |path: &str| {
            let path = match path.trim_end_matches('/') {
                "" => "/",
                path => path,
            };
            Command::new("qom-list").arg("path", path)
        };
        match self {
            Question::Nodes | Question::Bitmaps => {
                Command::new("query-named-block-nodes").arg("flat", true)
            }
            Question::BlockDevices => Command::new("query-block"),
            Question::Jobs => Command::new("query-jobs"),
            Question::Chardevs => Command::new("query-chardev"),
            Question::Iothreads => Command::new("query-iothreads"),
            Question::Devices => listed("/machine/peripheral"),
            Question::Objects => listed("/objects"),
            Question::Children(path) | Question::Properties(path) => listed(path),
            Question::DeviceTypes => Command::new("qom-list-types")
                .arg("implements", "device")
                .arg("abstract", false),
            Question::DeviceProperties(driver) => {
                Command::new("device-list-properties").arg("typename", driver)
            }
        }
    }
}

fn texts(elements: &[Value], member: &str) -> Vec<String> {
    let found = elements
        .iter()
        .filter_map(|element| element[member].as_str());
    found.map(str::to_owned).collect()
}

/// What in a place of the QOM tree is a place itself.
fn children(elements: &[Value]) -> impl Iterator<Item = String> {
    elements.iter().filter_map(|element| {
        let ty = element["type"].as_str()?;
        let is_place = ty.starts_with("child<");
        is_place.then(|| element["name"].as_str().map(str::to_owned))?
    })
}
