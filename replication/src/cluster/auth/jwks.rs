//! The public keys of a node as a JSON Web Key Set (RFC 7517, RFC 8037): what is published at the cluster port, and read from those of
//! peers. What a peer publishes is bounded: [`JWKS_BYTES_MAX`], [`JWKS_KEYS_MAX`], [`JWKS_TIMEOUT`].

use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Channel;
use tower::ServiceExt;

use super::key::PublicKey;
use crate::limits::{JWKS_BYTES_MAX, JWKS_KEYS_MAX, JWKS_TIMEOUT};

/// Where it is published.
pub(crate) const PATH: &str = "/.well-known/jwks.json";

#[derive(Serialize, Deserialize)]
struct Set {
    keys: Vec<Key>,
}

/// The members that matter here; a set may hold keys of other kinds, and those have others.
#[derive(Serialize, Deserialize)]
struct Key {
    kty: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    kid: String,
    #[serde(default, rename = "use")]
    purpose: String,
    #[serde(default)]
    alg: String,
}

/// The set of this key alone.
pub(crate) fn document(key: &PublicKey) -> String {
    let key = Key {
        kty: "OKP".into(),
        crv: "Ed25519".into(),
        x: key.x(),
        kid: key.fingerprint().to_string(),
        purpose: "sig".into(),
        alg: "EdDSA".into(),
    };
    serde_json::to_string(&Set { keys: vec![key] }).unwrap_or_default()
}

/// The keys for signatures that this system knows, of which there is at least one.
pub(crate) fn parse(document: &[u8]) -> Result<Vec<PublicKey>, String> {
    let set: Set = serde_json::from_slice(document).map_err(|error| format!("it is no key set: {error}"))?;
    if set.keys.len() > JWKS_KEYS_MAX {
        return Err(format!("it has {} keys, more than {JWKS_KEYS_MAX}", set.keys.len()));
    }
    let signs = |key: &&Key| key.kty == "OKP" && key.crv == "Ed25519" && matches!(&*key.purpose, "" | "sig");
    let keys = set.keys.iter().filter(signs).map(|key| PublicKey::from_x(&key.x));
    let keys = keys.collect::<Option<Vec<_>>>().ok_or("a key in it has no 32 bytes in base64url")?;
    if keys.is_empty() { Err("there is no Ed25519 key for signatures in it".into()) } else { Ok(keys) }
}

/// Fetches the set of the server behind `channel`.
pub(crate) async fn fetch(channel: Channel) -> Result<Vec<PublicKey>, String> {
    let fetch = async {
        let request = http::Request::get(PATH).body(Body::empty()).map_err(|error| error.to_string())?;
        let answer = channel.oneshot(request).await.map_err(|error| pleach_protocol::root_cause(&error))?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("the server answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), JWKS_BYTES_MAX).collect().await;
        let body = body.map_err(|error| pleach_protocol::root_cause(&*error))?;
        parse(&body.to_bytes())
    };
    let fetched = tokio::time::timeout(JWKS_TIMEOUT, fetch).await;
    fetched.unwrap_or_else(|_| Err(format!("no answer within {JWKS_TIMEOUT:?}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use axum::routing::get;

    use super::*;

    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn what_is_published_is_read_and_has_no_more_than_the_public_key() {
        let key = PublicKey::from_x(X).unwrap();
        let document = document(&key);
        assert_eq!(parse(document.as_bytes()).unwrap(), [key]);
        let expected = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{X}","kid":"{}","use":"sig","alg":"EdDSA"}}]}}"#,
            key.fingerprint()
        );
        assert_eq!(document, expected);
    }

    #[test]
    fn keys_of_other_kinds_are_passed_over() {
        let set = format!(
            r#"{{"keys":[{{"kty":"RSA","n":"AQAB","e":"AQAB"}},{{"kty":"OKP","crv":"Ed25519","x":"{X}","nbf":1}},
                {{"kty":"OKP","crv":"X25519","x":"AA"}},{{"kty":"OKP","crv":"Ed25519","x":"{X}","use":"enc"}}]}}"#
        );
        assert_eq!(parse(set.as_bytes()).unwrap().len(), 1);
    }

    /// Fetches from a server that answers with this router.
    async fn fetched(router: axum::Router) -> Result<Vec<PublicKey>, String> {
        let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let server = pleach_protocol::transport().add_routes(router.into());
        let server = tokio::spawn(server.serve_with_incoming(incoming));
        let endpoint = pleach_protocol::endpoint(&url).unwrap();
        let fetched = fetch(endpoint.connect().await.unwrap()).await;
        server.abort();
        fetched
    }

    #[tokio::test]
    async fn what_a_peer_publishes_is_fetched_within_bounds() {
        let key = PublicKey::from_x(X).unwrap();
        let answers = |body: String| axum::Router::new().route(PATH, get(|| async { body }));
        assert_eq!(fetched(answers(document(&key))).await.unwrap(), [key]);
        let large = document(&key) + &" ".repeat(JWKS_BYTES_MAX);
        assert!(fetched(answers(large)).await.unwrap_err().contains("length limit"));
        assert!(fetched(axum::Router::new()).await.unwrap_err().contains("404"));
        let begun = std::time::Instant::now();
        let never = axum::Router::new().route(PATH, get(std::future::pending::<String>));
        assert!(fetched(never).await.unwrap_err().contains("no answer within"));
        assert!(begun.elapsed() < JWKS_TIMEOUT * 3);
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        let key = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}"}}"#);
        let many = format!(r#"{{"keys":[{}]}}"#, vec![key; JWKS_KEYS_MAX + 1].join(","));
        for (set, what) in [
            ("", "no key set"),
            ("{}", "no key set"),
            (r#"{"keys":[]}"#, "no Ed25519 key"),
            (r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}"#, "no 32 bytes"),
            (&many, "more than 16"),
        ] {
            let refused = parse(set.as_bytes()).unwrap_err();
            assert!(refused.contains(what), "{set:.40}: {refused}");
        }
    }
}
