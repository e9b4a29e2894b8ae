"""python -m tests.cluster: faults of a cluster of PostgreSQL, and the table of their results."""

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.cluster import isolation, processes, report
from tests.cluster.faults import FAULTS, Fault
from tests.cluster.judgement import Judgement
from tests.cluster.rig import Rig, running
from tests.cluster.trial import Trial
from tests.support.commands import ROOT

LOGS = ROOT / "build/cluster"
"""The logs of all programs, if a promise was broken."""

DEFAULT = [fault.name for fault in FAULTS.values() if fault.is_default]
WATCHDOG = Path("/dev/watchdog")
NOT_POSSIBLE = 77
"""The exit status if the rig cannot run here."""


async def try_all(faults: Sequence[Fault], runs: int, seconds: float) -> bool:
    """Try every fault, print the table, and return whether all promises were kept."""
    began = time.monotonic()
    _progress("starting etcd, three machines of PostgreSQL with Patroni, and HAProxy")
    async with running() as rig:
        _progress(f"the cluster is whole after {time.monotonic() - began:.0f} s")
        print(report.header(), flush=True)
        results = [await try_fault(rig, fault, runs, seconds) for fault in faults]
    return all(results)


async def try_fault(rig: Rig, fault: Fault, runs: int, seconds: float) -> bool:
    """Try a fault a number of times, and print its row."""
    judged: list[Judgement] = []
    for number in range(1, runs + 1):
        prefix = f"{fault.name} {number}/{runs}"
        folder = isolation.RUN / f"{fault.name}-{number}"
        folder.mkdir()
        trial = Trial(rig, fault, seconds, partial(_progress, prefix))
        try:
            judged.append(await trial.run(folder))
        except Exception:
            _keep_logs(fault, number)
            raise
        if not judged[-1].is_good:
            _keep_logs(fault, number)
            for line in report.broken_promises(judged[-1]):
                _progress(prefix, line)
    print(report.row(fault.name, judged), flush=True)
    return all(run.is_good for run in judged)


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, and run in namespaces of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    parser.add_argument("--faults", default=",".join(DEFAULT), help="names, with commas between")
    parser.add_argument("--runs", type=int, default=1, help="how often each is tried")
    parser.add_argument("--seconds", type=float, default=10, help="how long each lasts")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    names = [*dict.fromkeys(given.faults.split(","))]
    if unknown := [name for name in names if name not in FAULTS]:
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    if given.runs < 1:
        parser.error("--runs must be at least 1")
    if given.inside:
        isolation.become_init()
        return (
            0
            if asyncio.run(try_all([FAULTS[name] for name in names], given.runs, given.seconds))
            else 1
        )
    if why := impossible():
        print(f"The cluster cannot run here: {why}", file=sys.stderr)
        return NOT_POSSIBLE
    if not WATCHDOG.exists():
        _progress("there is no /dev/watchdog: Patroni runs without a watchdog")
    command = [sys.executable, "-m", "tests.cluster", "--inside", *arguments]
    return isolation.run_isolated(command)


def impossible() -> str:
    """Return why the rig cannot run here, or an empty text."""
    if missing := processes.missing_programs():
        return f"missing programs: {', '.join(missing)}"
    why = isolation.refusal()
    return f"namespaces are not permitted: {why}" if why else ""


def _keep_logs(fault: Fault, number: int) -> None:
    kept = LOGS / f"{fault.name}-{number}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for log in (*isolation.RUN.glob("*/*.log"), *isolation.RUN.glob("*.log")):
        shutil.copy(log, kept / f"{log.parent.name}-{log.name}")
    for log in isolation.RUN.glob(f"{fault.name}-{number}/output-*"):
        shutil.copy(log, kept)
    _progress(f"logs are in {kept.relative_to(ROOT)}")


def _progress(*texts: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {': '.join(texts)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
