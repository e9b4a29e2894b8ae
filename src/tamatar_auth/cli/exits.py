"""How commands end that cannot do what they were asked for: with a sentence and an exit code."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes, which stay as they are."""

    REFUSED = 1
    MISUSED = 2
    NOT_REACHED = 3
    NOT_FOUND = 4
    NOT_ALLOWED = 5


class CommandError(Exception):
    """A command cannot go on."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.exit_code = int(code)


def misused(message: str) -> CommandError:
    """Give what tells that something was asked for in a wrong way."""
    return CommandError(message, Exit.MISUSED)
