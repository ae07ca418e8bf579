//! Entry points for the fuzz targets, always compiled, so that tests replay the corpora.

/// A schema, a zero byte, a body: both runs agree, and neither panics.
pub fn json_schema(data: &[u8]) {
    crate::schema::replay(data);
}
