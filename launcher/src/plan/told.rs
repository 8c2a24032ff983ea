//! The steps by which a guest is told who it is: the lab's ssh key, seeds,
//! credentials, and what is written into a clone when it is made.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Facts, Step, format_of};
use crate::command::Command;
use crate::identity::{
    self, Content, File, Identity, cloud_init, credentials as systemd, offline, render::Renderer,
};
use crate::lab::{Boot, Configure, Guest, Lab};

/// The program that makes keys.
const SSH_KEYGEN: &str = "ssh-keygen";

/// Makes the key that opens all guests which are told one.
pub fn key_step(lab: &Lab, facts: &Facts) -> Option<Step> {
    let wanted = lab.guests.iter().any(|guest| guest.keyed() && guest.ssh_key.is_none());
    (wanted && !facts.has_ssh_key).then(|| key(facts.places.ssh_key(), &format!("vlab-{}", lab.name)))
}

fn key(path: PathBuf, comment: &str) -> Step {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let argv = [SSH_KEYGEN, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", &part.to_string_lossy()];
    let command = Command::new(argv.map(str::to_owned).to_vec());
    Step::Key { path, part, command }
}

fn key_of(guest: &Guest, facts: &Facts) -> Option<PathBuf> {
    Some(guest.ssh_key.clone().unwrap_or_else(|| facts.places.ssh_key()))
}

/// The credentials of `guest`.
pub fn credentials(lab: &Lab, guest: &Guest) -> Vec<String> {
    if guest.credentialed() { systemd::strings(&identity::of(lab, guest)) } else { Vec::new() }
}

/// SHA-256 of what `guest` is told at its start, its neighbours' names aside: they
/// come and go, and it learns of them at its next start. What is written into
/// its clone is left out as well: it was told that once.
pub fn digest(lab: &Lab, guest: &Guest, facts: &Facts) -> String {
    let identity = Identity { hosts: Vec::new(), ..identity::of(lab, guest) };
    let mut digest = Sha256::new();
    if guest.seeded() {
        let user_data = guest.user_data.as_ref().and_then(|path| facts.user_data.get(path));
        let files = cloud_init::seed(&identity, user_data.map(String::as_str));
        files.iter().for_each(|(name, text)| digest.update(format!("{name}\0{text}\0")));
    }
    credentials(lab, guest).iter().for_each(|text| digest.update(format!("{text}\0")));
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything of `guest` but its clone.
pub fn steps(lab: &Lab, guest: &Guest, facts: &Facts) -> Vec<Step> {
    let places = &facts.places;
    let key = key_of(guest, facts);
    let mut steps = Vec::new();
    if guest.seeded() {
        let user_data = guest.user_data.as_ref().and_then(|path| facts.user_data.get(path));
        let files = cloud_init::seed(&identity::of(lab, guest), user_data.map(String::as_str));
        steps.push(Step::Seed { path: places.seed(&guest.name), files, key: key.clone() });
    }
    for (index, text) in credentials(lab, guest).into_iter().enumerate() {
        steps.push(Step::File { path: places.credential(&guest.name, index), text, key: key.clone() });
    }
    if let Some((files, _)) = injected(lab, guest, facts) {
        steps.extend(inject(guest, &files, key.as_ref(), facts));
    }
    steps
}

/// What is written into the clone of `guest`, where it has yet to be made, and
/// where in its base that begins.
fn injected(lab: &Lab, guest: &Guest, facts: &Facts) -> Option<(Vec<File>, u64)> {
    let (Boot::Base(base, _), Configure::Offline) = (&guest.boot, guest.configure) else { return None };
    if facts.clones.contains(&facts.places.clone_of(&guest.name)) {
        return None;
    }
    let renderer = guest.renderer.unwrap_or(Renderer::Networkd);
    let files = offline::files(&identity::of(lab, guest), renderer);
    Some((files, facts.roots.get(base).copied().unwrap_or(0)))
}

fn inject(guest: &Guest, files: &[File], lab_key: Option<&PathBuf>, facts: &Facts) -> Vec<Step> {
    let places = &facts.places;
    let mut sources = Vec::new();
    let mut steps = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let path = places.inject(&guest.name, index);
        sources.push(match &file.content {
            Content::Link(_) => None,
            Content::Text(text) => {
                let step = Step::File { path: path.clone(), text: text.clone(), key: lab_key.cloned() };
                steps.push(step);
                Some(path)
            }
        });
    }
    let host_key = places.inject(&guest.name, "key");
    let text = offline::script(files, &sources, &host_key);
    steps.push(key(host_key, &guest.hostname));
    steps.push(Step::File { path: places.inject(&guest.name, "script"), text, key: None });
    steps
}

/// The commands that make the clone of `guest` and write into it.
pub fn offline_commands(
    guest: &Guest,
    (base, format): (&Path, &str),
    raw: &Path,
    part: &Path,
    size: Option<&str>,
    facts: &Facts,
) -> Vec<Command> {
    debug_assert_eq!(format, format_of(facts, base));
    let offset = facts.roots.get(base).copied().unwrap_or(0);
    let told = |what| facts.places.inject(&guest.name, what);
    offline::commands((base, format), offset, (&told("script"), &told("key")), raw, part, size)
}
