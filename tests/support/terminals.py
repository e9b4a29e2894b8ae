"""Commands of ours at a terminal of their own."""

import contextlib
import os
import pty
import select
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.commands import COMMAND, environment

CTRL_C = b"\x03"

_AGAIN = 5
"""Seconds until Ctrl-C is pressed again. Python misses a signal just before it reads a prompt."""


def type_into(
    *arguments: str,
    prompt: bytes,
    keys: bytes,
    cwd: Path,
    env: Mapping[str, str],
    more: Sequence[tuple[bytes, bytes]] = (),
) -> tuple[int, bytes]:
    """Run a command, type keys once its screen ends with a prompt, return its code and screen.

    `more` has further prompts, each with the keys to type at it.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execve(COMMAND, ["tamatar-auth", *arguments], environment(env))  # noqa: S606 - ours
    screen = b""
    for asked, typed in ((prompt, keys), *more):
        while not screen.endswith(asked):
            screen += os.read(terminal, 1024)
        os.write(terminal, typed)
    with contextlib.suppress(OSError):  # how Linux ends a terminal
        while part := _read_after(terminal, keys, screen):
            screen += part
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen


def _read_after(terminal: int, keys: bytes, screen: bytes) -> bytes:
    while keys == CTRL_C and b"Aborted!" not in screen:
        if select.select([terminal], [], [], _AGAIN)[0]:
            break
        os.write(terminal, keys)
    return os.read(terminal, 1024)
