//! A stand-in for virsh: a bash script that speaks as virsh does, and does what a test tells it to. Imports support.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use libvirt_qmp::{Config, Virsh};

use crate::support::process::{PATIENCE, poll_until};
use crate::support::scratch::Scratch;

/// The UUID of the only domain, which is called `one`.
pub(crate) const UUID: &str = "00000000-0000-0000-0000-000000000011";

/// What a test may say otherwise comes before the last part: functions of bash.
const HEAD: &str = r#"#!/bin/bash
dir=${0%/*}
printf '%s\n' "$$" >>"$dir/pids"
printf '%s\n' "$*" >>"$dir/argv"
printf '%s\n' "$XDG_CACHE_HOME" >>"$dir/cache"

note() { printf '%s\n' "$2" >>"$dir/$1"; }
# Waits until the test opens the gate. The end of the pipe alone may be that of whoever opened it for the wait before.
gate() { until read -r _ <"$dir/$1"; do :; done; }
fail() { printf 'error: %s\n' "$1" >&2; }
registered() {
    echo '2026-01-01 00:00:00.000+0000: 1: info : virNetClientCallDispatch:1 : RPC_CLIENT_MSG_RX: client=0x1 len=32' \
        'prog=536903815 vers=1 proc=4 type=1 status=0 serial=7' >&2
}
event() { printf "event %s at 1700000000.000042 for domain 'one': %s\n" "$1" "${2:-<null>}"; }

# What a test may change.
domuuid() { [ "$1" = one ] && echo 00000000-0000-0000-0000-000000000011 || { fail "failed to get domain '$1'"; return 1; }; }
domname() { [ "$1" = 00000000-0000-0000-0000-000000000011 ] && echo one || { fail "failed to get domain '$1'"; return 1; }; }
begin() { :; }
echo_line() { printf '%s\n' "$1"; }
monitor() { echo '{"return":{},"id":"libvirt-1"}'; }
agent() { echo '{"return":{}}'; }
with_file() { monitor "$1"; }
events() { registered; while gate event; do event STOP; done; }
"#;

const TAIL: &str = r#"
while :; do
    case $1 in
        -q | -r) shift ;;
        -k | -K | -c) shift 2 ;;
        *) break ;;
    esac
done
case $1 in
    domuuid) domuuid "$3"; exit ;;
    domname) domname "$3"; exit ;;
    list) list; exit ;;
    qemu-monitor-event) trap 'echo "event loop interrupted"; exit 0' INT; events "$@"; exit ;;
    qemu-monitor-command) with_file "$7"; exit ;;
esac
begin
prompt='virsh # '
while printf '%s' "$prompt"; IFS= read -r line; do
    echo_line "$line"
    while [ -n "$line" ]; do
        part=${line%%; *}
        [ "$part" = "$line" ] && line= || line=${line#*; }
        json=${part#*--cmd \'}
        json=${json%\'}
        case $part in
            echo\ *) part=${part#echo }; printf '%s' "${part//\'/}" ;;
            domname\ *) domname "${part##* }" ;;
            qemu-monitor-command\ *) monitor "$json" ;;
            qemu-agent-command\ *) agent "$json" "${part%% --cmd*}" ;;
            *) fail "unknown command: '${part//\'/}'" ;;
        esac
    done
done
"#;

/// A script that stands in for virsh, in a directory of its own.
pub(crate) struct Fake {
    scratch: Scratch,
}

impl Fake {
    /// One that behaves as `functions` say, in bash.
    pub(crate) fn new(functions: &str) -> Fake {
        let fake = Fake {
            scratch: Scratch::new(),
        };
        for pipe in ["event", "gate"] {
            let made = Command::new("mkfifo").arg(fake.scratch.path(pipe)).status();
            assert!(made.unwrap().success());
        }
        // Another process writes it: a child of another test, started in this moment, would hold it open for writing, and
        // then it could not be started.
        let mut writer = Command::new("sh")
            .args(["-c", "cat >\"$0\" && chmod +x \"$0\""])
            .arg(fake.program())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = writer.stdin.take().unwrap();
        let script = [HEAD, functions, TAIL].concat();
        std::io::Write::write_all(&mut stdin, script.as_bytes()).unwrap();
        drop(stdin);
        assert!(writer.wait().unwrap().success());
        fake
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.scratch.path("virsh")
    }

    /// A monitor of the domain `one`.
    pub(crate) fn monitor(&self) -> Virsh {
        self.monitor_with(Config::new())
    }

    pub(crate) fn monitor_with(&self, config: Config) -> Virsh {
        Virsh::with_config("fake:///x", "one", config).program(self.program())
    }

    /// The lines that it has noted under this name.
    pub(crate) fn notes(&self, name: &str) -> Vec<String> {
        self.scratch.text(name).lines().map(str::to_owned).collect()
    }

    /// Waits until it has noted so many.
    pub(crate) async fn wait_for_notes(&self, name: &'static str, count: usize) -> Vec<String> {
        let file = self.scratch.path(name);
        let waiting = move || {
            poll_until(PATIENCE, || {
                let lines: Vec<String> = fs::read_to_string(&file)
                    .ok()?
                    .lines()
                    .map(str::to_owned)
                    .collect();
                (lines.len() >= count).then_some(lines)
            })
        };
        let found = tokio::task::spawn_blocking(waiting).await.unwrap();
        found.unwrap_or_else(|| panic!("only {:?} in {name}", self.notes(name)))
    }

    /// Lets one wait at this gate end, once there is one.
    pub(crate) async fn open(&self, gate: &str) {
        let gate = self.scratch.path(gate);
        let open = tokio::task::spawn_blocking(|| fs::write(gate, "\n"));
        open.await.unwrap().unwrap();
    }

    /// The processes that were started, in their order.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.notes("pids")
            .iter()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    /// Waits until no process is left, not even as a zombie, and no private directory.
    pub(crate) fn assert_gone(&self) {
        let pids = self.pids();
        assert!(!pids.is_empty());
        let left = || -> Vec<String> {
            let running = pids.iter().map(|pid| format!("/proc/{pid}"));
            let dirs = self
                .notes("cache")
                .into_iter()
                .filter(|dir| dir.contains("libvirt-qmp-"));
            running
                .chain(dirs)
                .filter(|path| fs::exists(path).unwrap())
                .collect()
        };
        let gone = poll_until(PATIENCE, || left().is_empty().then_some(()));
        assert!(gone.is_some(), "left: {:?}", left());
    }
}

/// Time for what must not take long, and a bound for what would else wait for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(30);
    let done = tokio::time::timeout(limit, what).await;
    done.unwrap_or_else(|_| panic!("not done after {limit:?}"))
}
