//! Connects to servers: which redirects are followed, and what of an answer is passed on.
//!
//! The client has its own idea of some answers. What it would take for "there is no such file", or would repeat in an
//! error word by word, does not reach it.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::redirect::{Attempt, Policy};
use reqwest::tls::Certificate;
use reqwest::{Client, ClientBuilder, NoProxy, Proxy};

use super::bounded::{BoundedBody, MAX};
use super::fault::innermost;
use super::names::Names;

/// How long to wait for a connection, as a setting of the client: it waits less for the services of a machine.
pub(super) const CONNECT: (ClientConfigKey, &str) = (ClientConfigKey::ConnectTimeout, "10s");
/// How long to wait for the next bytes of an answer.
const SILENCE: Duration = Duration::from_secs(20);
/// The maximum number of redirects that are followed.
const REDIRECTS: usize = 10;
/// How much of an answer that is an error is looked at, in bytes.
const LOOKED_AT: usize = 64 << 10;

/// Connects to servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connector {
    /// Whether to follow redirects to other servers. They would get the credentials in headers and addresses.
    pub(super) elsewhere: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.client(options).map_err(|e| {
            let e = e.without_url();
            let source: Box<dyn Error + Send + Sync> = match innermost(&e).downcast_ref::<rustls::Error>() {
                Some(rustls::Error::General(why)) => Box::new(NoTls(why.clone())),
                _ => Box::new(e),
            };
            object_store::Error::Generic { store: "HTTP", source }
        })?;
        Ok(HttpClient::new(Service(HttpClient::new(client))))
    }
}

impl Connector {
    /// Returns a client. On a system without certificates of authorities, it is one for connections without encryption, if
    /// those are allowed: no certificate is accepted.
    fn client(self, options: &ClientOptions) -> reqwest::Result<Client> {
        match self.builder(options)?.build() {
            Err(_) if is_set(options, ClientConfigKey::AllowHttp) => {
                self.builder(options)?.tls_certs_only([]).build()
            }
            made => made,
        }
    }

    /// Returns the settings of a client as object_store makes one, but for redirects, and without a `Referer`, which would
    /// tell others the address with what is secret in it.
    fn builder(self, options: &ClientOptions) -> reqwest::Result<ClientBuilder> {
        let value = |key| options.get_config_value(&key);
        let seconds = |text: String| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        let connect = value(CONNECT.0).and_then(seconds).unwrap_or(10);
        let elsewhere = self.elsewhere;
        let mut builder = ClientBuilder::new()
            .user_agent(concat!("cdi/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::custom(move |attempt| redirected(attempt, elsewhere)))
            .referer(false)
            .connect_timeout(Duration::from_secs(connect))
            .read_timeout(SILENCE)
            .http1_only()
            .dns_resolver(Arc::new(Names))
            .https_only(!is_set(options, ClientConfigKey::AllowHttp));
        // What the environment says of proxies and certificates.
        if let Some(proxy) = value(ClientConfigKey::ProxyUrl) {
            let excludes = value(ClientConfigKey::ProxyExcludes);
            let excludes = excludes.and_then(|list| NoProxy::from_string(&list));
            builder = builder.proxy(Proxy::all(proxy)?.no_proxy(excludes));
        }
        if let Some(certificate) = value(ClientConfigKey::ProxyCaCertificate) {
            builder = builder.tls_certs_merge([Certificate::from_pem(certificate.as_bytes())?]);
        }
        if is_set(options, ClientConfigKey::AllowInvalidCertificates) {
            builder = builder.danger_accept_invalid_certs(true);
        }
        Ok(builder)
    }
}

fn is_set(options: &ClientOptions, key: ClientConfigKey) -> bool {
    let value = options.get_config_value(&key);
    value.is_some_and(|text| ["1", "true", "on", "yes", "y"].contains(&&*text.to_ascii_lowercase()))
}

fn redirected(attempt: Attempt<'_>, elsewhere: bool) -> reqwest::redirect::Action {
    let first = attempt.previous().first().map(|url| url.origin());
    if !elsewhere && first.is_some_and(|first| first != attempt.url().origin()) {
        return attempt.error(Elsewhere);
    }
    if attempt.previous().len() > REDIRECTS {
        return attempt.error(TooManyRedirects);
    }
    attempt.follow()
}

/// Sends requests, and passes answers on.
#[derive(Debug)]
struct Service(HttpClient);

impl HttpService for Service {
    // The trait is one of async_trait, whose form this is.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let is_head = request.method().as_str() == "HEAD";
            let is_read = is_head || request.method().as_str() == "GET";
            let query = request.uri().query().unwrap_or_default();
            let lists = ["list-type=", "comp=list"].iter().any(|word| query.contains(word));
            let (head, body) = self.0.execute(request).await?.into_parts();
            match head.status.as_u16() {
                // For the client, 405 is the same as 404.
                405 if is_read => return refused(Refused::Method),
                501 if is_head => return refused(Refused::Method),
                // Of lists, the client knows only that there is none.
                401 if lists => return refused(Refused::List("401 Unauthorized")),
                403 if lists => return refused(Refused::List("403 Forbidden")),
                _ => {}
            }
            let body = if head.status.as_u16() >= 400 {
                HttpResponseBody::from(words_of(body).await)
            } else {
                HttpResponseBody::new(BoundedBody::new(body, MAX))
            };
            Ok(HttpResponse::from_parts(head, body))
        })
    }
}

fn refused(why: Refused) -> Result<HttpResponse, HttpError> {
    Err(HttpError::new(HttpErrorKind::Unknown, why))
}

/// Returns what an error of a service says: its code and its message. Everything else may repeat the request, with what
/// is secret in it.
async fn words_of(body: HttpResponseBody) -> String {
    let mut body = BoundedBody::new(body, LOOKED_AT);
    let mut text = Vec::new();
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
    }
    let text = String::from_utf8_lossy(&text);
    let inside = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(inside, _)| inside.trim().to_owned())
    };
    [inside("Code"), inside("Message")].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The server does not know this kind of request.
    Method,
    /// The server does not list its files for this user.
    List(&'static str),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Method => {
                f.write_str("the server does not allow such requests (405 Method Not Allowed)")
            }
            Refused::List(status) => write!(f, "access denied ({status})"),
        }
    }
}

impl Error for Refused {}

/// The error of a redirect to a server that must not get the credentials.
#[derive(Debug)]
pub(super) struct Elsewhere;

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the server redirects to another one, which would get the credentials: the endpoint or the region is wrong",
        )
    }
}

impl Error for Elsewhere {}

/// The error of a system on which there can be no encrypted connections, with what its library says.
#[derive(Debug)]
struct NoTls(String);

impl fmt::Display for NoTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = &self.0;
        write!(f, "encrypted connections are not possible: {why}: is the package ca-certificates installed?")
    }
}

impl Error for NoTls {}

/// The error of redirects without an end.
#[derive(Debug)]
struct TooManyRedirects;

impl fmt::Display for TooManyRedirects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {REDIRECTS} redirects")
    }
}

impl Error for TooManyRedirects {}
