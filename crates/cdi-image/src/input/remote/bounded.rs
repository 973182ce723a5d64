//! Answers of bounded length.
//!
//! The client reads some answers as a whole: lists, tokens, and what a server says about an error. Their length is the
//! server's claim, and memory must not depend on it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};

use super::names::Names;

/// The maximum length of an answer in bytes: a block, and lists of a thousand files, are shorter.
const MAX: usize = 8 << 20;

/// Connects as the client does by itself, but bounds the length of answers, and remembers the addresses of servers.
#[derive(Debug, Default)]
pub(super) struct BoundedConnector(ReqwestConnector);

impl HttpConnector for BoundedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let options = options.clone().with_dns_resolver(Arc::new(Names));
        self.0.connect(&options).map(|client| HttpClient::new(Bounded(client)))
    }
}

#[derive(Debug)]
struct Bounded(HttpClient);

impl HttpService for Bounded {
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
            let (head, body) = self.0.execute(request).await?.into_parts();
            Ok(HttpResponse::from_parts(head, HttpResponseBody::new(BoundedBody { body, left: MAX })))
        })
    }
}

/// The error of an answer that is too long.
#[derive(Debug)]
pub(super) struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer of the server is too long")
    }
}

impl std::error::Error for TooLong {}

/// A body that does not say how long it is, and ends with an error if it is too long.
struct BoundedBody {
    body: HttpResponseBody,
    left: usize,
}

impl Body for BoundedBody {
    type Data = <HttpResponseBody as Body>::Data;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let next = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &next
            && let Some(data) = frame.data_ref()
        {
            let Some(left) = self.left.checked_sub(data.len()) else {
                return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, TooLong))));
            };
            self.left = left;
        }
        next
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
