//! TLS for checks by HTTPS, with the authorities that this machine trusts.

use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use crate::agent::alone::Alone;

/// Wraps a connection to that host, whose certificate must be right if it is to be verified.
pub(super) async fn wrap(
    stream: TcpStream,
    host: &str,
    verify: bool,
    alone: &Alone,
) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let config = if verify { verifying(alone).await? } else { trusting()? };
    connect(stream, name, config).await
}

async fn connect(
    stream: TcpStream,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, String> {
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| error.to_string())
}

/// Read once: a machine that is to trust another authority needs its agent started anew.
async fn verifying(alone: &Alone) -> Result<Arc<ClientConfig>, String> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    // They may be on another machine, too.
    let loaded = alone.run(rustls_native_certs::load_native_certs).await?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        return Err("this machine trusts no authority for certificates: install its list (package ca-certificates), or write `verify: false`".into());
    }
    let config = verifying_by(roots)?;
    Ok(Arc::clone(CONFIG.get_or_init(|| config)))
}

fn verifying_by(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// For `verify: false`.
fn trusting() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes every certificate; the handshake must be right all the same.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::net::TcpListener;
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            ServerConfig,
            pki_types::{PrivateKeyDer, pem::PemObject},
        },
    };

    use super::*;

    /// A server for `localhost` with a certificate that nobody trusts.
    pub(in crate::agent::health) fn acceptor() -> TlsAcceptor {
        const PEM: &[u8] = include_bytes!("tls/localhost.pem");
        let certificate = CertificateDer::from_pem_slice(PEM).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(PEM).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions that the provider has")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("they belong together");
        TlsAcceptor::from(Arc::new(config))
    }

    #[tokio::test]
    async fn a_certificate_of_a_trusted_authority_is_taken_for_its_own_name_only() {
        const AUTHORITY: &[u8] = include_bytes!("tls/authority.pem");
        for (name, expected) in [("localhost", true), ("127.0.0.1", true), ("other.example", false)]
        {
            let mut roots = RootCertStore::empty();
            let authority = CertificateDer::from_pem_slice(AUTHORITY).expect("a certificate");
            roots.add(authority).expect("an authority");
            let config = verifying_by(roots).expect("versions that the provider has");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let serving = async {
                let (stream, _) = listener.accept().await.expect("a client");
                acceptor().accept(stream).await.is_ok()
            };
            let asking = async {
                let stream = TcpStream::connect(address).await.expect("it listens");
                connect(stream, ServerName::try_from(name).expect("a name"), config).await
            };
            let (served, connected) = tokio::join!(serving, asking);
            assert_eq!((served, connected.is_ok()), (expected, expected), "{name}: {connected:?}");
        }
    }
}
