//! What an active probe of gRPC asks and what it is told: `grpc.health.v1.Health/Check`.
//!
//! For: the prober of the control thread, which brings the bytes to the target and back. Not for: what becomes of the verdict.
//!
//! The request is a unary call whose only message is a `HealthCheckRequest` with the service's name; the response a
//! `HealthCheckResponse` with its status (grpc.health.v1, `health.proto`).

use super::message::PREFIX_BYTES;
use super::status::Status;
use super::wire::{self, Value};

/// The path of the call.
pub const PATH: &str = "/grpc.health.v1.Health/Check";
/// The fields of the request, but for `grpc-timeout`.
pub const REQUEST_FIELDS: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];
/// The longest body of a response: one number, its prefix, and whatever later versions add.
pub const RESPONSE_BYTES_MAX: usize = 1 << 10;
/// The longest name of a service that is asked for.
pub const SERVICE_BYTES_MAX: usize = 255;

/// What a server says of a service (`HealthCheckResponse.ServingStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It does not know, or says what later versions mean.
    Unknown,
    /// It can be asked.
    Serving,
    /// It cannot be asked now.
    NotServing,
    /// There is no such service. Servers say that by the status `NOT_FOUND` where they are not watched.
    ServiceUnknown,
}

/// Why a target is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unhealthy {
    /// It did not answer in gRPC: another HTTP status than 200.
    Http(u16),
    /// It ended the call with another status than `OK`: `NOT_FOUND` where it has no such service, `UNIMPLEMENTED` where it has
    /// no health service.
    Refused(Status),
    /// It ended the call without a status.
    NoStatus,
    /// The answer is not one message that can be read.
    Malformed,
    /// It says so.
    Says(Serving),
}

impl std::fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unhealthy::Http(status) => write!(f, "status {status}"),
            Unhealthy::Refused(status) => write!(f, "grpc-status {} ({})", status.number(), status.name()),
            Unhealthy::NoStatus => f.write_str("no grpc-status"),
            Unhealthy::Malformed => f.write_str("its answer cannot be read"),
            Unhealthy::Says(Serving::NotServing) => f.write_str("it says NOT_SERVING"),
            Unhealthy::Says(Serving::ServiceUnknown) => f.write_str("it says SERVICE_UNKNOWN"),
            Unhealthy::Says(Serving::Unknown | Serving::Serving) => f.write_str("it says UNKNOWN"),
        }
    }
}

/// Appends the body of the request: one message for `service`; the empty name stands for the whole server.
pub fn push_request(service: &str, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    if !service.is_empty() {
        wire::push_bytes(1, service.as_bytes(), out);
    }
    let length = (out.len() - start - PREFIX_BYTES) as u32;
    if let Some(room) = out.get_mut(start + 1..start + PREFIX_BYTES) {
        room.copy_from_slice(&length.to_be_bytes());
    }
}

/// Judges a whole response: its HTTP status, its `grpc-status` wherever it stood, its body.
///
/// # Errors
/// The target is not up.
pub fn judge(http_status: u16, grpc_status: Option<&[u8]>, body: &[u8]) -> Result<(), Unhealthy> {
    if http_status != 200 {
        return Err(Unhealthy::Http(http_status));
    }
    match grpc_status.map(Status::parse).ok_or(Unhealthy::NoStatus)? {
        Status::Ok => {}
        refused => return Err(Unhealthy::Refused(refused)),
    }
    match response(body).ok_or(Unhealthy::Malformed)? {
        Serving::Serving => Ok(()),
        other => Err(Unhealthy::Says(other)),
    }
}

/// Reads the body of a response: exactly one message, not compressed, as we never say that we could read such.
pub fn response(body: &[u8]) -> Option<Serving> {
    let (prefix, mut message) = body.split_first_chunk::<PREFIX_BYTES>()?;
    let [0, length @ ..] = *prefix else { return None };
    if body.len() > RESPONSE_BYTES_MAX || u32::from_be_bytes(length) as usize != message.len() {
        return None;
    }
    // proto3: what is not written is zero, of what is written twice the last counts, and unknown fields are passed over, as
    // are known ones of another type.
    let mut status = 0;
    while !message.is_empty() {
        if let (1, Value::Varint(number)) = wire::take(&mut message)? {
            status = number;
        }
    }
    // An enum is 32 bits; higher ones are cut off.
    Some(match status as u32 {
        1 => Serving::Serving,
        2 => Serving::NotServing,
        3 => Serving::ServiceUnknown,
        _ => Serving::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::framed;
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).expect("hexadecimal") as u8;
        text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    #[test]
    fn requests_are_those_of_grpcio() {
        // health_pb2.HealthCheckRequest(service=…).SerializeToString().hex() of grpcio-health-checking 1.85.1.
        let long = "a".repeat(200);
        for (service, message) in [
            ("", String::new()),
            ("orders.v1.Orders", "0a106f72646572732e76312e4f7264657273".to_owned()),
            ("ä", "0a02c3a4".to_owned()),
            (&long, format!("0ac801{}", "61".repeat(200))),
        ] {
            let mut out = b"before".to_vec();
            push_request(service, &mut out);
            assert_eq!(out, [b"before".to_vec(), framed(0, &hex(&message))].concat(), "{service}");
        }
    }

    #[test]
    fn responses_of_grpcio_are_read() {
        // health_pb2.HealthCheckResponse(status=…).SerializeToString().hex() of grpcio-health-checking 1.85.1.
        for (message, expected) in [
            ("", Serving::Unknown),
            ("0801", Serving::Serving),
            ("0802", Serving::NotServing),
            ("0803", Serving::ServiceUnknown),
            ("0863", Serving::Unknown),
            ("08ffffffffffffffffff01", Serving::Unknown),
        ] {
            assert_eq!(response(&framed(0, &hex(message))), Some(expected), "{message}");
        }
    }

    #[test]
    fn unknown_fields_are_passed_over() {
        for (message, expected) in [
            ("08010802", Serving::NotServing),
            ("0801120568656c6c6f", Serving::Serving),
            ("1a0008011200", Serving::Serving),
            ("0d000000000801", Serving::Serving),
            ("110000000000000000 0801", Serving::Serving),
            ("98060008 01", Serving::Serving),
            ("0a0208020801", Serving::Serving),
            ("0881808080 8080808000", Serving::Serving),
        ] {
            let message = hex(&message.replace(' ', ""));
            assert_eq!(response(&framed(0, &message)), Some(expected), "{message:02x?}");
        }
    }

    #[test]
    fn what_is_not_one_message_is_malformed() {
        let good = framed(0, &[8, 1]);
        for end in 0..good.len() {
            assert_eq!(response(&good[..end]), None, "{end}");
        }
        let longest = framed(0, &[&[8, 1, 0x12, 0xf5, 0x07][..], &[0; 1013]].concat());
        assert_eq!(longest.len(), RESPONSE_BYTES_MAX - 1);
        for body in [
            framed(1, &[8, 1]),
            framed(0x80, b"grpc-status: 0\r\n"),
            [good.clone(), good.clone()].concat(),
            [good.clone(), vec![0]].concat(),
            framed(0, &[8]),
            framed(0, &[8, 0x80]),
            framed(0, &[0x0b, 0x0c]),
            framed(0, &[0x12, 5, 1]),
            framed(0, &[0, 1]),
            framed(0, &vec![0x12; 2000]),
        ] {
            assert_eq!(response(&body), None, "{body:02x?}");
        }
    }

    #[test]
    fn a_target_is_up_only_if_everything_says_so() {
        let serving = framed(0, &[8, 1]);
        assert_eq!(judge(200, Some(b"0"), &serving), Ok(()));
        assert_eq!(judge(503, Some(b"0"), &serving), Err(Unhealthy::Http(503)));
        assert_eq!(judge(200, None, &serving), Err(Unhealthy::NoStatus));
        assert_eq!(judge(200, Some(b"5"), b""), Err(Unhealthy::Refused(Status::NotFound)));
        assert_eq!(judge(200, Some(b"12"), b""), Err(Unhealthy::Refused(Status::Unimplemented)));
        assert_eq!(judge(200, Some(b""), &serving), Err(Unhealthy::Refused(Status::Unknown)));
        assert_eq!(judge(200, Some(b"0"), b""), Err(Unhealthy::Malformed));
        assert_eq!(judge(200, Some(b"0"), &framed(0, b"")), Err(Unhealthy::Says(Serving::Unknown)));
        assert_eq!(judge(200, Some(b"0"), &framed(0, &[8, 2])), Err(Unhealthy::Says(Serving::NotServing)));
    }
}
