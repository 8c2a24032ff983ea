//! Netplan: what cloud-init is told, under `network:`.

use super::super::{File, Identity, cloud_init};

pub fn files(identity: &Identity) -> Vec<File> {
    let mut text = "network:\n".to_owned();
    for line in cloud_init::network_config(identity).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    // Netplan warns of files that others may read.
    vec![File::secret("/etc/netplan/60-vlab.yaml", text)]
}
