//! Links the unwinder into the program, where that can be done: a library fewer to find and to set up each time it is started.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|set| set == value);
    let is_glibc = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if !is_glibc || features.split(',').any(|feature| feature == "crt-static") || !has_static_unwinder() {
        return Ok(());
    }
    // The standard library asks for it as a shared one, by this name.
    let directory = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh)\n")?;
    println!("cargo::rustc-link-search=native={}", directory.display());
    Ok(())
}

/// Whether the C compiler that links has it.
fn has_static_unwinder() -> bool {
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let Ok(output) = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output() else { return false };
    Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_file()
}
