//! What must not get into the history or a log: values of arguments that are passwords and the like. Imports `line`.
//!
//! QMP has no mark for secrets, so they are told by names: of commands, arguments, types of objects, and by passwords in
//! URLs. It is better to leave out too much: a line or value of which it cannot be told is left out as a whole.

use serde_json::{Map, Value};

use super::line::words;

/// What stands for a secret in a log.
const HIDDEN: &str = "***";
/// Parts of names that tell of a secret.
const TELLING: [&str; 8] = [
    "passw",
    "passphrase",
    "secret",
    "credential",
    "token",
    "cookie",
    "keyslot",
    "private",
];
/// Arguments that hold what another one names: the data of a secret object, the value of its property.
const CARRIERS: [&str; 4] = ["data", "value", "command-line", "new-secret"];

/// The line as it may be kept: without secrets, or `None` where only the whole can be left out.
pub(super) fn without_secrets(line: &str, hmp: bool) -> Option<String> {
    if !is_telling(line) {
        return Some(line.to_owned());
    }
    if hmp {
        return None;
    }
    let trimmed = line.trim();
    if trimmed.starts_with('{') {
        let value: Value = serde_json::from_str(trimmed).ok()?;
        return Some(hidden(value, "").to_string());
    }
    let mut kept = String::with_capacity(line.len());
    let mut end_of_last = 0;
    for (n, word) in words(line).into_iter().enumerate() {
        word.open.is_none().then_some(())?;
        let blanks = &line[end_of_last..word.start];
        kept.push_str(blanks);
        let begins = n == 0 || blanks.contains('\n');
        end_of_last = word.end;
        let text = &line[word.start..word.end];
        match text.split_once('=') {
            Some((key, _)) if is_secret(key) => {
                kept.push_str(key);
                kept.push('=');
            }
            Some((key, value)) if value.starts_with(['{', '[']) => {
                let value: Value = serde_json::from_str(value).ok()?;
                kept.push_str(key);
                kept.push('=');
                kept.push_str(&hidden(value, "").to_string());
            }
            Some((_, value)) if has_password(value) => return None,
            // A bare word that is neither a command nor an action would be the secret itself.
            None if !begins && !is_name(text) => return None,
            _ => kept.push_str(text),
        }
    }
    kept.push_str(&line[end_of_last..]);
    Some(kept)
}

/// A command or reply as JSON, with `***` in place of every secret.
pub(super) fn redacted(json: &str) -> String {
    if !is_telling(json) {
        return json.to_owned();
    }
    match serde_json::from_str(json) {
        Ok(value) => hidden(value, HIDDEN).to_string(),
        Err(_) => format!("\"{HIDDEN}\""),
    }
}

/// Whether there may be a secret in the text at all.
fn is_telling(text: &str) -> bool {
    let lower = text.to_lowercase();
    TELLING.iter().any(|part| lower.contains(part)) || has_password(text)
}

/// Whether the value of this argument is or holds a secret, in a text that tells of one. `key-secret` and its like name an
/// object.
fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key).trim_end_matches(':');
    let last = last.to_lowercase();
    if CARRIERS.contains(&last.as_str()) {
        return true;
    }
    !last.ends_with("-secret") && TELLING.iter().any(|part| last.contains(part))
}

/// Whether there is a user's password in a URL.
fn has_password(text: &str) -> bool {
    text.match_indices("://").any(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let authority = rest.split(['/', '"', '\'', ' ', ',']).next().unwrap_or("");
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
    })
}

fn is_name(text: &str) -> bool {
    text == ")" || text.starts_with('!') || TELLING_COMMANDS.contains(&text)
}

/// Commands that have a telling name and may stand behind `!oob` or `help`.
const TELLING_COMMANDS: [&str; 3] = ["set_password", "change-vnc-password", "expire_password"];

fn hidden(value: Value, by: &str) -> Value {
    match value {
        Value::Object(members) => Value::Object(hidden_members(members, by)),
        Value::Array(elements) => elements
            .into_iter()
            .map(|element| hidden(element, by))
            .collect(),
        Value::String(text) if has_password(&text) => Value::String(by.to_owned()),
        other => other,
    }
}

fn hidden_members(members: Map<String, Value>, by: &str) -> Map<String, Value> {
    members
        .into_iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Object(_) | Value::Array(_) => hidden(value, by),
                Value::Bool(_) | Value::Null => value,
                _ if is_secret(&key) => Value::String(by.to_owned()),
                other => hidden(other, by),
            };
            (key, value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_secrets_are_kept_as_they_are() {
        for line in [
            "query-status",
            "device_add driver=virtio-net id=n data=1",
            "blockdev-add driver=file filename=/a value=x",
            "ringbuf-write device=r data=abc",
            "{\"execute\": \"stop\"}",
            "migrate uri=tcp:host:4444",
            "drive_add http://host/a@b",
            "",
        ] {
            assert_eq!(without_secrets(line, false).as_deref(), Some(line));
        }
    }

    #[test]
    fn secrets_are_left_out_of_lines() {
        for (line, kept) in [
            (
                "set_password protocol=vnc password=hunter2",
                "set_password protocol=vnc password=",
            ),
            (
                "set_password password='hunter2 and more' protocol=vnc",
                "set_password password= protocol=vnc",
            ),
            (
                "change-vnc-password password=hunter2",
                "change-vnc-password password=",
            ),
            (
                "object-add qom-type=secret id=s data=hunter2",
                "object-add qom-type=secret id=s data=",
            ),
            (
                "blockdev-add driver=qcow2 encrypt.key-secret=s file.driver=file",
                "blockdev-add driver=qcow2 encrypt.key-secret=s file.driver=file",
            ),
            (
                "qom-set path=/objects/secret0 property=data value=hunter2",
                "qom-set path=/objects/secret0 property=data value=",
            ),
            (
                "blockdev-add driver=https url=https://h/ cookie=hunter2",
                "blockdev-add driver=https url=https://h/ cookie=",
            ),
            (
                "set_password password:=\"hunter2\"",
                "set_password password:=",
            ),
            (
                "human-monitor-command command-line='set_password vnc hunter2'",
                "human-monitor-command command-line=",
            ),
            (
                r#"{"execute": "set_password", "arguments": {"password": "hunter2"}}"#,
                r#"{"arguments":{"password":""},"execute":"set_password"}"#,
            ),
            (
                r#"object-add props={"qom-type":"secret","data":"hunter2"}"#,
                r#"object-add props={"data":"","qom-type":"secret"}"#,
            ),
        ] {
            assert_eq!(without_secrets(line, false).as_deref(), Some(kept));
        }
    }

    #[test]
    fn lines_whose_secrets_cannot_be_told_are_left_out() {
        for line in [
            "{\"execute\": \"set_password\", \"arguments\": {\"password\": \"hunter2\"",
            "set_password password='hunter2",
            "set_password vnc hunter2",
            "blockdev-add driver=https url=https://user:hunter2@host/",
        ] {
            assert_eq!(without_secrets(line, false), None, "{line}");
        }
        assert_eq!(without_secrets("set_password vnc hunter2", true), None);
        assert_eq!(
            without_secrets("object_add secret,id=s,data=hunter2", true),
            None
        );
        assert_eq!(
            without_secrets("info status", true).as_deref(),
            Some("info status")
        );
    }

    #[test]
    fn a_log_shows_where_a_secret_was() {
        for (json, shown) in [
            (r#"{"execute": "stop"}"#, r#"{"execute": "stop"}"#),
            (
                r#"{"execute":"set_password","arguments":{"password":"hunter2","protocol":"vnc"}}"#,
                r#"{"arguments":{"password":"***","protocol":"vnc"},"execute":"set_password"}"#,
            ),
            (
                r#"{"arguments":{"qom-type":"secret","id":"s","data":"hunter2"}}"#,
                r#"{"arguments":{"data":"***","id":"s","qom-type":"secret"}}"#,
            ),
            (
                r#"{"arguments":{"url":"https://u:hunter2@h/"}}"#,
                r#"{"arguments":{"url":"***"}}"#,
            ),
            (r#"{"password": hunter2"#, "\"***\""),
        ] {
            assert_eq!(redacted(json), shown);
        }
    }
}
