//! The lines of the head that was written last, and what each came to: most heads of a connection differ from the one before
//! in a line or two, and what has not changed need not be looked up again.
//!
//! For: [`super::Encoder`]. Not for: what a line comes to.
//!
//! **Law.** A line is kept only if it would come to the same bytes again: as long as the dynamic table is as it was, and not if
//! it becomes an entry when it comes again, or may never be in a table.

/// Most bytes of lines that are kept, and of what they came to.
const BYTES_MAX: usize = 2 << 10;
/// So many heads more that have another line than those that have none, and the next one is kept instead.
const MISSED_MAX: u8 = 4;

/// A line of the head that is kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Where it ends in the text, and what it came to in the code.
    text_end: u16,
    coded_end: u16,
    /// Whether it would come to the same again.
    stable: bool,
    /// Whether it is one of those that come again: not written, or an entry.
    expected: bool,
    /// The first line behind it that is not stable.
    run_end: u16,
}

/// Lines that were found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Of their text.
    pub length: usize,
    /// What they came to.
    pub coded: &'a [u8],
    /// The line behind them.
    pub next: usize,
}

/// The head that is kept.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    text: Vec<u8>,
    coded: Vec<u8>,
    lines: Vec<Kept>,
    /// [`super::table::Table::next_number`] of the table that it was written with.
    number: u32,
    missed: u8,
}

impl Recent {
    /// Whether what is kept may be used with a table of this number.
    #[inline]
    pub fn is_of(&self, number: u32) -> bool {
        self.number == number && !self.lines.is_empty()
    }

    /// Whether another head is to be kept in its place.
    #[inline]
    pub fn is_stale(&self) -> bool {
        self.missed >= MISSED_MAX
    }

    /// Begins to keep the lines of another head; says whether they are few enough.
    pub fn begin(&mut self, lines: &[u8]) -> bool {
        self.text.clear();
        self.coded.clear();
        self.lines.clear();
        self.missed = 0;
        if lines.len() > BYTES_MAX {
            return false;
        }
        self.text.extend_from_slice(lines);
        true
    }

    /// Keeps the next line, of `line_len` bytes.
    pub fn keep(&mut self, line_len: usize, coded: &[u8], stable: bool) {
        let expected = matches!(coded, [] | [0x80..=0xff, ..]);
        let text_end = self.lines.last().map_or(0, |before| before.text_end) + line_len as u16;
        if stable {
            self.coded.extend_from_slice(coded);
        }
        // A line has at least as many bytes as what it comes to, and a length more for its name and value each.
        self.lines.push(Kept { text_end, coded_end: self.coded.len() as u16, stable, expected, run_end: 0 });
    }

    /// All lines have been kept; `before` and `number` are the table's then and now.
    pub fn finish(&mut self, before: u32, number: u32) {
        self.number = number;
        if before != number {
            // Indices moved in between.
            self.lines.clear();
        }
        let mut run_end = self.lines.len();
        for (at, line) in self.lines.iter_mut().enumerate().rev() {
            if !line.stable {
                run_end = at;
            }
            line.run_end = run_end as u16;
        }
    }

    /// What line `at` came to, and all of those behind it that do not change, if `lines` begin with them; or line `at` alone.
    #[inline]
    pub fn find(&self, at: usize, lines: &[u8]) -> Option<Found<'_>> {
        let kept = self.lines.get(at).filter(|kept| kept.stable)?;
        let run_end = usize::from(kept.run_end);
        self.span(at, run_end, lines).or_else(|| self.span(at, at + 1, lines))
    }

    #[inline]
    fn span(&self, from: usize, to: usize, lines: &[u8]) -> Option<Found<'_>> {
        let ends = |at: usize| match at.checked_sub(1).and_then(|before| self.lines.get(before)) {
            Some(before) => (usize::from(before.text_end), usize::from(before.coded_end)),
            None => (0, 0),
        };
        let ((text_start, coded_start), (text_end, coded_end)) = (ends(from), ends(to));
        let text = self.text.get(text_start..text_end)?;
        let coded = self.coded.get(coded_start..coded_end)?;
        lines.starts_with(text).then_some(Found { length: text.len(), coded, next: to })
    }

    /// Whether line `at` is one that should have been found.
    #[inline]
    pub fn is_expected(&self, at: usize) -> bool {
        self.lines.get(at).is_none_or(|kept| kept.expected)
    }

    /// Notes whether a head had a line that it should not have to be kept for.
    #[inline]
    pub fn note(&mut self, missed: bool) {
        self.missed = if missed { self.missed + 1 } else { self.missed.saturating_sub(1) };
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        size_of::<Recent>()
            + self.text.capacity()
            + self.coded.capacity()
            + self.lines.capacity() * size_of::<Kept>()
    }
}
