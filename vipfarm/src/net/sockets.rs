//! The TCP connections of this network namespace, by `sock_diag(7)`: counted while buckets move, and
//! reset when a node stops serving them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_TIME_WAIT},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as KernelAddr, protocols::NETLINK_SOCK_DIAG};

/// `SOCK_DESTROY` (`linux/sock_diag.h`), a message type that the crate does not know.
const SOCK_DESTROY: u16 = 21;
/// Where a netlink header has its type.
const TYPE: std::ops::Range<usize> = 4..6;
/// What the kernel sends at once at most.
const BUFFER: usize = 32 << 10;

/// A TCP connection, also one in its making.
#[derive(Debug, Clone)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
    /// Whether it is more than the memory of one that was closed (`TIME_WAIT`).
    pub is_open: bool,
    family: u8,
    id: SocketId,
}

/// The connections whose own end is `wanted`. Listening sockets are none.
pub fn connections(wanted: impl Fn(IpAddr) -> bool) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE;
        let request = request(family, states, socket_id);
        let socket = send(&request, NLM_F_REQUEST | NLM_F_DUMP, None)?;
        read(&socket, |message| {
            let SockDiagMessage::InetResponse(response) = message else { return };
            let id = response.header.socket_id;
            let end = |addr: IpAddr, port| SocketAddr::new(addr.to_canonical(), port);
            let local = end(id.source_address, id.source_port);
            if wanted(local.ip()) {
                found.push(Connection {
                    local,
                    remote: end(id.destination_address, id.destination_port),
                    is_open: response.header.state != TCP_TIME_WAIT,
                    family,
                    id,
                });
            }
        })?;
    }
    Ok(found)
}

/// Resets a connection: its client learns of it at once. That it is gone is fine.
///
/// # Errors
/// `EOPNOTSUPP` if the kernel has no `CONFIG_INET_DIAG_DESTROY`.
pub fn reset(connection: &Connection) -> io::Result<()> {
    let request = request(connection.family, StateFlags::all(), connection.id.clone());
    let socket = send(&request, NLM_F_REQUEST | NLM_F_ACK, Some(SOCK_DESTROY))?;
    match read(&socket, |_| ()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}

/// Resets connections: how many, and what kept others from it. One that cannot be reset keeps none from
/// it.
pub fn reset_each<'c>(
    connections: impl Iterator<Item = &'c Connection>,
) -> (usize, Option<io::Error>) {
    let (reset, failed): (Vec<_>, Vec<_>) = connections.map(reset).partition(Result::is_ok);
    (reset.len(), failed.into_iter().find_map(Result::err))
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    let extensions = ExtensionFlags::empty();
    InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id }
}

fn send(request: &InetRequest, flags: u16, kind: Option<u16>) -> io::Result<Socket> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let message = SockDiagMessage::InetRequest(request.clone());
    let mut packet = NetlinkMessage::new(header, message.into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    if let Some(kind) = kind {
        bytes[TYPE].copy_from_slice(&kind.to_ne_bytes());
    }
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&KernelAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// Reads an answer to its end.
fn read(socket: &Socket, mut each: impl FnMut(SockDiagMessage)) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(message) => each(message),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => {
                    return error
                        .code
                        .map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(-code.get())));
                }
                _ => {}
            }
            // Messages begin at multiples of four bytes (NLMSG_ALIGN).
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_connection_is_listed_by_its_own_end_also_that_of_a_listener_for_both_families() {
        for bound in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let port = listener.local_addr().expect("bound").port();
            let client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            let _server = listener.accept().expect("somebody came");
            let remote = client.local_addr().expect("connected");
            let found = connections(|addr| addr.is_loopback()).expect("listed");
            let served = |it: &&Connection| it.local.port() == port && it.remote == remote;
            let found: Vec<_> = found.iter().filter(served).collect();
            assert!(matches!(found[..], [one] if one.is_open && one.local.is_ipv4()), "{found:?}");
        }
    }

    #[test]
    fn a_connection_that_is_reset_ends_at_its_client_too() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let local = listener.local_addr().expect("bound");
        let mut client = TcpStream::connect(local).expect("it listens");
        let _server = listener.accept().expect("somebody came");
        let found = connections(|addr| addr.is_loopback()).expect("listed");
        let served = found.iter().find(|it| it.local == local).expect("it is listed");
        match reset(served) {
            Ok(()) => {
                let error = client.read(&mut [0]).expect_err("it was reset");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                reset(served).expect("gone is fine");
            }
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)),
                "{error}"
            ),
        }
    }
}
