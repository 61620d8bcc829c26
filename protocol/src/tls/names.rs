//! Whose certificate a server shows, where that is said by names in place of the host that was connected to. Called by `client`.
//!
//! The one idea: of the names that are said, one must be among those of the certificate, whichever stands first there. URIs, as of SPIFFE,
//! are compared as they are written; DNS names as everywhere, `*` in a certificate included.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{TlsError, provider};

/// Names of which a server's certificate must have one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

impl PeerNames {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.uris.is_empty()
    }

    /// Whether the certificate has one of these names.
    fn check(&self, certificate: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> Result<(), Error> {
        let is_for = |name: &String| {
            let name = ServerName::try_from(name.as_str());
            name.is_ok_and(|name| verify_server_name(parsed, &name).is_ok())
        };
        let names = alternative_names(certificate)?;
        let has_uri = names.iter().any(|name| matches!(name, Name::Uri(uri) if self.uris.contains(uri)));
        if has_uri || self.dns.iter().any(is_for) {
            return Ok(());
        }
        let expected = self.dns.iter().chain(&self.uris).cloned().collect::<Vec<_>>().join(" or ");
        let names: Vec<String> = names.into_iter().map(Name::text).collect();
        let names = if names.is_empty() { vec!["no name".to_owned()] } else { names };
        let other = OtherError(Arc::new(TlsError::OtherName { expected, names }));
        Err(Error::InvalidCertificate(CertificateError::Other(other)))
    }
}

/// A subject alternative name.
enum Name {
    Uri(String),
    Other(String),
}

impl Name {
    fn text(self) -> String {
        match self {
            Name::Uri(text) | Name::Other(text) => text,
        }
    }
}

fn alternative_names(certificate: &CertificateDer<'_>) -> Result<Vec<Name>, Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    let Some(names) = certificate.subject_alternative_name().map_err(|_| bad())? else {
        return Ok(Vec::new());
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Name::Uri((*uri).to_owned()),
        GeneralName::DNSName(name) => Name::Other((*name).to_owned()),
        other => Name::Other(other.to_string()),
    };
    Ok(names.value.general_names.iter().map(name).collect())
}

/// Lets a server in whose certificate an authority of `roots` issued for one of `names`.
#[derive(Debug)]
pub(super) struct NamedServer {
    roots: RootCertStore,
    names: PeerNames,
    algorithms: WebPkiSupportedAlgorithms,
}

impl NamedServer {
    pub(super) fn new(roots: RootCertStore, names: PeerNames) -> NamedServer {
        NamedServer { roots, names, algorithms: provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for NamedServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        self.names.check(certificate, &parsed)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
