//! JSON on the simd-json tape: bounds before the parse, spans for people; sans-IO.
