"""The soak's findings: growth is reported, and fluctuation is not."""

from xml.etree import ElementTree as ET

import pytest

from tests.chaos.soak import Sample, found
from tests.chaos.soak_chart import PLOTS, chart


def samples(**given):
    """Return a minute of samples; given figures are functions of the second."""
    still = {"memory": 150.0, "files": 30, "connections": 12, "idle": 0, "calls": 0}
    return [
        Sample(float(second), **(still | {name: of(second) for name, of in given.items()}))
        for second in range(60)
    ]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"memory": lambda second: 150.0 + second % 10},
        {"memory": lambda second: min(100.0 + second * 5, 150.0)},
        {"files": lambda second: 30 + second % 4, "connections": lambda second: 9 + second % 4},
    ],
    ids=["still", "up and down", "warming up", "replaced"],
)
def test_stable_figures_are_no_problem(given):
    assert not [*found(samples(**given))]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"memory": lambda second: 150.0 + second / 2}, "Memory grew"),
        ({"files": lambda second: 30 + second // 5}, "files"),
        ({"connections": lambda second: 12 + second // 5}, "connections"),
        ({"idle": lambda second: int(second == 40)}, "left open"),
    ],
)
def test_growing_figure_is_reported(given, problem):
    (problem_text,) = found(samples(**given))
    assert problem in problem_text


def test_soak_chart_has_a_line_for_each_figure():
    drawn = ET.fromstring(chart(samples()))  # noqa: S314 - it is ours
    assert len(drawn.findall("{*}polyline")) == len(PLOTS)
