//! The `barkeep` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    barkeep::run(std::env::args_os().collect())
}
