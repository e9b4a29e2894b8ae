"""The types of settings, with the checks of their texts."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.database_url import check_database_url, strip_driver

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


def between(shortest: timedelta, longest: timedelta, *, or_zero: bool = False) -> AfterValidator:
    """Return a validator that checks the bounds of a duration."""

    def check(value: timedelta) -> timedelta:
        if shortest <= value <= longest or (or_zero and not value):
            return value
        bounds = f"between {format_duration(shortest)} and {format_duration(longest)}"
        raise ValueError(f"must be 0, or {bounds}" if or_zero else f"must be {bounds}")

    return AfterValidator(check)


def _parse_addresses(value: object) -> object:
    if isinstance(value, str):
        return [ListenAddress.parse(part) for part in value.split(",") if part.strip()]
    return value


def _parse_address(value: object) -> object:
    return ListenAddress.parse(value) if isinstance(value, str) else value


def _split_words(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _check_postgresql_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        check_database_url(strip_driver(value.get_secret_value()))
    return value


def _check_length(value: SecretStr | None) -> SecretStr | None:
    if value is not None and len(value.get_secret_value()) < 32:  # noqa: PLR2004 - 256 bits as text
        raise ValueError("must have 32 characters or more")
    return value


def empty_as_none(value: object) -> object:
    """Return None for an empty variable, which counts as not set."""
    return None if value == "" else value


OptionalSecret: TypeAlias = Annotated[SecretStr | None, BeforeValidator(empty_as_none)]
SigningKey: TypeAlias = Annotated[OptionalSecret, AfterValidator(_check_length)]
DatabaseUrl: TypeAlias = Annotated[OptionalSecret, AfterValidator(_check_postgresql_url)]
OptionalFile: TypeAlias = Annotated[Path | None, BeforeValidator(empty_as_none)]
Address: TypeAlias = Annotated[ListenAddress, BeforeValidator(_parse_address)]
Addresses: TypeAlias = Annotated[
    tuple[ListenAddress, ...],
    BeforeValidator(_parse_addresses),
    Field(min_length=1, max_length=16),
]
OptionalAddress: TypeAlias = Annotated[
    ListenAddress | None, BeforeValidator(_parse_address), BeforeValidator(empty_as_none)
]
WordList: TypeAlias = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=100)], ...],
    BeforeValidator(_split_words),
    Field(max_length=100),
]
