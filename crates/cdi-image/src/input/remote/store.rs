//! The connection to a server or a bucket.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cdi_base::error::Error;
use cdi_base::workers::lock;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{ObjectStore, RetryConfig};

use super::aws;
use super::connector::{CONNECT, Connector};
use super::fault::Fault;
use super::location::Root;
use super::runtime::{self, Threads};
use super::settings;

/// How often the client repeats a request by itself, within about a second. Reads are repeated for longer.
const RETRIES: usize = 3;
/// How often a read looks whether it must not wait any longer.
const LOOK: Duration = Duration::from_millis(100);

/// A server or a bucket, connected when it is needed.
pub(super) struct Store {
    root: Root,
    client: Mutex<Option<(u64, Arc<dyn ObjectStore>)>>,
}

impl Store {
    /// Returns the store at `root`.
    pub(super) fn new(root: Root) -> Store {
        Store { root, client: Mutex::new(None) }
    }

    /// Returns where it is.
    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Waits for what `work` does with the client, in these threads, until `stops` returns why it must not.
    pub(super) fn wait<T>(
        &self,
        threads: Threads,
        stops: &(dyn Fn() -> Option<Fault> + Sync),
        work: impl AsyncFnOnce(&dyn ObjectStore) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let waited = runtime::with(threads, |number, threads| {
            // It takes some settings for right that it cannot use.
            let run = AssertUnwindSafe(|| {
                let client = self.client(number)?;
                threads.block_on(async {
                    let mut work = pin!(work(&*client));
                    loop {
                        if let Some(fault) = stops() {
                            return Err(fault);
                        }
                        if let Ok(done) = tokio::time::timeout(LOOK, work.as_mut()).await {
                            return done;
                        }
                    }
                })
            });
            let crashed =
                || Fault::Wrong("the client crashed: this is a bug, or a setting is of no use".into());
            catch_unwind(run).unwrap_or_else(|_| Err(crashed()))
        });
        waited.unwrap_or_else(|e| Err(Fault::Failed(e.to_string())))
    }

    fn client(&self, number: u64) -> Result<Arc<dyn ObjectStore>, Fault> {
        let mut client = lock(&self.client);
        if let Some((made, client)) = &*client
            && *made == number
        {
            return Ok(Arc::clone(client));
        }
        // A client opens its connections in the threads that were running when it was made.
        let made = self.connect().map_err(|e| match e {
            Connect::Settings(what) => Fault::Settings(what),
            Connect::Store(e) => Fault::of(&e),
        })?;
        *client = Some((number, Arc::clone(&made)));
        Ok(made)
    }

    fn connect(&self) -> Result<Arc<dyn ObjectStore>, Connect> {
        check_system()?;
        let retry = RetryConfig { max_retries: RETRIES, ..RetryConfig::default() };
        // Web servers get no credentials.
        let connector = Connector { elsewhere: matches!(self.root, Root::Http(_)) };
        settings::check(&self.root).map_err(Connect::Settings)?;
        let (key, value) = CONNECT;
        Ok(match &self.root {
            Root::Http(address) => {
                let plain = address.starts_with("http:").to_string();
                let builder = HttpBuilder::new().with_url(address).with_http_connector(connector);
                let builder = builder.with_config(key, value).with_config(ClientConfigKey::AllowHttp, plain);
                Arc::new(builder.with_retry(retry).build()?)
            }
            Root::S3(bucket) => {
                let builder = s3(bucket)?.with_config(AmazonS3ConfigKey::Client(key), value);
                Arc::new(builder.with_http_connector(connector).with_retry(retry).build()?)
            }
            Root::Gs(bucket) => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
                let builder = builder.with_config(GoogleConfigKey::Client(key), value);
                Arc::new(builder.with_http_connector(connector).with_retry(retry).build()?)
            }
            Root::Az(container) => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(container);
                let builder = builder.with_config(AzureConfigKey::Client(key), value);
                Arc::new(builder.with_http_connector(connector).with_retry(retry).build()?)
            }
        })
    }
}

/// Certificates are checked by a function of macOS that came with version 10.14; calling it earlier would end the process.
#[cfg(target_os = "macos")]
fn check_system() -> Result<(), Connect> {
    // Darwin 18 is macOS 10.14.
    let release = nix::sys::utsname::uname().ok().and_then(|name| {
        name.release().to_str().and_then(|release| release.split('.').next()?.parse::<u32>().ok())
    });
    if release.is_none_or(|release| release < 18) {
        return Err(Connect::Settings("images on other systems need macOS 10.14 or later".into()));
    }
    Ok(())
}

#[cfg(not(target_os = "macos"))]
fn check_system() -> Result<(), Connect> {
    Ok(())
}

/// Why a store cannot be connected.
enum Connect {
    Settings(String),
    Store(object_store::Error),
}

impl From<object_store::Error> for Connect {
    fn from(e: object_store::Error) -> Connect {
        Connect::Store(e)
    }
}

/// Returns the settings for a bucket of S3: from the environment, and what is not there from the files of Amazon's
/// program.
fn s3(bucket: &str) -> Result<AmazonS3Builder, Connect> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    // Once, because the names of the files may be relative, and a daemon has another working directory.
    static PROFILE: OnceLock<aws::Profile> = OnceLock::new();
    let profile = PROFILE.get_or_init(aws::profile);
    let has = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).is_some();
    let given = [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::WebIdentityTokenFile];
    let in_environment = given.into_iter().any(|key| has(&builder, key));
    if !in_environment && let Some(setting) = aws::made_elsewhere(profile) {
        return Err(Connect::Settings(format!(
            "the profile in ~/.aws has its credentials made elsewhere ({setting}): put them into the environment with \
             'eval \"$(aws configure export-credentials --format env)\"'"
        )));
    }
    let credentials = [
        (AmazonS3ConfigKey::AccessKeyId, "aws_access_key_id"),
        (AmazonS3ConfigKey::SecretAccessKey, "aws_secret_access_key"),
        (AmazonS3ConfigKey::Token, "aws_session_token"),
    ];
    let others = [(AmazonS3ConfigKey::Region, "region"), (AmazonS3ConfigKey::Endpoint, "endpoint_url")];
    let wanted = credentials.into_iter().filter(|_| !in_environment).chain(others);
    for (key, name) in wanted {
        if let Some(value) = profile.get(name).filter(|_| !has(&builder, key)) {
            settings::check_value(&format!("{name} in ~/.aws"), value).map_err(Connect::Settings)?;
            builder = builder.with_config(key, value);
        }
    }
    // A server of one's own often has no TLS; the address says so.
    let endpoints = [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint];
    let plain = endpoints
        .iter()
        .any(|key| builder.get_config_value(key).is_some_and(|endpoint| endpoint.starts_with("http:")));
    Ok(if plain { builder.with_allow_http(true) } else { builder })
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::failed(fault.to_string())
    }
}
