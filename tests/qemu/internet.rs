//! The internet as a guest's user-mode NIC sees it: a server on the loopback of
//! the namespace, which QEMU shows to its guest as 10.0.2.2. Or a server of the
//! host's on a network of the lab.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use anyhow::{Result, ensure};
use vswitch_tests::netns::Netns;
use vswitch_tests::qemu::Guest;

/// What the server says to everyone.
const PAGE: &str = "the internet side answers";

/// A web server with one page, until the process ends.
pub(crate) struct Internet {
    /// As the guest calls it.
    address: &'static str,
    port: u16,
}

impl Internet {
    pub(crate) fn new(ns: &Netns) -> Result<Internet> {
        Internet::serve(ns.enter(|| TcpListener::bind("127.0.0.1:0"))?, "10.0.2.2")
    }

    /// A server at an address that the namespace has.
    pub(crate) fn at(ns: &Netns, address: &'static str) -> Result<Internet> {
        Internet::serve(ns.enter(|| TcpListener::bind((address, 0)))?, address)
    }

    /// The same in the namespace that the test itself is in.
    pub(crate) fn here() -> Result<Internet> {
        Internet::serve(TcpListener::bind("127.0.0.1:0")?, "10.0.2.2")
    }

    fn serve(listener: TcpListener, address: &'static str) -> Result<Internet> {
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // A client that hangs up early is its own loss.
                let mut lines = BufReader::new(&stream).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let len = PAGE.len();
                let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {len}\r\n\r\n{PAGE}");
            }
        });
        Ok(Internet { address, port })
    }

    /// Fetches the page from inside `guest`.
    pub(crate) fn reach_from(&self, guest: &mut Guest) -> Result<()> {
        self.fetched(&guest.run(&self.fetch())?)
    }

    /// The command by which a guest fetches the page.
    pub(crate) fn fetch(&self) -> String {
        format!("wget -q -O - http://{}:{}/", self.address, self.port)
    }

    /// Whether what a guest fetched is the page.
    pub(crate) fn fetched(&self, page: &str) -> Result<()> {
        ensure!(page.contains(PAGE), "another page: {page}");
        Ok(())
    }
}
