//! JSON Web Signatures and Keys on ring; sans-IO.
