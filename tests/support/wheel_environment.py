"""The wheel, and an environment of a caller that has it."""

import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.commands import ROOT, run

PIP = (sys.executable, "-m", "pip")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    run(*build, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheel_environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """An environment with the wheel, which borrows all other packages from this one."""
    folder = tmp_path_factory.mktemp("caller") / "with a space"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
    run(
        *PIP,
        "--python",
        folder / "bin/python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=ROOT,
    )
    # The .pth file of this environment that adds src/ is not read there.
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder
