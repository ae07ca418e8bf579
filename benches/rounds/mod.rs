//! Contenders in alternating rounds, so that what disturbs the machine disturbs all of them.
//!
//! For: benches that ask what one run of something costs. With `--once` (or `--test`) everything runs once. With
//! `--callgrind NAME [N]` only the first contender runs whose name begins so, N times (default 1,000): the difference of two such
//! runs under `valgrind --tool=callgrind` is instructions per run.

use std::time::Instant;

const ROUNDS: usize = 11;

/// Something to be measured.
pub struct Contender {
    /// What it is.
    pub name: String,
    /// Things that one run does: the figures are of one of them.
    pub count: u32,
    /// Runs in one round.
    pub runs: u32,
    /// One run.
    pub run: Box<dyn FnMut()>,
}

impl Contender {
    /// One that does one thing in a run, and has so many runs in a round.
    pub fn new(name: impl Into<String>, runs: u32, run: impl FnMut() + 'static) -> Contender {
        Contender { name: name.into(), count: 1, runs, run: Box::new(run) }
    }
}

/// What became of a contender: nanoseconds, over the rounds.
pub struct Figure {
    /// Its name.
    pub name: String,
    /// The fastest round.
    pub least: f64,
    /// The one in the middle.
    pub median: f64,
    /// The slowest.
    pub most: f64,
}

impl Figure {
    /// From the fastest to the slowest.
    pub fn spread(&self) -> String {
        format!("{:.0}–{:.0}", self.least, self.most)
    }
}

/// Does what the command line says. Without figures there is nothing to be told.
pub fn measure(mut contenders: Vec<Contender>) -> Vec<Figure> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--callgrind") {
        let name = arguments.get(at + 1).expect("--callgrind NAME [N]");
        let count = arguments.get(at + 2).map_or(1_000, |count| count.parse().expect("a number"));
        let found = contenders.iter_mut().find(|contender| contender.name.starts_with(name));
        let contender = found.unwrap_or_else(|| panic!("no contender's name begins with {name:?}"));
        (0..count).for_each(|_| (contender.run)());
        return Vec::new();
    }
    contenders.iter_mut().for_each(|contender| (contender.run)());
    if arguments.iter().any(|argument| argument == "--once" || argument == "--test") {
        return Vec::new();
    }
    let mut times = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        for (Contender { count, runs, run, .. }, times) in contenders.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (0..*runs).for_each(|_| run());
            times.push(start.elapsed().as_nanos() as f64 / (f64::from(*runs) * f64::from(*count)));
        }
    }
    let figure = |(contender, mut times): (Contender, Vec<f64>)| {
        times.sort_by(f64::total_cmp);
        let (least, median, most) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
        Figure { name: contender.name, least, median, most }
    };
    contenders.into_iter().zip(times).map(figure).collect()
}
