//! One core: pin, driver, buffers, clock, deadlines.
