"""The table of faults."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.chaos.rules import Promise
from tests.cluster.judgement import Judgement

MAX_SHOWN = 10
"""The number of broken promises of a run that are shown."""

LOST = {Promise.KEPT, Promise.ALONE, Promise.WHOLE}
FORBIDDEN = {Promise.ENDED, Promise.STALE}

Runs = Sequence[Judgement]


class Column(NamedTuple):
    """A column of the table: its title, and the text of a row."""

    title: str
    text: Callable[[Runs], str]


def _count(*promises: Promise) -> Callable[[Runs], str]:
    return lambda runs: str(sum(run.counts[promise] for run in runs for promise in promises))


def _most(seconds: Callable[[Judgement], Sequence[float]]) -> Callable[[Runs], str]:
    def text(runs: Runs) -> str:
        found = [value for run in runs for value in seconds(run)]
        return f"{max(found):.1f}" if found else "-"

    return text


def _gaps(gap: Callable[[Judgement, int], float]) -> Callable[[Runs], str]:
    return lambda runs: " / ".join(
        f"{max(gap(run, server) for run in runs):.1f}" for server in range(2)
    )


OTHERS = set(Promise) - LOST - FORBIDDEN - {Promise.STATUS, Promise.NOTIFIED}

COLUMNS = (
    Column("runs", lambda runs: str(len(runs))),
    Column("calls", lambda runs: str(sum(len(run.evidence.history.calls) for run in runs))),
    Column("writes", lambda runs: str(sum(run.evidence.history.acknowledged for run in runs))),
    Column("lost", _count(*LOST)),
    Column("forbidden", _count(*FORBIDDEN)),
    Column("   of", lambda runs: str(sum(run.asked for run in runs))),
    Column("unknown", _count(Promise.STATUS)),
    Column("watchers", _count(Promise.NOTIFIED)),
    Column("others", _count(*OTHERS)),
    Column("stale for", _most(lambda run: run.stale)),
    Column("no writes for", _gaps(Judgement.gap_of_writes)),
    Column("no validations for", _gaps(Judgement.gap_of_validations)),
    Column("UNAVAILABLE in", _most(lambda run: run.unavailable)),
    Column("promoted in", _most(lambda run: run.promotion)),
    Column("healed in", _most(lambda run: run.healing)),
)

FIRST = 22
"""The width of the names of faults."""


def header() -> str:
    """Return the first line of the table."""
    return "fault".ljust(FIRST) + "  ".join(column.title for column in COLUMNS)


def row(fault: str, runs: Runs) -> str:
    """Return the line of a fault."""
    cells = (column.text(runs).rjust(len(column.title)) for column in COLUMNS)
    return fault.ljust(FIRST) + "  ".join(cells)


def broken_promises(run: Judgement) -> list[str]:
    """Return a line for each broken promise of a run, up to a number."""
    lines = [f"{found.promise}: {' '.join(found.text.split())}" for found in run.violations]
    left = len(lines) - MAX_SHOWN
    more = [f"... and {left} more"] if left > 0 else []
    return [*lines[:MAX_SHOWN], *more, *(f"the run shows little: {text}" for text in run.blind)]
