//! One look as plain text or JSON: `--once`, a pipe, a terminal that can do
//! nothing.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread::sleep;

use super::look::{Look, Seen, look};
use crate::cli::TopArgs;
use crate::config::Invoker;
use crate::live::{Rates, short};
use crate::output::{self, plain, table};

/// Events that are printed.
const EVENTS_LEN: usize = 10;

/// Prints one look; two are taken, since a rate needs a before.
pub(super) fn once(args: &TopArgs, invoker: &Invoker) -> anyhow::Result<ExitCode> {
    let before = look(&args.target, invoker, Seen::default())?;
    sleep(args.interval);
    let mut now = look(&args.target, invoker, Seen::of(&before))?;
    now.events.events.splice(0..0, before.events.events);
    let rates = Rates::between(&before.stats, &now.stats).unwrap_or_default();
    let text = if args.target.json { json(&now, &rates) } else { text(&now, &rates) };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

pub(super) fn text(look: &Look, rates: &Rates) -> String {
    let mut text = output::show(&look.show);
    let head =
        ["PORT", "RX/S", "TX/S", "RXBIT/S", "TXBIT/S", "DROP/S", "REF/S", "LOST/S", "SINCE THE LAST LOOK"];
    let rows = rates.ports.iter().chain([&rates.total]).map(|port| {
        let reasons: Vec<String> =
            port.reasons.iter().map(|(reason, count)| format!("{} +{count}", plain(reason))).collect();
        let numbers = [port.rx, port.tx, port.rx_bits, port.tx_bits, port.drops, port.refused, port.lost];
        let [rx, tx, rx_bits, tx_bits, drops, refused, lost] = numbers.map(short);
        [plain(&port.name), rx, tx, rx_bits, tx_bits, drops, refused, lost, reasons.join(", ")]
    });
    text.push('\n');
    text += &table(std::iter::once(head.map(str::to_owned)).chain(rows).collect());
    let from = look.events.events.len().saturating_sub(EVENTS_LEN);
    if !look.events.events.is_empty() {
        text.push('\n');
        text += &output::events(&look.events.events[from..]);
    }
    text
}

fn json(look: &Look, rates: &Rates) -> String {
    let mut value = crate::live::rates_json(&look.stats, rates);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("show".to_owned(), serde_json::json!(look.show));
        fields.insert("events".to_owned(), serde_json::json!(look.events.events));
    }
    value.to_string() + "\n"
}
