//! One look at what a check is about.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
};

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

use super::tls;
use crate::{
    agent::{alone::Alone, program},
    model::{Check, HttpProbe, Probe},
    net::Network,
};

/// Looks once, for as long as the check allows; the error says what is wrong, and `None` that nothing was to be
/// seen. Programs get that environment; what may hang goes by `alone`; `claims` says what was heard since the
/// look before.
pub(super) async fn look(
    check: &Check,
    environment: &[(&str, &str)],
    alone: &Alone,
    claims: impl Fn() -> Option<Result<(), String>>,
) -> Option<Result<(), String>> {
    let timeout = check.timeout;
    let look = async {
        Some(match &check.probe {
            Probe::Tcp(address) => tcp(*address).await,
            Probe::Http(probe) => http(probe, alone).await,
            // It has to be killed when the time is over.
            Probe::Exec(run) => program::run(run, environment, timeout, alone).await,
            Probe::File { path, present } => file(path, *present, alone).await,
            Probe::Interface(name) => interface(name).await,
            Probe::Unclaimed => return claims(),
        })
    };
    if matches!(check.probe, Probe::Exec(_)) {
        return look.await;
    }
    let looked = time::timeout(timeout, look).await;
    looked.unwrap_or_else(|_elapsed| Some(Err(format!("no answer within {timeout:?}"))))
}

async fn tcp(address: SocketAddr) -> Result<(), String> {
    let connected = TcpStream::connect(address).await;
    connected.map(|_closed| ()).map_err(|error| error.to_string())
}

async fn http(probe: &HttpProbe, alone: &Alone) -> Result<(), String> {
    let server = (probe.host.clone(), probe.port);
    let found = alone.run(move || server.to_socket_addrs().map(Vec::from_iter)).await?;
    let found = found.map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(found.as_slice()).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let status = if probe.tls {
        ask(probe, tls::wrap(stream, &probe.host, probe.verify, alone).await?).await?
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

async fn file(path: &Path, present: bool, alone: &Alone) -> Result<(), String> {
    let path = path.to_owned();
    let found = alone.run(move || path.try_exists()).await?.map_err(|error| error.to_string())?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::model::Effect;

    const SOON: Duration = Duration::from_secs(10);

    async fn outcome(probe: Probe, timeout: Duration) -> Result<(), String> {
        let (rise, fall, effect) = (1, 1, Effect::Drain);
        let check = Check { probe, interval: timeout, timeout, rise, fall, effect };
        look(&check, &[], &Alone::new(), || None).await.expect("it is looked at")
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        (listener, address)
    }

    fn page(port: u16, tls: bool) -> HttpProbe {
        let (host, path) = ("localhost".to_owned(), "/health?full".to_owned());
        HttpProbe { tls, host, port, path, status: vec![200, 204], verify: true }
    }

    /// Answers one request; gives what was asked.
    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect("a whole request");
            asked.extend(byte);
        }
        stream.write_all(answer.as_bytes()).await.expect("the client reads");
        let _ = stream.shutdown().await;
        String::from_utf8(asked).expect("text")
    }

    #[tokio::test]
    async fn a_port_is_open_or_refuses() {
        let (listener, address) = listener().await;
        assert_eq!(outcome(Probe::Tcp(address), SOON).await, Ok(()));
        drop(listener);
        let refused = outcome(Probe::Tcp(address), SOON).await.expect_err("nobody listens");
        assert!(refused.contains("refused"), "{refused}");
    }

    #[tokio::test]
    async fn a_page_is_right_by_its_status_code() {
        for (code, expected) in [
            ("200 OK", Ok(())),
            ("204 No Content", Ok(())),
            ("500 Internal Server Error", Err("answered with 500".to_owned())),
            ("302 Found", Err("answered with 302".to_owned())),
        ] {
            let (listener, address) = listener().await;
            let text = format!("HTTP/1.1 {code}\r\n\r\n");
            let serving = async {
                let (stream, _) = listener.accept().await.expect("a client");
                answer(stream, &text).await
            };
            let asking = outcome(Probe::Http(page(address.port(), false)), SOON);
            let (asked, found) = tokio::join!(serving, asking);
            assert_eq!(found, expected);
            assert!(asked.starts_with("GET /health?full HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains(&format!("host: localhost:{}\r\n", address.port())), "{asked}");
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_or_nonsense_fails() {
        let (listener, address) = listener().await;
        let probe = || Probe::Http(page(address.port(), false));
        let silent = outcome(probe(), Duration::from_millis(200)).await;
        assert_eq!(silent, Err("no answer within 200ms".into()));
        let (_hung, _) = listener.accept().await.expect("the client was there");
        let serving = async {
            let (stream, _) = listener.accept().await.expect("a client");
            answer(stream, "220 mail.example.com\r\n").await
        };
        let (_, found) = tokio::join!(serving, outcome(probe(), SOON));
        assert!(found.is_err(), "{found:?}");
    }

    #[tokio::test]
    async fn a_certificate_must_be_trusted_unless_the_file_says_otherwise() {
        for verify in [true, false] {
            let (listener, address) = listener().await;
            let serving = async {
                let (stream, _) = listener.accept().await.expect("a client");
                match tls::tests::acceptor().accept(stream).await {
                    Ok(stream) => Some(answer(stream, "HTTP/1.1 200 OK\r\n\r\n").await),
                    Err(_alert) => None,
                }
            };
            let probe = Probe::Http(HttpProbe { verify, ..page(address.port(), true) });
            let (asked, found) = tokio::join!(serving, outcome(probe, SOON));
            assert_eq!((asked.is_some(), found.is_ok()), (!verify, !verify), "{found:?}");
        }
    }

    #[tokio::test]
    async fn a_file_is_there_or_is_not() {
        let path = std::env::temp_dir().join(format!("vipfarm-probe-{}", std::process::id()));
        let file = |present| Probe::File { path: path.clone(), present };
        assert_eq!(outcome(file(false), SOON).await, Ok(()));
        assert_eq!(outcome(file(true), SOON).await, Err("it is not there".into()));
        std::fs::write(&path, "").expect("writable");
        let found = (outcome(file(true), SOON).await, outcome(file(false), SOON).await);
        std::fs::remove_file(&path).expect("it was written");
        assert_eq!(found, (Ok(()), Err("it is there".into())));
    }

    #[tokio::test]
    async fn an_interface_is_found_by_its_name() {
        assert_eq!(outcome(Probe::Interface("lo".into()), SOON).await, Ok(()));
        let none = outcome(Probe::Interface("none0".into()), SOON).await;
        assert_eq!(none, Err("there is no such interface".into()));
    }
}
