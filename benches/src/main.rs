//! `vbench`: the whole switch beside its peers, on the same work.
//!
//! Read in this order: [`subject`] (what is compared), [`rig`] and [`wiring`]
//! (the topologies), [`measure`] (one figure each), [`schedule`] (who runs
//! when), [`record`] (what is kept), [`markdown`] and [`svg`] (what is shown).
//!
//! Deliberately absent: a figure for what is not installed, and a figure
//! without the spread of its rounds. The hot path alone is measured by the
//! criterion benches in `hot/`.

mod child;
mod cli;
mod host;
mod huge;
mod interrupt;
mod markdown;
mod measure;
mod progress;
mod record;
mod rig;
mod schedule;
mod subject;
mod svg;
mod testpmd;
mod wiring;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::record::Report;

fn main() -> ExitCode {
    match run(&cli::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` is the whole chain on one line, without a backtrace.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &cli::Args) -> Result<()> {
    if let Some(cli::Command::Report { files, rig, into, svg }) = &args.command {
        let reports = files.iter().map(|file| read(file)).collect::<Result<Vec<Report>>>()?;
        return show(&Report::join(reports)?.of(rig)?, into.as_deref(), svg.as_deref());
    }
    if let Some(cli::Command::Agree { first, second }) = &args.command {
        let text = markdown::agree::render(&read(first)?, &read(second)?)?;
        return std::io::stdout().write_all(text.as_bytes()).context("standard output");
    }
    check_places(args)?;
    interrupt::watch()?;
    let keep = |report: &Report| args.json.as_deref().map_or(Ok(()), |file| write(file, report));
    let report = schedule::run(&args.plan(), keep)?;
    show(&report, args.into.as_deref(), args.svg.as_deref())
}

/// That what will be measured can be written: better now than in an hour.
fn check_places(args: &cli::Args) -> Result<()> {
    if let Some(page) = &args.into {
        put(page, "")?;
    }
    if let Some(file) = &args.json {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        let opened = std::fs::File::options().append(true).create(true).open(file);
        opened.with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{} is no vbench record", file.display()))
}

fn write(file: &Path, report: &Report) -> Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let text = serde_json::to_string(report)? + "\n";
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

/// Draws the pictures, if there is a folder for them, and prints the tables, or
/// puts them into a file that has room for them.
fn show(report: &Report, into: Option<&Path>, svg: Option<&Path>) -> Result<()> {
    if let Some(folder) = svg {
        draw(report, folder)?;
    }
    let plots = svg.map(|folder| seen_from(folder, into).to_string_lossy().into_owned());
    let tables = markdown::render(report, plots.as_deref());
    let Some(file) = into else {
        return std::io::stdout().write_all(tables.as_bytes()).context("standard output");
    };
    let page = put(file, &tables)?;
    std::fs::write(file, page).with_context(|| file.display().to_string())
}

/// The page in `file` with `tables` in their place.
fn put(file: &Path, tables: &str) -> Result<String> {
    let page = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    markdown::replace(&page, tables)
        .with_context(|| format!("{} has no two lines `{}`", file.display(), markdown::MARKER))
}

fn draw(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let rigs = rig::RIGS.into_iter().map(|rig| (svg::name(rig), svg::render(report, rig)));
    for (name, picture) in rigs.chain([("headlines.svg".to_owned(), svg::headlines(report))]) {
        if let Some(picture) = picture {
            let file = folder.join(name);
            std::fs::write(&file, picture).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

/// How the page `into` names `folder`: relative, if it lies below the page's own.
fn seen_from<'a>(folder: &'a Path, into: Option<&Path>) -> &'a Path {
    into.and_then(Path::parent).and_then(|page| folder.strip_prefix(page).ok()).unwrap_or(folder)
}
