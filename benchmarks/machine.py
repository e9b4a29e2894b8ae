"""The machine on which the benchmark runs."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psycopg


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


def autogroup_warning(switch: Path = AUTOGROUP) -> str | None:
    """Return a warning if the scheduler is set up for desktops, or None."""
    if not switch.exists() or switch.read_text().strip() == "0":
        return None
    return (
        "This machine schedules by groups made for desktops: every connection of PostgreSQL is a\n"
        "group of its own, and waits for the processor up to seconds while others are busy. It\n"
        "concerns no service in a control group (systemd, containers). To measure without:\n"
        "    sudo sysctl kernel.sched_autogroup_enabled=0"
    )


def describe_machine(database_url: str) -> str:
    """Return processor, Python and PostgreSQL in one line."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    postgres = row[0] if row else "unknown"
    parts = (
        f"{cores()} cores ({_processor()})",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
        f"grpcio {version('grpcio')}",
        f"PostgreSQL {postgres}",
    )
    return ", ".join(parts)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "processor unknown"
