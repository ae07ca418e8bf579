//! JSON Schema compiled to a flat program; sans-IO.
