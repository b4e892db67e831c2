//! The commands, one file each: its arguments and what it does. `batch` is what those have in common that take several lines.
//! They may import everything of this program but each other.

pub(crate) mod batch;
pub(crate) mod demo;
pub(crate) mod events;
pub(crate) mod list;
pub(crate) mod run;
