"""Writes what is generated from the settings: docs/reference/settings.md and .env.example.

python -m tools.settings_page
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tamatar_auth.cli.local.config import example_file, format_value
from tamatar_auth.config.groups import Setting, SettingsGroup, own_settings, subgroups
from tamatar_auth.config.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/settings.md"
EXAMPLE = ROOT / ".env.example"

INTRODUCTION = """\
# Settings

`make settings` writes this page from the [code](https://github.com/tamatar/tamatar-auth/tree/main/src/tamatar_auth/config). `tamatar-auth config show` prints the values in use and where each comes from, and `tamatar-auth config example` prints a `.env` file with the defaults.

A setting comes from an option of the command, from the environment, or from a `.env` file in the working directory; the first of them wins. An empty variable counts as not set, and line breaks at the end of a value are ignored. A duration is a number with a unit: `250ms`, `10s`, `30m`, `12h` or `7d`. An invalid setting keeps the server from starting, and the message names the variable and its source. A variable with the prefix `TAMATAR_` that is no setting, or a line of the `.env` file that cannot be read, keeps a server of production from starting, and the message suggests the nearest name. In development it is logged as a warning. The variables that Kubernetes sets for a service of that name do not count.
"""  # noqa: E501 - a paragraph of Markdown is a line


def main() -> None:
    """Write both files."""
    PAGE.write_text(page())
    EXAMPLE.write_text(example_file())


def page() -> str:
    """Return the text of the page."""
    parts = [INTRODUCTION, "## Process\n", Settings.__doc__ or "", "", *_table(Settings, "")]
    for name, group in subgroups(Settings):
        title = "TLS" if name == "tls" else name.replace("_", " ").capitalize()
        parts += [f"\n## {title}\n", group.__doc__ or "", "", *_table(group, f"{name}.")]
    return "\n".join(parts) + "\n"


def _table(group: type[SettingsGroup], prefix: str) -> Iterator[str]:
    yield "| Variable | Default | What it does |"
    yield "|---|---|---|"
    for setting in own_settings(group):
        yield _row(setting._replace(path=f"{prefix}{setting.path}"))


def _row(setting: Setting) -> str:
    default = format_value(setting.value(Settings()))
    cells: Iterable[str] = (
        f"`{setting.variable}`",
        "" if default == "-" else f"`{default}`",
        setting.description,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
