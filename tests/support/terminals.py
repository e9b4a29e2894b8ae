"""Commands of ours at a terminal of their own."""

import contextlib
import os
import pty
from collections.abc import Mapping
from pathlib import Path

from tests.support.commands import COMMAND, environment

CTRL_C = b"\x03"


def type_into(
    *arguments: str, prompt: bytes, keys: bytes, cwd: Path, env: Mapping[str, str]
) -> tuple[int, bytes]:
    """Run a command, type keys once its screen ends with a prompt, return its code and screen."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execve(COMMAND, ["tamatar-auth", *arguments], environment(env))  # noqa: S606 - ours
    screen = b""
    while not screen.endswith(prompt):
        screen += os.read(terminal, 1024)
    os.write(terminal, keys)
    with contextlib.suppress(OSError):  # how Linux ends a terminal
        while part := os.read(terminal, 1024):
            screen += part
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen
