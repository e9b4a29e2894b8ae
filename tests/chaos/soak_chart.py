"""The chart of a soak: resources in use over time, as SVG written by hand."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.soak import Sample

WIDTH, HEIGHT, LEFT, GAP = 720, 120, 70, 60
PLOTS = {
    "memory": ("Memory, MiB", "#1f6f8b"),
    "files": ("Open files", "#7a5195"),
    "connections": ("Connections to PostgreSQL", "#2a9d4a"),
    "idle": ("Transactions left open", "#c1440e"),
}


def chart(samples: "Sequence[Sample]") -> str:
    """Draw a plot for each figure, one below the other."""
    whole = len(PLOTS) * (HEIGHT + GAP) + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 90} {whole}"',
        '  font-family="sans-serif" font-size="12" fill="#333333">',
        f'<rect width="{WIDTH + 90}" height="{whole}" fill="#ffffff"/>',
        *(line for place, name in enumerate(PLOTS) for line in _plot(samples, name, place)),
        "</svg>\n",
    ]
    return "\n".join(lines)


def _plot(samples: "Sequence[Sample]", name: str, place: int) -> Iterator[str]:
    title, colour = PLOTS[name]
    values = [getattr(each, name) for each in samples]
    top, bottom = max(*values, 1) * 1.1, 40 + place * (HEIGHT + GAP) + HEIGHT
    longest = max(samples[-1].seconds, 1)
    points = " ".join(
        f"{LEFT + WIDTH * each.seconds / longest:.1f},{bottom - HEIGHT * value / top:.1f}"
        for each, value in zip(samples, values, strict=True)
    )
    yield f'<text x="{LEFT}" y="{bottom - HEIGHT - 8}" font-weight="bold">{title}</text>'
    for share in (0, 0.5, 1):
        y = bottom - HEIGHT * share
        yield f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{top * share:,.0f}</text>'
    yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
    yield f'<text x="{LEFT}" y="{bottom + 18}">0 s</text>'
    yield (
        f'<text x="{LEFT + WIDTH}" y="{bottom + 18}" text-anchor="end">'
        f"{samples[-1].seconds:,.0f} s</text>"
    )
