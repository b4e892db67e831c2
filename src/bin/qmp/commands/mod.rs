//! The commands, one file each: its arguments and what it does. `batch` is what those have in common that take several lines.
//! They may import everything of this program; of each other, what `run` has for running commands.

pub(crate) mod agent;
pub(crate) mod batch;
pub(crate) mod demo;
pub(crate) mod events;
pub(crate) mod generate;
pub(crate) mod hmp;
pub(crate) mod jobs;
pub(crate) mod list;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod screendump;
pub(crate) mod wait;
pub(crate) mod wrap;
