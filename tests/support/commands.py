"""`tamatar-auth` as a separate process, isolated from the settings of the person who tests."""

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

from tests.support.canaries import FACTOR_KEYS, PAGE_TOKEN_KEY, PASSWORD_KEYS, SUITE
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
    "TAMATAR_FACTOR_KEYS": FACTOR_KEYS,
}
"""Settings of a fast and unsafe server that never refuses a call because it is busy."""

PATIENT = {
    "TAMATAR_CALL_DEADLINE": "30s",
    "TAMATAR_STATEMENT_TIMEOUT": "30s",
    "TAMATAR_LOCK_TIMEOUT": "30s",
}
"""Time limits that no busy machine reaches."""

IMPATIENT: Mapping[str, str] = {}
"""The default time limits of a server, for tests about them."""

PRINTS_A_TOKEN = {("caller", "add"), ("caller", "rotate"), ("session", "create")}
"""The commands whose output is a secret, which is shown once."""

SAMPLE_PASSWORD = "TestPass123!"
"""The password of the sample users, which `serve --dev` prints at its start."""

_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT")


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process, without any setting of ours."""
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
    """Run a program to its end, and check its exit code (None: any).

    `entered` is its standard input, which is no terminal.
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
    output = ended.stderr if prints_a_token else ended.stdout + ended.stderr
    SUITE.record(f"the output of {arguments[:2]}", output)
    return ended


def is_served(*options: str, cwd: Path, **env: str) -> bool:
    """Return whether a server is healthy, waiting for it to see its database."""
    asked = ("healthcheck", "--timeout", "60", *options)  # the most it takes
    return bool(tamatar(*asked, cwd=cwd, code=None, **env).stdout == "SERVING\n")


class Server:
    """A running `tamatar-auth serve`, and its log."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def said(self) -> str:
        """All that it has written so far."""
        return self._output.read_text()

    @property
    def logs(self) -> Sequence[Mapping[str, Any]]:
        """Its log lines so far, without its messages to people."""
        whole = self.said.rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in whole if line.startswith("{")]

    def events(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The log lines with this event."""
        return [line for line in self.logs if line["event"] == name]

    @property
    def addresses(self) -> Sequence[str]:
        """The addresses where it answers, as soon as it does."""
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
    """Run a server on a free port while the block runs."""
    if limits is PATIENT and "TAMATAR_DATABASE_URL" in env:
        env["TAMATAR_DATABASE_URL"] = _connecting_slowly(env["TAMATAR_DATABASE_URL"])
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
        SUITE.record("the output of a server", _without_welcome(output, [*command, *arguments]))


def _connecting_slowly(url: str) -> str:
    has_timeout = not url or "connect_timeout=" in url
    return url if has_timeout else f"{url}{'&' if '?' in url else '?'}connect_timeout=30"


def _without_welcome(output: Path, command: Sequence[str | Path]) -> str:
    written = output.read_text(errors="replace")
    return written.replace(SAMPLE_PASSWORD, "") if "--dev" in command else written


@contextlib.contextmanager
def sample_server(postgres: Postgres, folder: Path) -> Iterator[str]:
    """Run a server with the sample users; yield its address."""
    name = f"sample_{uuid4().hex}"
    url = postgres.create(name, TEMPLATE)
    try:
        with serving("--dev", cwd=folder, TAMATAR_DATABASE_URL=url) as server:
            (address,) = server.addresses
            yield address
    finally:
        postgres.drop(name)


def find_grpcurl() -> str:
    """Return the path of grpcurl; without it, skip the test or fail it if grpcurl is required."""
    found = shutil.which("grpcurl") or shutil.which("grpcurl", path=ROOT / ".tools" / "bin")
    return found or missing_tool("grpcurl is missing: .ci/run installs it into .tools/bin")


def interruptible(
    script: Path, *arguments: str, python: str | Path = sys.executable
) -> Sequence[str | Path]:
    """Return the command of a script that Ctrl-C interrupts, even if this process ignores it."""
    start = (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return (python, "-W", "error", "-c", start, script, *arguments)


def find_pyright() -> str:
    """Return the path of pyright; without it, skip the test or fail it if pyright is required."""
    found = shutil.which("pyright") or shutil.which(
        "pyright", path=ROOT / ".tools/node_modules/.bin"
    )
    return found or missing_tool("pyright is missing: .ci/run installs it into .tools")


def missing_tool(why: str) -> NoReturn:
    """Skip a test that lacks an external tool, or fail it if the tool is required."""
    if os.environ.get(REQUIRE_INTEROP) == "1":
        pytest.fail(why)
    pytest.skip(why)
