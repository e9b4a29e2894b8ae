"""What a soak finds in its figures: a leak is told, what goes up and down is not."""

from xml.etree import ElementTree as ET

import pytest

from tests.chaos.soak import Sample, found
from tests.chaos.soak_chart import PLOTS, chart


def samples(**given):
    """A minute's figures; those that are given are made from the second."""
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
def test_what_does_not_grow_is_no_problem(given):
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
def test_what_grows_is_told(given, problem):
    (told,) = found(samples(**given))
    assert problem in told


def test_the_chart_has_a_line_for_each_figure():
    drawn = ET.fromstring(chart(samples()))  # noqa: S314 - it is ours
    assert len(drawn.findall("{*}polyline")) == len(PLOTS)
