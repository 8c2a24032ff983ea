//! Whose an interface or a filter is: the mark that a switch leaves on what it
//! makes, as `ip link` shows it in an interface's alias.
//!
//! Deliberately absent: names. A name says nothing of who made an interface.

use std::fmt;

/// `vswitch:UID:SWITCH:REST`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Alias<'a> {
    /// Who asked for the switch.
    pub owner: u32,
    /// The switch's name, which is unique for that user while it runs.
    pub switch: &'a str,
    /// What follows: the run that made an interface.
    pub rest: &'a str,
}

impl<'a> Alias<'a> {
    /// Reads a mark; `None` if a switch did not write it.
    pub fn parse(text: &'a str) -> Option<Alias<'a>> {
        let mut parts = text.strip_prefix("vswitch:")?.splitn(3, ':');
        let (owner, switch, rest) = (parts.next()?, parts.next()?, parts.next()?);
        // `u32::from_str` takes a plus sign; we never write one.
        let owner = owner.parse().ok().filter(|_| owner.bytes().all(|byte| byte.is_ascii_digit()))?;
        (!switch.is_empty()).then_some(Alias { owner, switch, rest })
    }

    /// Whether `text` is the mark of this switch, of whatever run.
    pub fn same_switch(&self, text: &str) -> bool {
        Alias::parse(text).is_some_and(|other| (other.owner, other.switch) == (self.owner, self.switch))
    }
}

impl fmt::Display for Alias<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vswitch:{}:{}:{}", self.owner, self.switch, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_read_back_what_they_print() {
        let mark = Alias { owner: 1000, switch: "ping-lan", rest: "0a1b2c3d" };
        assert_eq!(mark.to_string(), "vswitch:1000:ping-lan:0a1b2c3d");
        assert_eq!(Alias::parse(&mark.to_string()), Some(mark));
        assert!(mark.same_switch("vswitch:1000:ping-lan:"), "another run's");
        for other in ["vswitch:1001:ping-lan:0a1b2c3d", "vswitch:1000:ping:0a1b2c3d", "vswitch:1000:ping-lan"]
        {
            assert!(!mark.same_switch(other), "{other}");
        }
    }

    #[test]
    fn what_others_wrote_is_not_ours() {
        for text in [
            "",
            "uplink",
            "vswitch",
            "vswitch:",
            "vswitch:0",
            "vswitch:0:a",
            "vswitch:x:a:1",
            "vswitch:+1:a:1",
            "vswitch::a:1",
            "vswitch:0::1",
            "xvswitch:0:a:1",
            "vswitch:4294967296:a:1",
        ] {
            assert_eq!(Alias::parse(text), None, "{text}");
        }
    }
}
