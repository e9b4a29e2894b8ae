"""The service and the baseline, each in a process of its own."""

import base64
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import cores
from benchmarks.processes import PROCESS_TIMEOUT, running_process
from benchmarks.samples import BenchmarkError

BCRYPT_COST = 12

HASH_THREADS = max(1, cores() - 1)


def production_settings() -> dict[str, str]:
    """Return settings as in production, on loopback and without encryption."""
    return {
        "TAMATAR_HASH_THREADS": str(HASH_THREADS),
        "TAMATAR_ENVIRONMENT": "production",
        "TAMATAR_PAGE_TOKEN_KEY": secrets.token_urlsafe(32),
        "TAMATAR_PASSWORD_KEYS": "bench:" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "TAMATAR_BCRYPT_COST": str(BCRYPT_COST),
        "TAMATAR_SWEEP_INTERVAL": "0s",  # sweeping is measured separately
    }


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    pid: int
    address: str


@dataclass(frozen=True, slots=True)
class Servers:
    """Starts the servers of a run, with common settings and files."""

    folder: Path
    settings: dict[str, str] = field(default_factory=production_settings, repr=False)

    @contextlib.contextmanager
    def real(self, url: str, **variables: str) -> Iterator[Server]:
        """Run `tamatar-auth serve` while the block runs."""
        output = self.folder / f"server-{time.monotonic_ns()}"
        parent = f"--exit-with-parent={os.getpid()}"
        command = [sys.executable, "-m", "tamatar_auth", "serve", parent, "--listen=127.0.0.1:0"]
        variables = self.settings | {"TAMATAR_DATABASE_URL": url} | variables
        with running_process(
            command, output=output, variables=variables, folder=self.folder
        ) as process:
            line = _wait_for(output, b'"listening"', process.poll)
            yield Server(process.pid, json.loads(line)["addresses"][0])

    @contextlib.contextmanager
    def empty(self, *kind: str) -> Iterator[Server]:
        """Run the baseline while the block runs; with `own`, on the server of the service."""
        output = self.folder / "-".join(["empty", *kind])
        command = [sys.executable, "-m", "benchmarks.empty_server", str(os.getpid()), *kind]
        with running_process(command, output=output) as process:
            port = int(_wait_for(output, b"", process.poll))
            yield Server(process.pid, f"127.0.0.1:{port}")


def _wait_for(output: Path, expected: bytes, ended: Callable[[], int | None]) -> bytes:
    """Wait for a line that contains `expected`, and return it."""
    deadline = time.monotonic() + PROCESS_TIMEOUT
    while True:
        is_over = ended() is not None or time.monotonic() > deadline
        for line in output.read_bytes().splitlines(keepends=True):
            if expected in line and line.endswith(b"\n"):
                return line
        if is_over:
            raise BenchmarkError(f"a server did not start: {output.read_text()[-1000:]}")
        time.sleep(0.005)
