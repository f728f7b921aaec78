//! `load [SECONDS]`: a small steady load, for debugging sessions under way.
//!
//! One worker process a CPU answers questions over a pipe: arithmetic, system
//! calls and context switches on every CPU. The parent checks each answer by
//! another computation. Prints `load beat=K answers=N` every second, and at
//! the end (or never, without SECONDS) `load ok answers=N`; at the first
//! wrong answer `load FAILED: …`, exit status 1.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pal_demo::{args, lcg};

/// The argument that makes this program a worker.
const WORKER: &str = "worker";

/// Steps of the sequence a question asks for: about a hundred microseconds
/// on a slow emulated processor, so that pipes and arithmetic both matter.
const STEPS: u64 = 500;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [WORKER] => worker(),
        [] => parent(None),
        [seconds] => match args::number(seconds) {
            Some(seconds) => parent(Some(Duration::from_secs(seconds))),
            None => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: load [SECONDS]");
    ExitCode::from(2)
}

/// Answers questions until the parent closes the pipe.
fn worker() -> ExitCode {
    let (mut questions, mut answers) = (io::stdin().lock(), io::stdout().lock());
    let mut question = [0; 8];
    while questions.read_exact(&mut question).is_ok() {
        let answer = lcg::walk(u64::from_le_bytes(question), STEPS);
        if answers.write_all(&answer.to_le_bytes()).is_err() || answers.flush().is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn parent(duration: Option<Duration>) -> ExitCode {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let answers = Arc::new(AtomicU64::new(0));
    for cpu in 0..cpus {
        let child = match spawn_worker() {
            Ok(child) => child,
            Err(error) => {
                println!("load FAILED: no worker: {error}");
                return ExitCode::FAILURE;
            }
        };
        let answers = Arc::clone(&answers);
        thread::spawn(move || {
            let why = ask(child, cpu as u64, &answers);
            println!("load FAILED: cpu {cpu}: {why}");
            exit(1);
        });
    }
    let start = Instant::now();
    for beat in 1.. {
        if duration.is_some_and(|duration| start.elapsed() >= duration) {
            break;
        }
        thread::sleep(Duration::from_secs(1));
        println!(
            "load beat={beat} answers={}",
            answers.load(Ordering::Relaxed)
        );
    }
    println!("load ok answers={}", answers.load(Ordering::Relaxed));
    // The workers see their pipes close and end.
    ExitCode::SUCCESS
}

fn spawn_worker() -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg(WORKER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

/// Asks one worker for as long as it answers right; returns what went wrong.
fn ask(mut worker: Child, seed: u64, answers: &AtomicU64) -> String {
    let (Some(mut questions), Some(mut replies)) = (worker.stdin.take(), worker.stdout.take())
    else {
        return "the worker has no pipes".to_owned();
    };
    let mut question = seed;
    loop {
        let mut reply = [0; 8];
        let exchanged = questions
            .write_all(&question.to_le_bytes())
            .and_then(|()| replies.read_exact(&mut reply));
        if let Err(error) = exchanged {
            return format!("the worker is gone: {error}");
        }
        let (answer, expected) = (u64::from_le_bytes(reply), lcg::jump(question, STEPS));
        if answer != expected {
            return format!("{question:#x} gave {answer:#x}, expected {expected:#x}");
        }
        answers.fetch_add(1, Ordering::Relaxed);
        question = answer;
    }
}
