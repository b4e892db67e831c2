//! Which names a mistyped one may have been meant to be. Imports nothing.

/// Names proposed at most.
const MAX_PROPOSED: usize = 3;
/// Bytes of a name that is compared. QMP's own have at most 40.
const MAX_NAME: usize = 64;
/// Bytes of a text from which on a name that contains it is proposed.
const MIN_PART: usize = 4;

/// The names that `wanted` is a few slips of the keyboard away from, nearest first, then those that contain it. Case, and
/// `_` for `-`, do not count.
pub(super) fn similar<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    if wanted.is_empty() || wanted.len() > MAX_NAME {
        return Vec::new();
    }
    let wanted = folded(wanted);
    let limit = (wanted.len() / 3).max(1);
    let mut near: Vec<(usize, bool, &str)> = names
        .filter(|name| name.len() <= MAX_NAME)
        .filter_map(|name| {
            let other = folded(name);
            let distance = distance(&wanted, &other);
            if distance <= limit {
                // Of two, the one that was begun.
                return Some((distance, !other.starts_with(&wanted), name));
            }
            let is_part =
                wanted.len() >= MIN_PART && other.windows(wanted.len()).any(|part| part == wanted);
            // After all others; the shortest first.
            is_part.then(|| (MAX_NAME + other.len(), true, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    let best = near.into_iter().take(MAX_PROPOSED);
    best.map(|(_, _, name)| name.to_owned()).collect()
}

fn folded(name: &str) -> Vec<u8> {
    name.bytes()
        .map(|byte| {
            if byte == b'_' {
                b'-'
            } else {
                byte.to_ascii_lowercase()
            }
        })
        .collect()
}

/// How many bytes to insert, remove, replace, or swap with the next one make `b` of `a`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    // Rows of the usual table: the one before the last, the last, and the one in the making.
    let mut older = vec![0; b.len() + 1];
    let mut old: Vec<usize> = (0..=b.len()).collect();
    let mut row = old.clone();
    for (i, &x) in a.iter().enumerate() {
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = old[j] + usize::from(x != y);
            let mut least = replaced.min(old[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && y == a[i - 1] {
                least = least.min(older[j - 1] + 1);
            }
            row[j + 1] = least;
        }
        std::mem::swap(&mut older, &mut old);
        std::mem::swap(&mut old, &mut row);
    }
    old[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("abc", "abd", 1),
            ("abc", "xabc", 1),
            ("kitten", "sitting", 3),
            ("query-sttaus", "query-status", 1),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_come_first() {
        let names = ["query-stats", "query-status", "query-cpus-fast", "stop"];
        assert_eq!(
            similar("query-sttaus", names.into_iter()),
            ["query-status", "query-stats"]
        );
        assert_eq!(
            similar("QUERY_STATUS", names.into_iter())[0],
            "query-status"
        );
        assert_eq!(
            similar("query-statu", names.into_iter()),
            ["query-status", "query-stats"]
        );
        assert_eq!(
            similar("stat", names.into_iter()),
            ["query-stats", "query-status"]
        );
        assert!(similar("balloon", names.into_iter()).is_empty());
        assert!(similar("", names.into_iter()).is_empty());
    }

    #[test]
    fn lists_and_names_are_bounded() {
        let many: Vec<String> = (0..100).map(|n| format!("name-{n}")).collect();
        assert_eq!(similar("name-", many.iter().map(String::as_str)).len(), 3);
        let long = "x".repeat(10_000);
        assert!(similar(&long, [long.as_str()].into_iter()).is_empty());
        assert!(similar("xxx", [long.as_str()].into_iter()).is_empty());
    }
}
