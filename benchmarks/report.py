"""The printed tables, in Markdown."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.samples import Sample, median, p50, p99, rate


class Row(NamedTuple):
    """A figure beside its target."""

    label: str
    target: str
    measured: str
    reached: bool


def at_least(label: str, target: float, measured: float) -> Row:
    """Return a row with a lower bound."""
    return Row(label, f">= {target:.2f}", f"{measured:.2f}", measured >= target)


def at_most(label: str, target: float, measured: float, *, unit: str = "", digits: int = 2) -> Row:
    """Return a row with an upper bound."""
    text = f"{measured:.{digits}f}{unit}"
    return Row(label, f"<= {target:g}{unit}", text, round(measured, digits) <= target)


class Line(NamedTuple):
    """The samples of a call, with its ratio to the empty handler."""

    label: str
    in_flight: int
    samples: Sequence[Sample]
    ratio: float | None = None
    statements: float | None = None
    round_trips: float | None = None


def targets_table(rows: Sequence[Row]) -> str:
    """Return the table of targets."""
    header = ("Figure", "Target", "Measured", "")
    cells = [(row.label, row.target, row.measured, _word(row)) for row in rows]
    return table(header, cells)


def lines(calls: Sequence[Line]) -> str:
    """Return the table of calls."""
    figures = ("calls/s", "of empty", "p50 ms", "p99 ms", "CPU us", "statements", "round trips")
    header = ("Call", "in flight", *figures)
    return table(header, [_cells(line) for line in calls])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (header, rule, *rows)
    )


def _word(row: Row) -> str:
    return "ok" if row.reached else "not reached"


def _cells(line: Line) -> tuple[str, ...]:
    cpu_figures = [sample.cpu_per_call for sample in line.samples]
    cpu = [figure * 1e6 for figure in cpu_figures if figure is not None]
    return (
        line.label,
        str(line.in_flight),
        f"{median(line.samples, rate):,.0f}",
        _figure(line.ratio),
        f"{median(line.samples, p50) * 1e3:.2f}",
        f"{median(line.samples, p99) * 1e3:.2f}",
        f"{statistics.median(cpu):.0f}" if cpu else "",
        _figure(line.statements),
        _figure(line.round_trips),
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
