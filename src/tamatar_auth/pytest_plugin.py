"""Fixtures for pytest: the service in memory and the real service, each with a client.

pytest loads this module in every run where the package is installed. So it imports nothing else
of the package before a test requests a fixture.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tamatar_auth.client import AuthClient
    from tamatar_auth.client.testing import FakeAuthServer

START_TIMEOUT = 120.0
"""Seconds until a real service answers. It takes some, and more on a busy machine."""

_STOP_TIMEOUT = 30.0

_QUICK = {"TAMATAR_BCRYPT_COST": "4", "TAMATAR_DRAIN_DELAY": "0s"}
"""Settings of a service that hashes quickly, and is not safe."""


@dataclass(frozen=True)
class RealAuthServer:
    """A real service in a process of its own, on an embedded PostgreSQL."""

    address: str
    """The address, such as `127.0.0.1:50051`."""
    log: Path
    """The file of its output."""


@pytest.fixture
def auth_server() -> Iterator[FakeAuthServer]:
    """Yield a `FakeAuthServer` without users."""
    from tamatar_auth.client.testing import FakeAuthServer  # noqa: PLC0415 - see above

    with FakeAuthServer() as server:
        yield server


@pytest.fixture
def auth_client(auth_server: FakeAuthServer) -> Iterator[AuthClient]:
    """Yield a client of the fixture `auth_server`."""
    from tamatar_auth.client import connect  # noqa: PLC0415 - see above

    with connect(auth_server.address) as client:
        yield client


@pytest.fixture(scope="session")
def real_auth_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealAuthServer]:
    """Yield a real service with three sample users. It needs `tamatar-auth[embedded]`."""
    folder = tmp_path_factory.mktemp("tamatar-auth")
    log = folder / "output.log"
    command = (sys.executable, "-m", "tamatar_auth", "serve", "--dev", "--listen", "127.0.0.1:0")
    inherited = {name: it for name, it in os.environ.items() if not _is_setting(name)}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the command is fixed
            [*command, "--exit-with-parent", str(os.getpid())],
            cwd=folder,
            env=inherited | _QUICK,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield RealAuthServer(_wait_for_address(process, log), log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def real_auth_client(real_auth_server: RealAuthServer) -> Iterator[AuthClient]:
    """Yield a client of the fixture `real_auth_server`."""
    from tamatar_auth.client import connect  # noqa: PLC0415 - see above

    with connect(real_auth_server.address) as client:
        yield client


def _is_setting(name: str) -> bool:
    return name.startswith("TAMATAR_") or name == "DATABASE_URL"


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address of a service once it answers, or fail the test with its output."""
    until = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < until:
        for line in log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith("{") and line.endswith("}\n"):
                event = json.loads(line)
                if event.get("event") == "listening":
                    return str(event["addresses"][0])
        time.sleep(0.05)
    pytest.fail(
        "The real service did not start. It needs: pip install 'tamatar-auth[embedded]'\n"
        + log.read_text(errors="replace"),
        pytrace=False,
    )
