//! A test that needs a process of its own runs itself again in one.

use std::process::Command;

/// Set where a test is to play its other part; it says which.
const PART: &str = "LIBVIRT_QMP_TEST_PART";

/// The part that this process is to play, if it is not the test itself.
pub(super) fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// This test program, asked to run the one test of this name as `part`; after `wrapper`, where there is one.
pub(super) fn again(wrapper: &[&str], test: &str, part: &str) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut words: Vec<_> = wrapper.iter().map(Into::into).collect();
    words.push(program.into_os_string());
    let mut command = Command::new(words.remove(0));
    command
        .args(words)
        .args([
            test,
            "--exact",
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(PART, part);
    command
}
