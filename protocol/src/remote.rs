//! A remote: where another copy of a database is, and an open connection to it, or the place where its objects lie. Called by `client` and by whoever replicates.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Once};

use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::access::{Bearer, Credential};
use crate::databases::check_database_name;
use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::limits::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, KEEP_ALIVE, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES,
};
use crate::objects::{Directory, Objects};
use crate::packs::Place;
use crate::proto::sync_client::SyncClient;
use crate::tls::TlsError;

/// The URL of a remote. Displays as it was written, without a slash at the end.
///
/// ```text
/// https://HOST:PORT/DATABASE     a server, by TLS
/// http://HOST:PORT/DATABASE      a server, in the clear
/// file:///DIRECTORY              a directory, by its absolute path, as it is and without `..`
/// s3://BUCKET/PREFIX             a bucket of S3 or a server that speaks as it does; PREFIX may be left out
/// gs://BUCKET/PREFIX             of Google Cloud Storage
/// az://CONTAINER/PREFIX          of Azure
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    text: String,
    kind: Kind,
    /// What is shown to the server, and never as part of the URL.
    credential: Credential,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Server {
        /// The part before the database's name.
        server: String,
        database: String,
    },
    Directory(PathBuf),
    Bucket {
        cloud: Cloud,
        bucket: String,
        /// Empty, or ends with a slash.
        prefix: String,
    },
}

/// Whose buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cloud {
    S3,
    Google,
    Azure,
}

impl RemoteUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`Error::BadUrl`] says what is supported.
    pub fn parse(url: &str) -> Result<RemoteUrl> {
        let text = url.strip_suffix('/').unwrap_or(url);
        let kind = match text.split_once("://") {
            Some((scheme @ ("https" | "http"), rest)) => server(scheme, rest),
            Some(("file", rest)) => directory(rest),
            Some(("s3", rest)) => bucket(Cloud::S3, rest),
            Some(("gs", rest)) => bucket(Cloud::Google, rest),
            Some(("az", rest)) => bucket(Cloud::Azure, rest),
            Some((scheme, _)) => Err(format!("scheme `{scheme}` is not supported")),
            None => Err("it has no scheme".to_owned()),
        };
        let kind = kind.map_err(|what| Error::BadUrl { url: url.to_owned(), what })?;
        Ok(RemoteUrl { text: text.to_owned(), kind, credential: Credential::default() })
    }

    /// The same, with what to show to the server.
    #[must_use]
    pub fn with_credential(self, credential: Credential) -> RemoteUrl {
        RemoteUrl { credential, ..self }
    }

    /// The server's `HOST:PORT`, or `HOST`; `None` if it is no server.
    pub fn host(&self) -> Option<&str> {
        match &self.kind {
            Kind::Server { server, .. } => server.split_once("://").map(|(_, authority)| authority),
            Kind::Directory(_) | Kind::Bucket { .. } => None,
        }
    }

    /// The name of the database on the server; else the last part of the path, which is a name as good as any.
    pub fn database(&self) -> &str {
        match &self.kind {
            Kind::Server { database, .. } => database,
            Kind::Directory(_) | Kind::Bucket { .. } => self.text.rsplit('/').next().unwrap_or_default(),
        }
    }
}

type OrWhy<T> = std::result::Result<T, String>;

fn server(scheme: &str, rest: &str) -> OrWhy<Kind> {
    let (authority, database) = rest.split_once('/').ok_or("it names no database")?;
    check_database_name(database).map_err(|error| error.to_string())?;
    let server = format!("{scheme}://{authority}");
    let good = tonic::transport::Uri::from_str(&server)
        .is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    if !good || authority.contains('@') {
        return Err(format!("expected HOST or HOST:PORT after {scheme}://"));
    }
    Ok(Kind::Server { server, database: database.to_owned() })
}

fn directory(path: &str) -> OrWhy<Kind> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err("expected an absolute path without `..` after file://".to_owned());
    }
    Ok(Kind::Directory(PathBuf::from(path)))
}

fn bucket(cloud: Cloud, rest: &str) -> OrWhy<Kind> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if rest.contains('@') {
        return Err("credentials do not belong into a URL: they come from the environment".to_owned());
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if bucket.is_empty() || !bucket.chars().all(good) {
        return Err("expected the name of a bucket after ://".to_owned());
    }
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(good);
    if !prefix.is_empty() && !prefix.split('/').all(is_part) {
        return Err(
            "expected a prefix of letters, digits, `.`, `_`, `-`, with single slashes between".to_owned()
        );
    }
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    Ok(Kind::Bucket { cloud, bucket: bucket.to_owned(), prefix })
}

impl FromStr for RemoteUrl {
    type Err = Error;

    fn from_str(url: &str) -> Result<RemoteUrl> {
        RemoteUrl::parse(url)
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An open connection to a remote. Cheap to clone; transfers at the same time share it.
#[derive(Debug, Clone)]
pub struct Remote {
    url: RemoteUrl,
    link: Link,
    flow: Flow,
}

#[derive(Debug, Clone)]
enum Link {
    Server(Channel),
    Place(Place),
}

impl Remote {
    /// Connects to a server. A directory or bucket is only looked at by the first transfer.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if nobody answers within [`CONNECT_TIMEOUT`]; [`Error::Tls`]; [`Error::BadUrl`] for a bucket, if this was built without the
    /// feature `object-stores`.
    pub async fn connect(url: &RemoteUrl) -> Result<Remote> {
        match &url.kind {
            Kind::Server { server, .. } => {
                let text = url.to_string();
                let endpoint = endpoint(server).map_err(|error| unreachable(&text, &error))?;
                let link = Link::Server(connect(&text, &endpoint, &url.credential).await?);
                Ok(Remote { url: url.clone(), link, flow: Flow::default() })
            }
            Kind::Directory(path) => Ok(Remote::at(url, Arc::new(Directory::new(path)))),
            Kind::Bucket { cloud, bucket, prefix } => {
                Ok(Remote::at(url, open_bucket(url, *cloud, bucket, prefix)?))
            }
        }
    }

    /// A remote in a place of the caller's own, whatever `url`, which is for messages, says.
    pub fn at(url: &RemoteUrl, objects: Arc<dyn Objects>) -> Remote {
        let link = Link::Place(Place { url: url.to_string(), objects, flow: Flow::default() });
        Remote { url: url.clone(), link, flow: Flow::default() }
    }

    /// The server that a channel leads to, whatever `url`, which is for messages and the name of the database, says.
    pub(crate) fn over(url: &RemoteUrl, channel: Channel) -> Remote {
        Remote { url: url.clone(), link: Link::Server(channel), flow: Flow::default() }
    }

    /// The same connection, for transfers that are watched and limited as `flow` says.
    #[must_use]
    pub fn with_flow(self, flow: Flow) -> Remote {
        let link = match self.link {
            Link::Place(place) => {
                Link::Place(Place { objects: flow.over(place.objects), flow: flow.clone(), ..place })
            }
            server @ Link::Server(_) => server,
        };
        Remote { link, flow, ..self }
    }

    /// How its transfers are watched and limited.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Where it is.
    pub fn url(&self) -> &RemoteUrl {
        &self.url
    }

    /// Its objects, if it is no server.
    pub fn objects(&self) -> Option<Arc<dyn Objects>> {
        self.place().map(|place| place.objects.clone())
    }

    /// Where its objects lie, if it is no server.
    pub(crate) fn place(&self) -> Option<&Place> {
        match &self.link {
            Link::Server(_) => None,
            Link::Place(place) => Some(place),
        }
    }

    /// A client of the server that it is.
    pub(crate) fn client(&self) -> Result<SyncClient<InterceptedService<Channel, Bearer>>> {
        let bearer = Bearer::new(self.url.credential.token.clone());
        match &self.link {
            Link::Server(channel) => Ok(SyncClient::with_interceptor(channel.clone(), bearer)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)),
            Link::Place(place) => Err(Error::protocol(format!("{} is no server", place.url))),
        }
    }

    /// What a gRPC status means here.
    pub(crate) fn error(&self, status: Status) -> Error {
        let url = self.url.to_string();
        if let Some(cause) = std::error::Error::source(&status) {
            // No answer of the server, but of the transport below.
            return unreachable(&url, cause);
        }
        let what = status.message().to_owned();
        match status.code() {
            Code::NotFound => Error::UnknownDatabase { url },
            Code::PermissionDenied => Error::NotAllowed { url, what },
            Code::Unauthenticated => Error::NotAUser { url, what },
            Code::Unavailable => Error::Unreachable { url, what },
            code => Error::Refused { url, code, what },
        }
    }
}

/// Connects to the server at `endpoint`; `url` is what it is called in messages.
///
/// # Errors
/// [`Error::Unreachable`] if nobody answers within [`CONNECT_TIMEOUT`]; [`Error::Tls`].
pub async fn connect(url: &str, endpoint: &Endpoint, credential: &Credential) -> Result<Channel> {
    if credential.token.is_some() && is_in_the_clear(endpoint) {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            tracing::warn!("the token for {url} travels in the clear: whoever sees it can use it; have the server serve https://");
        });
    }
    credential.tls.connect(endpoint).await.map_err(|error| unreachable(url, &error))
}

/// Whether others on the way can read what is sent there.
fn is_in_the_clear(endpoint: &Endpoint) -> bool {
    let uri = endpoint.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback());
    uri.scheme_str() != Some("https") && !is_here
}

/// What kept us from the server at `url`.
fn unreachable(url: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    let url = url.to_owned();
    match TlsError::behind(error) {
        Some(error) => Error::Tls { url, error },
        None => Error::Unreachable { url, what: root_cause(error) },
    }
}

/// Where to connect to the server `http://HOST:PORT` or `https://HOST:PORT`, with the windows and time limits that the exchange needs.
///
/// # Errors
/// If it is no such URL.
pub fn endpoint(server: &str) -> std::result::Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(server.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

#[cfg(feature = "object-stores")]
fn open_bucket(url: &RemoteUrl, cloud: Cloud, bucket: &str, prefix: &str) -> Result<Arc<dyn Objects>> {
    crate::objects::open_bucket(&url.to_string(), cloud, bucket, prefix)
}

#[cfg(not(feature = "object-stores"))]
fn open_bucket(url: &RemoteUrl, _: Cloud, _: &str, _: &str) -> Result<Arc<dyn Objects>> {
    Err(Error::BadUrl {
        url: url.to_string(),
        what: "this program was built without object stores".to_owned(),
    })
}

/// The innermost cause of an error: "connection refused" rather than "transport error".
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_url_is_a_server_and_a_database() {
        let url = RemoteUrl::parse("http://127.0.0.1:7420/shop/").unwrap();
        let kind = Kind::Server { server: "http://127.0.0.1:7420".into(), database: "shop".into() };
        assert_eq!((&url.kind, url.database()), (&kind, "shop"));
        assert_eq!(url.to_string(), "http://127.0.0.1:7420/shop");
        let url = RemoteUrl::parse("https://db.example/shop").unwrap();
        let kind = Kind::Server { server: "https://db.example".into(), database: "shop".into() };
        assert_eq!((&url.kind, url.host()), (&kind, Some("db.example")));
    }

    #[test]
    fn what_leaves_this_machine_by_http_is_in_the_clear() {
        for (url, expected) in [
            ("http://db.example:1", true),
            ("http://10.0.0.1:1", true),
            ("http://[2001:db8::1]:1", true),
            ("https://db.example:1", false),
            ("http://localhost:1", false),
            ("http://127.0.0.2:1", false),
            ("http://[::1]:1", false),
        ] {
            assert_eq!(is_in_the_clear(&endpoint(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn a_url_can_be_a_directory_or_a_part_of_a_bucket() {
        let url = RemoteUrl::parse("file:///a/b c/").unwrap();
        assert_eq!((&url.kind, url.database()), (&Kind::Directory("/a/b c".into()), "b c"));
        for (text, cloud, bucket, prefix, name) in [
            ("s3://b.1/a/shop", Cloud::S3, "b.1", "a/shop/", "shop"),
            ("gs://bucket", Cloud::Google, "bucket", "", "bucket"),
            ("az://c/x/", Cloud::Azure, "c", "x/", "x"),
        ] {
            let url = RemoteUrl::parse(text).unwrap();
            let kind = Kind::Bucket { cloud, bucket: bucket.into(), prefix: prefix.into() };
            assert_eq!((&url.kind, url.database()), (&kind, name));
        }
    }

    #[test]
    fn what_is_no_remote_is_refused_with_what_is_supported() {
        for url in [
            "",
            "shop",
            "s3://",
            "s3:///shop",
            "s3://key:secret@bucket/shop",
            "gs://bucket/a//b",
            "az://c/../b",
            "file://shop",
            "file:///a/../b",
            "ftp://host/shop",
            "http://host:1",
            "http:///shop",
            "http://host/",
            "http://h/A",
            "http://u@h/a",
            "https://host:1",
        ] {
            let error = RemoteUrl::parse(url).unwrap_err();
            assert!(error.to_string().contains("supported: http://HOST:PORT/DATABASE"), "{url}: {error}");
        }
    }
}
