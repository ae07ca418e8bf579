//! What the body of a call passes on its way through: base64 is decoded, messages are walked, and the end is judged.
//!
//! For: [`crate::h1::body::Incoming`], for either direction of a call. Not for: framing, or what becomes of a call that fails.
//!
//! Cost: none for other bodies but the branch that finds no filter; for a call that of [`super::message`], and of [`super::web`]
//! where it is text.

use super::message::{Limits, Messages};
use super::status::{GRPC_STATUS_MISSING, Status};
use super::style::Style;
use super::web::{TextDecoder, Translator, status_of};
use crate::http::Reason;

/// One direction of one call.
#[derive(Clone, Debug)]
pub struct Filter {
    messages: Messages,
    decoder: Option<TextDecoder>,
    translator: Option<Translator>,
    /// Why nothing more passes, once what was in front of it has passed.
    refused: Option<Reason>,
    is_response: bool,
    /// Whether what has passed are whole messages.
    at_boundary: bool,
    /// What the trailers say.
    status: Option<Status>,
}

impl Filter {
    /// For what a client sends: as text, if that is the `style`.
    pub fn of_request(style: Style, limits: Limits) -> Filter {
        let decoder = (style == Style::WebText).then(TextDecoder::default);
        Filter { decoder, ..Filter::new(Messages::of_request(limits), false) }
    }

    /// For what an upstream that speaks gRPC sends to a client that wants it in `style`.
    pub fn of_response(style: Style, limits: Limits) -> Filter {
        Filter { translator: Translator::to(style), ..Filter::new(Messages::of_response(limits), true) }
    }

    fn new(messages: Messages, is_response: bool) -> Filter {
        let (decoder, translator, refused, status) = (None, None, None, None);
        Filter { messages, decoder, translator, refused, is_response, at_boundary: true, status }
    }

    /// Looks at the next bytes; the first so many of them go on.
    ///
    /// # Errors
    /// They may not pass, nor may anything behind them.
    pub fn pass(&mut self, piece: &mut [u8]) -> Result<usize, Reason> {
        self.verdict()?;
        let bytes = match &mut self.decoder {
            Some(decoder) => decoder.decode(piece).map_err(|reason| *self.refused.insert(reason))?,
            None => piece.len(),
        };
        match self.messages.pass(&piece[..bytes]) {
            Ok(()) => {
                self.at_boundary = self.messages.at_boundary();
                Ok(bytes)
            }
            Err(refused) if refused.before == 0 => Err(self.refuse(refused.reason)),
            Err(refused) => {
                self.at_boundary = true;
                self.refused = Some(refused.reason);
                Ok(refused.before)
            }
        }
    }

    fn refuse(&mut self, reason: Reason) -> Reason {
        *self.refused.insert(reason)
    }

    /// Whether anything more may pass.
    ///
    /// # Errors
    /// Why not.
    pub fn verdict(&self) -> Result<(), Reason> {
        self.refused.map_or(Ok(()), Err)
    }

    /// The body is over, and ended with these trailers (lines).
    ///
    /// # Errors
    /// It ended within a message, or a response without a status.
    pub fn finish(&mut self, trailers: &[u8]) -> Result<(), Reason> {
        self.verdict()?;
        let ended = self.decoder.as_ref().map_or(Ok(()), TextDecoder::finish);
        ended.and_then(|()| self.messages.finish()).map_err(|reason| self.refuse(reason))?;
        if self.is_response {
            self.status = status_of(trailers);
            if self.status.is_none() {
                return Err(self.refuse(GRPC_STATUS_MISSING));
            }
        }
        Ok(())
    }

    /// Whether what has passed are whole messages, so that a status can follow.
    pub fn is_at_boundary(&self) -> bool {
        self.at_boundary
    }

    /// What the trailers said, once they have come.
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    /// What makes text of the data, where the client wants that.
    pub fn encoder(&mut self) -> Option<&mut Translator> {
        self.translator.as_mut().filter(|translator| !translator.passes_data())
    }

    /// What puts the trailers into the body, where the client wants that.
    pub fn translator(&mut self) -> Option<&mut Translator> {
        self.translator.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{GRPC_MESSAGE_SIZE, GRPC_MESSAGE_TRUNCATED, tests::framed};
    use super::super::web::GRPC_WEB_BASE64;
    use super::*;

    const LIMITS: Limits = Limits { message_bytes_max: 4, compressed: false };

    #[test]
    fn what_was_in_front_of_a_message_that_is_refused_passes() {
        let mut filter = Filter::of_request(Style::Grpc, LIMITS);
        let mut piece = [framed(0, b"four"), framed(0, b"five5")].concat();
        assert_eq!(filter.pass(&mut piece), Ok(9));
        assert!(filter.is_at_boundary());
        assert_eq!(filter.verdict(), Err(GRPC_MESSAGE_SIZE));
        assert_eq!(filter.pass(&mut [0]), Err(GRPC_MESSAGE_SIZE));
        assert_eq!(filter.finish(b""), Err(GRPC_MESSAGE_SIZE));
        // Its prefix came in two pieces, the first of which has passed.
        let mut filter = Filter::of_request(Style::Grpc, LIMITS);
        let mut piece = framed(0, b"five5");
        assert_eq!(filter.pass(&mut piece[..3]), Ok(3));
        assert!(!filter.is_at_boundary());
        assert_eq!(filter.pass(&mut piece[3..]), Err(GRPC_MESSAGE_SIZE));
        assert!(!filter.is_at_boundary());
    }

    #[test]
    fn text_is_decoded_before_it_is_walked() {
        let mut filter = Filter::of_request(Style::WebText, LIMITS);
        let mut piece = base64_simd::STANDARD.encode_to_string(framed(0, b"four")).into_bytes();
        assert_eq!(filter.pass(&mut piece), Ok(9));
        assert_eq!(&piece[5..9], b"four");
        assert_eq!(filter.finish(b""), Ok(()));
        assert_eq!(filter.pass(&mut b"AA".to_vec()), Ok(1));
        assert_eq!(filter.finish(b""), Err(GRPC_WEB_BASE64));
        assert_eq!(filter.pass(&mut b"!".to_vec()), Err(GRPC_WEB_BASE64));
        let mut filter = Filter::of_request(Style::Web, LIMITS);
        assert_eq!(filter.pass(&mut [0, 0]), Ok(2));
        assert_eq!(filter.finish(b""), Err(GRPC_MESSAGE_TRUNCATED));
    }

    #[test]
    fn a_response_ends_with_a_status() {
        let mut filter = Filter::of_response(Style::Web, LIMITS);
        assert_eq!(filter.pass(&mut framed(0, b"four")), Ok(9));
        assert_eq!(filter.finish(b"a: b\r\nGrpc-Status: 5\r\n"), Ok(()));
        assert_eq!(filter.status(), Some(Status::NotFound));
        assert!(filter.encoder().is_none() && filter.translator().is_some());
        let mut filter = Filter::of_response(Style::Grpc, LIMITS);
        assert_eq!(filter.finish(b"a: b\r\n"), Err(GRPC_STATUS_MISSING));
        assert!(filter.is_at_boundary() && filter.translator().is_none());
        assert!(Filter::of_response(Style::WebText, LIMITS).encoder().is_some());
    }
}
