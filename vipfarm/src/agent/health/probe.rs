//! One look at what a check is about.

use std::{net::SocketAddr, path::Path};

use http_body_util::Empty;
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};

use crate::{
    agent::program,
    model::{Check, HttpProbe, Probe},
    net::Network,
};

/// Looks once, for as long as the check allows; the error says what is wrong. Programs get that
/// environment.
pub(super) async fn look(check: &Check, environment: &[(&str, &str)]) -> Result<(), String> {
    let timeout = check.timeout;
    let look = async {
        match &check.probe {
            Probe::Tcp(address) => tcp(*address).await,
            Probe::Http(probe) => http(probe).await,
            // It has to be killed when the time is over.
            Probe::Exec(run) => program::run(run, environment, timeout).await,
            Probe::File { path, present } => file(path, *present).await,
            Probe::Interface(name) => interface(name).await,
        }
    };
    if matches!(check.probe, Probe::Exec(_)) {
        return look.await;
    }
    let looked = time::timeout(timeout, look).await;
    looked.unwrap_or_else(|_elapsed| Err(format!("no answer within {timeout:?}")))
}

async fn tcp(address: SocketAddr) -> Result<(), String> {
    let connected = TcpStream::connect(address).await;
    connected.map(|_closed| ()).map_err(|error| error.to_string())
}

async fn http(probe: &HttpProbe) -> Result<(), String> {
    let stream = TcpStream::connect((probe.host.as_str(), probe.port)).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let status = if probe.tls {
        return Err("HTTPS".into());
    } else {
        ask(probe, stream).await?
    };
    if probe.status.contains(&status) { Ok(()) } else { Err(format!("answered with {status}")) }
}

/// The status code of the answer; its body is not read.
async fn ask<S>(probe: &HttpProbe, stream: S) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let words = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    let request = Request::get(&probe.path)
        .header(HOST, probe.authority())
        .header(USER_AGENT, concat!("vipfarm/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    tokio::select! {
        // The connection may end with the answer.
        biased;
        answer = &mut answer => answer.map(|answer| answer.status().as_u16()).map_err(words),
        ended = &mut connection => {
            ended.map_err(words)?;
            answer.await.map(|answer| answer.status().as_u16()).map_err(words)
        }
    }
}

async fn file(path: &Path, present: bool) -> Result<(), String> {
    let found = tokio::fs::try_exists(path).await.map_err(|error| error.to_string())?;
    match (found, present) {
        (true, false) => Err("it is there".into()),
        (false, true) => Err("it is not there".into()),
        _ => Ok(()),
    }
}

async fn interface(name: &str) -> Result<(), String> {
    let present = Network::interfaces().await.map_err(|error| error.to_string())?;
    match present.iter().find(|found| found.name == name) {
        None => Err("there is no such interface".into()),
        Some(found) if !found.up => Err("it is down".into()),
        Some(found) if !found.carrier => Err("it has no carrier".into()),
        Some(_) => Ok(()),
    }
}
