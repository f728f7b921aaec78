//! Progress lines on stderr, so that stdout stays the guest's or the report's.

use std::time::Instant;

/// Prints one line about what is happening now.
pub fn say(message: impl AsRef<str>) {
    eprintln!("xtask: {}", message.as_ref());
}

/// Says what begins, runs it, and says how long it took if that was long.
pub fn step<T>(message: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    say(format!("{message} ..."));
    let start = Instant::now();
    let result = work()?;
    let seconds = start.elapsed().as_secs_f32();
    if seconds >= 1.0 {
        say(format!("{message}: done in {seconds:.1} s"));
    }
    Ok(result)
}
