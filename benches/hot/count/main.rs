//! Instructions of the hot path, counted by Callgrind and held against what was
//! kept: a change that makes a frame dearer by more than three percent fails
//! until `kept.toml` says so in the same commit.
//!
//! `./dev count` counts and compares, `./dev count --keep` keeps. Counts do not
//! depend on how busy the machine is, so this can be a test where a time cannot.
//! Each piece of work runs in a process of its own, of which only the function
//! [`measured`] (or the engine's round) is counted. At the end one piece of work
//! is made dearer on purpose, to see that the guard can fail.
//!
//! Deliberately absent: what instructions do not show, which are cache misses,
//! system calls and contention. Those are `bridge.rs`, `engine.rs` and `vbench`.

mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail, ensure};
use vswitch::bridge::BURST;
use vswitch_hot::kept::{Counts, Kept, Standing};
use work::{WORK, Work};

/// Where the counts are kept.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hot/count/kept.toml");

/// Set in the child whose work is to be dearer: instructions to waste in a burst.
const HANDICAP: &str = "VSWITCH_COUNT_HANDICAP";

/// The piece of work that is run once more with a handicap, in percent.
const HANDICAPPED: (&str, f64) = ("bridge: known unicast, 2 ports, 10 stations", 5.0);

/// What the C library must not choose by the processor: its copying functions
/// differ in length.
const TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX512F,-AVX512VL,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let outcome = match (arguments.next().as_deref(), arguments.next().as_deref()) {
        (Some("--work"), Some(name)) => child(name).map(|()| true),
        (Some("--keep"), None) => keep().map(|()| true),
        (None, None) => guard(),
        _ => Err(anyhow::anyhow!("count: no arguments, or --keep")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("count: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Counts everything and compares; true if nothing has grown.
fn guard() -> Result<bool> {
    let text = std::fs::read_to_string(KEPT).with_context(|| format!("cannot read {KEPT}"))?;
    let kept = Kept::parse(&text).with_context(|| format!("cannot read {KEPT}"))?;
    let toolchain = toolchain()?;
    if !kept.is_for(&toolchain) {
        eprintln!("SKIP count: needs {}, here is {toolchain}", kept.toolchain);
        return Ok(true);
    }
    let counts = count_all(WORK)?;
    let mut good = true;
    for (work, count) in &counts {
        let standing = kept.standing(work, *count);
        let remark = match standing {
            Standing::Same => "",
            Standing::Grown => "  GROWN: make it cheaper, or keep it with a reason: ./dev count --keep",
            Standing::Shrunk => "  shrunk: ./dev count --keep",
            Standing::New => "  NEW: ./dev count --keep",
        };
        let before = kept.instructions.get(work).map_or(String::from("-"), |kept| format!("{kept:.1}"));
        eprintln!("{work:56} {count:10.1} {before:>10}{remark}");
        good &= matches!(standing, Standing::Same | Standing::Shrunk);
    }
    for gone in kept.instructions.keys().filter(|work| !counts.contains_key(*work)) {
        eprintln!("{gone}: is kept, and counted no more: ./dev count --keep");
        good = false;
    }
    let (name, percent) = HANDICAPPED;
    let work = WORK.iter().find(|work| work.name == name).context("the handicapped work is gone")?;
    // Beside this run's own count: a guard that passes must be able to fail.
    let own = Kept { toolchain, instructions: counts };
    let own_count = own.instructions.get(name).context("the handicapped work was not counted")?;
    let dearer = count(work, Some(own_count * BURST as f64 * percent / 100.0))?;
    ensure!(
        own.standing(name, dearer) == Standing::Grown,
        "{name} was made {percent} % dearer, and the guard did not see it ({dearer:.1} instructions)"
    );
    Ok(good)
}

/// Counts everything and keeps it.
fn keep() -> Result<()> {
    let kept = Kept { toolchain: toolchain()?, instructions: count_all(WORK)? };
    std::fs::write(KEPT, kept.to_text()).with_context(|| format!("cannot write {KEPT}"))?;
    eprintln!("kept {} counts in {KEPT}", kept.instructions.len());
    Ok(())
}

/// Compiler and C library, on which counts depend.
fn toolchain() -> Result<String> {
    let rustc = Command::new("rustc").arg("--version").output().context("cannot run rustc")?;
    let libc = Command::new("getconf").arg("GNU_LIBC_VERSION").output().context("cannot run getconf")?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(format!("{}, {}, {}", text(rustc.stdout), text(libc.stdout), std::env::consts::ARCH))
}

/// Counts two at a time: others' work changes nothing in a count.
fn count_all(all: &[Work]) -> Result<Counts> {
    let (next, counts) = (Mutex::new(all.iter()), Mutex::new(BTreeMap::new()));
    let take = || next.lock().ok().and_then(|mut next| next.next());
    let one = || -> Result<()> {
        while let Some(work) = take() {
            let count = count(work, None)?;
            if let Ok(mut counts) = counts.lock() {
                counts.insert(work.name.to_owned(), count);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(one);
        one()?;
        other.join().unwrap_or_else(|_| bail!("a counting thread panicked"))
    })?;
    counts.into_inner().context("a counting thread panicked")
}

/// Instructions for one item of `work`.
fn count(work: &Work, handicap: Option<f64>) -> Result<f64> {
    let me = std::env::current_exe()?;
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={}", work.function))
        .arg(Path::new(&me))
        .args(["--work", work.name])
        .env("GLIBC_TUNABLES", TUNABLES)
        .stdin(Stdio::null());
    if let Some(handicap) = handicap {
        valgrind.env(HANDICAP, format!("{handicap:.0}"));
    }
    let output = valgrind.output().context("cannot run valgrind (package valgrind)")?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {}\n{err}", work.name, output.status);
    let items: u64 = out.trim().parse().with_context(|| format!("{}: said {out:?}", work.name))?;
    let line = err.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    let all: u64 =
        line.and_then(|count| count.parse().ok()).with_context(|| format!("no count in:\n{err}"))?;
    ensure!(all > 0, "{}: nothing was counted; is {} still there?", work.name, work.function);
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    Ok(all as f64 / items as f64)
}

/// Does one piece of work, and says how many items it was.
fn child(name: &str) -> Result<()> {
    let work = WORK.iter().find(|work| work.name == name).with_context(|| format!("no work {name:?}"))?;
    let items = (work.run)()?;
    #[expect(clippy::print_stdout, reason = "read by the process that counts")]
    {
        println!("{items}");
    }
    Ok(())
}

/// Instructions to waste in each burst, when the guard is to be seen failing.
fn handicap() -> u64 {
    std::env::var(HANDICAP).ok().and_then(|waste| waste.parse().ok()).unwrap_or(0)
}
