//! Nothing: the benchmarks are `rpc.rs` and `memory.rs`, run by `benches/run`.
