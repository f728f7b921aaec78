//! What the matrix says: a table in the form in which the system that Stillpoint learnt from notes
//! its bugs, and the page with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::c_programs::Width;
use crate::kernel::Debian;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The guest's Debian.
    pub debian: Debian,
    /// How wide the program is. A 32-bit Debian runs no 64-bit programs.
    pub width: Width,
    /// Its place in [`super::boot::PROGRAMS`].
    pub program: usize,
}

/// What was seen of one program on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Why it is bad; nothing if it is good.
    pub bad: Option<String>,
    /// NMIs that came to the guest meanwhile.
    pub nmis: u64,
}

/// When and how long a machine ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The revision of Stillpoint, as git names it.
    pub revision: String,
    /// Seconds to the login prompt.
    pub boot: u64,
    /// Seconds in all.
    pub all: u64,
}

/// What was seen of all.
#[derive(Default)]
pub struct Results {
    /// By line and number of CPUs.
    pub cells: BTreeMap<(Row, u32), Cell>,
    /// The machines, by number of CPUs.
    pub runs: BTreeMap<(Debian, u32), Run>,
}

impl Results {
    /// Adds what was seen of other machines.
    pub fn extend(&mut self, other: Self) {
        self.cells.extend(other.cells);
        self.runs.extend(other.runs);
    }

    /// Whether there is something, and nothing is bad.
    pub fn all_good(&self) -> bool {
        !self.cells.is_empty() && self.cells.values().all(|cell| cell.bad.is_none())
    }

    /// The table.
    pub fn table(&self, names: &[&str]) -> String {
        let counts: Vec<u32> = {
            let mut counts: Vec<u32> = self.cells.keys().map(|(_, cpus)| *cpus).collect();
            counts.sort_unstable();
            counts.dedup();
            counts
        };
        let mut rows: Vec<Row> = self.cells.keys().map(|(row, _)| *row).collect();
        rows.dedup();
        let mut lines = vec![
            ["Operating", "", ""].map(str::to_owned).to_vec(),
            ["System", "Application", "Program"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (index, cpus) in counts.iter().enumerate() {
            lines[0].push(if index == 0 {
                "Status".into()
            } else {
                String::new()
            });
            lines[1].push(count(*cpus));
        }
        for row in &rows {
            let mut line = vec![
                system(row.debian).to_owned(),
                format!("pal_demo {}", width(row.width)),
                names
                    .get(row.program)
                    .copied()
                    .unwrap_or_default()
                    .to_owned(),
            ];
            for cpus in &counts {
                line.push(match self.cells.get(&(*row, *cpus)) {
                    Some(Cell { bad: None, .. }) => "good".into(),
                    Some(_) => "bad".into(),
                    None => String::new(),
                });
            }
            lines.push(line);
        }
        grid(&lines)
    }

    /// Each bad cell with its reason.
    pub fn complaints(&self, names: &[&str]) -> String {
        let mut text = String::new();
        for ((row, cpus), cell) in &self.cells {
            if let Some(why) = &cell.bad {
                // Writing to a String cannot fail.
                let _ = writeln!(
                    text,
                    "bad: {} on {}, {}, {}: {why}",
                    names.get(row.program).copied().unwrap_or_default(),
                    system(row.debian),
                    width(row.width),
                    count(*cpus)
                );
            }
        }
        text
    }

    /// How long it took, and how many NMIs came.
    pub fn times(&self) -> String {
        let mut text = String::from(
            "| Debian | CPUs | to the login prompt | in all | NMIs to the guest | revision |\n|---|---|---|---|---|---|\n",
        );
        for ((debian, cpus), run) in &self.runs {
            let nmis: u64 = self
                .cells
                .iter()
                .filter(|((row, count), _)| row.debian == *debian && count == cpus)
                .map(|(_, cell)| cell.nmis)
                .sum();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {cpus} | {} s | {} s | {nmis} | {} |",
                system(*debian),
                run.boot,
                run.all,
                run.revision
            );
        }
        text
    }
}

/// So many CPUs, in words.
pub fn count(cpus: u32) -> String {
    match cpus {
        1 => "1 CPU".into(),
        _ => format!("{cpus} CPUs"),
    }
}

/// The system's name in the table.
pub fn system(debian: Debian) -> &'static str {
    match debian {
        Debian::Amd64 => "Debian 13 x64",
        Debian::I386 => "Debian 12 x86",
    }
}

fn width(width: Width) -> &'static str {
    match width {
        Width::Bits32 => "x86",
        Width::Bits64 => "x64",
    }
}

/// Lines of equally many columns as a grid table. The first two are its head. A line is drawn
/// where the first or the second column changes.
fn grid(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].len())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let rule = |with: &str| -> String {
        let parts: Vec<String> = widths.iter().map(|width| with.repeat(width + 2)).collect();
        format!("+{}+\n", parts.join("+"))
    };
    let mut text = rule("-");
    for (index, line) in lines.iter().enumerate() {
        let above = index.checked_sub(1).map(|above| &lines[above]);
        if index == 2 {
            text += &rule("=");
        } else if index > 2 && above.is_some_and(|above| above[..2] != line[..2]) {
            text += &rule("-");
        }
        let same = index > 2 && above.is_some_and(|above| above[..2] == line[..2]);
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let cell = if same && column < 2 { "" } else { cell };
            text += &format!("| {cell:<width$} ");
        }
        text += "|\n";
    }
    text + &rule("-")
}

#[cfg(test)]
mod tests {
    use super::{Cell, Results, Row};
    use crate::c_programs::Width;
    use crate::kernel::Debian;

    fn seen(bad: Option<&str>) -> Cell {
        Cell {
            bad: bad.map(str::to_owned),
            nmis: 3,
        }
    }

    #[test]
    fn the_table_says_what_was_seen() {
        let row = |debian, width, program| Row {
            debian,
            width,
            program,
        };
        let mut results = Results::default();
        assert!(!results.all_good());
        results
            .cells
            .insert((row(Debian::I386, Width::Bits32, 0), 1), seen(None));
        assert!(results.all_good());
        let wide = row(Debian::Amd64, Width::Bits64, 1);
        results.cells.insert((wide, 2), seen(Some("it hung")));
        assert!(!results.all_good());
        let names = ["main", "attack"];
        assert_eq!(
            results.table(&names),
            "\
+---------------+--------------+---------+--------+--------+
| Operating     |              |         | Status |        |
| System        | Application  | Program | 1 CPU  | 2 CPUs |
+===============+==============+=========+========+========+
| Debian 13 x64 | pal_demo x64 | attack  |        | bad    |
+---------------+--------------+---------+--------+--------+
| Debian 12 x86 | pal_demo x86 | main    | good   |        |
+---------------+--------------+---------+--------+--------+
"
        );
        assert_eq!(
            results.complaints(&names),
            "bad: attack on Debian 13 x64, x64, 2 CPUs: it hung\n"
        );
    }
}
