//! What was read and written (`query-blockstats`).

use super::wire::object;

object! {
    /// A block device or a node with its counters (`query-blockstats`).
    pub struct BlockStats {
        /// The name of its backend, where it has one.
        pub device: Option<String> = "device",
        /// The id or path of the device in the guest.
        pub qdev: Option<String> = "qdev",
        /// The name of its node.
        pub node_name: Option<String> = "node-name",
        /// Its counters.
        pub stats: BlockCounters = "stats",
        /// What only its driver counts.
        pub driver_specific: Option<DriverStats> = "driver-specific",
        /// The node it reads from and writes to.
        pub parent: Option<Box<BlockStats>> = "parent",
        /// The image below it.
        pub backing: Option<Box<BlockStats>> = "backing",
    }

    /// Counters of a block device since QEMU started. Times are in nanoseconds. QEMU 10.0 counts appends to zones, 7.2 does not.
    pub struct BlockCounters {
        /// Bytes read.
        pub rd_bytes: i64 = "rd_bytes",
        /// Bytes written.
        pub wr_bytes: i64 = "wr_bytes",
        /// Bytes appended to zones.
        pub zone_append_bytes: Option<i64> = "zone_append_bytes",
        /// Bytes discarded.
        pub unmap_bytes: i64 = "unmap_bytes",
        /// Reads.
        pub rd_operations: i64 = "rd_operations",
        /// Writes.
        pub wr_operations: i64 = "wr_operations",
        /// Appends to zones.
        pub zone_append_operations: Option<i64> = "zone_append_operations",
        /// Flushes.
        pub flush_operations: i64 = "flush_operations",
        /// Discards.
        pub unmap_operations: i64 = "unmap_operations",
        /// Time that reads took.
        pub rd_total_time_ns: i64 = "rd_total_time_ns",
        /// Time that writes took.
        pub wr_total_time_ns: i64 = "wr_total_time_ns",
        /// Time that appends to zones took.
        pub zone_append_total_time_ns: Option<i64> = "zone_append_total_time_ns",
        /// Time that flushes took.
        pub flush_total_time_ns: i64 = "flush_total_time_ns",
        /// Time that discards took.
        pub unmap_total_time_ns: i64 = "unmap_total_time_ns",
        /// The end of the highest byte written, in bytes from the start.
        pub wr_highest_offset: i64 = "wr_highest_offset",
        /// Reads merged into others.
        pub rd_merged: i64 = "rd_merged",
        /// Writes merged into others.
        pub wr_merged: i64 = "wr_merged",
        /// Appends to zones merged into others.
        pub zone_append_merged: Option<i64> = "zone_append_merged",
        /// Discards merged into others.
        pub unmap_merged: i64 = "unmap_merged",
        /// Time since the last operation.
        pub idle_time_ns: Option<i64> = "idle_time_ns",
        /// Reads that failed.
        pub failed_rd_operations: i64 = "failed_rd_operations",
        /// Writes that failed.
        pub failed_wr_operations: i64 = "failed_wr_operations",
        /// Appends to zones that failed.
        pub failed_zone_append_operations: Option<i64> = "failed_zone_append_operations",
        /// Flushes that failed.
        pub failed_flush_operations: i64 = "failed_flush_operations",
        /// Discards that failed.
        pub failed_unmap_operations: i64 = "failed_unmap_operations",
        /// Reads the guest asked for wrongly.
        pub invalid_rd_operations: i64 = "invalid_rd_operations",
        /// Writes the guest asked for wrongly.
        pub invalid_wr_operations: i64 = "invalid_wr_operations",
        /// Appends to zones the guest asked for wrongly.
        pub invalid_zone_append_operations: Option<i64> = "invalid_zone_append_operations",
        /// Flushes the guest asked for wrongly.
        pub invalid_flush_operations: i64 = "invalid_flush_operations",
        /// Discards the guest asked for wrongly.
        pub invalid_unmap_operations: i64 = "invalid_unmap_operations",
        /// Whether wrong operations count for the time of the last one.
        pub account_invalid: bool = "account_invalid",
        /// Whether failed operations count for times and for the time of the last one.
        pub account_failed: bool = "account_failed",
        /// The intervals that were asked for.
        pub timed_stats: Vec<BlockIntervalStats> = "timed_stats",
        /// How long reads took, where that was asked for.
        pub rd_latency_histogram: Option<LatencyHistogram> = "rd_latency_histogram",
        /// How long writes took.
        pub wr_latency_histogram: Option<LatencyHistogram> = "wr_latency_histogram",
        /// How long appends to zones took.
        pub zone_append_latency_histogram: Option<LatencyHistogram> = "zone_append_latency_histogram",
        /// How long flushes took.
        pub flush_latency_histogram: Option<LatencyHistogram> = "flush_latency_histogram",
    }

    /// What happened in the last interval of a given length. Times are in nanoseconds.
    pub struct BlockIntervalStats {
        /// Its length in seconds.
        pub interval_length: i64 = "interval_length",
        /// The quickest read.
        pub min_rd_latency_ns: i64 = "min_rd_latency_ns",
        /// The slowest read.
        pub max_rd_latency_ns: i64 = "max_rd_latency_ns",
        /// The average read.
        pub avg_rd_latency_ns: i64 = "avg_rd_latency_ns",
        /// The quickest write.
        pub min_wr_latency_ns: i64 = "min_wr_latency_ns",
        /// The slowest write.
        pub max_wr_latency_ns: i64 = "max_wr_latency_ns",
        /// The average write.
        pub avg_wr_latency_ns: i64 = "avg_wr_latency_ns",
        /// The quickest append to a zone.
        pub min_zone_append_latency_ns: Option<i64> = "min_zone_append_latency_ns",
        /// The slowest append to a zone.
        pub max_zone_append_latency_ns: Option<i64> = "max_zone_append_latency_ns",
        /// The average append to a zone.
        pub avg_zone_append_latency_ns: Option<i64> = "avg_zone_append_latency_ns",
        /// The quickest flush.
        pub min_flush_latency_ns: i64 = "min_flush_latency_ns",
        /// The slowest flush.
        pub max_flush_latency_ns: i64 = "max_flush_latency_ns",
        /// The average flush.
        pub avg_flush_latency_ns: i64 = "avg_flush_latency_ns",
        /// How many reads were pending on average.
        pub avg_rd_queue_depth: f64 = "avg_rd_queue_depth",
        /// How many writes were pending on average.
        pub avg_wr_queue_depth: f64 = "avg_wr_queue_depth",
        /// How many appends to zones were pending on average.
        pub avg_zone_append_queue_depth: Option<f64> = "avg_zone_append_queue_depth",
    }

    /// How many operations took how long.
    pub struct LatencyHistogram {
        /// The ends of the intervals in nanoseconds, from 0 to the first up to the last, from which on there is one more.
        pub boundaries: Vec<i64> = "boundaries",
        /// How many there were in each interval: one more than there are ends.
        pub bins: Vec<i64> = "bins",
    }

    /// What only some drivers count. Which members there are goes by `driver`.
    pub struct DriverStats {
        /// The driver, such as `file`.
        pub driver: String = "driver",
        /// `file`, `host_device`: discards that were done.
        pub discard_nb_ok: Option<i64> = "discard-nb-ok",
        /// `file`, `host_device`: discards that failed.
        pub discard_nb_failed: Option<i64> = "discard-nb-failed",
        /// `file`, `host_device`: bytes that were discarded.
        pub discard_bytes_ok: Option<i64> = "discard-bytes-ok",
        /// `nvme`: operations that ended with an error.
        pub completion_errors: Option<i64> = "completion-errors",
        /// `nvme`: operations whose memory was aligned.
        pub aligned_accesses: Option<i64> = "aligned-accesses",
        /// `nvme`: operations whose memory was not.
        pub unaligned_accesses: Option<i64> = "unaligned-accesses",
    }
}
