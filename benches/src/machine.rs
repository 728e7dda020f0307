//! What it was measured on: a figure without its machine says little.

use std::fs;

fn first_line(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line[key.len()..].trim_matches([' ', '\t', ':']).to_owned())
}

/// Processors, memory and kernel, and how busy the machine is with other things.
pub fn describe() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = first_line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = first_line("/proc/meminfo", "MemTotal")
        .and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes / 1024 / 1024);
    let kernel = first_line("/proc/sys/kernel/osrelease", "").unwrap_or_default();
    format!(
        "{processors} x {model}, {memory} GB, Linux {kernel}; {}",
        load()
    )
}

/// The load average: on a machine that others use too, the reader must know.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let one = text.split(' ').next().unwrap_or("unknown");
    format!("load average {one}")
}
