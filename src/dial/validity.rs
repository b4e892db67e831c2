//! When a certificate is valid. What verifies chains takes a CA as it is given, whatever its dates say, and libvirt does not.
//! Imports nothing of ours.
//!
//! ```text
//! Certificate ::= SEQUENCE { tbs SEQUENCE { [0] version, serial, algorithm, issuer, SEQUENCE { not before, not after }, ...
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Why a certificate in DER is not valid now. None where it is, and where its dates cannot be read: somebody else complains
/// about that.
pub(super) fn why_not_valid(certificate: &[u8]) -> Option<&'static str> {
    let (not_before, not_after) = dates(certificate)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let now = date_of(now.as_secs());
    if now < not_before {
        return Some("it is not valid yet");
    }
    (now > not_after).then_some("it has expired")
}

/// Both as `YYYYMMDDHHMMSSZ`, which sorts as it should.
fn dates(certificate: &[u8]) -> Option<(String, String)> {
    let (rest, _) = expect(SEQUENCE, certificate)?;
    let (mut rest, _) = expect(SEQUENCE, rest)?;
    if let Some((_, after)) = expect(VERSION, rest) {
        rest = after;
    }
    for _ in ["serial", "algorithm", "issuer"] {
        (_, _, rest) = element(rest)?;
    }
    let (validity, _) = expect(SEQUENCE, rest)?;
    let (kind, not_before, rest) = element(validity)?;
    let not_before = date(kind, not_before)?;
    let (kind, not_after, _) = element(rest)?;
    Some((not_before, date(kind, not_after)?))
}

/// The first element of `bytes`: its tag, its content, and what is behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, bytes) = bytes.split_first()?;
    let (first, bytes) = bytes.split_first()?;
    let (length, bytes) = match *first {
        short @ 0..=0x7f => (usize::from(short), bytes),
        long @ 0x81..=0x83 => {
            let (digits, bytes) = bytes.split_at_checked(usize::from(long & 3))?;
            let length = digits
                .iter()
                .fold(0, |sum, digit| (sum << 8) | usize::from(*digit));
            (length, bytes)
        }
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

fn date(kind: u8, text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let whole = match kind {
        // RFC 5280: two digits of the year, from 1950 on.
        UTC_TIME if text.get(..2)? >= "50" => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let digits = whole.strip_suffix('Z')?;
    let plain = digits.len() == 14 && digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then_some(whole)
}

/// The date so many seconds after 1970 began.
fn date_of(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86400, seconds % 86400);
    // Counted in years that begin in March, 400 of which are always equally long.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        // As `date -u -d @SECONDS` has them.
        for (seconds, date) in [
            (0, "19700101000000Z"),
            (951_782_400, "20000229000000Z"),
            (951_868_800, "20000301000000Z"),
            (1_735_689_599, "20241231235959Z"),
            (4_107_542_400, "21000301000000Z"),
        ] {
            assert_eq!(date_of(seconds), date);
        }
    }

    #[test]
    fn both_forms_of_a_date() {
        let form = |kind, text: &str| date(kind, text.as_bytes());
        assert_eq!(form(UTC_TIME, "500101000000Z").unwrap(), "19500101000000Z");
        assert_eq!(form(UTC_TIME, "491231235959Z").unwrap(), "20491231235959Z");
        assert_eq!(
            form(GENERALIZED_TIME, "20500101000000Z").unwrap(),
            "20500101000000Z"
        );
        for wrong in ["", "5", "20500101000000", "2050010100000xZ", "é0101000000Z"] {
            assert_eq!(form(GENERALIZED_TIME, wrong), None, "{wrong}");
            assert_eq!(form(UTC_TIME, wrong), None, "{wrong}");
        }
    }

    /// An element with this content.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[tag, 0x81, length], content].concat()
    }

    fn certificate(not_before: &str, not_after: &str) -> Vec<u8> {
        let date = |text: &str| der(GENERALIZED_TIME, text.as_bytes());
        let validity = der(SEQUENCE, &[date(not_before), date(not_after)].concat());
        let parts = [
            der(VERSION, &[2, 1, 2]),
            der(2, &[7]),
            der(SEQUENCE, &[]),
            der(SEQUENCE, &[]),
        ];
        der(
            SEQUENCE,
            &der(SEQUENCE, &[parts.concat(), validity].concat()),
        )
    }

    #[test]
    fn only_what_lies_around_now_is_valid() {
        let (past, future) = ("19990101000000Z", "99991231235959Z");
        assert_eq!(why_not_valid(&certificate(past, future)), None);
        assert_eq!(
            why_not_valid(&certificate(past, past)),
            Some("it has expired")
        );
        assert_eq!(
            why_not_valid(&certificate(future, future)),
            Some("it is not valid yet")
        );
        let whole = certificate(past, past);
        for end in 0..whole.len() {
            assert_eq!(why_not_valid(&whole[..end]), None);
        }
    }
}
