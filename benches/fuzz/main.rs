//! Random input for everything that reads what others wrote: `make fuzz [FUZZ_SECONDS=60] [FUZZ_SEED=N] [FUZZ_TARGET=NAME]`.
//!
//! Each target runs in a process of its own that writes every input down before it is used, and whose memory is
//! limited: so a panic, an overflown stack, memory without bounds and an endless loop alike leave the input that
//! made them. It has a file system of its own, which ends with it, and can write nowhere else. Inputs are
//! mutations of a few good ones and of those that had an outcome not seen before; the same seed gives the same
//! inputs in the same order, the time says how many. A saved input is used again, alone, by
//! `FUZZ_TARGET=NAME FUZZ_INPUT=FILE`. Exit status 1: something was found.

// A failed unwrap or assertion ends the target's process, and that is the finding.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archives;
mod layers;
mod manifests;
mod mutate;
mod texts;

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use bayplan::oci::Digest;
use mutate::Mutator;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};

/// Uses one input, and gives its outcome in words.
pub type Uses = Box<dyn FnMut(&[u8]) -> String>;

/// What one target is about.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Good inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that inputs are made of.
    pub words: &'static [&'static str],
    /// Bytes of one input at most.
    pub longest: usize,
    /// Mended after most mutations, where a checksum would keep all of them from being looked into.
    pub mend: fn(&mut [u8]),
    /// Makes what uses the inputs. A promise that does not hold panics.
    pub make: fn() -> Uses,
}

const TARGETS: [Target; 8] = [
    texts::REFERENCE,
    texts::HOSTS,
    texts::AUTH,
    manifests::YAML,
    texts::MANIFEST,
    layers::TAR,
    layers::LAYER,
    archives::ARCHIVE,
];

/// Bytes of memory (`RLIMIT_DATA`) that a target may have, threads and all.
const MEMORY: u64 = 512 << 20;
/// What one input may take. Machines are busy; endless is longer than this.
const LONGEST: Duration = Duration::from_secs(20);
/// Inputs that are kept to be mutated.
const CORPUS: usize = 1000;

fn main() -> ExitCode {
    if let Some(name) = variable("FUZZ_CHILD") {
        child(&name);
        return ExitCode::SUCCESS;
    }
    let seconds: f64 = variable("FUZZ_SECONDS").map_or(60.0, |text| text.parse().expect("FUZZ_SECONDS is a number"));
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed =
        variable("FUZZ_SEED").map_or(time.as_micros() as u64, |text| text.parse().expect("FUZZ_SEED is a number"));
    let only = variable("FUZZ_TARGET");
    let chosen: Vec<_> = TARGETS.iter().filter(|target| only.as_ref().is_none_or(|name| name == target.name)).collect();
    assert!(!chosen.is_empty(), "targets are {}", TARGETS.map(|target| target.name).join(", "));
    println!("FUZZ_SEED={seed}");
    let share = Duration::from_secs_f64(seconds / chosen.len() as f64);
    let found = chosen.into_iter().filter(|target| !holds(target, share, seed)).count();
    ExitCode::from(u8::from(found > 0))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn directory() -> PathBuf {
    let target = variable("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    target.join("fuzz")
}

/// Runs one target and says how it went; whether nothing was found.
fn holds(target: &Target, share: Duration, seed: u64) -> bool {
    let began = Instant::now();
    fs::create_dir_all(directory()).unwrap();
    let work = tempfile::Builder::new().prefix("run-").tempdir_in(directory()).unwrap();
    let stderr = File::create(work.path().join("stderr")).unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .env("FUZZ_CHILD", target.name)
        .env("FUZZ_WORK", work.path())
        .env("FUZZ_SEED", seed.to_string())
        .env("FUZZ_SHARE", share.as_millis().to_string())
        .stdin(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let current = work.path().join("input");
    let status = watch(&mut process, &current);
    let inputs = fs::read_to_string(work.path().join("count")).unwrap_or_default();
    let inputs = if inputs.is_empty() { "ended early" } else { &inputs };
    let seconds = began.elapsed().as_secs_f64();
    let found = !status.is_some_and(|status| status.success());
    println!("{:<10} {inputs:>38} {seconds:>6.1} s {} findings", target.name, u8::from(found));
    if found {
        let input = fs::read(&current).unwrap_or_default();
        let kept = directory().join(format!("{}-{}", target.name, Digest::of(&input).short()));
        fs::write(&kept, &input).unwrap();
        let ended = status.map_or(format!("no end within {LONGEST:?}"), |status| status.to_string());
        let told = fs::read(work.path().join("stderr")).unwrap_or_default();
        println!("  {ended}\n  {}", String::from_utf8_lossy(&told).trim_end().replace('\n', "\n  "));
        println!("  again: make fuzz FUZZ_TARGET={} FUZZ_INPUT={}", target.name, kept.display());
    }
    !found
}

/// Waits for its end; none when one input takes too long.
fn watch(process: &mut Child, current: &Path) -> Option<ExitStatus> {
    let began = SystemTime::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        let touched = fs::metadata(current).and_then(|data| data.modified()).unwrap_or(began);
        if touched.elapsed().is_ok_and(|quiet| quiet > LONGEST) {
            process.kill().unwrap();
            process.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn child(name: &str) {
    let target = TARGETS.into_iter().find(|target| target.name == name).unwrap();
    let work = PathBuf::from(variable("FUZZ_WORK").unwrap());
    let current = File::create(work.join("input")).unwrap();
    let counted = File::create(work.join("count")).unwrap();
    let again = variable("FUZZ_INPUT").map(|file| fs::read(file).unwrap());
    confine();
    setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY).unwrap();
    let mut uses = (target.make)();
    let mut attempt = |input: &[u8]| {
        current.write_all_at(input, 0).unwrap();
        current.set_len(input.len() as u64).unwrap();
        uses(input)
    };
    if let Some(input) = again {
        println!("{}", attempt(&input));
        return counted.write_all_at(b"one input", 0).unwrap();
    }
    let share = Duration::from_millis(variable("FUZZ_SHARE").unwrap().parse().unwrap());
    let mut mutator = Mutator::new(variable("FUZZ_SEED").unwrap().parse().unwrap(), &target);
    let mut corpus = (target.seeds)();
    let mut outcomes: HashSet<String> = corpus.iter().map(|seed| kind(&attempt(seed))).collect();
    let began = Instant::now();
    let mut inputs = corpus.len();
    while began.elapsed() < share {
        let input = mutator.next(&corpus);
        // Without what differs from input to input: numbers and what is quoted.
        let outcome = kind(&attempt(&input));
        inputs += 1;
        if outcomes.insert(outcome) && corpus.len() < CORPUS {
            corpus.push(input);
        }
    }
    let count = format!("{inputs:>9} inputs, {:>4} kinds of outcome", outcomes.len());
    counted.write_all_at(count.as_bytes(), 0).unwrap();
}

/// Where targets write: a file system in memory that their process alone sees, and that ends with it.
pub const OWN: &str = "/mnt";

/// Makes [`OWN`] one, and the machine's root read-only: what gets out is found, and harms nothing. For a process that
/// has one thread yet.
fn confine() {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(none, "/", none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none).unwrap();
    mount(Some("tmpfs"), OWN, Some("tmpfs"), MsFlags::empty(), Some("size=256m")).unwrap();
}

/// The outcome's words, without numbers, digests and what is quoted of the input.
fn kind(outcome: &str) -> String {
    let unquoted: String = outcome.replace("\\\"", "").split('"').step_by(2).collect();
    let digest = |word: &&str| word.len() < 12 || !word.chars().all(|c| c.is_ascii_hexdigit());
    let words: Vec<&str> = unquoted.split(|c: char| !c.is_alphanumeric()).filter(digest).collect();
    words.join(" ").chars().filter(|c| !c.is_ascii_digit()).take(160).collect()
}
