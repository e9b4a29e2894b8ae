"""The exit codes, and the error that ends a command with one of them."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes. Scripts depend on them: they do not change."""

    REFUSED = 1
    USAGE_ERROR = 2
    UNAVAILABLE = 3
    NOT_FOUND = 4
    NOT_ALLOWED = 5


class CommandError(Exception):
    """A foreseen failure: its text is printed and the command exits with its code."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = int(code)


def usage_error(message: str) -> CommandError:
    """Return the error of a command that was used wrongly."""
    return CommandError(message, ExitCode.USAGE_ERROR)
