"""Child processes, and the CPU and memory that they use."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.samples import BenchmarkError

PROCESS_TIMEOUT = 30.0
"""Seconds in which a process must start or end."""

ROOT = Path(__file__).resolve().parent.parent
_INHERITED_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH")


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with `variables` and without settings of the service."""
    return {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ} | dict(
        variables
    )


@contextlib.contextmanager
def running_process(
    command: Sequence[str | Path],
    *,
    output: Path,
    variables: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process while the block runs. Its output goes to a file."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        try:
            yield process
        finally:
            terminate(process)


def terminate(process: "subprocess.Popen[bytes]") -> None:
    """Terminate a process, and kill it if that takes too long."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PROCESS_TIMEOUT)
        except BaseException:
            process.kill()
            process.wait()
            raise


def wait_for_success(process: "subprocess.Popen[bytes]", output: Path) -> None:
    """Wait for a process. If it fails, raise `BenchmarkError` with its last lines."""
    if process.wait() != 0:
        last = "\n".join(output.read_text(errors="replace").splitlines()[-5:])
        raise BenchmarkError(f"{process.args!r} ended with {process.returncode}:\n{last}")


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time that a process has used, or None without /proc."""
    path = Path(f"/proc/{pid}/stat")
    if not path.exists():
        return None
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    completed = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True
    )
    return int(completed.stdout) * 1024
