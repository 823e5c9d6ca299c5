//! The sockets to which the program's connections and DNS queries are redirected.
//!
//! The supervisor binds and holds them, and each sidecar gets them from it. So no other user of the machine can take their ports while a
//! crashed sidecar is started again; connections wait meanwhile.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};

use outrigger::ports;
use socket2::{Domain, Socket, Type};

/// The most connections that may wait; the kernel has a limit of its own (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// How many ports are attempted until one is free for all protocols and families.
const PORT_ATTEMPTS: usize = 16;

/// The sockets, of both IP families where there are both.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) outbound_port: u16,
    /// None if DNS queries are not redirected.
    pub(super) dns_port: Option<u16>,
    all: Vec<Socket>,
}

impl Sockets {
    /// Binds them to free ports. Returns an error if there are none.
    pub(super) fn bind(with_dns: bool) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot bind a port of loopback: {error}");
        let (outbound_port, mut all) = bind(&[Type::STREAM]).map_err(failed)?;
        let mut dns_port = None;
        if with_dns {
            let (port, dns) = bind(&[Type::STREAM, Type::DGRAM]).map_err(failed)?;
            dns_port = Some(port);
            all.extend(dns);
        }
        Ok(Self { outbound_port, dns_port, all })
    }

    /// Lets connections wait in them. A sidecar that has ended in order has refused further ones.
    pub(super) fn listen(&self) -> io::Result<()> {
        for socket in self.all.iter().filter(|socket| socket.r#type().is_ok_and(|kind| kind == Type::STREAM))
        {
            // An error if there is none.
            let _ = socket.detach_filter();
            socket.listen(BACKLOG)?;
        }
        Ok(())
    }

    /// Returns all of them.
    pub(super) fn all(&self) -> Vec<BorrowedFd<'_>> {
        self.all.iter().map(|socket| socket.as_fd()).collect()
    }
}

/// Binds a socket of each type, in each IP family, to one port.
fn bind(types: &[Type]) -> io::Result<(u16, Vec<Socket>)> {
    let mut attempts = PORT_ATTEMPTS;
    loop {
        attempts -= 1;
        let [free] = ports::free().map_err(io::Error::other)?;
        match bind_to(free.port(), types) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
            sockets => return Ok((free.port(), sockets?)),
        }
    }
}

fn bind_to(port: u16, types: &[Type]) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let address = SocketAddr::new(ip, port);
        for &kind in types {
            // Without SO_REUSEADDR, with which another user could share a port on which nothing listens.
            let bound = Socket::new(Domain::for_address(address), kind, None).and_then(|socket| {
                socket.bind(&address.into())?;
                Ok(socket)
            });
            match bound {
                Err(error) if ip.is_ipv6() && is_without_ipv6(&error) => {}
                bound => sockets.push(bound?),
            }
        }
    }
    Ok(sockets)
}

/// EAFNOSUPPORT: the kernel has no IPv6. EADDRNOTAVAIL: no interface has the address.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(97 | 99))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn the_ports_are_taken_and_listen_again_after_a_sidecar_has_closed_them() {
        let sockets = Sockets::bind(true).unwrap();
        let dns = sockets.dns_port.unwrap();
        let is_taken = |port| TcpListener::bind(("127.0.0.1", port)).is_err();
        assert!(UdpSocket::bind(("127.0.0.1", dns)).is_err() && is_taken(dns));
        for _ in 0..2 {
            assert!(is_taken(sockets.outbound_port));
            sockets.listen().unwrap();
            assert!(TcpStream::connect(("127.0.0.1", sockets.outbound_port)).is_ok());
            sockets.all[0].shutdown(std::net::Shutdown::Both).unwrap();
            assert!(TcpStream::connect(("127.0.0.1", sockets.outbound_port)).is_err());
        }
        assert_eq!(Sockets::bind(false).unwrap().dns_port, None);
    }
}
