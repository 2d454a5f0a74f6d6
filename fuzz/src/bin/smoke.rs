//! smoke - a short fuzzing of every target on a stable compiler: the corpus as it is, then changed at random.
//!
//! usage: smoke SECONDS CORPUS [target...]
//!
//! It doesn't know what code an input reaches, as libFuzzer does, so it finds less; what it finds it puts beside the corpus, into
//! `artifacts/<target>/`, and exits with 1. `SMOKE_SEED` repeats a run.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use barkeep_fuzz::{TARGETS, Target};

/// Inputs grow no longer, in bytes.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// An input that takes longer is a fault.
const SLOW: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [seconds, corpus, wanted @ ..] = words.as_slice() else {
        eprintln!("usage: smoke SECONDS CORPUS [target...]");
        return ExitCode::from(2);
    };
    let Ok(seconds) = seconds.parse() else {
        eprintln!("smoke: {seconds} is no number of seconds");
        return ExitCode::from(2);
    };
    if let Some(unknown) = wanted.iter().find(|name| TARGETS.iter().all(|(known, _)| known != name)) {
        eprintln!("smoke: there is no target {unknown}");
        return ExitCode::from(2);
    }
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let seed = std::env::var("SMOKE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(now);
    println!("SMOKE_SEED={seed}");
    let chosen =
        TARGETS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| word == name));
    let mut failed = false;
    for (name, target) in chosen {
        let corpus = Path::new(corpus).join(name);
        match smoke(*target, &corpus, Duration::from_secs_f64(seconds), &mut Random(seed | 1)) {
            Ok(runs) => println!("{name}: {runs} inputs"),
            Err(input) => {
                failed = true;
                println!("{name}: FAILED on {}", keep(name, &corpus, &input).display());
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the target until the time is over; the input that made it panic, or take too long, otherwise.
fn smoke(target: Target, corpus: &Path, time: Duration, random: &mut Random) -> Result<u64, Vec<u8>> {
    let seeds = read_corpus(corpus);
    let began = Instant::now();
    let mut runs = 0;
    let mut run = |input: Vec<u8>| {
        runs += 1;
        let began = Instant::now();
        match catch_unwind(|| target(&input)) {
            Ok(()) if began.elapsed() < SLOW => Ok(()),
            _ => Err(input),
        }
    };
    seeds.iter().cloned().try_for_each(&mut run)?;
    while began.elapsed() < time {
        run(change(&seeds, random))?;
    }
    Ok(runs)
}

fn read_corpus(corpus: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(corpus) else { return vec![Vec::new()] };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut seeds: Vec<Vec<u8>> = paths.iter().filter_map(|path| std::fs::read(path).ok()).collect();
    seeds.push(Vec::new());
    seeds
}

/// A seed, changed in a few places.
fn change(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.below(256) as u8,
            2 if at + 4 <= input.len() => {
                const NUMBERS: [u32; 8] = [0, 1, 0x7F, 0xFF, 0xFFFF, 0x8000_0000, 0x7FFF_FFFF, u32::MAX];
                input[at..at + 4].copy_from_slice(&NUMBERS[random.below(8)].to_le_bytes());
            }
            3 => input.truncate(at),
            4 => {
                let end = input.len().min(at + random.below(64));
                input.drain(at..end);
            }
            5 => {
                let more: Vec<u8> = (0..=random.below(32)).map(|_| random.below(256) as u8).collect();
                input.splice(at..at, more);
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let from = random.below(input.len() + 1);
                let end = input.len().min(from + random.below(128));
                let again = input[from..end].to_vec();
                input.splice(at..at, again);
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
    input
}

/// Writes the input where libFuzzer would.
fn keep(name: &str, corpus: &Path, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let beside =
        corpus.parent().and_then(Path::parent).unwrap_or(Path::new(".")).join("artifacts").join(name);
    let path = beside.join(format!("smoke-{:016x}", hasher.finish()));
    if let Err(error) = std::fs::create_dir_all(&beside).and_then(|()| std::fs::write(&path, input)) {
        eprintln!("smoke: {}: {error}", path.display());
    }
    path
}

/// xorshift64: good enough to try things.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize % limit.max(1)
    }
}
