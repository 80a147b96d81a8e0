//! Asking a running agent: one HTTP request a connection, over its control socket.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time};

use super::failure::Failure;
use crate::{
    agent::control::{ErrorBody, socket_path},
    cli::AgentAddress,
};

/// How long an agent may take to answer a question it need not wait for.
pub const PATIENCE: Duration = Duration::from_secs(5);

const HOW_TO_START: &str = "start one with `vipfarm agent -c FILE`";

/// One agent's control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The agent the operator means; nothing is sent yet.
    ///
    /// Without a name it is the only one of the directory: several are [`Failure::Usage`], none is
    /// [`Failure::NoAgent`].
    pub fn find(address: &AgentAddress) -> Result<Self, Failure> {
        let AgentAddress { run_dir, farm, socket } = address;
        let socket = match (socket, farm) {
            (Some(socket), _) => socket.clone(),
            (None, Some(farm)) => named(run_dir, farm)?,
            (None, None) => only(run_dir)?,
        };
        Ok(Self { socket })
    }

    /// Asks for `path` (with its query) and reads the answer, within `patience` in all.
    ///
    /// An agent that cannot be reached or does not answer is [`Failure::NoAgent`], a malformed
    /// question [`Failure::Usage`], any other refusal [`Failure::Refused`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<T, Failure> {
        self.ask(Method::GET, path, Bytes::new(), patience).await
    }

    /// As [`Client::get`], where the answer is no JSON but a text.
    pub async fn get_text(&self, path: &str, patience: Duration) -> Result<String, Failure> {
        let body = self.request(Method::GET, path, Bytes::new(), patience).await?;
        String::from_utf8(body.into()).map_err(|error| self.nonsense(&error.to_string()))
    }

    /// Sends `request` to `path` and reads the answer, otherwise as [`Client::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        patience: Duration,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(request)
            .map_err(|error| Failure::Usage(format!("cannot ask for {path}: {error}")))?;
        self.ask(Method::POST, path, body.into(), patience).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, Failure> {
        let body = self.request(method, path, body, patience).await?;
        serde_json::from_slice(&body).map_err(|error| self.nonsense(&error.to_string()))
    }

    /// The body of a good answer; every other is an error.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Failure> {
        let exchange = self.exchange(method, path, body);
        let (status, body) = match time::timeout(patience, exchange).await {
            Ok(outcome) => outcome?,
            Err(_elapsed) => {
                return Err(Failure::NoAgent(format!(
                    "the agent at {} does not answer within {patience:?}: it is stopped or overloaded",
                    self.socket.display()
                )));
            }
        };
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) if status == StatusCode::BAD_REQUEST => {
                Err(Failure::Usage(error))
            }
            Ok(ErrorBody { error }) => Err(Failure::Refused(error)),
            Err(_) => Err(self.nonsense(&format!("status {status}"))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let broken = |error: hyper::Error| {
            Failure::NoAgent(format!(
                "the agent at {} ended the conversation: {error}",
                self.socket.display()
            ))
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Carries the bytes; what goes wrong shows in the request below.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "vipfarm")
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::Usage(format!("cannot ask for {path}: {error}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        Ok((status, body))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound => Failure::NoAgent(format!(
                "no agent runs here: {socket} does not exist; {HOW_TO_START}"
            )),
            io::ErrorKind::ConnectionRefused => Failure::NoAgent(format!(
                "no agent runs here: nobody listens at {socket} any more; {HOW_TO_START}"
            )),
            io::ErrorKind::PermissionDenied => Failure::Refused(format!(
                "{socket}: permission denied; ask as root or as a member of the socket's group"
            )),
            _ => Failure::NoAgent(format!("cannot reach the agent at {socket}: {error}")),
        }
    }

    fn nonsense(&self, what: &str) -> Failure {
        Failure::Refused(format!(
            "the answer from {} is not an agent's of this version ({what}): is another vipfarm still running?",
            self.socket.display()
        ))
    }
}

fn named(run_dir: &Path, farm: &str) -> Result<PathBuf, Failure> {
    let farms = farms_in(run_dir)?;
    if farms.iter().any(|found| found == farm) {
        return Ok(socket_path(run_dir, farm));
    }
    let dir = run_dir.display();
    let found = if farms.is_empty() { "none".to_owned() } else { farms.join(", ") };
    Err(Failure::NoAgent(format!(
        "no agent of farm `{farm}` runs here (farms with a socket in {dir}: {found}); {HOW_TO_START}"
    )))
}

fn only(run_dir: &Path) -> Result<PathBuf, Failure> {
    let dir = run_dir.display();
    match &farms_in(run_dir)?[..] {
        [farm] => Ok(socket_path(run_dir, farm)),
        [] => Err(Failure::NoAgent(format!(
            "no agent runs here: there is no socket in {dir}; {HOW_TO_START}"
        ))),
        several => Err(Failure::Usage(format!(
            "several farms run here: {}; choose one with --farm NAME",
            several.join(", ")
        ))),
    }
}

/// The farms with a socket in the directory, by name; none where there is no directory.
fn farms_in(run_dir: &Path) -> Result<Vec<String>, Failure> {
    let unreadable = |error: io::Error| {
        Failure::Usage(format!("cannot look for agents in {}: {error}", run_dir.display()))
    };
    let entries = match fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut farms = Vec::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        farms.extend(name.to_str().and_then(|name| name.strip_suffix(".sock")).map(str::to_owned));
    }
    farms.sort();
    Ok(farms)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// A directory of the test's own, removed with the value.
    struct RunDir(PathBuf);

    impl RunDir {
        fn with_sockets_of(test: &str, farms: &[&str]) -> Self {
            let dir =
                std::env::temp_dir().join(format!("vipfarm-client-{test}-{}", std::process::id()));
            fs::create_dir_all(&dir).expect("a directory in the temporary one");
            for farm in farms {
                File::create(dir.join(format!("{farm}.sock"))).expect("a file in it");
            }
            Self(dir)
        }

        fn find(&self, farm: Option<&str>) -> Result<Client, Failure> {
            Client::find(&AgentAddress {
                run_dir: self.0.clone(),
                farm: farm.map(Into::into),
                socket: None,
            })
        }
    }

    impl Drop for RunDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_only_socket_needs_no_name() {
        let dir = RunDir::with_sockets_of("only", &["web"]);
        assert_eq!(dir.find(None).expect("one farm").socket, dir.0.join("web.sock"));
        assert_eq!(dir.find(Some("web")).expect("by name").socket, dir.0.join("web.sock"));
    }

    #[test]
    fn of_several_farms_the_operator_must_choose() {
        let dir = RunDir::with_sockets_of("several", &["web", "dns"]);
        let Err(Failure::Usage(reason)) = dir.find(None) else { panic!("a choice was made") };
        assert_eq!(reason, "several farms run here: dns, web; choose one with --farm NAME");
        assert_eq!(dir.find(Some("dns")).expect("named").socket, dir.0.join("dns.sock"));
    }

    #[test]
    fn a_farm_that_does_not_run_here_is_answered_with_those_that_do() {
        let dir = RunDir::with_sockets_of("other", &["web"]);
        let Err(Failure::NoAgent(reason)) = dir.find(Some("dns")) else { panic!("found") };
        assert!(reason.contains("no agent of farm `dns`"), "{reason}");
        assert!(reason.contains(": web)"), "{reason}");
    }

    #[test]
    fn without_any_socket_the_error_says_how_to_start_an_agent() {
        let dir = RunDir::with_sockets_of("none", &[]);
        let Err(Failure::NoAgent(reason)) = dir.find(None) else { panic!("found") };
        assert!(reason.contains("vipfarm agent -c FILE"), "{reason}");
    }
}
