"""Web applications as processes of uvicorn, and requests to them."""

import contextlib
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.commands import environment
from tests.support.waiting import PATIENCE


class Answer(NamedTuple):
    """The answer to an HTTP request."""

    status: int
    headers: "Message[str, str]"
    body: str

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Site:
    """A web application that runs, and its output."""

    def __init__(self, url: str, output: Path) -> None:
        self.url = url
        self._output = output

    @property
    def said(self) -> str:
        """All that the processes have written so far."""
        return self._output.read_text()

    def ask(self, path: str = "/", *, method: str = "GET", **headers: str) -> Answer:
        """Make a request. An underscore in the name of a header stands for a hyphen."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, method=method, headers=fields)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - loopback
                return Answer(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read().decode())


@contextlib.contextmanager
def running_site(folder: Path, *command: str | Path, **env: str) -> Iterator[Site]:
    """Run a command that serves HTTP on the socket `FD`; yield the site.

    The socket listens before the command starts, so requests wait until the site serves.
    """
    output = folder / "output"
    with socket.create_server(("127.0.0.1", 0)) as listener, output.open("wb") as said:
        fd = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, *(str(fd) if each == "FD" else each for each in command)],
            cwd=folder,
            env=environment({"FD": str(fd), **env}),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=[fd],
        )
        try:
            yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", output)
        finally:
            process.terminate()
            process.wait(PATIENCE)
