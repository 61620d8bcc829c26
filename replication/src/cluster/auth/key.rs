//! The key of a node: an Ed25519 key in a file of its own, and the fingerprint by which other nodes know it.
//!
//! The file is PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` makes it. A node that finds none makes one, readable by its owner
//! alone, whole and durable before it is used. The fingerprint is the thumbprint of RFC 7638: the SHA-256 of the public key as a JSON Web
//! Key, in base64url; it is also the `kid` under which the key is published.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use crate::error::{Error, Result};
use crate::limits::KEY_FILE_BYTES_MAX;

/// What a key is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// One that arrived as bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Fingerprint> {
        bytes.try_into().ok().map(Fingerprint)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Fingerprint, String> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Fingerprint::from_bytes(&bytes));
        bytes.ok_or_else(|| {
            format!("expected a fingerprint, 43 characters as `cluster status` of that node shows it, found `{text}`")
        })
    }
}

/// The public half of a node's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublicKey([u8; PublicKey::LEN]);

impl PublicKey {
    pub(crate) const LEN: usize = 32;

    /// One that arrived as bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<PublicKey> {
        bytes.try_into().ok().map(PublicKey)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The `x` of its JSON Web Key.
    pub(crate) fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The key whose JSON Web Key has this `x`.
    pub(crate) fn from_x(x: &str) -> Option<PublicKey> {
        URL_SAFE_NO_PAD.decode(x).ok().and_then(|bytes| PublicKey::from_bytes(&bytes))
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        // RFC 7638 says these members, in this order, without space; RFC 8037 says which they are for this kind of key.
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, members.as_bytes()).as_ref());
        Fingerprint(fingerprint)
    }

    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

/// A node's key.
pub struct NodeKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
    fingerprint: Fingerprint,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.fingerprint)
    }
}

impl NodeKey {
    /// Reads the key in the file `path`; makes it if there is no such file.
    ///
    /// # Errors
    /// [`Error::BadKey`] if the file holds anything else, [`Error::Io`].
    pub fn open(path: &Path) -> Result<NodeKey> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let read = File::open(path).and_then(|file| {
            let mode = file.metadata()?.permissions().mode();
            let mut bytes = Vec::new();
            file.take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            Ok((bytes, mode))
        });
        match read {
            Ok((bytes, mode)) => {
                let key = NodeKey::parse(&bytes);
                let key = key.map_err(|what| Error::BadKey { path: path.to_owned(), what })?;
                if mode & 0o007 != 0 {
                    tracing::warn!("others may read this node's key in {}: `chmod o-rwx` it", path.display());
                }
                Ok(key)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pair = Ed25519KeyPair::generate().map_err(|_| io(io::Error::other("no random bytes")))?;
                let der = pair.to_pkcs8v1().map_err(|_| io(io::Error::other("the key has no encoding")))?;
                write(path, &pem(der.as_ref())).map_err(io)?;
                tracing::info!("a key was made for this node: {}", path.display());
                Ok(NodeKey::of(pair)?)
            }
            Err(error) => Err(io(error)),
        }
    }

    fn parse(bytes: &[u8]) -> Result<NodeKey, String> {
        if bytes.len() as u64 > KEY_FILE_BYTES_MAX {
            return Err(format!("larger than {KEY_FILE_BYTES_MAX} bytes"));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(bytes).map_err(|error| error.to_string())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        let pair = pair.map_err(|rejected| format!("it is no Ed25519 key ({rejected})"))?;
        NodeKey::of(pair).map_err(|error| error.to_string())
    }

    fn of(pair: Ed25519KeyPair) -> Result<NodeKey> {
        let public = PublicKey::from_bytes(pair.public_key().as_ref());
        let public = public.ok_or_else(|| Error::Lost { what: "a public key has 32 bytes".into() })?;
        Ok(NodeKey { pair, public, fingerprint: public.fingerprint() })
    }

    /// What other nodes know it by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

/// Makes a file that holds `text` and that only its owner can read: at every moment it is whole, or not there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/node.pem");
        let made = NodeKey::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = NodeKey::open(&path).unwrap();
        assert_eq!(made.public(), read.public());
        assert!(read.public().has_signed(b"message", &made.sign(b"message")));
        assert!(!read.public().has_signed(b"another", &made.sign(b"message")));
        assert!(!format!("{made:?}").contains(&STANDARD.encode(fs::read(&path).unwrap())));
    }

    #[test]
    fn what_is_left_of_a_crash_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pem");
        fs::write(dir.path().join("node.pem.new"), "half").unwrap();
        assert!(NodeKey::open(&path).is_ok());
        assert!(!dir.path().join("node.pem.new").exists());
    }

    #[test]
    fn a_file_that_holds_no_ed25519_key_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pem");
        // An ECDSA key.
        let ecdsa = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2\nOF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r\n1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G\n-----END PRIVATE KEY-----\n";
        for text in ["", "no PEM", ecdsa, &"x".repeat(70_000)] {
            fs::write(&path, text).unwrap();
            assert!(matches!(NodeKey::open(&path), Err(Error::BadKey { .. })), "{text:.20}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_fingerprint_is_the_thumbprint_of_rfc_7638() {
        // The key of RFC 8037, appendix A.3.
        let key = PublicKey::from_x("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let fingerprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        assert_eq!(key.fingerprint().to_string(), fingerprint);
        assert_eq!(fingerprint.parse(), Ok(key.fingerprint()));
        for wrong in ["", "kPrK", &fingerprint[1..], "kPrK/qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"] {
            assert!(wrong.parse::<Fingerprint>().unwrap_err().contains("43 characters"), "{wrong}");
        }
    }
}
