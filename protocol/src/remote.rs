//! A remote: where another copy of a database is, and an open connection to it. Called by `client` and by whoever replicates.

use std::fmt;
use std::str::FromStr;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::databases::check_database_name;
use crate::error::{Error, Result};
use crate::limits::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, KEEP_ALIVE, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES,
};
use crate::proto::sync_client::SyncClient;

/// The URL of a remote: `http://HOST:PORT/DATABASE`. Displays as it was written, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    text: String,
    /// The part before the database's name.
    server: String,
    database: String,
}

impl RemoteUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`Error::BadUrl`] says what is supported.
    pub fn parse(url: &str) -> Result<RemoteUrl> {
        let bad = |what: &str| Error::BadUrl { url: url.to_owned(), what: what.to_owned() };
        let text = url.strip_suffix('/').unwrap_or(url);
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(bad(&format!("scheme `{scheme}` is not supported"))),
            None => return Err(bad("it has no scheme")),
        };
        let (authority, database) = rest.split_once('/').ok_or_else(|| bad("it names no database"))?;
        check_database_name(database).map_err(|error| bad(&error.to_string()))?;
        let server = format!("http://{authority}");
        let good = tonic::transport::Uri::from_str(&server)
            .is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        if !good || authority.contains('@') {
            return Err(bad("expected HOST or HOST:PORT after http://"));
        }
        Ok(RemoteUrl { text: text.to_owned(), server, database: database.to_owned() })
    }

    /// The name of the database on the server.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The server: `http://HOST:PORT`.
    pub fn server(&self) -> &str {
        &self.server
    }
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
    channel: Channel,
}

impl Remote {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if nobody answers within [`CONNECT_TIMEOUT`].
    pub async fn connect(url: &RemoteUrl) -> Result<Remote> {
        let unreachable = |error: &dyn std::error::Error| Error::Unreachable {
            url: url.to_string(),
            what: root_cause(error),
        };
        let endpoint = Endpoint::from_shared(url.server.clone())
            .map_err(|error| unreachable(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = endpoint.connect().await.map_err(|error| unreachable(&error))?;
        Ok(Remote { url: url.clone(), channel })
    }

    /// Where it is.
    pub fn url(&self) -> &RemoteUrl {
        &self.url
    }

    pub(crate) fn client(&self) -> SyncClient<Channel> {
        SyncClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// What a gRPC status means here.
    pub(crate) fn error(&self, status: Status) -> Error {
        let url = self.url.to_string();
        if let Some(cause) = std::error::Error::source(&status) {
            // No answer of the server, but of the transport below.
            return Error::Unreachable { url, what: root_cause(cause) };
        }
        let what = status.message().to_owned();
        match status.code() {
            Code::NotFound => Error::UnknownDatabase { url },
            Code::PermissionDenied | Code::Unauthenticated => Error::NotAllowed { url, what },
            Code::Unavailable => Error::Unreachable { url, what },
            code => Error::Refused { url, code, what },
        }
    }
}

/// The innermost cause of an error: "connection refused" rather than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
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
        assert_eq!((url.server(), url.database()), ("http://127.0.0.1:7420", "shop"));
        assert_eq!(url.to_string(), "http://127.0.0.1:7420/shop");
    }

    #[test]
    fn what_is_no_remote_is_refused_with_what_is_supported() {
        for url in [
            "",
            "shop",
            "s3://bucket/shop",
            "http://host:1",
            "http:///shop",
            "http://host/",
            "http://h/A",
            "http://u@h/a",
        ] {
            let error = RemoteUrl::parse(url).unwrap_err();
            assert!(error.to_string().contains("supported: http://HOST:PORT/DATABASE"), "{url}: {error}");
        }
    }
}
