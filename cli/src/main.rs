//! barkeep.
fn main() {}
