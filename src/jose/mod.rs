//! JSON Web Signatures, Tokens and Keys on ring; sans-IO.
//!
//! Bytes and the time come in, values and reasons go out. Not for fetching key sets (control thread), not
//! for finding the token in a request (`policy::identify`), not for encryption. A reader begins at
//! [`Verifier::verify`] and walks down: [`jwt`] → [`jws`] → [`key`].

pub mod algorithm;
pub mod base64url;
pub mod cache;
pub(crate) mod fuzz;
pub mod json;
pub mod jwks;
pub mod jws;
pub mod jwt;
pub mod key;
#[cfg(test)]
mod testing;

pub use algorithm::{Algorithm, AlgorithmSet};
pub use cache::{Circumstances, Known, TokenCache};
pub use jwks::{JwksError, KeyNote, KeySet, Origin};
pub use jws::VerifyError;
pub use jwt::{ClaimPath, Claims, Expectations, Validity, Verifier};
pub use key::Key;
