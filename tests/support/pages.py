"""The pages of documentation, and where their links lead."""

import re
import tomllib
from pathlib import Path

from tests.support.commands import ROOT

PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    ROOT / "protos/README.md",
    *sorted(script.with_name("README.md") for script in ROOT.glob("examples/*/run")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
"""The address of the repository. Pages of the package and of the site link to files by it."""


def linked_file(page: Path, link: str) -> Path | None:
    """Return the file of this repository that a link leads to, or None for another site."""
    link = link.partition("#")[0]
    if own := re.fullmatch(rf"{re.escape(REPOSITORY)}/(?:blob|tree|raw)/main/(.*)", link):
        return ROOT / own[1]
    if re.match(r"(https?|mailto):", link):
        return None
    return (page.parent / link).resolve()
