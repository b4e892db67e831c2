//! `list`: the domains of a host.

use serde_json::{Value, json};

use crate::program::*;

#[tokio::test]
async fn list_shows_what_is_active_and_what_is_not() {
    let output = play(load("session"), &["list"]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "NAME        UUID                                  ID  STATE\n\
         stage-lb-1  5ea6e1b1-0001-4000-8000-737461676531  1   active\n\
         stage-db-1  5ea6e1b1-0002-4000-8000-737461676531  -   inactive\n"
    );
    let output = play(load("session"), &["list", "--json"]).await;
    let domains: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(
        domains,
        [
            json!({"name": GUEST, "uuid": "5ea6e1b1-0001-4000-8000-737461676531", "id": 1, "state": "active"}),
            json!({"name": "stage-db-1", "uuid": "5ea6e1b1-0002-4000-8000-737461676531", "id": null, "state": "inactive"}),
        ]
    );
}
