//! What a stand-in answers by itself, so that a program finds a QEMU with a running guest and nothing else in it. Imports
//! qmp, `machine` and `reply`.

use serde_json::{Value, json};

use super::machine::{FilePlace, Machine, State, lock};
use super::reply::{Outcome, Reply};
use super::request::Request;
use crate::qmp::{ErrorClass, from_json};

/// Commands without arguments whose answer never changes.
const FIXED: [(&str, &str); 15] = [
    ("query-block", "[]"),
    ("query-block-jobs", "[]"),
    ("query-blockstats", "[]"),
    ("query-chardev", "[]"),
    (
        "query-cpus-fast",
        r#"[{"cpu-index":0,"qom-path":"/machine/unattached/device[0]","thread-id":1,"target":"x86_64"}]"#,
    ),
    ("query-iothreads", "[]"),
    ("query-jobs", "[]"),
    ("query-kvm", r#"{"enabled":false,"present":true}"#),
    (
        "query-memory-size-summary",
        r#"{"base-memory":33554432,"plugged-memory":0}"#,
    ),
    ("query-migrate", "{}"),
    ("query-named-block-nodes", "[]"),
    ("query-pci", "[]"),
    ("query-target", r#"{"arch":"x86_64"}"#),
    (
        "query-uuid",
        r#"{"UUID":"00000000-0000-0000-0000-000000000000"}"#,
    ),
    ("query-yank", "[]"),
];

/// The other commands that are answered.
const OTHERS: [&str; 16] = [
    "add-fd",
    "closefd",
    "cont",
    "device_del",
    "getfd",
    "human-monitor-command",
    "qmp_capabilities",
    "query-balloon",
    "query-commands",
    "query-name",
    "query-status",
    "query-version",
    "quit",
    "stop",
    "system_powerdown",
    "system_reset",
];

impl Machine {
    /// What is answered where the script says nothing.
    pub(super) fn default_reply(&self, request: &Request, files: &FilePlace) -> Reply {
        let fixed = FIXED.iter().find(|(name, _)| *name == request.name);
        let takes_arguments = matches!(
            request.name.as_str(),
            "add-fd"
                | "closefd"
                | "device_del"
                | "getfd"
                | "human-monitor-command"
                | "qmp_capabilities"
        );
        let known = fixed.is_some() || OTHERS.contains(&request.name.as_str());
        if let Some(argument) = request.first_argument()
            && known
            && !takes_arguments
        {
            return refused(format!("Parameter '{argument}' is unexpected"));
        }
        match fixed {
            Some((_, text)) => {
                Reply::value(from_json::<Value>(text.as_bytes()).unwrap_or_default())
            }
            None => self.other_reply(request, files),
        }
    }

    fn other_reply(&self, request: &Request, files: &FilePlace) -> Reply {
        match request.name.as_str() {
            "query-commands" => {
                let names = self.command_names().into_iter();
                Reply::value(names.map(|name| json!({ "name": name })).collect::<Value>())
            }
            "getfd" | "closefd" | "add-fd" => self.file_command(request, files),
            "human-monitor-command" => self.human(request),
            "device_del" => match text_argument(request, "id") {
                Ok(id) => Reply::error(
                    ErrorClass::DeviceNotFound,
                    format!("Device '{id}' not found"),
                ),
                Err(missing) => missing,
            },
            name => self.state_command(name),
        }
    }

    /// The commands that need nothing but the state.
    fn state_command(&self, name: &str) -> Reply {
        let mut state = self.state();
        match name {
            "query-status" => Reply::value(json!({
                "running": state.status == "running",
                "singlestep": false,
                "status": state.status,
            })),
            "query-version" => Reply::value(state.version_object()),
            "query-name" => Reply::value(match &state.name {
                Some(name) => json!({ "name": name }),
                None => json!({}),
            }),
            "query-balloon" => Reply::error(
                ErrorClass::DeviceNotActive,
                "No balloon device has been activated",
            ),
            "stop" => state.change("running", "paused", "STOP"),
            "cont" => state.change("paused", "running", "RESUME"),
            "system_reset" => done().event(
                "RESET",
                json!({"guest": false, "reason": "host-qmp-system-reset"}),
            ),
            "qmp_capabilities" => done(),
            "system_powerdown" => done().event("POWERDOWN", None),
            "quit" => done()
                .event(
                    "SHUTDOWN",
                    json!({"guest": false, "reason": "host-qmp-quit"}),
                )
                .ending(),
            _ => Reply::error(
                ErrorClass::CommandNotFound,
                format!("The command {name} has not been found"),
            ),
        }
    }

    /// All commands that are answered, sorted.
    fn command_names(&self) -> Vec<String> {
        let fixed = FIXED.iter().map(|(name, _)| *name);
        let mut names: Vec<String> = fixed.chain(OTHERS).map(str::to_owned).collect();
        names.extend(self.script.names());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A line of the human monitor.
    fn human(&self, request: &Request) -> Reply {
        let line = match text_argument(request, "command-line") {
            Ok(line) => line,
            Err(missing) => return missing,
        };
        if let Some(cpu) = request.arguments.get("cpu-index")
            && cpu.as_u64() != Some(0)
        {
            return refused("Parameter 'cpu-index' expects a CPU number");
        }
        let state = self.state();
        let scripted = state.hmp.iter().rev().find(|(known, _)| known == line);
        let (major, minor, micro) = state.version;
        Reply::value(match (scripted, line.trim()) {
            (Some((_, text)), _) => text.clone(),
            (None, "info status") => format!("VM status: {}\r\n", state.status),
            (None, "info version") => format!("{major}.{minor}.{micro}{}\r\n", state.package),
            (None, "info name") => state
                .name
                .as_ref()
                .map(|name| format!("{name}\r\n"))
                .unwrap_or_default(),
            (None, "") => String::new(),
            (None, line) => {
                let name = line.split_whitespace().next().unwrap_or_default();
                format!("unknown command: '{name}'\r\n")
            }
        })
    }

    /// The commands that take a descriptor, or let it go.
    fn file_command(&self, request: &Request, files: &FilePlace) -> Reply {
        let name = match request.name.as_str() {
            "add-fd" => "",
            _ => match text_argument(request, "fdname") {
                Ok(name) => name,
                Err(missing) => return missing,
            },
        };
        let mut state = self.state();
        if request.name == "closefd" {
            return match state.named_files.remove(name) {
                true => done(),
                false => refused(format!("File descriptor named '{name}' not found")),
            };
        }
        let Some(file) = lock(files).take() else {
            return refused("No file descriptor supplied via SCM_RIGHTS");
        };
        state.files.push(file);
        if request.name == "getfd" {
            state.named_files.insert(name.to_owned());
            return done();
        }
        let asked = request.arguments.get("fdset-id").and_then(Value::as_u64);
        let set = asked.unwrap_or(state.next_fdset);
        state.next_fdset = state.next_fdset.max(set.saturating_add(1));
        // The number that the descriptor has in QEMU says nothing to anybody else.
        Reply::value(json!({"fdset-id": set, "fd": 10 + state.files.len()}))
    }

    /// The descriptor goes to a command of QEMU that takes one, also where the test says what it answers.
    pub(super) fn take_file(&self, request: &Request, reply: &Reply, files: &FilePlace) {
        let takes = matches!(request.name.as_str(), "getfd" | "add-fd");
        if takes && matches!(reply.outcome, Outcome::Value(_)) {
            let file = lock(files).take();
            self.state().files.extend(file);
        }
    }
}

impl State {
    pub(super) fn version_object(&self) -> Value {
        let (major, minor, micro) = self.version;
        json!({
            "qemu": {"major": major, "minor": minor, "micro": micro},
            "package": self.package,
        })
    }

    /// Goes from one state to another with an event; nothing happens in any other state.
    fn change(&mut self, from: &str, to: &str, event: &str) -> Reply {
        if self.status != from {
            return done();
        }
        to.clone_into(&mut self.status);
        done().event(event, None)
    }
}

/// What a guest agent without a script answers: it is there, and can do nothing.
pub(super) fn agent_reply(request: &Request) -> Reply {
    match request.name.as_str() {
        "guest-ping" => done(),
        "guest-sync" | "guest-sync-delimited" => match request.arguments.get("id") {
            Some(id) => Reply::value(id.clone()),
            None => refused("Parameter 'id' is missing"),
        },
        name => Reply::error(
            ErrorClass::CommandNotFound,
            format!("The command {name} has not been found"),
        ),
    }
}

fn done() -> Reply {
    Reply::value(json!({}))
}

fn refused(desc: impl Into<String>) -> Reply {
    Reply::error(ErrorClass::GenericError, desc)
}

/// An argument that must be there, and a string.
fn text_argument<'a>(request: &'a Request, name: &str) -> Result<&'a str, Reply> {
    match request.arguments.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(refused(format!(
            "Invalid parameter type for '{name}', expected: string"
        ))),
        None => Err(refused(format!("Parameter '{name}' is missing"))),
    }
}
