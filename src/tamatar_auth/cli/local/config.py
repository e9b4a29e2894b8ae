"""Shows the settings, and the callers, to people and scripts. Secrets are masked."""

import json
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.durations import format_duration
from tamatar_auth.config.groups import all_settings
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.sources import Sources
from tamatar_auth.security.callers import Callers

MASK = "********"

DEFAULTS = Settings()


class SettingRow(NamedTuple):
    """A setting as it is shown."""

    variable: str
    value: str
    place: str
    description: str


def setting_rows(settings: Settings) -> list[SettingRow]:
    """List every setting, with its value and where that comes from."""
    sources = Sources(Settings)
    return [
        SettingRow(
            origin.variable,
            format_value(setting.value(settings)),
            origin.place,
            setting.field.description or "",
        )
        for setting in all_settings(Settings)
        for origin in [sources.find_origin(setting.variables)]
    ]


def print_settings(settings: Settings) -> None:
    """Print the settings as a table."""
    grid = Table("Setting", "Value", "From", "What it is", box=None, pad_edge=False)
    for row in setting_rows(settings):
        grid.add_row(*row)
    _print(grid)


def print_callers(callers: Callers) -> None:
    """Print the callers as a table."""
    grid = Table("Caller", "Roles", "Tokens", "Certificates", box=None, pad_edge=False)
    for caller, tokens, names in (
        (entry.caller, entry.tokens, entry.names) for entry in callers.known
    ):
        ends = ", ".join(_format_end(end) for end in sorted(tokens.values()))
        grid.add_row(caller.name, ", ".join(sorted(caller.roles)), ends, ", ".join(sorted(names)))
    _print(grid)


def _format_end(moment: datetime) -> str:
    word = "until" if moment > datetime.now(UTC) else "ended"
    return f"{word} {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _print(grid: Table) -> None:
    # A row is a line where no person looks at it, and a value is no markup anywhere.
    width = None if sys.stdout.isatty() else 250
    Console(width=width, markup=False, highlight=False, emoji=False).print(grid)


def as_json(settings: Settings) -> str:
    """Write the settings for scripts."""
    return json.dumps([row._asdict() for row in setting_rows(settings)], indent=2)


def example() -> str:
    """Write a `.env` file that has every setting, with its default."""
    lines = [
        "# Every setting with its default. Copy this file to .env and change what differs;",
        "# variables of the environment win over the file. A setting without a value is not set.",
    ]
    for setting in all_settings(Settings):
        value = format_value(setting.value(DEFAULTS))
        description = setting.field.description or ""
        lines += ["", *textwrap.wrap(description, 96, initial_indent="# ", subsequent_indent="# ")]
        lines.append(f"{setting.variable}={'' if value == '-' else value}")
    return "\n".join(lines) + "\n"


def format_value(value: object) -> str:
    """Write a value as a variable would hold it; a secret is masked, none is a dash."""
    match value:
        case None:
            return "-"
        case SecretStr():
            return MASK
        case timedelta():
            return format_duration(value)
        case tuple() if not isinstance(value, ListenAddress):
            return ",".join(map(str, value))
        case bool():
            return str(value).lower()
    return str(value)
