//! As much of JSON Schema as `vlab schema` uses, for tests: a validator, and what
//! can be listed of it. Words of the standard that it does not know make it fail,
//! so that none is taken for granted.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use serde_json::Value;

/// A lab file as JSON.
pub fn of(text: &str) -> Value {
    let table: toml::Table = text.parse().unwrap();
    serde_json::to_value(table).unwrap()
}

/// Why the schema refuses `document`; `None`: it does not.
pub fn fault(document: &Value) -> Option<String> {
    let schema: Value = serde_json::from_str(vlab::lab::SCHEMA).unwrap();
    check(document, &schema, &schema, "lab").err()
}

fn check(value: &Value, schema: &Value, root: &Value, place: &str) -> Result<(), String> {
    let wrong = |what: String| Err(format!("{place}: {what}"));
    for (word, rule) in schema.as_object().unwrap() {
        match word.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            // With `properties` and `additionalProperties`.
            "properties" => {}
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                check(value, &root["$defs"][name], root, place)?;
            }
            "type" => {
                let kinds: Vec<&str> = match rule.as_array() {
                    Some(list) => list.iter().map(|kind| kind.as_str().unwrap()).collect(),
                    None => vec![rule.as_str().unwrap()],
                };
                if !kinds.contains(&kind(value)) {
                    return wrong(format!("{} is not {kinds:?}", kind(value)));
                }
            }
            "const" if value != rule => return wrong(format!("{value} is not {rule}")),
            "const" => {}
            "enum" if !rule.as_array().unwrap().contains(value) => {
                return wrong(format!("{value} is none of {rule}"));
            }
            "enum" => {}
            "pattern" => {
                if let Some(text) = value.as_str()
                    && !Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)
                {
                    return wrong(format!("`{text}` does not match {rule}"));
                }
            }
            "minimum" if value.as_i64().is_some_and(|n| n < rule.as_i64().unwrap()) => {
                return wrong(format!("{value} is under {rule}"));
            }
            "maximum" if value.as_i64().is_some_and(|n| n > rule.as_i64().unwrap()) => {
                return wrong(format!("{value} is over {rule}"));
            }
            "minimum" | "maximum" => {}
            "required" => {
                let missing = rule.as_array().unwrap().iter().find(|key| {
                    value.as_object().is_some_and(|object| !object.contains_key(key.as_str().unwrap()))
                });
                if let Some(key) = missing {
                    return wrong(format!("{key} is missing"));
                }
            }
            "minProperties" => {
                if value.as_object().is_some_and(|object| (object.len() as u64) < rule.as_u64().unwrap()) {
                    return wrong("it is empty".to_owned());
                }
            }
            "maxItems" => {
                if value.as_array().is_some_and(|list| list.len() as u64 > rule.as_u64().unwrap()) {
                    return wrong("it has too many items".to_owned());
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(item, rule, root, &format!("{place}[{index}]"))?;
                }
            }
            "propertyNames" => {
                for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
                    check(&Value::String(key.clone()), rule, root, place)?;
                }
            }
            "additionalProperties" => members(value, schema, root, place)?,
            "anyOf" => {
                let all = rule.as_array().unwrap().iter();
                let faults: Vec<String> =
                    all.clone().filter_map(|rule| check(value, rule, root, place).err()).collect();
                if faults.len() == all.count() {
                    return wrong(faults.join(", or "));
                }
            }
            other => panic!("this validator does not know `{other}`"),
        }
    }
    Ok(())
}

/// The members of an object: those with a rule of their own, and the others.
fn members(value: &Value, schema: &Value, root: &Value, place: &str) -> Result<(), String> {
    for (key, member) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{key}");
        match (schema["properties"].get(key), &schema["additionalProperties"]) {
            (Some(rule), _) => check(member, rule, root, &place)?,
            (None, Value::Bool(false)) => return Err(format!("{place}: unknown")),
            (None, rule) => check(member, rule, root, &place)?,
        }
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Every `properties` inside `schema`, as key and rule.
fn properties(schema: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    match schema {
        Value::Object(object) => {
            for (word, inner) in object {
                if word == "properties" {
                    let own = inner.as_object().unwrap().iter();
                    found.extend(own.map(|(key, rule)| (key.clone(), rule.clone())));
                }
                found.extend(properties(inner));
            }
        }
        Value::Array(list) => found.extend(list.iter().flat_map(properties)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found
}

/// The names of all keys.
pub fn keys(schema: &Value) -> BTreeSet<String> {
    properties(schema).into_iter().map(|(key, _)| key).collect()
}

/// Keys that are one of a few words, with the words.
pub fn words(schema: &Value) -> BTreeMap<String, Vec<String>> {
    let words = |rule: &Value| {
        let list = rule["enum"].as_array()?.iter();
        Some(list.map(|word| word.as_str().unwrap().to_owned()).collect())
    };
    properties(schema).into_iter().filter_map(|(key, rule)| Some((key, words(&rule)?))).collect()
}
