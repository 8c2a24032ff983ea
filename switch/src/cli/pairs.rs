//! Keys and values as `set` takes them: `ageing=60s`, or `ageing 60s`.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};

/// Keys with their values, in the order typed; never empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pairs(pub Vec<(String, String)>);

/// The words' name in clap's matches.
const ID: &str = "keys";

impl Args for Pairs {
    fn augment_args(command: Command) -> Command {
        let help = "As ageing=60s, or ageing 60s";
        let words = Arg::new(ID).value_name("KEY=VALUE").help(help).action(ArgAction::Append);
        command.arg(words.required(true).num_args(1..))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Pairs::augment_args(command)
    }
}

impl FromArgMatches for Pairs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Pairs, clap::Error> {
        let words = matches.get_many::<String>(ID).unwrap_or_default();
        read(words.map(String::as_str)).map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, error))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Pairs::from_arg_matches(matches)?;
        Ok(())
    }
}

fn read<'w>(mut words: impl Iterator<Item = &'w str>) -> Result<Pairs, String> {
    let mut pairs = Vec::new();
    while let Some(word) = words.next() {
        let (key, value) = match word.split_once('=') {
            Some(pair) => pair,
            None => {
                (word, words.next().ok_or_else(|| format!("`{word}` has no value: write {word}=VALUE\n"))?)
            }
        };
        if key.is_empty() {
            return Err(format!("`{word}` has no key: write KEY=VALUE\n"));
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Ok(Pairs(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_may_be_mixed() {
        let pairs = |text: &str| read(text.split(' ')).map(|Pairs(pairs)| pairs);
        let expected = |pairs: &[(&str, &str)]| {
            Ok(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(pairs("ageing=60s"), expected(&[("ageing", "60s")]));
        assert_eq!(pairs("ageing 60s"), expected(&[("ageing", "60s")]));
        assert_eq!(
            pairs("ageing 60s pad_runts=true transparent off"),
            expected(&[("ageing", "60s"), ("pad_runts", "true"), ("transparent", "off")])
        );
        assert_eq!(pairs("a==b"), expected(&[("a", "=b")]));
        assert_eq!(pairs("ageing"), Err("`ageing` has no value: write ageing=VALUE\n".to_owned()));
        assert_eq!(pairs("=60s"), Err("`=60s` has no key: write KEY=VALUE\n".to_owned()));
    }
}
