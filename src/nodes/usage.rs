//! What the machine of this server is doing, from `/proc`: counters that only grow, so that whoever asks twice knows
//! rates, whatever somebody else asks in between. What a system does not tell is `None`: pressure stall information
//! is a choice of the kernel's, and a data directory on a network has no disk here.
//!
//! These are figures of the machine. Where the server runs in a container they are those of its host.

use serde::Deserialize;

use crate::pg::disk;

/// The counters, as `repart_node_usage` tells them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Number of processors.
    pub cpus: Option<i32>,
    /// Seconds that all processors together have existed since the machine started.
    pub cpu_seconds: Option<f64>,
    /// Those in which they worked.
    pub cpu_busy_seconds: Option<f64>,
    /// Average number of processes at work or waiting for a disk, over a minute.
    pub load: Option<f64>,
    /// Bytes.
    pub memory_total: Option<i64>,
    /// Bytes that programs can still get without swapping.
    pub memory_available: Option<i64>,
    /// Microseconds in which somebody waited for a processor.
    pub cpu_stall_us: Option<i64>,
    /// As above, for memory.
    pub memory_stall_us: Option<i64>,
    /// As above, for I/O.
    pub io_stall_us: Option<i64>,
    /// Bytes read from the device of the data directory.
    pub read_bytes: Option<i64>,
    /// Bytes written to it.
    pub write_bytes: Option<i64>,
    /// Bytes that the file system of the data directory can hold.
    pub disk_total: Option<i64>,
    /// Bytes that PostgreSQL can still write there.
    pub disk_free: Option<i64>,
}

/// What the processors did since the machine started.
pub struct Processors {
    /// How many there are.
    pub count: usize,
    /// Seconds that all of them together have existed.
    pub all: f64,
    /// Those in which they worked.
    pub busy: f64,
}

/// What the processors did; `None` where the system does not tell.
pub fn processors() -> Option<Processors> {
    #[cfg(target_os = "linux")]
    return linux::processors();
    #[cfg(not(target_os = "linux"))]
    None
}

/// Seconds in which somebody waited for I/O; `None` where the system does not tell.
pub fn io_stall() -> Option<f64> {
    #[cfg(target_os = "linux")]
    return linux::io_stall();
    #[cfg(not(target_os = "linux"))]
    None
}

/// Seconds that this process has kept a processor busy; `None` where the system does not tell.
pub fn session_seconds() -> Option<f64> {
    #[cfg(target_os = "linux")]
    return linux::session_seconds();
    #[cfg(not(target_os = "linux"))]
    None
}

/// PostgreSQL's processes work in the data directory.
const DATA_DIRECTORY: &str = ".";

/// Reads them.
pub fn read() -> Usage {
    let bytes = |value: u64| i64::try_from(value).ok();
    let mut usage = Usage {
        disk_total: disk::total_bytes(DATA_DIRECTORY).ok().and_then(bytes),
        disk_free: disk::free_bytes(DATA_DIRECTORY).ok().and_then(bytes),
        ..Usage::default()
    };
    #[cfg(target_os = "linux")]
    linux::read(&mut usage);
    usage
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::linux::fs::MetadataExt;

    use procfs::{
        CpuPressure, CpuTime, Current, CurrentSI, DiskStats, IoPressure, KernelStats, LoadAverage,
        Meminfo, MemoryPressure, process::Process, ticks_per_second,
    };

    use super::{DATA_DIRECTORY, Processors, Usage};

    /// `/proc/diskstats` counts in these units, whatever the sectors of the device are.
    const SECTOR: u64 = 512;

    /// What `/proc/stat` says of the processors.
    pub fn processors() -> Option<Processors> {
        let kernel = KernelStats::current().ok()?;
        let (busy, all) = seconds(&kernel.total);
        Some(Processors {
            count: kernel.cpu_time.len(),
            all,
            busy,
        })
    }

    /// What `/proc/pressure/io` says.
    pub fn io_stall() -> Option<f64> {
        let pressure = IoPressure::current().ok()?;
        Some(pressure.some.total as f64 / 1e6)
    }

    /// What `/proc/self/stat` says.
    pub fn session_seconds() -> Option<f64> {
        let own = Process::myself().ok()?.stat().ok()?;
        Some((own.utime + own.stime) as f64 / ticks_per_second() as f64)
    }

    pub fn read(usage: &mut Usage) {
        let number = |value: u64| i64::try_from(value).ok();
        if let Some(processors) = processors() {
            usage.cpus = i32::try_from(processors.count).ok();
            usage.cpu_seconds = Some(processors.all);
            usage.cpu_busy_seconds = Some(processors.busy);
        }
        usage.load = LoadAverage::current().ok().map(|load| f64::from(load.one));
        if let Ok(memory) = Meminfo::current() {
            usage.memory_total = number(memory.mem_total);
            usage.memory_available = memory.mem_available.and_then(number);
        }
        let cpu = CpuPressure::current().ok().map(|cpu| cpu.some.total);
        let memory = MemoryPressure::current()
            .ok()
            .map(|memory| memory.some.total);
        let io = IoPressure::current().ok().map(|io| io.some.total);
        usage.cpu_stall_us = cpu.and_then(number);
        usage.memory_stall_us = memory.and_then(number);
        usage.io_stall_us = io.and_then(number);
        if let Some((read, written)) = transferred() {
            usage.read_bytes = number(read);
            usage.write_bytes = number(written);
        }
    }

    /// Seconds of work, and all. A guest's time is in `user` and `nice` too; stolen time is work that others did.
    fn seconds(time: &CpuTime) -> (f64, f64) {
        let milliseconds = |ms: Option<u64>| ms.unwrap_or(0) as f64 / 1e3;
        let busy = milliseconds(Some(time.user_ms()))
            + milliseconds(Some(time.nice_ms()))
            + milliseconds(Some(time.system_ms()))
            + milliseconds(time.irq_ms())
            + milliseconds(time.softirq_ms())
            + milliseconds(time.steal_ms());
        let idle = milliseconds(Some(time.idle_ms())) + milliseconds(time.iowait_ms());
        (busy, busy + idle)
    }

    /// Bytes read from and written to the device of the data directory.
    fn transferred() -> Option<(u64, u64)> {
        let device = std::fs::metadata(DATA_DIRECTORY).ok()?.st_dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let all = DiskStats::current().ok()?.0;
        let disk = all.into_iter().find(|disk| {
            u32::try_from(disk.major) == Ok(major) && u32::try_from(disk.minor) == Ok(minor)
        })?;
        Some((disk.sectors_read * SECTOR, disk.sectors_written * SECTOR))
    }
}
