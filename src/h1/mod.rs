//! HTTP/1.1: sans-IO codec, and the two tasks that drive it.
