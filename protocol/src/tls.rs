//! TLS, for whoever serves and whoever connects: certificates and keys from PEM files, and the words for what is wrong with them.
//!
//! The one idea: what is named is files, and a new connection goes by what they hold then. A server reads them when it is told to
//! ([`ServerTls::reread`]), a client each time it connects. There is one set of rules for every port and every remote: TLS 1.3 or 1.2,
//! HTTP/2, and the cryptography of `aws-lc-rs`, whatever the process's default is.

mod client;
mod names;
mod server;

use std::error::Error as StdError;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ConnectionCommon, Error as RustlsError, InconsistentKeys,
    RootCertStore, SupportedProtocolVersion,
};

use crate::limits::PEM_BYTES_MAX;

pub use client::{Bound, ClientTls};
pub use names::PeerNames;
pub use server::{Connection, ConnectionInfo, Incoming, ServerTls};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// The name of HTTP/2 in a handshake.
const HTTP2: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What stands for one TLS connection and no other, the same on both of its sides (RFC 9266, `tls-exporter`): signed along, it makes a
/// signature worthless on any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding(pub [u8; 32]);

impl ChannelBinding {
    fn of<Side>(connection: &ConnectionCommon<Side>) -> Result<ChannelBinding, TlsError> {
        let binding = connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]));
        binding.map(ChannelBinding).map_err(|error| TlsError::Handshake { what: error.to_string() })
    }
}

/// A certificate and its key, in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, followed by those that lead from it to an authority's.
    pub cert: PathBuf,
    /// Its key, not encrypted.
    pub key: PathBuf,
}

impl Identity {
    fn read(&self) -> Result<CertifiedKey, TlsError> {
        let chain = read_certificates(&self.cert)?;
        let key = read_key(&self.key)?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => wrong_file(
                &self.key,
                format!("this key is not that of the first certificate in {}", self.cert.display()),
                "name the two that were made together, the server's certificate before its authority's",
            ),
            RustlsError::InvalidCertificate(_) => {
                wrong_file(&self.cert, format!("the first certificate cannot be read: {error}"), ASK_AGAIN)
            }
            _ => wrong_file(
                &self.key,
                format!("the key cannot be used: {error}"),
                "make one of ECDSA, Ed25519, or RSA of 2048 bits or more",
            ),
        })
    }
}

const ASK_AGAIN: &str = "ask its authority for another one, in PEM";

/// Reads every certificate of a file, of which there is at least one.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read_file(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| wrong_file(path, format!("no PEM: {error}"), ASK_AGAIN))?;
    if found.is_empty() {
        let what = "there is no certificate in it: expected -----BEGIN CERTIFICATE-----".to_owned();
        return Err(wrong_file(path, what, "name a file of certificates in PEM"));
    }
    Ok(found)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read_file(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let is_encrypted = bytes.windows(9).any(|word| word == b"ENCRYPTED");
        match is_encrypted {
            true => wrong_file(path, "the key is encrypted".to_owned(), "store it without a passphrase"),
            false => {
                wrong_file(path, format!("there is no key in it ({error})"), "name a file with a key in PEM")
            }
        }
    })
}

/// The authorities of a file, and no others.
fn read_authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| {
            wrong_file(path, format!("a certificate in it cannot be read: {error}"), ASK_AGAIN)
        })?;
    }
    Ok(roots)
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(length) if length as u64 > PEM_BYTES_MAX => {
            let what = format!("larger than {PEM_BYTES_MAX} bytes");
            Err(wrong_file(path, what, "name a file of certificates or keys in PEM"))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(wrong_file(path, error.to_string(), "name an existing file that may be read here")),
    }
}

fn wrong_file(path: &Path, what: String, advice: &'static str) -> TlsError {
    TlsError::BadFile { path: path.to_owned(), what, advice }
}

/// Why there is no TLS, or no connection by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file of certificates or keys is not what it must be.
    #[error("{}: {what}; {advice}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// This system trusts nobody.
    #[error(
        "this system has no certificates of authorities ({what}); install them, or name a file of those to trust"
    )]
    NoAuthorities {
        /// What was found.
        what: String,
    },
    /// The server's certificate leads to no authority that is trusted.
    #[error(
        "no authority that is trusted here issued the server's certificate; correct the address, or name the file of \
         the authority to trust"
    )]
    UnknownAuthority,
    /// The server's certificate held until some time ago.
    #[error("the server's certificate expired {} ago; renew it there, or correct the clock here", roughly(*.ago))]
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// The server's certificate does not hold yet.
    #[error("the server's certificate holds only in {}; correct the clock here or there", roughly(*.ahead))]
    NotYetValid {
        /// In how long it does.
        ahead: Duration,
    },
    /// The server's certificate is another's.
    #[error("the server's certificate is for {}, not for {expected}; use a name that it is for", names.join(", "))]
    OtherName {
        /// The name that was connected to.
        expected: String,
        /// The names in the certificate.
        names: Vec<String>,
    },
    /// Something else is wrong with the server's certificate.
    #[error("the server's certificate is not accepted: {what}; have another one made for it")]
    BadCertificate {
        /// What is wrong.
        what: String,
    },
    /// The server lets nobody in without a certificate.
    #[error(
        "the server asks for a certificate; show it one, and its key, that an authority of the server's issued"
    )]
    CertificateWanted,
    /// The server does not take the certificate that it was shown.
    #[error(
        "the server does not accept our certificate: {what}; show it one that an authority of the server's issued"
    )]
    CertificateRefused {
        /// The server's reason.
        what: String,
    },
    /// The address began with `https`, and the server does not speak TLS.
    #[error("the server does not speak TLS; write http:// in place of https://, or have it serve TLS")]
    NotTls,
    /// The address began with `http`, and the server speaks TLS.
    #[error("the server speaks TLS; write https:// in place of http://")]
    NotPlain,
    /// What speaks TLS there does not speak HTTP/2.
    #[error("the server speaks TLS, but no HTTP/2: it is no Pleach server; correct the address")]
    NoHttp2,
    /// The handshake failed otherwise.
    #[error("no TLS connection came about: {what}; check that a Pleach server runs there, and its log")]
    Handshake {
        /// What was said last.
        what: String,
    },
}

impl TlsError {
    /// Whether it is about what was given here, rather than about the peer or the way to it.
    pub fn is_input(&self) -> bool {
        matches!(self, TlsError::BadFile { .. } | TlsError::NoAuthorities { .. })
    }

    /// The one that is behind an error of a connection or a call, if one is.
    pub fn behind(error: &(dyn StdError + 'static)) -> Option<TlsError> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<TlsError>() {
                return Some(found.clone());
            }
            // How this crate's servers answer who does not speak TLS.
            let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
            if reason == Some(h2::Reason::INADEQUATE_SECURITY) {
                return Some(TlsError::NotPlain);
            }
            cause = error.source();
        }
        None
    }

    /// What a client's handshake, or the first word after it, failed of. `shown`: whether the server asked for a certificate, and was
    /// shown one.
    fn of_client(error: &std::io::Error, shown: Option<bool>) -> TlsError {
        let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>()) else {
            return TlsError::Handshake { what: error.to_string() };
        };
        match (cause, shown) {
            (RustlsError::InvalidCertificate(error), _) => TlsError::of_certificate(error),
            (RustlsError::InvalidMessage(_), _) => TlsError::NotTls,
            (RustlsError::NoApplicationProtocol, _)
            | (RustlsError::AlertReceived(AlertDescription::NoApplicationProtocol), _) => TlsError::NoHttp2,
            (RustlsError::AlertReceived(AlertDescription::CertificateRequired), _)
            | (RustlsError::AlertReceived(AlertDescription::HandshakeFailure), Some(false)) => {
                TlsError::CertificateWanted
            }
            (RustlsError::AlertReceived(alert), Some(true)) => {
                TlsError::CertificateRefused { what: alert_words(*alert) }
            }
            (RustlsError::AlertReceived(alert), _) => TlsError::Handshake { what: alert_words(*alert) },
            (error, _) => TlsError::Handshake { what: error.to_string() },
        }
    }

    fn of_certificate(error: &CertificateError) -> TlsError {
        let between =
            |from: &UnixTime, to: &UnixTime| Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()));
        match error {
            CertificateError::UnknownIssuer => TlsError::UnknownAuthority,
            CertificateError::ExpiredContext { time, not_after } => {
                TlsError::Expired { ago: between(not_after, time) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                TlsError::NotYetValid { ahead: between(time, not_before) }
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                TlsError::OtherName { expected: expected.to_str().into_owned(), names: names(presented) }
            }
            CertificateError::Other(other) if let Some(known) = other.0.downcast_ref::<TlsError>() => {
                known.clone()
            }
            other => TlsError::BadCertificate {
                what: match other.to_string() {
                    is_authority if is_authority.contains("CaUsedAsEndEntity") => {
                        "it is that of an authority (CA:TRUE), which no server's may be".to_owned()
                    }
                    other => other,
                },
            },
        }
    }
}

/// The names of a certificate, which come as `DnsName("a.example")` and `IpAddress(127.0.0.1)`.
fn names(presented: &[String]) -> Vec<String> {
    let name = |text: &String| {
        let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(text).trim_matches('"').to_owned()
    };
    match presented {
        [] => vec!["no name".to_owned()],
        names => names.iter().map(name).collect(),
    }
}

/// What a server says by an alert about a certificate.
fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "it was issued by no authority that the server trusts".to_owned(),
        AlertDescription::CertificateExpired => "it does not hold at this time".to_owned(),
        AlertDescription::CertificateRevoked => "it was revoked".to_owned(),
        AlertDescription::ProtocolVersion => "there is no version of TLS that both sides speak".to_owned(),
        other => format!("the server ended it ({other:?})"),
    }
}

/// A time in the largest unit of which it has two.
fn roughly(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
