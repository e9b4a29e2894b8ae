"""How commands end that cannot do what they were asked for: with a sentence and an exit code."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes, which stay as they are."""

    REFUSED = 1
    USAGE_ERROR = 2
    UNAVAILABLE = 3
    NOT_FOUND = 4
    NOT_ALLOWED = 5


class CommandError(Exception):
    """A command cannot go on."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = int(code)


def usage_error(message: str) -> CommandError:
    """Give what tells that something was asked for in a wrong way."""
    return CommandError(message, ExitCode.USAGE_ERROR)
