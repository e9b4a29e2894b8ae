"""Durations in the form of settings: `250ms`, `10s`, `30m`, `12h`, `7d`."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> object:
    """Return the duration of a text with a unit, or of a number of seconds; pass others on."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)?\s*", value, re.ASCII)
    if match is None:
        raise ValueError("must be a duration such as 250ms, 10s, 30m, 12h or 7d")
    try:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2] or "s"])
    except OverflowError:
        raise ValueError("must be a shorter duration") from None


def format_duration(value: timedelta) -> str:
    """Return a duration as text, in the largest unit without a fraction."""
    milliseconds = round(value / timedelta(milliseconds=1))
    for unit in ("d", "h", "m", "s"):
        size = _UNITS[unit] * 1000
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size:.0f}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


def between(shortest: timedelta, longest: timedelta) -> AfterValidator:
    """Return a validator that checks the bounds of a duration."""

    def check(value: timedelta) -> timedelta:
        if not shortest <= value <= longest:
            bounds = f"{format_duration(shortest)} and {format_duration(longest)}"
            raise ValueError(f"must be between {bounds}")
        return value

    return AfterValidator(check)
