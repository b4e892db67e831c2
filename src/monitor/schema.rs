//! Where a monitor keeps the schema of its QEMU. Imports `super`, qmp and error.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::Monitor;
use crate::error::Error;
use crate::qmp::Schema;

/// Where a driver keeps the schema of its QEMU, so that it is asked for once: see
/// [`Monitor::schema_cell`](crate::Monitor::schema_cell).
#[derive(Default)]
pub struct SchemaCell {
    /// Behind a lock, so that it can be forgotten. The lock is never held across a wait.
    schema: Mutex<Arc<OnceCell<Schema>>>,
}

impl SchemaCell {
    /// A place without a schema.
    pub fn new() -> Self {
        SchemaCell::default()
    }

    /// The schema, where it has been asked for.
    pub fn get(&self) -> Option<Schema> {
        self.current().get().cloned()
    }

    /// Forgets the schema: the next who wants it asks QEMU again. For a monitor that outlives its QEMU, as one through
    /// libvirt does when the domain is started anew, maybe with another version.
    pub fn forget(&self) {
        *self.schema.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    fn current(&self) -> Arc<OnceCell<Schema>> {
        self.schema
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for SchemaCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SchemaCell").field(&self.get()).finish()
    }
}

/// The schema of `monitor`: kept, or asked for by the first who wants it while the others wait.
pub(super) async fn schema_of(monitor: &(impl Monitor + ?Sized)) -> Result<Schema, Error> {
    match monitor.schema_cell() {
        Some(cell) => {
            let cell = cell.current();
            cell.get_or_try_init(|| ask(monitor)).await.cloned()
        }
        None => ask(monitor).await,
    }
}

async fn ask(monitor: &(impl Monitor + ?Sized)) -> Result<Schema, Error> {
    let reply = monitor.run(br#"{"execute":"query-qmp-schema"}"#).await?;
    Schema::from_reply(&reply).map_err(|error| Error::json("schema", error.reason))
}
