//! A bucket of S3, Google Cloud Storage or Azure as a place for objects, by the `object_store` crate.
//!
//! Credentials, region and endpoint come from the usual environment of each cloud (`AWS_…`, `GOOGLE_…`, `AZURE_…`), which that crate
//! reads, and from nowhere else.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, RetryConfig};

use super::Objects;
use crate::error::{Error, Result, within};
use crate::limits::{BUCKET_PATIENCE, BUCKET_TRIES};
use crate::remote::{Cloud, root_cause};

trait Bucket: ObjectStore + PaginatedListStore {}
impl<T: ObjectStore + PaginatedListStore> Bucket for T {}

/// The objects under one prefix of a bucket.
struct Prefix {
    url: String,
    bucket: Arc<dyn Bucket>,
    /// Empty, or ends with a slash.
    prefix: String,
}

/// The objects of `bucket` under `prefix`, which is empty or ends with a slash.
pub(crate) fn open(url: &str, cloud: Cloud, bucket: &str, prefix: &str) -> Result<Arc<dyn Objects>> {
    let retry =
        RetryConfig { max_retries: BUCKET_TRIES, retry_timeout: BUCKET_PATIENCE, ..RetryConfig::default() };
    let opened: object_store::Result<Arc<dyn Bucket>> = match cloud {
        Cloud::S3 => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            builder.build().map(|built| Arc::new(built) as Arc<dyn Bucket>)
        }
        Cloud::Google => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry);
            builder.build().map(|built| Arc::new(built) as Arc<dyn Bucket>)
        }
        Cloud::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retry);
            builder.build().map(|built| Arc::new(built) as Arc<dyn Bucket>)
        }
    };
    let bucket = opened.map_err(|error| Error::NotAllowed {
        url: url.to_owned(),
        what: format!("{error}; {CREDENTIALS}"),
    })?;
    Ok(Arc::new(Prefix { url: url.to_owned(), bucket, prefix: prefix.to_owned() }))
}

const CREDENTIALS: &str =
    "credentials come from the usual environment: AWS_…, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_…";

impl Prefix {
    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}{key}", self.prefix))
    }

    fn error(&self, error: object_store::Error) -> Error {
        use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
        let url = self.url.clone();
        let what: String = said(&root_cause(&error)).chars().take(300).collect();
        // The errors of a list say their status in text only.
        let says = |status: &str| what.contains(&format!("status code: {status}"));
        if matches!(error, NotFound { .. }) || says("404") {
            Error::NoPlace { url }
        } else if matches!(error, PermissionDenied { .. } | Unauthenticated { .. })
            || says("403")
            || says("401")
        {
            Error::NotAllowed { url, what: format!("{what}; {CREDENTIALS}") }
        } else {
            Error::Unreachable { url, what }
        }
    }
}

/// What a cloud said, on one line; of a page of XML its code and message.
fn said(answer: &str) -> String {
    let part = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(part, _)| part).filter(|part| !part.is_empty())
    };
    let status = answer.split('<').next().unwrap_or_default();
    let text = match part("Code") {
        Some(code) => {
            format!("{status}{code}{}", part("Message").map_or_else(String::new, |text| format!(", {text}")))
        }
        None => answer.to_owned(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tonic::async_trait]
impl Objects for Prefix {
    async fn list(&self, prefix: &str, max: usize) -> Result<Vec<String>> {
        let whole = format!("{}{prefix}", self.prefix);
        let asked = (!whole.is_empty()).then_some(whole.as_str());
        let mut keys = Vec::new();
        let mut page_token = None;
        while keys.len() < max {
            let max_keys = Some((max - keys.len()).min(1000));
            let options = PaginatedListOptions { max_keys, page_token, ..PaginatedListOptions::default() };
            let page = self.bucket.list_paginated(asked, options).await.map_err(|error| self.error(error))?;
            let key = |path: &Path| path.as_ref().strip_prefix(&self.prefix).map(str::to_owned);
            keys.extend(page.result.objects.iter().filter_map(|object| key(&object.location)));
            page_token = page.page_token;
            if page_token.is_none() {
                break;
            }
        }
        keys.sort_unstable();
        keys.truncate(max);
        Ok(keys)
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>> {
        let got = match self.bucket.get(&self.path(key)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            got => got.map_err(|error| self.error(error))?,
        };
        within("bytes of an object", usize::try_from(got.meta.size).unwrap_or(usize::MAX), bytes_max)?;
        got.bytes().await.map(Some).map_err(|error| self.error(error))
    }

    async fn put(&self, key: &str, object: Bytes) -> Result<()> {
        let put = self.bucket.put(&self.path(key), object.into()).await;
        put.map(|_| ()).map_err(|error| self.error(error))
    }

    async fn put_if_absent(&self, key: &str, object: Bytes) -> Result<bool> {
        match self.bucket.put_opts(&self.path(key), object.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.error(error)),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.bucket.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(error)),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_a_cloud_says_becomes_what_to_do() {
        let bucket = Arc::new(AmazonS3Builder::new().with_bucket_name("b").with_region("r").build().unwrap());
        let prefix = Prefix { url: "s3://b/x".into(), bucket, prefix: "x/".into() };
        let said = |text: &str| {
            prefix.error(object_store::Error::Generic { store: "S3", source: text.to_owned().into() })
        };
        assert!(matches!(said("non-2xx status code: 404 Not Found: NoSuchBucket"), Error::NoPlace { .. }));
        let refused = said("non-2xx status code: 403 Forbidden: AccessDenied");
        assert!(matches!(&refused, Error::NotAllowed { what, .. } if what.contains("AWS_")), "{refused}");
        assert!(matches!(said("Connection refused"), Error::Unreachable { .. }));
    }

    #[test]
    fn a_page_of_xml_is_its_code_and_message() {
        let page = "status code: 403 Forbidden: <?xml?>\n<Error>\n <Code>Denied</Code><Message>Ask\nfirst</Message><Id>7</Id></Error>";
        assert_eq!(super::said(page), "status code: 403 Forbidden: Denied, Ask first");
        let page = "403: <Error><Code>SignatureDoesNotMatch</Code><Message></Message></Error>";
        assert_eq!(super::said(page), "403: SignatureDoesNotMatch");
        assert_eq!(super::said("Connection\n refused"), "Connection refused");
    }
}
