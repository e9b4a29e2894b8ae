"""`tamatar-auth` as a process of its own, far from the settings of whoever runs the tests."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from tests.support.canaries import PAGE_TOKEN_KEY, PASSWORD_KEYS, SUITE
from tests.support.databases import REQUIRE_INTEROP, TEMPLATE, Postgres
from tests.support.waiting import PATIENCE, until

BIN = Path(sys.executable).parent
COMMAND = BIN / "tamatar-auth"
ROOT = Path(__file__).parents[2]

QUICK = {
    "TAMATAR_BCRYPT_COST": "4",
    "TAMATAR_HASH_QUEUE": "250",
    "TAMATAR_DRAIN_DELAY": "0s",
    "TAMATAR_PAGE_TOKEN_KEY": PAGE_TOKEN_KEY,
    "TAMATAR_PASSWORD_KEYS": PASSWORD_KEYS,
}
"""Settings of a server that need not be safe, and refuses nobody because it is busy."""

PATIENT = {
    "TAMATAR_CALL_DEADLINE": "30s",
    "TAMATAR_PASSWORD_CALL_DEADLINE": "30s",
    "TAMATAR_CONNECT_TIMEOUT": "30s",
    "TAMATAR_STATEMENT_TIMEOUT": "30s",
    "TAMATAR_LOCK_TIMEOUT": "30s",
}
"""Limits of time that no busy machine reaches."""

IMPATIENT: Mapping[str, str] = {}
"""Those that a server has, for tests that are about them."""

PRINTS_A_TOKEN = {("caller", "add"), ("caller", "rotate")}
"""The commands whose output is a secret: it is seen this once."""

SAMPLE_PASSWORD = "TestPass123!"
"""What `serve --dev` tells on its start: how to sign in as one of the sample users."""

_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT")


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a process needs of the environment, and nothing that sets anything of ours."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | dict(given or {})


def run(
    *command: str | Path,
    cwd: Path,
    code: int | None = 0,
    patience: float = PATIENCE,
    entered: str = "",
    **env: str,
) -> Any:
    """Run a program to its end, which must be one with this exit code (None: with any).

    What is entered is its input; nobody is at a terminal.
    """
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=environment(env),
        input=entered,
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    assert code in (ended.returncode, None), (ended.returncode, ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    return ended


def tamatar(*arguments: str, cwd: Path, code: int | None = 0, entered: str = "", **env: str) -> Any:
    """Run a command of ours to its end."""
    ended = run(COMMAND, *arguments, cwd=cwd, code=code, patience=PATIENCE, entered=entered, **env)
    prints_a_token = arguments[:2] in PRINTS_A_TOKEN or "--print-token" in arguments
    told = ended.stderr if prints_a_token else ended.stdout + ended.stderr
    SUITE.hear(f"what {arguments[:2]} wrote", told)
    return ended


def is_served(*options: str, cwd: Path, **env: str) -> bool:
    """Ask for the health of a server, which may not have seen its database yet."""
    asked = ("healthcheck", "--timeout", f"{PATIENCE:g}", *options)
    return bool(tamatar(*asked, cwd=cwd, code=None, **env).stdout == "SERVING\n")


class Server:
    """A `tamatar-auth serve` that runs, and what it logs."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def said(self) -> str:
        """All that it has written so far."""
        return self._output.read_text()

    @property
    def logs(self) -> Sequence[Mapping[str, Any]]:
        """Its log lines so far; what it says to people is left out."""
        whole = self.said.rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in whole if line.startswith("{")]

    def events(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The log lines with this event."""
        return [line for line in self.logs if line["event"] == name]

    @property
    def addresses(self) -> Sequence[str]:
        """Where it answers calls, as soon as it does."""
        until(lambda: self.events("listening") or self.process.poll() is not None)
        assert self.events("listening"), self.said
        addresses: Sequence[str] = self.events("listening")[0]["addresses"]
        return addresses

    def ask(self, signum: int) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)

    def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def serving(
    *arguments: str,
    cwd: Path,
    command: Sequence[str | Path] = (COMMAND, "serve"),
    limits: Mapping[str, str] = PATIENT,
    **env: str,
) -> Iterator[Server]:
    """Run a server on a free port for as long as the block."""
    output = cwd / f"output-{time.monotonic_ns()}"
    listen = () if "TAMATAR_LISTEN" in env else ("--listen", "127.0.0.1:0")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, *listen, *arguments],
            cwd=cwd,
            env=environment({**QUICK, **limits, **env}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield Server(process, output)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        SUITE.hear("what a server wrote", _but_the_welcome(output, [*command, *arguments]))


def _but_the_welcome(output: Path, command: Sequence[str | Path]) -> str:
    told = output.read_text(errors="replace")
    return told.replace(SAMPLE_PASSWORD, "") if "--dev" in command else told


@contextlib.contextmanager
def sample_server(postgres: Postgres, folder: Path) -> Iterator[str]:
    """Run a server with the sample users; yield where it answers."""
    name = f"sample_{uuid4().hex}"
    url = postgres.create(name, TEMPLATE)
    try:
        with serving("--dev", cwd=folder, TAMATAR_DATABASE_URL=url) as server:
            (address,) = server.addresses
            yield address
    finally:
        postgres.drop(name)


def find_grpcurl() -> str:
    """Return where grpcurl is; without it skip the test, or fail where it is required."""
    found = shutil.which("grpcurl") or shutil.which("grpcurl", path=ROOT / ".tools" / "bin")
    return found or missing_tool("grpcurl is missing: .ci/run installs it into .tools/bin")


def missing_tool(why: str) -> NoReturn:
    """Skip a test that lacks a tool from elsewhere, or fail it where that is required."""
    if os.environ.get(REQUIRE_INTEROP) == "1":
        pytest.fail(why)
    pytest.skip(why)
