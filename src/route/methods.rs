//! A set of request methods, as a word.

use crate::http::Method;

/// A set of methods that have a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodSet(u16);

impl MethodSet {
    /// The set with `method` added; [`Method::Other`] cannot be in a set.
    #[must_use]
    pub const fn with(self, method: Method) -> MethodSet {
        match method {
            Method::Other => self,
            _ => MethodSet(self.0 | 1 << index_of(method)),
        }
    }

    /// Whether `method` is in it.
    #[inline]
    pub const fn contains(self, method: Method) -> bool {
        self.0 >> index_of(method) & 1 != 0
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The methods, in the order of [`Method::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Method> {
        Method::ALL.into_iter().filter(move |&method| self.contains(method))
    }

    /// Appends the value of `Allow` (RFC 9110 §10.2.1): `GET, HEAD, POST`.
    pub fn write(self, out: &mut Vec<u8>) {
        for (position, method) in self.iter().enumerate() {
            if position > 0 {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(method.name().as_bytes());
        }
    }

    /// As bits, by [`index_of`].
    pub(super) const fn bits(self) -> u16 {
        self.0
    }
}

/// The bit of a method.
#[inline]
pub(super) const fn index_of(method: Method) -> u32 {
    method as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_every_method_with_a_name_and_no_other() {
        let all = Method::ALL.into_iter().fold(MethodSet::default(), MethodSet::with);
        assert!(all.iter().eq(Method::ALL));
        assert!(!all.with(Method::Other).contains(Method::Other));
        assert!(MethodSet::default().with(Method::Other).is_empty());
    }

    #[test]
    fn allow_is_a_list() {
        let mut out = Vec::new();
        MethodSet::default().with(Method::Post).with(Method::Get).write(&mut out);
        assert_eq!(out, b"GET, POST");
    }
}
