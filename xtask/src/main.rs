//! `cargo xtask`: everything that happens on the host. Builds the image and the
//! guest's programs, makes disk images, runs the emulator, drives gdb, runs the
//! tests and the benchmarks. `.ci/run` is `cargo xtask test`.
#![forbid(unsafe_code)]

mod apt;
mod attach;
mod bench;
mod bochs_fix;
mod boot_ratio;
mod bzimage;
mod c_programs;
mod colour;
mod compile;
mod console;
mod cpio;
mod debug_line;
mod demo;
mod disk;
mod emulator;
mod full_debian;
mod gdb;
mod image;
mod image_code;
mod kallsyms;
mod kernel;
mod lint;
mod machine;
mod matrix;
mod net;
mod orc;
mod own_files;
mod pal_code;
mod paths;
mod process;
mod progress;
mod rsp;
mod run;
mod scenarios;
mod serial;
mod setup;
mod storm;
mod test;
mod test_guest;
mod tools;
mod vmlinux;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Build, boot, debug and test Stillpoint.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Doctor(setup::DoctorArgs),
    Build(compile::BuildArgs),
    Image(image::ImageArgs),
    Run(run::RunArgs),
    Gdb(attach::GdbArgs),
    Demo(demo::DemoArgs),
    Bench(bench::BenchArgs),
    Lint(lint::LintArgs),
    Matrix(matrix::MatrixArgs),
    Storm(storm::StormArgs),
    Test(test::TestArgs),
    Vmlinux(vmlinux::VmlinuxArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    process::install_signal_handler()?;
    match command {
        Command::Test(args) => return test::command(&args),
        Command::Matrix(args) => return matrix::command(&args),
        Command::Storm(args) => return storm::command(&args),
        Command::Doctor(args) => setup::doctor(&args),
        Command::Build(args) => compile::command(&args),
        Command::Image(args) => image::command(&args),
        Command::Run(args) => run::command(&args),
        Command::Gdb(args) => attach::command(&args),
        Command::Demo(args) => demo::command(&args),
        Command::Bench(args) => bench::command(&args),
        Command::Lint(args) => lint::command(&args),
        Command::Vmlinux(args) => vmlinux::command(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}
