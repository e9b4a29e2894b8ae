"""Environments with the wheel and with some of the packages of this environment."""

import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.commands import ROOT, run
from tests.support.wheel_environment import PIP

HERE = Path(sysconfig.get_path("purelib"))


def make_environment(folder: Path, wheel: Path) -> Path:
    """Make an environment that has the wheel and no other package; return its site-packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
    pip = (*PIP, "--python", folder / "bin/python")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=ROOT)
    (packages,) = folder.glob("lib/*/site-packages")
    return packages


def borrow_requirements(packages: Path, requirements: list[str]) -> None:
    """Link what some requirements need, and what these need in turn, from this environment."""
    for found in _closure(requirements):
        tops = {file.parts[0] for file in found.files or () if file.parts[0] != ".."}
        for name in tops - {"__pycache__"}:
            link = packages / name
            if not link.exists():
                link.symlink_to(HERE / name)


def _closure(requirements: list[str], extras: tuple[str, ...] = ("",)) -> Iterator[Distribution]:
    for line in requirements:
        wanted = Requirement(line)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        found = distribution(wanted.name)
        yield found
        yield from _closure(found.requires or [], ("", *wanted.extras))
