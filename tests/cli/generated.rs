//! `completions` and `man`, made of the definition of the arguments.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::program::*;
use crate::support::scratch::Scratch;

const COMMANDS: [&str; 16] = [
    "agent",
    "completions",
    "demo",
    "events",
    "hmp",
    "jobs",
    "list",
    "man",
    "record",
    "replay",
    "run",
    "schema",
    "screendump",
    "shell",
    "wait",
    "wrap",
];

#[tokio::test]
async fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = qmp(&["completions", shell]).output().await.unwrap();
        assert_eq!((code(&output), stderr(&output)), (0, String::new()));
        for command in COMMANDS {
            assert!(stdout(&output).contains(command), "{shell}: {command}");
        }
    }
    let script = qmp(&["completions", "bash"]).output().await.unwrap();
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = bash.stdin.take().unwrap();
    stdin.write_all(&script.stdout).await.unwrap();
    drop(stdin);
    assert!(bash.wait().await.unwrap().success());
    let output = qmp(&["completions", "vi"]).output().await.unwrap();
    assert_eq!(code(&output), 2);
}

#[tokio::test]
async fn there_is_a_page_for_every_command() {
    let output = qmp(&["man"]).output().await.unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    let page = stdout(&output);
    assert!(page.contains(".TH qmp 1"), "{page}");
    // What is said of addresses and exit codes is in it.
    assert!(
        page.contains("replay:FILE") && page.contains("no answer in time"),
        "{page}"
    );
    assert!(!page.contains("become"), "{page}");
    let scratch = Scratch::new();
    let directory = scratch.path("man1");
    let output = qmp(&["man", "--dir", directory.to_str().unwrap()])
        .output()
        .await
        .unwrap();
    assert_eq!(
        (code(&output), stdout(&output), stderr(&output)),
        (0, String::new(), String::new())
    );
    for command in COMMANDS {
        let page = std::fs::read_to_string(directory.join(format!("qmp-{command}.1"))).unwrap();
        // The usage is that of `--help`, a line each.
        let help = qmp(&[command, "--help"]).output().await.unwrap();
        let help = stdout(&help);
        let (_, usage) = help.split_once("Usage: ").unwrap();
        let (usage, _) = usage.split_once("\n\n").unwrap();
        let usage: Vec<_> = usage.lines().map(|line| line.trim()).collect();
        let page = page.replace("\\-", "-").replace("\n\\&", "\n");
        let synopsis = format!(".SH SYNOPSIS\n.nf\n{}\n.fi\n", usage.join("\n"));
        assert!(page.contains(&synopsis), "{synopsis}{page}");
    }
}
