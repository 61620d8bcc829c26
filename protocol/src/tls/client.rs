//! The side that connects: whom it trusts, what it shows, and the connection below a tonic channel. Called by `remote`.
//!
//! An address that begins with `http` gets a plain connection, one with `https` gets TLS; neither is tried in place of the other.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::{ServiceExt, service_fn};

use super::names::NamedServer;
use super::{ChannelBinding, HTTP2, Identity, PeerNames, TlsError, VERSIONS, provider, read_authorities};
use crate::limits::CONNECT_TIMEOUT;

/// Whom to trust, and what to show. By default the authorities that the system trusts, or those of the environment's `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`, and nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// PEM file of the authorities to trust, in place of the system's.
    pub ca: Option<PathBuf>,
    /// What is shown to a server that asks for a certificate.
    pub identity: Option<Identity>,
    /// Whom a server's certificate must be for. Empty: for the host that was connected to.
    pub names: PeerNames,
}

/// The TLS connection below a channel, as it is now: the channel may connect again, and then has another one.
#[derive(Debug, Clone, Default)]
pub struct Bound(Arc<ArcSwapOption<ChannelBinding>>);

impl Bound {
    /// What stands for the connection; `None` if there is no TLS.
    pub fn binding(&self) -> Option<ChannelBinding> {
        self.0.load().as_deref().copied()
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What bytes go through, plain or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl ClientTls {
    /// Reads the files, which nothing is connected to for.
    ///
    /// # Errors
    /// What is wrong with them. That the system trusts nobody is none, as long as no file is named.
    pub fn check(&self) -> Result<(), TlsError> {
        match self.config() {
            Err(TlsError::NoAuthorities { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Connects to `endpoint`, by TLS if its address begins with `https`. The files are read then, and whenever the channel connects again.
    ///
    /// # Errors
    /// What kept it from connecting; [`TlsError::behind`] finds what was wrong with TLS.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        Ok(self.connect_bound(endpoint).await?.0)
    }

    /// [`ClientTls::connect`], with what binds a signature to the connection.
    ///
    /// # Errors
    /// As those of [`ClientTls::connect`].
    pub async fn connect_bound(
        &self,
        endpoint: &Endpoint,
    ) -> Result<(Channel, Bound), tonic::transport::Error> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let (tls, bound) = (self.clone(), Bound::default());
        let binding = bound.clone();
        let connect = service_fn(move |address: Uri| {
            let (connector, tls, binding) = (connector.clone(), tls.clone(), binding.clone());
            async move {
                let tcp = connector.oneshot(address.clone()).await?.into_inner();
                let stream: Box<dyn Stream> = match address.scheme_str() {
                    Some("https") => {
                        let stream = tls.handshake(&address, tcp).await?;
                        let here = ChannelBinding::of(stream.get_ref().get_ref().1)?;
                        binding.0.store(Some(Arc::new(here)));
                        Box::new(stream)
                    }
                    _ => Box::new(tcp),
                };
                Ok::<_, BoxError>(TokioIo::new(stream))
            }
        });
        Ok((endpoint.connect_with_connector(connect).await?, bound))
    }

    /// Makes TLS of a connection to the server at `address`.
    async fn handshake(
        self,
        address: &Uri,
        tcp: TcpStream,
    ) -> Result<BufReader<TlsStream<TcpStream>>, BoxError> {
        let host = address.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let name = ServerName::try_from(host.clone())
            .map_err(|_| TlsError::Handshake { what: format!("no certificate can be for `{host}`") })?;
        let (config, asked) = tokio::task::spawn_blocking(move || self.config()).await??;
        let connector = TlsConnector::from(Arc::new(config));
        let failed = |error: io::Error| TlsError::of_client(&error, asked.shown());
        let stream = connector.connect(name, tcp).await.map_err(failed)?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(TlsError::NoHttp2.into());
        }
        let mut stream = BufReader::new(stream);
        // In TLS 1.3 a client is done before the server has seen its certificate: what it thinks of that is its first word. A server of
        // HTTP/2 speaks unasked.
        if asked.shown().is_some() && stream.fill_buf().await.map_err(failed)?.is_empty() {
            return Err(TlsError::Handshake { what: "the server closed the connection".to_owned() }.into());
        }
        Ok(stream)
    }

    /// What the files say now, for one connection.
    fn config(&self) -> Result<(ClientConfig, Arc<Asked>), TlsError> {
        let roots = match &self.ca {
            Some(file) => read_authorities(file)?,
            None => system_authorities()?,
        };
        let key = self.identity.as_ref().map(Identity::read).transpose()?;
        let asked = Arc::new(Asked { key: key.map(Arc::new), is_asked: AtomicBool::new(false) });
        let versions = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS);
        let versions = versions.map_err(|error| TlsError::Handshake { what: error.to_string() })?;
        let versions = match self.names.is_empty() {
            true => versions.with_root_certificates(roots),
            false => versions
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(NamedServer::new(roots, self.names.clone()))),
        };
        let mut config = versions.with_client_cert_resolver(asked.clone() as Arc<_>);
        config.alpn_protocols = vec![HTTP2.to_vec()];
        // It is for one connection.
        config.resumption = Resumption::disabled();
        Ok((config, asked))
    }
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let what = if errors.is_empty() { "none was found".to_owned() } else { errors.join(", ") };
        return Err(TlsError::NoAuthorities { what });
    }
    Ok(roots)
}

/// What is shown to a server that asks, and whether it did.
#[derive(Debug)]
struct Asked {
    key: Option<Arc<CertifiedKey>>,
    is_asked: AtomicBool,
}

impl Asked {
    /// Whether a certificate was shown, if the server asked for one.
    fn shown(&self) -> Option<bool> {
        self.is_asked.load(Ordering::Acquire).then_some(self.key.is_some())
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.is_asked.store(true, Ordering::Release);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
