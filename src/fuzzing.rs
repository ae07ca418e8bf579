//! Entry points for the fuzz targets, always compiled, so that tests replay the corpora.
