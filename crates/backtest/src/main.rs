//! `make backtest DATA=folder`: evaluates the forecasting models on traces. See the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use repart_backtest::{
    Error,
    arguments::{Arguments, Part},
    fleet, m4, references,
    report::{self, Evaluated},
    rolling::{self, Task},
    trace,
};
use repart_core::forecast::{Model, Season};

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("repart-backtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    if let Some(shards) = arguments.shards {
        let fleet = fleet::measure(shards).map_err(|e| Error::Usage(e.to_string()))?;
        report::print_fleet(&fleet);
        return Ok(());
    }
    let mut all = Vec::new();
    for path in traces(&arguments.folder, &arguments.only)? {
        let trace = trace::read(&path, arguments.least_step, arguments.index_step)?;
        let Some(task) = Task::of(&trace, arguments) else {
            println!(
                "\n{}: skipped, its {} steps are too few",
                trace.name,
                trace.series.len()
            );
            continue;
        };
        report::print_trace(&trace, &task);
        let runs = rolling::run(&trace, &task, arguments);
        let scores = rolling::scores(&trace, &task, &runs);
        report::print_scores(&scores);
        let references = references::of(&trace, &task, &runs);
        report::print_references(&references, &scores);
        all.push(Evaluated {
            name: trace.name,
            task,
            scores,
            references,
        });
    }
    report::print_summary(&all);
    let has_m4 = run_m4(arguments)?;
    if all.is_empty() && !has_m4 {
        return Err(Error::Usage(format!(
            "{} has no trace to forecast: CSV files with a header, then a time or an index, and a value per line",
            arguments.folder.display()
        )));
    }
    Ok(())
}

/// The traces of a folder, by name: its CSV files but those of M4.
fn traces(folder: &Path, only: &str) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read {
        path: folder.display().to_string(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".csv") && name.contains(only) && !m4::FILES.contains(&name.as_str()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether the folder has the split of M4.
fn run_m4(arguments: &Arguments) -> Result<bool, Error> {
    if !m4::FILES.iter().any(|name| name.contains(&arguments.only)) {
        return Ok(false);
    }
    let Some(all) = m4::read(&arguments.folder)? else {
        return Ok(false);
    };
    let part = match arguments.part {
        Part::Test => "the official test set",
        Part::Validation | Part::Percent(..) => "the last 48 values of the training set",
    };
    report::print_m4_header(all.len().div_ceil(arguments.m4), part);
    for hours in [24, 168] {
        let naive = m4::evaluate(&all, Model::SeasonalNaive, Season::Steps(hours), arguments);
        report::print_m4(&format!("naive ({hours} h)"), &naive);
    }
    for model in &arguments.models {
        let season = arguments.season.map_or(Season::Auto, Season::Steps);
        report::print_m4(model.name(), &m4::evaluate(&all, *model, season, arguments));
    }
    Ok(true)
}
