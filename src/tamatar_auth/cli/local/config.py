"""The commands of `config`. Secrets are masked."""

import textwrap
from datetime import timedelta
from typing import NamedTuple

import typer
from pydantic import SecretStr

from tamatar_auth.cli.formats import Listing, OutputFormat, OutputOption, show_all
from tamatar_auth.cli.output import notify
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.groups import all_settings
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.sources import REMOVED_VARIABLES, Sources
from tamatar_auth.config.types import format_duration

MASK = "********"

SETTINGS = Listing(
    field="settings",
    columns={
        "variable": "Setting",
        "value": "Value",
        "place": "From",
        "description": "What it is",
    },
    kept=2,
)


class SettingRow(NamedTuple):
    """A setting as it is shown."""

    variable: str
    value: str
    place: str
    description: str


def show(*, output: OutputOption = OutputFormat.TABLE) -> None:
    """Show every setting and its source. Secrets are masked."""
    rows = [row._asdict() for row in setting_rows(Settings.load())]
    show_all({"settings": rows}, output, SETTINGS)
    for unknown in Sources(Settings).unknown():
        notify(str(unknown))
    for variable, place in Sources(Settings).removed():
        instead = REMOVED_VARIABLES[variable.upper()]
        notify(f"{variable} ({place}) was removed: {instead}")


def example() -> None:
    """Print a .env file with the defaults."""
    typer.echo(example_file(), nl=False)


def setting_rows(settings: Settings) -> list[SettingRow]:
    """Return every setting, its value and where the value comes from."""
    sources = Sources(Settings)
    return [
        SettingRow(
            origin.variable,
            format_value(setting.value(settings)),
            origin.place,
            setting.description,
        )
        for setting in all_settings(Settings)
        for origin in [sources.find_origin(setting.variables)]
    ]


def example_file() -> str:
    """Return the text of a `.env` file that has every setting with its default."""
    lines = [
        "# Every setting with its default. Copy this file to .env and change what differs;",
        "# variables of the environment win over the file. A setting without a value is not set.",
    ]
    defaults = Settings()
    for setting in all_settings(Settings):
        value, text = format_value(setting.value(defaults)), setting.description
        lines += ["", *textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")]
        lines.append(f"{setting.variable}={'' if value == '-' else value}")
    return "\n".join(lines) + "\n"


def format_value(value: object) -> str:
    """Return a value as a variable holds it: a mask for a secret, a dash for None."""
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
