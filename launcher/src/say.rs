//! What is said on the way, to stderr.

/// Says a line on stderr, as `eprintln!` does. That nobody reads it any more (the terminal
/// is gone, the pipe is closed) is no reason to end in the middle of a lab: what was begun
/// is still to be undone.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stderr(), $($words)*);
    }};
}
