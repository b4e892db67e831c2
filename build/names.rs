//! Wire names to Rust names. The only place that knows Rust's rules for identifiers.

/// Words that an identifier cannot be, edition 2024.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let",
    "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return",
    "static", "struct", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use",
    "virtual", "where", "while", "yield",
];

/// Keywords that `r#` does not help.
const PATH_KEYWORDS: &[&str] = &["crate", "self", "super"];

/// Names that the generated modules use themselves, or that a type must not hide there.
const TAKEN: &[&str] = &[
    "Err", "None", "Ok", "Option", "Pack", "Reader", "Result", "Self", "Some", "String", "Unpack",
    "Vec", "Writer",
];

/// Takes the first of `prefixes` off that leaves a name.
pub(crate) fn strip<'a>(name: &'a str, prefixes: &[&str]) -> &'a str {
    prefixes
        .iter()
        .filter_map(|prefix| {
            let rest = name.strip_prefix(prefix)?;
            let first = rest.chars().next()?;
            let whole_word = prefix.ends_with('_') || first.is_ascii_uppercase();
            (whole_word && first.is_ascii_alphabetic()).then_some(rest)
        })
        .next()
        .unwrap_or(name)
}

/// `remote_nonnull_domain`, prefix off: `NonnullDomain`. For types, variants and procedures.
pub(crate) fn camel(name: &str) -> String {
    let mut camel = String::new();
    for word in words(name) {
        let digit = |c: char| c.is_ascii_digit();
        if camel.ends_with(digit) && word.starts_with(digit) {
            camel.push('_');
        }
        let mut chars = word.chars();
        camel.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        camel.extend(chars);
    }
    let camel = starting_well(camel, "X");
    if TAKEN.contains(&camel.as_str()) {
        camel + "_"
    } else {
        camel
    }
}

/// Like [`camel`], where nothing can be hidden: variants of an enum.
pub(crate) fn variant(name: &str) -> String {
    match camel(name) {
        plain if plain == "Self_" => plain,
        plain => plain.trim_end_matches('_').to_owned(),
    }
}

/// `callbackID`: `callback_id`. For fields.
pub(crate) fn field(name: &str) -> String {
    let snake = snake(name);
    if KEYWORDS.contains(&snake.as_str()) {
        format!("r#{snake}")
    } else if PATH_KEYWORDS.contains(&snake.as_str()) {
        snake + "_"
    } else {
        snake
    }
}

/// `callbackID`: `callback_id`, as a part of a longer name.
pub(crate) fn snake(name: &str) -> String {
    starting_well(words(name).join("_"), "x")
}

/// `VIR_NET_CALL`, prefix off: `CALL`. For constants.
pub(crate) fn constant(name: &str) -> String {
    snake(name).to_ascii_uppercase()
}

/// What the values of an enum have in common, up to and with an `_`: `REMOTE_AUTH_` for `REMOTE_AUTH_NONE`,
/// `REMOTE_AUTH_SASL`. A single value has its enum's own name in common: `remote_auth_type`, `REMOTE_AUTH_TYPE_`.
pub(crate) fn common_prefix(enum_name: &str, values: &[&str]) -> String {
    let own = constant(enum_name) + "_";
    let (first, rest) = match values {
        [] | [_] => return own,
        [first, rest @ ..] => (*first, rest),
    };
    let mut prefix = first;
    while let Some(cut) = prefix.rfind('_') {
        let (head, _) = prefix.split_at(cut);
        let whole = first.get(..=cut).unwrap_or(head);
        let fits = |value: &str| {
            let rest = value.strip_prefix(whole).unwrap_or_default();
            rest.starts_with(|c: char| c.is_ascii_alphabetic())
        };
        if fits(first) && rest.iter().all(|value| fits(value)) {
            return whole.to_owned();
        }
        prefix = head;
    }
    own
}

/// The words of a name in lower case: split at `_`, and where a capital starts one.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    for part in name.split('_') {
        let chars: Vec<char> = part.chars().collect();
        let mut word = String::new();
        for (index, &c) in chars.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|index| chars.get(index));
            let after = chars.get(index + 1);
            // The plural of an abbreviation is one word: `CPUs`.
            let plural = after == Some(&'s')
                && chars
                    .get(index + 2)
                    .is_none_or(|last| !last.is_ascii_lowercase());
            let starts = c.is_ascii_uppercase()
                && before.is_some_and(|before| {
                    !before.is_ascii_uppercase()
                        || (!plural && after.is_some_and(char::is_ascii_lowercase))
                });
            if starts && !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            word.push(c.to_ascii_lowercase());
        }
        if !word.is_empty() {
            words.push(word);
        }
    }
    words
}

/// An identifier neither is empty nor starts with a digit.
fn starting_well(name: String, start: &str) -> String {
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name
    } else {
        format!("{start}{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_come_off_at_a_word() {
        let rpc = ["virNet", "VIR_NET_", "VIR_"];
        assert_eq!(strip("virNetMessageHeader", &rpc), "MessageHeader");
        assert_eq!(strip("virNetworkFilter", &rpc), "virNetworkFilter");
        assert_eq!(strip("VIR_NET_MESSAGE_MAX", &rpc), "MESSAGE_MAX");
        assert_eq!(strip("VIR_UUID_BUFLEN", &rpc), "UUID_BUFLEN");
        let remote = ["remote_", "REMOTE_PROC_", "REMOTE_"];
        assert_eq!(strip("remote_error", &remote), "error");
        assert_eq!(strip("REMOTE_PROC_AUTH_LIST", &remote), "AUTH_LIST");
        assert_eq!(strip("REMOTE_STRING_MAX", &remote), "STRING_MAX");
        assert_eq!(strip("remote_", &remote), "remote_");
        assert_eq!(strip("remote_3d", &remote), "remote_3d");
        assert_eq!(strip("qemu_thing", &remote), "qemu_thing");
    }

    #[test]
    fn types() {
        for (wire, rust) in [
            ("nonnull_domain", "NonnullDomain"),
            ("MessageUUID", "MessageUuid"),
            ("AUTH_SASL_INIT", "AuthSaslInit"),
            ("cpu_x86_64", "CpuX86_64"),
            ("option", "Option_"),
            ("ok", "Ok_"),
            ("self", "Self_"),
            ("string", "String_"),
            ("3d", "X3d"),
            ("_", "X"),
        ] {
            assert_eq!(camel(wire), rust, "{wire}");
        }
        assert_eq!(variant("NONE"), "None");
        assert_eq!(variant("SELF"), "Self_");
    }

    #[test]
    fn fields() {
        for (wire, rust) in [
            ("callbackID", "callback_id"),
            ("nrVirtCpu", "nr_virt_cpu"),
            ("newMAC", "new_mac"),
            ("MACAddress", "mac_address"),
            ("xmlCPUs", "xml_cpus"),
            ("minGuestCPUsOf", "min_guest_cpus_of"),
            ("str1", "str1"),
            ("ipv4Addr", "ipv4_addr"),
            ("_x__y_", "x_y"),
            ("type", "r#type"),
            ("gen", "r#gen"),
            ("self", "self_"),
            ("Self", "self_"),
            ("crate", "crate_"),
            ("super", "super_"),
            ("__", "x"),
        ] {
            assert_eq!(field(wire), rust, "{wire}");
        }
    }

    #[test]
    fn every_keyword_is_escaped() {
        for keyword in KEYWORDS {
            assert_eq!(field(keyword), format!("r#{keyword}"));
        }
        for keyword in PATH_KEYWORDS {
            assert_eq!(field(keyword), format!("{keyword}_"));
        }
    }

    #[test]
    fn constants() {
        assert_eq!(constant("STRING_MAX"), "STRING_MAX");
        assert_eq!(constant("maxCells"), "MAX_CELLS");
    }

    #[test]
    fn enum_values_lose_what_they_share() {
        let cases: &[(&str, &[&str], &str)] = &[
            (
                "remote_auth_type",
                &["REMOTE_AUTH_NONE", "REMOTE_AUTH_SASL"],
                "REMOTE_AUTH_",
            ),
            (
                "virNetMessageType",
                &["VIR_NET_CALL", "VIR_NET_CALL_WITH_FDS", "VIR_NET_STREAM"],
                "VIR_NET_",
            ),
            ("e", &["A_B", "A_B_C"], "A_"),
            ("e", &["A_1", "A_2"], "E_"),
            ("e", &["RED", "GREEN"], "E_"),
            ("virNetOnly", &["VIR_NET_ONLY_ONE"], "VIR_NET_ONLY_"),
        ];
        for (name, values, prefix) in cases {
            assert_eq!(common_prefix(name, values), *prefix, "{name}");
        }
    }
}
