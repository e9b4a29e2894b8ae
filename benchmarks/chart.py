"""The chart of calls a second and p99, as SVG."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from math import floor, log10
from typing import NamedTuple

from benchmarks.samples import Sample, median, p99, rate

WIDTH, HEIGHT = 880, 400
PLOT_WIDTH, PLOT_HEIGHT = 340, 240
TOP, LEFTS = 80, (70, 510)
TICKS = 4
DARK, GREY, FAINT = "#333333", "#777777", "#dddddd"

Point = tuple[float, float]


class Series(NamedTuple):
    """A line of the chart, by calls in flight."""

    name: str
    colour: str
    samples: Mapping[int, Sequence[Sample]]


def draw_chart(series: Sequence[Series], caption: str) -> str:
    """Return an SVG with both plots side by side."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        '  font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_legend(series),
        *_plot(LEFTS[0], "Calls a second", series, lambda each: median(each, rate)),
        *_plot(LEFTS[1], "p99, milliseconds", series, lambda each: median(each, p99) * 1e3),
        _text((WIDTH / 2, HEIGHT - 10), caption, anchor="middle", colour=GREY),
        "</svg>\n",
    ]
    return "\n".join(lines)


def _legend(series: Sequence[Series]) -> Iterator[str]:
    for place, each in enumerate(series):
        left = LEFTS[0] + place * 170
        yield f'<rect x="{left}" y="16" width="14" height="14" fill="{each.colour}"/>'
        yield _text((left + 20, 28), each.name)


def _plot(
    left: int, title: str, series: Sequence[Series], figure: Callable[[Sequence[Sample]], float]
) -> Iterator[str]:
    places = list(series[0].samples)
    values = [[figure(each.samples[place]) for place in places] for each in series]
    top = _ceiling(max(map(max, values)))
    across = [left + PLOT_WIDTH * n / max(1, len(places) - 1) for n in range(len(places))]
    yield _text((left, TOP - 18), title, weight="bold")
    for tick in range(TICKS + 1):
        y = TOP + PLOT_HEIGHT * (1 - tick / TICKS)
        yield f'<path d="M{left} {y:.1f}h{PLOT_WIDTH}" stroke="{FAINT}"/>'
        yield _text((left - 8, y + 4), f"{top * tick / TICKS:,g}", anchor="end")
    for x, place in zip(across, places, strict=True):
        yield _text((x, TOP + PLOT_HEIGHT + 18), str(place), anchor="middle")
    middle = left + PLOT_WIDTH / 2
    yield _text((middle, TOP + PLOT_HEIGHT + 36), "calls in flight", anchor="middle")
    for each, line in zip(series, values, strict=True):
        heights = [TOP + PLOT_HEIGHT * (1 - value / top) for value in line]
        yield from _line(list(zip(across, heights, strict=True)), each.colour)


def _line(points: Sequence[Point], colour: str) -> Iterator[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'


def _ceiling(value: float) -> float:
    """Return the next round number, so that the tick labels are round too."""
    power = 10.0 ** floor(log10(value))
    return next(each * power for each in (1, 2, 4, 6, 8, 10) if each * power >= value)


def _text(
    at: Point, words: str, *, anchor: str = "start", weight: str = "normal", colour: str = DARK
) -> str:
    x, y = at
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-weight="{weight}" fill="{colour}">{escape(words)}</text>'
