//! From written to run: everything a request may read, compiled aside and swapped whole.
