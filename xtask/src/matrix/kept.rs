//! What was seen of each machine of the matrix, kept in `target/matrix`: all six take an hour, and one
//! may be run again alone.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::boot::{PROGRAMS, widths};
use super::table::{Cell, Results, Row, Run};
use crate::c_programs::Width;
use crate::kernel::Debian;
use crate::paths;

fn path(debian: Debian, cpus: u32) -> PathBuf {
    paths::target().join(format!("matrix/{}-{cpus}.json", debian.name()))
}

/// Keeps what was seen of one machine.
pub fn write(debian: Debian, cpus: u32, results: &Results) -> Result<()> {
    let path = path(debian, cpus);
    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    let text = serde_json::to_string_pretty(&to_json(debian, cpus, results))?;
    Ok(fs::write(path, text + "\n")?)
}

/// Adds what is kept of one machine, if anything is.
pub fn read(debian: Debian, cpus: u32, results: &mut Results) -> Result<()> {
    if let Ok(text) = fs::read_to_string(path(debian, cpus)) {
        from_json(debian, cpus, &serde_json::from_str(&text)?, results);
    }
    Ok(())
}

fn width_name(width: Width) -> &'static str {
    match width {
        Width::Bits32 => "32",
        Width::Bits64 => "64",
    }
}

fn to_json(debian: Debian, cpus: u32, results: &Results) -> Value {
    let run = results
        .runs
        .get(&(debian, cpus))
        .cloned()
        .unwrap_or_default();
    let mut value = json!({ "revision": run.revision, "boot": run.boot, "all": run.all });
    for ((row, _), cell) in &results.cells {
        let name = PROGRAMS.get(row.program).map_or("", |program| program.name);
        value[width_name(row.width)][name] = json!({ "bad": cell.bad, "nmis": cell.nmis });
    }
    value
}

/// Programs that are not in `value` have not been run.
fn from_json(debian: Debian, cpus: u32, value: &Value, results: &mut Results) {
    let run = Run {
        revision: value["revision"].as_str().unwrap_or_default().into(),
        boot: value["boot"].as_u64().unwrap_or_default(),
        all: value["all"].as_u64().unwrap_or_default(),
    };
    results.runs.insert((debian, cpus), run);
    for &width in widths(debian) {
        for (program, what) in PROGRAMS.iter().enumerate() {
            let kept = &value[width_name(width)][what.name];
            let row = Row {
                debian,
                width,
                program,
            };
            if let Some(nmis) = kept["nmis"].as_u64() {
                let bad = kept["bad"].as_str().map(str::to_owned);
                results.cells.insert((row, cpus), Cell { bad, nmis });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{from_json, to_json};
    use crate::c_programs::Width;
    use crate::kernel::Debian;
    use crate::matrix::table::{Cell, Results, Row, Run};

    #[test]
    fn what_is_kept_comes_back() {
        let mut seen = Results::default();
        let run = Run {
            revision: "abc".into(),
            boot: 1,
            all: 2,
        };
        seen.runs.insert((Debian::Amd64, 4), run);
        for (program, bad) in [(0, None), (3, Some("why".to_owned()))] {
            let row = Row {
                debian: Debian::Amd64,
                width: Width::Bits64,
                program,
            };
            seen.cells.insert((row, 4), Cell { bad, nmis: 5 });
        }
        let mut back = Results::default();
        let json = to_json(Debian::Amd64, 4, &seen);
        from_json(Debian::Amd64, 4, &json, &mut back);
        assert_eq!((back.cells, back.runs), (seen.cells, seen.runs));
    }
}
