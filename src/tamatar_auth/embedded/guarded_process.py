"""A child process that ends when its owner does; see `process_guard`."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tamatar_auth.embedded import process_guard

FAST_SECONDS, IMMEDIATE_SECONDS = 5.0, 6.0
"""Seconds for a fast shutdown, then for an immediate one, before the server is killed."""

STOP_TIMEOUT = 15.0
"""Seconds for the whole shutdown, longer than both of its steps."""

_INHERITED_VARIABLES = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Other variables are not passed on: they may hold secrets of the service."""


class GuardedProcess:
    """A command that runs under a guard."""

    def __init__(self, command: list[str], *, lock: int, identity: str, log: Path) -> None:
        self._owner = os.getpid()
        options = (self._owner, lock, identity, FAST_SECONDS, IMMEDIATE_SECONDS)
        inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  the guard's file
                [sys.executable, "-I", "-S", process_guard.__file__, *map(str, options), *command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env={"LC_ALL": "C", **inherited},
                pass_fds=[lock],
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the command runs."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until the command exits; return its exit status."""
        return self._process.wait()

    def stop(self) -> None:
        """Shut the command down and wait until it has exited."""
        self._request_end(b"s")

    def kill(self) -> None:
        """Kill the command and its children."""
        self._request_end(b"k")

    def _request_end(self, request: bytes) -> None:
        # A forked child that unwinds a `with` must not end the server of its parent.
        if os.getpid() != self._owner:
            return
        pipe = self._process.stdin
        if pipe and not pipe.closed:
            # Closing the pipe is not enough: a forked child may hold it open.
            with suppress(BrokenPipeError), pipe:
                pipe.write(request)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def change_owner(tree: Path, identity: str) -> None:
    """Change the owner of a folder and of its contents to an identity ("UID:GID")."""
    user, group = map(int, identity.split(":"))
    # The innermost first: a folder may be unreadable after its owner has changed.
    for path in reversed([tree, *tree.rglob("*")]):
        os.chown(path, user, group, follow_symlinks=False)
