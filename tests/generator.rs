//! The generator of `build/`: golden files, bad input, any input, and the real definitions in `xdr/`.
//! The unit tests inside `build/` run here too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../build/mod.rs"]
mod generator;
#[path = "protocol_facts/mod.rs"]
mod protocol_facts;

use std::fs;
use std::path::{Path, PathBuf};

use generator::{MODULES, Module, Source, generate};

/// Modules of the fixtures.
const DEMO: &[Module<'static>] = &[
    Module {
        name: "demo",
        prefixes: &["demo_", "DEMO_PROC_", "DEMO_"],
        given: &[],
        aliases: false,
    },
    Module {
        name: "other",
        prefixes: &["other_", "OTHER_"],
        given: &[],
        aliases: false,
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixtures() -> PathBuf {
    root().join("fixtures/generator")
}

/// The entries of a directory, sorted.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn is_definition(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "x")
}

/// All definitions below `directory`, under the names they would have in `xdr/`.
fn sources(directory: &Path) -> Vec<Source> {
    fn walk(top: &Path, directory: &Path, sources: &mut Vec<Source>) {
        for path in entries(directory) {
            if path.is_dir() {
                walk(top, &path, sources);
            } else if is_definition(&path) {
                let below = path
                    .strip_prefix(top)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .replace('\\', "/");
                sources.push(Source {
                    path: format!("xdr/{below}"),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    let mut sources = Vec::new();
    walk(directory, directory, &mut sources);
    sources
}

/// One file, as `xdr/demo.x`.
fn demo(text: impl Into<String>) -> Source {
    Source {
        path: "xdr/demo.x".into(),
        text: text.into(),
    }
}

/// What is wrong, one message a line.
fn problems(sources: &[Source]) -> String {
    match generate(DEMO, sources) {
        Ok(output) => panic!("accepted:\n{}", output.protocol),
        Err(problems) => problems
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect(),
    }
}

/// Compares with the file; rewrites it where they differ, so that the difference is seen in `git diff`.
fn check(path: &Path, actual: &str) -> bool {
    let same = fs::read_to_string(path).is_ok_and(|expected| expected == actual);
    if !same {
        fs::write(path, actual).unwrap();
        eprintln!("{} was rewritten", path.display());
    }
    same
}

#[test]
fn golden_files() {
    let mut same = true;
    let mut cases = 0;
    for path in entries(&fixtures()) {
        let sources = match path.file_name().unwrap().to_str().unwrap() {
            "bad" => continue,
            _ if path.is_dir() => sources(&path),
            _ if is_definition(&path) => vec![demo(fs::read_to_string(&path).unwrap())],
            _ => continue,
        };
        let text = generate(DEMO, &sources)
            .unwrap_or_else(|problems| panic!("{}: {problems:?}", path.display()));
        same &= check(&path.with_extension("rs"), &text.protocol);
        cases += 1;
    }
    assert_eq!(cases, 2);
    assert!(same, "output changed: see git diff fixtures/generator");
}

#[test]
fn bad_files() {
    let mut same = true;
    let mut cases = 0;
    for path in entries(&fixtures().join("bad"))
        .into_iter()
        .filter(|path| is_definition(path))
    {
        same &= check(
            &path.with_extension("err"),
            &problems(&[demo(fs::read_to_string(&path).unwrap())]),
        );
        cases += 1;
    }
    assert!(cases >= 30, "only {cases} bad files found");
    assert!(
        same,
        "messages changed: see git diff fixtures/generator/bad"
    );
}

/// Two files of the modules `demo` and `other`, and what is wrong with them together.
#[test]
fn files_that_disagree() {
    let program = |name: &str, version: &str, number: u32| {
        format!(
            "program {name} {{ version {version} {{ void {name}_A(void) = 1; }} = 1; }} = {number};"
        )
    };
    let twice = |first: String, second: String| {
        let path = |name: &str| format!("xdr/demo/{name}.x");
        problems(&[
            Source {
                path: path("a"),
                text: first,
            },
            Source {
                path: path("b"),
                text: second,
            },
        ])
    };
    assert_eq!(
        twice(
            "struct demo_s { int a; };".into(),
            "\nconst demo_s = 1;".into()
        ),
        "xdr/demo/b.x:2:7: `demo_s` is already defined at xdr/demo/a.x:1:8\n"
    );
    assert_eq!(
        twice(
            "program DEMO_P { version DEMO_V { } = 1; } = 1;".into(),
            "program DEMO_P { version DEMO_V { } = 1; } = 2;".into()
        ),
        "xdr/demo/b.x:1:9: `DEMO_P` has the number 0x1 at xdr/demo/a.x:1\n"
    );
    assert_eq!(
        twice(
            "program DEMO_P { version DEMO_V { } = 1; } = 1;".into(),
            "program DEMO_P { version DEMO_V { } = 2; } = 1;".into()
        ),
        "xdr/demo/b.x:1:26: `DEMO_P` has `DEMO_V` = 1 at xdr/demo/a.x:1\n"
    );
    assert_eq!(
        twice(
            program("DEMO_P", "DEMO_V", 1),
            program("DEMO_Q", "DEMO_W", 2)
        ),
        "xdr/demo/b.x:1:9: the module has the program `DEMO_P` already, at xdr/demo/a.x:1\n"
    );
    let other = Source {
        path: "xdr/other.x".into(),
        text: program("OTHER_P", "OTHER_V", 1),
    };
    assert_eq!(
        problems(&[demo(program("DEMO_P", "DEMO_V", 1)), other]),
        "xdr/other.x:1:9: `DEMO_P` is in module `demo` at xdr/demo.x:1\n"
    );
}

#[test]
fn problems_come_in_the_order_of_the_sources() {
    let source = |name: &str| Source {
        path: format!("xdr/demo/{name}.x"),
        text: "struct".into(),
    };
    let expected = "the name of the struct, found the end of the file";
    assert_eq!(
        problems(&[source("b"), source("a")]),
        format!("xdr/demo/a.x:1:7: expected {expected}\nxdr/demo/b.x:1:7: expected {expected}\n")
    );
}

#[test]
fn order_of_sources_does_not_matter() {
    let mut sources = sources(&root().join("xdr"));
    let text = generate(MODULES, &sources).unwrap();
    for _ in 0..sources.len() {
        sources.rotate_left(1);
        assert_eq!(generate(MODULES, &sources).unwrap(), text);
    }
    sources.reverse();
    assert_eq!(generate(MODULES, &sources).unwrap(), text);
}

/// A file that breaks off anywhere gives a result or a message of one line.
#[test]
fn every_prefix_is_survived() {
    for text in [
        fs::read_to_string(fixtures().join("everything.x")).unwrap(),
        qemu(),
    ] {
        for (end, _) in text.char_indices() {
            let (start, _) = text.split_at(end);
            survive(start.to_owned());
        }
    }
}

/// So does a file with a few bytes changed, doubled, moved or gone.
#[test]
fn mutations_are_survived() {
    let original = fs::read_to_string(fixtures().join("everything.x")).unwrap();
    let marks = b"{}()<>[]*,;:=-/%#@ \n\0\xff09azAZ_";
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2000 {
        let mut bytes = original.clone().into_bytes();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            let length = random.below(40).min(bytes.len() - at);
            match random.below(4) {
                0 => bytes[at] = marks[random.below(marks.len())],
                1 => drop(bytes.drain(at..at + length)),
                2 => {
                    let part = bytes[at..at + length].to_vec();
                    let to = random.below(bytes.len());
                    bytes.splice(to..to, part);
                }
                _ => bytes.insert(at, marks[random.below(marks.len())]),
            }
        }
        survive(String::from_utf8_lossy(&bytes).into_owned());
    }
}

/// Depth costs no stack: constants, types, brackets, comments and labels in the ten thousands.
#[test]
fn deep_input_is_survived() {
    let many = 20_000;
    let chain = |line: &dyn Fn(usize) -> String| (0..many).map(line).collect::<String>();
    let constants = chain(&|i| format!("const DEMO_A{i} = DEMO_A{};\n", i + 1))
        + &format!("const DEMO_A{many} = 5;");
    assert!(
        generate(DEMO, &[demo(constants)])
            .unwrap()
            .protocol
            .contains("pub const A0: u32 = 5;")
    );
    let types = chain(&|i| format!("typedef demo_t{} demo_t{i}[1];\n", i + 1))
        + &format!("typedef hyper demo_t{many};");
    assert!(
        generate(DEMO, &[demo(types)])
            .unwrap()
            .protocol
            .contains("pub type T0 = [T1; 1];")
    );
    let round = chain(&|i| format!("struct demo_s{i} {{ demo_s{} s; }};\n", (i + 1) % many));
    assert!(problems(&[demo(round)]).starts_with("xdr/demo.x:1:8: a type cannot hold itself"));
    for text in [
        "{",
        "struct demo_s {",
        "program P { version V {",
        "/**/",
        "/*",
        "*",
        "<<",
        "union u switch (",
        "case 1:",
    ] {
        survive(text.repeat(many));
    }
}

fn survive(text: String) {
    if let Err(problems) = generate(DEMO, &[demo(text)]) {
        assert!(!problems.is_empty());
        for problem in problems {
            assert_eq!(problem.to_string().lines().count(), 1, "{problem}");
        }
    }
}

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(random).unwrap() % limit.max(1)
    }
}

fn qemu() -> String {
    fs::read_to_string(root().join("xdr/qemu.x")).unwrap()
}

/// What the generator makes of `xdr/`.
fn protocol() -> String {
    generate(MODULES, &sources(&root().join("xdr")))
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .protocol
}

/// The text of one module.
fn module<'a>(text: &'a str, name: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\npub mod {name} {{\n")).unwrap();
    rest.split_once("\n}\n").unwrap().0
}

/// The rest of the block that `start` opens.
fn block<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start}"));
    rest.split_once(end).unwrap().0
}

/// Number and name of each procedure of a module.
fn procedures(text: &str, name: &str) -> Vec<(i32, String)> {
    let table = block(
        module(text, name),
        "pub(in super::super) const NAMES: &[(i32, &str)] = &[",
        "];",
    );
    let entries = table
        .lines()
        .map(|line| line.trim().trim_matches(|c| "(),".contains(c)));
    let pairs = entries.filter_map(|entry| entry.split_once(", "));
    pairs
        .map(|(number, name)| (number.parse().unwrap(), name.trim_matches('"').to_owned()))
        .collect()
}

fn fields<'a>(text: &'a str, structure: &str) -> Vec<&'a str> {
    let fields = block(text, &format!("pub struct {structure} {{\n"), "\n    }\n");
    fields
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(','))
        .collect()
}

#[test]
fn programs_have_their_numbers() {
    let text = protocol();
    for (name, number) in [
        ("keepalive", "0x6b656570"),
        ("remote", "0x20008086"),
        ("qemu", "0x20008087"),
        ("lxc", "0x68000"),
        ("admin", "0x6900690"),
    ] {
        let module = module(&text, name);
        assert!(
            module.contains(&format!("    pub const PROGRAM: u32 = {number};\n")),
            "{name}"
        );
        assert!(
            module.contains("    pub const VERSION: u32 = 1;\n"),
            "{name}"
        );
    }
}

#[test]
fn procedures_have_their_numbers() {
    let text = protocol();
    let qemu: Vec<(i32, String)> = [
        "DOMAIN_MONITOR_COMMAND",
        "DOMAIN_ATTACH",
        "DOMAIN_AGENT_COMMAND",
        "CONNECT_DOMAIN_MONITOR_EVENT_REGISTER",
        "CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER",
        "DOMAIN_MONITOR_EVENT",
        "DOMAIN_MONITOR_COMMAND_WITH_FILES",
    ]
    .iter()
    .zip(1..)
    .map(|(name, number)| (number, format!("QEMU_PROC_{name}")))
    .collect();
    assert_eq!(procedures(&text, "qemu"), qemu);
    assert_eq!(
        procedures(&text, "keepalive"),
        [
            (1, "KEEPALIVE_PROC_PING".to_owned()),
            (2, "KEEPALIVE_PROC_PONG".to_owned())
        ]
    );
    assert_eq!(
        procedures(&text, "lxc"),
        [(1, "LXC_PROC_DOMAIN_OPEN_NAMESPACE".to_owned())]
    );
    let remote = procedures(&text, "remote");
    for (number, name) in [
        (1, "CONNECT_OPEN"),
        (2, "CONNECT_CLOSE"),
        (3, "CONNECT_GET_TYPE"),
        (4, "CONNECT_GET_VERSION"),
        (16, "DOMAIN_GET_INFO"),
        (22, "DOMAIN_LOOKUP_BY_ID"),
        (23, "DOMAIN_LOOKUP_BY_NAME"),
        (24, "DOMAIN_LOOKUP_BY_UUID"),
        (59, "CONNECT_GET_HOSTNAME"),
        (60, "CONNECT_SUPPORTS_FEATURE"),
        (66, "AUTH_LIST"),
        (67, "AUTH_SASL_INIT"),
        (68, "AUTH_SASL_START"),
        (69, "AUTH_SASL_STEP"),
        (70, "AUTH_POLKIT"),
        (110, "CONNECT_GET_URI"),
        (157, "CONNECT_GET_LIB_VERSION"),
        (212, "DOMAIN_GET_STATE"),
        (273, "CONNECT_LIST_ALL_DOMAINS"),
        (360, "CONNECT_REGISTER_CLOSE_CALLBACK"),
        (361, "CONNECT_UNREGISTER_CLOSE_CALLBACK"),
        (362, "CONNECT_EVENT_CONNECTION_CLOSED"),
    ] {
        let named = (number, format!("REMOTE_PROC_{name}"));
        assert!(remote.contains(&named), "{named:?}");
    }
    for (module, last) in [("remote", 456), ("admin", 20)] {
        let numbers = procedures(&text, module)
            .into_iter()
            .map(|(number, _)| number);
        assert!(numbers.eq(1..=last), "{module}");
    }
}

/// What has no method is what `Libvirt` says of itself, and the guest agent's command, whose method is written by hand.
#[test]
fn every_procedure_has_a_method_but_those_of_the_session() {
    let output = generate(MODULES, &sources(&root().join("xdr"))).unwrap();
    let methods = output.methods.clone() + &output.admin;
    let mut without = Vec::new();
    for module in ["remote", "qemu", "lxc", "admin"] {
        for (number, name) in procedures(&output.protocol, module) {
            // What the server sends, and asking for it.
            let of_events = name.contains("_EVENT");
            if !of_events && !methods.contains(&format!("    /// `{name}`, {number}.")) {
                without.push(name);
            }
        }
    }
    assert_eq!(
        without,
        [
            "REMOTE_PROC_CONNECT_OPEN",
            "REMOTE_PROC_CONNECT_CLOSE",
            "REMOTE_PROC_CONNECT_SUPPORTS_FEATURE",
            "REMOTE_PROC_AUTH_LIST",
            "REMOTE_PROC_AUTH_SASL_INIT",
            "REMOTE_PROC_AUTH_SASL_START",
            "REMOTE_PROC_AUTH_SASL_STEP",
            "REMOTE_PROC_AUTH_POLKIT",
            "REMOTE_PROC_CONNECT_REGISTER_CLOSE_CALLBACK",
            "REMOTE_PROC_CONNECT_UNREGISTER_CLOSE_CALLBACK",
            "REMOTE_PROC_CONNECT_SET_IDENTITY",
            "QEMU_PROC_DOMAIN_AGENT_COMMAND",
            "ADMIN_PROC_CONNECT_OPEN",
            "ADMIN_PROC_CONNECT_CLOSE",
        ]
    );
    let of_libvirt = output.methods.matches("pub async fn ").count();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!(": {} of them", of_libvirt + 1)));
}

/// Whoever calls an old daemon can see what it has.
#[test]
fn every_method_says_since_when() {
    let output = generate(MODULES, &sources(&root().join("xdr"))).unwrap();
    for text in [&output.methods, &output.admin] {
        let facts: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("    /// `") && line.contains("_PROC_"))
            .collect();
        assert_eq!(facts.len(), text.matches("pub async fn ").count());
        for line in facts {
            assert!(line.contains(" Since libvirt "), "{line}");
        }
    }
}

/// What is a yes or no is a `bool` in methods, whatever stands beside it, and a number in the structs of the wire.
#[test]
fn methods_take_and_give_bool() {
    let output = generate(MODULES, &sources(&root().join("xdr"))).unwrap();
    let method = |name: &str| {
        block(
            &output.methods,
            &format!("pub async fn {name}("),
            "\n    }\n",
        )
    };
    let set = method("domain_set_autostart");
    assert!(
        set.contains("autostart: bool) -> Result<(), Error>"),
        "{set}"
    );
    assert!(set.contains("outgoing.put(\"autostart\", &i32::from(autostart));"));
    let get = method("domain_get_autostart");
    assert!(get.contains("-> Result<bool, Error>") && get.contains("Ok(answer.autostart != 0)"));
    let several = method("domain_get_block_job_info");
    assert!(
        several.contains("-> Result<crate::protocol::remote::DomainGetBlockJobInfoAnswer, Error>")
    );
    let text = protocol();
    let remote = module(&text, "remote");
    assert_eq!(fields(remote, "DomainGetAutostartRet"), ["autostart: i32"]);
    assert_eq!(
        fields(remote, "DomainGetSecurityLabelListAnswer"),
        ["labels: Vec<DomainGetSecurityLabelAnswer>", "ret: i32"]
    );
    assert_eq!(
        fields(remote, "DomainGetSecurityLabelAnswer"),
        ["label: Vec<u8>", "enforcing: bool"]
    );
    assert_eq!(remote.matches("Answer {\n        ///").count(), 3);
}

/// A message that the server sends on its own is not something to call.
#[test]
fn events_are_not_procedures() {
    let text = protocol();
    let qemu = module(&text, "qemu");
    assert!(qemu.contains("impl crate::protocol::Message for DomainMonitorEvent {"));
    assert_eq!(
        qemu.matches("impl crate::protocol::Procedure for ").count(),
        6
    );
    assert!(!module(&text, "keepalive").contains("crate::protocol::Procedure"));
    let event = "impl crate::protocol::Message for ConnectEventConnectionClosed {";
    assert!(
        block(&text, event, "\n        }\n")
            .contains("type Body = super::ConnectEventConnectionClosedMsg;")
    );
    let call = "impl crate::protocol::Procedure for DomainMonitorCommand {";
    let call = block(qemu, call, "\n        }\n");
    assert!(call.contains("type Args = super::DomainMonitorCommandArgs;"));
    assert!(call.contains("type Reply = super::DomainMonitorCommandRet;"));
}

#[test]
fn limits_and_layouts() {
    let text = protocol();
    let remote = module(&text, "remote");
    assert!(remote.contains("pub const STRING_MAX: u32 = 4194304;"));
    assert!(remote.contains("r.text(4194304)"));
    // Objects are written by hand.
    assert!(!remote.contains("pub struct NonnullDomain "));
    assert_eq!(
        fields(remote, "DomainLookupByNameRet"),
        ["dom: crate::objects::Domain"]
    );
    assert_eq!(
        fields(remote, "DomainGetInfoRet"),
        [
            "state: super::constants::DomainState",
            "max_mem: u64",
            "memory: u64",
            "nr_virt_cpu: u16",
            "cpu_time: u64"
        ]
    );
    assert_eq!(
        fields(remote, "AuthSaslStepRet"),
        ["complete: i32", "nil: i32", "data: Vec<u8>"]
    );

    let rpc = module(&text, "rpc");
    assert_eq!(
        fields(rpc, "MessageHeader"),
        [
            "prog: u32",
            "vers: u32",
            "proc: i32",
            "r#type: MessageType",
            "serial: u32",
            "status: MessageStatus"
        ]
    );
    let error = fields(rpc, "MessageError");
    let names: Vec<&str> = error
        .iter()
        .filter_map(|field| field.split(':').next())
        .collect();
    assert_eq!(
        names,
        [
            "code", "domain", "message", "level", "dom", "str1", "str2", "str3", "int1", "int2",
            "net"
        ]
    );
    for (name, value) in [
        ("CALL", 0),
        ("REPLY", 1),
        ("MESSAGE", 2),
        ("STREAM", 3),
        ("STREAM_HOLE", 6),
    ] {
        assert!(
            rpc.contains(&format!("pub const {name}: Self = Self({value});")),
            "{name}"
        );
    }
    for (name, value) in [
        ("MESSAGE_MAX", 33_554_432),
        ("MESSAGE_PAYLOAD_MAX", 33_554_408),
        ("MESSAGE_NUM_FDS_MAX", 32),
    ] {
        assert!(
            rpc.contains(&format!("pub const {name}: u32 = {value};")),
            "{name}"
        );
    }

    let event = fields(module(&text, "qemu"), "DomainMonitorEventMsg");
    assert_eq!(
        event,
        [
            "callback_id: i32",
            "dom: crate::objects::Domain",
            "event: String",
            "seconds: i64",
            "micros: u32",
            "details: Option<String>",
        ]
    );
}
