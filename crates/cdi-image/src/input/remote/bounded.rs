//! Answers of bounded length.
//!
//! The client reads some answers as a whole: lists, tokens, and what a server says about an error. Their length is the
//! server's claim, and memory must not depend on it.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};

/// The maximum length of an answer in bytes: a block, and lists of a thousand files, are shorter.
pub(super) const MAX: usize = 8 << 20;

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
pub(super) struct BoundedBody {
    body: HttpResponseBody,
    left: usize,
}

impl BoundedBody {
    /// Returns a body of at most `max` bytes.
    pub(super) fn new(body: HttpResponseBody, max: usize) -> BoundedBody {
        BoundedBody { body, left: max }
    }
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
