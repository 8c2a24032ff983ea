//! vhost-user ports with a front end in the test's own process: no root, no
//! guest. `pass` is honest traffic and the life of a connection, `packed` the same by
//! the other kind of queue, `choices` what guests may choose, `hostile` rows
//! A12 and A13 of the conformance table, `random` the same by chance.

#![expect(clippy::unwrap_used, reason = "what cannot be set up has failed the test")]

mod choices;
mod hostile;
mod packed;
mod pass;
mod random;
