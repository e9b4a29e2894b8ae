"""A PgBouncer in front of a database."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.commands import missing_tool, run
from tests.support.waiting import PATIENCE, until

NEEDED = (1, 21)
"""The first release that tracks prepared statements."""


class PgBouncer:
    """The installed PgBouncer, which may be older than the releases that work in every mode."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        self._binary = found or missing_tool("pgbouncer is missing: .ci/run installs it")
        self._folder = folder

    @property
    def tracks_statements(self) -> bool:
        """Whether it can track prepared statements in transaction mode."""
        said = run(self._binary, "--version", cwd=self._folder).stdout
        found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
        return found is not None and (int(found[1]), int(found[2])) >= NEEDED

    @contextlib.contextmanager
    def between(self, url: str, mode: str, *, tracked: int = 0) -> Iterator[str]:
        """Run it in front of a database; yield the URL that leads through it."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        target = urlsplit(url)
        server = f"host={target.hostname} port={target.port}"
        lines = [
            "[databases]",
            f"* = {server} user={target.username} password={target.password}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = any",
            "ignore_startup_parameters = options",
            f"pool_mode = {mode}",
        ]
        if self.tracks_statements:
            lines.append(f"max_prepared_statements = {tracked}")
        if os.geteuid() == 0:  # PgBouncer refuses to run as root
            lines.append("user = nobody")
        file = self._folder / f"pgbouncer-{port}.ini"
        file.write_text("\n".join(lines) + "\n")
        with (self._folder / f"pgbouncer-{port}.log").open("wb") as log:
            process = subprocess.Popen([self._binary, file], stdout=log, stderr=log)
        try:
            until(lambda: _is_open(port))
            yield target._replace(netloc=f"anybody@127.0.0.1:{port}").geturl()
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
