//! The demo: every line that it prints works when it is pasted.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Ends the demo whatever becomes of the test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // By TERM, so that it takes its directory away.
        let _ = Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

#[test]
fn every_command_of_the_demo_shows_what_it_says() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwall"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Ok(driver) = std::env::var("RINGWALL_TEST_DRIVER") {
        command.arg("demo").arg("--driver").arg(driver);
    }
    let mut demo = Demo(command.spawn().expect("the demo starts"));
    let lines = BufReader::new(demo.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let curls: Vec<String> = lines.filter(|line| line.starts_with("curl ")).take(6).collect();
    let expected = ["200", "201", "401", "403", "429", "422"];
    assert_eq!(curls.len(), expected.len());
    for (line, status) in curls.iter().zip(expected) {
        assert!(line.contains("--cacert ") && !line.contains(" -k"), "{line}");
        let output =
            Command::new("sh").arg("-c").arg(format!("{line} -s -w '\\n%{{http_code}}\\n'")).output();
        let output = String::from_utf8(output.expect("sh").stdout).expect("text");
        let last = output.lines().last().unwrap_or_default();
        assert_eq!(last, status, "{line}\n{output}");
    }
}
