"""Ages that options name, such as `5m`."""

import re
from datetime import timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_age(text: str) -> timedelta:
    """Return the age of a text. The service decides its bounds."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    if found is None:
        raise typer.BadParameter("must be a duration such as 90s, 5m, 12h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
