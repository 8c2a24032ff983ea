//! The JSON schema of `lab.toml`, for editors that complete and check it. What
//! decides is the reader; a test holds the two together.

/// The schema, as JSON.
pub const SCHEMA: &str = include_str!("schema.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    /// The keys that a part of the reader asks for, from its source.
    fn asked(source: &str) -> BTreeSet<String> {
        let asks = regex_lite::Regex::new(r#"(?:item|own|get)\("([a-z_0-9]+)""#).unwrap();
        asks.captures_iter(source).map(|found| found[1].to_owned()).collect()
    }

    fn keys(part: &Value) -> Vec<String> {
        part["properties"].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn the_reader_and_the_schema_know_the_same_keys() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let guest = &schema["$defs"]["guest"];
        let nic = &guest["properties"]["nics"]["items"]["anyOf"][1];
        let parts = [&schema, &schema["$defs"]["network"], guest, nic, &guest["properties"]["ssh"]];
        let known: BTreeSet<String> = parts.iter().flat_map(|part| keys(part)).collect();
        let mut read = asked(include_str!("guest_keys.rs"));
        read.extend(asked(include_str!("parse.rs")));
        let missing: Vec<_> = read.difference(&known).collect();
        assert!(missing.is_empty(), "the schema lacks {missing:?}");

        // And the other way: a key of the schema is no unknown one.
        for (head, tail, part) in [
            ("", "", &schema),
            ("[networks.a]\n", "", &schema["$defs"]["network"]),
            ("[guests.a]\n", "", guest),
            ("[networks.n]\n[guests.a]\nkernel = \"k\"\nnics = [{ network = \"n\", ", " }]", nic),
            ("[guests.a]\nkernel = \"k\"\nssh = { ", " }", &guest["properties"]["ssh"]),
        ] {
            for key in keys(part).iter().filter(|key| *key != "network") {
                let text = format!("{head}{key} = 1979-05-27{tail}\n");
                let fault = crate::lab::parse(&text, Path::new("lab.toml"), Path::new("/l")).unwrap_err();
                assert!(!fault.message.contains("unknown key"), "{text}: {fault}");
            }
        }
    }
}
