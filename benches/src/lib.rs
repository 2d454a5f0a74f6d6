//! Only benchmarks live here; see the folders `benches` and `compare`.
