//! Ports: bound first, listened on when all else is ready; and what they show to who connects.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;

use pleach_protocol::ServerTls;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::{Address, Tls};
use crate::error::{Failure, Result};

/// Binds a port, without accepting anybody yet; port 0 takes a free one. `setting` is where another one can be chosen.
pub(crate) fn bind(address: &Address, setting: &str) -> Result<(TcpSocket, SocketAddr)> {
    let bind = || {
        let resolved = (address.host.as_str(), address.port).to_socket_addrs()?.next();
        let resolved = resolved.ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let socket = if resolved.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A port of a server that was just stopped can be taken again at once.
        socket.set_reuseaddr(true)?;
        socket.bind(resolved)?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    bind().map_err(|error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::refused(format!("{address} is in use by another process"))
            .hint(format!("stop that process, or choose another port with {setting}")),
        std::io::ErrorKind::PermissionDenied => {
            Failure::not_allowed(format!("not allowed to listen on {address}"))
                .hint(format!("choose a port above 1023 with {setting}"))
        }
        _ => Failure::refused(format!("cannot listen on {address}: {error}"))
            .hint(format!("choose an address of this machine with {setting}")),
    })
}

/// Binds a port at the first of these addresses that this machine has.
pub(crate) fn bind_first(addresses: &[Address], setting: &str) -> Result<(TcpSocket, SocketAddr)> {
    let mut bound = Err(Failure::usage("there is no address to listen on"));
    for address in addresses {
        bound = bind(address, setting);
        if bound.is_ok() {
            break;
        }
    }
    bound
}

/// Accepts connections on a bound socket.
pub(crate) fn start(socket: tokio::net::TcpSocket) -> Result<TcpListener> {
    const WAITING_MAX: u32 = 1024;
    socket.listen(WAITING_MAX).map_err(|error| Failure::refused(format!("cannot listen: {error}")))
}

/// Reads the certificates and keys of a listener by TLS, and says so if others can read its key.
pub(crate) fn tls(files: &Tls) -> Result<ServerTls> {
    let tls = ServerTls::read(files.identity.clone(), files.client_ca.clone())?;
    let key = &files.identity.key;
    if std::fs::metadata(key).is_ok_and(|file| file.permissions().mode() & 0o007 != 0) {
        tracing::warn!("others may read the key in {}: `chmod o-rwx` it", key.display());
    }
    Ok(tls)
}
