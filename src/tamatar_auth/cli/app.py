"""The command line: runs a command, and prints a foreseen failure as one line."""

import errno
import os
import sys
from typing import Any

import typer

from tamatar_auth.cli.commands import COMMANDS, EXAMPLES
from tamatar_auth.cli.exits import CommandError
from tamatar_auth.cli.global_options import service_parameters, version_parameters
from tamatar_auth.cli.lazy import LazyGroup
from tamatar_auth.cli.output import notify
from tamatar_auth.config.errors import OperatorError


class CommandLine(LazyGroup):
    """Every command."""

    def __init__(self, **attrs: Any) -> None:
        """Build the group with what Typer passes, of which the options count."""
        super().__init__(
            "Users and sessions for services that speak gRPC.",
            COMMANDS,
            EXAMPLES,
            name=attrs["name"],
            params=[*attrs["params"], *service_parameters(), *version_parameters()],
            callback=attrs["callback"],
            context_settings={"help_option_names": ["-h", "--help"]},
        )


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The errors of a write to a disk without room."""

app = typer.Typer(cls=CommandLine, pretty_exceptions_enable=False)


@app.callback()
def _tamatar_auth() -> None:
    """Users and sessions for services that speak gRPC."""


def main() -> None:
    """Run a command; exit with 1 or 2 and one clear line after a foreseen failure."""
    # gRPC's core would write lines of its own to stderr, among the lines of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app(prog_name="tamatar-auth")
    except CommandError as error:
        notify(str(error))
        sys.exit(error.exit_code)
    except OperatorError as error:
        notify(error.message())
        sys.exit(error.exit_code)
    except UnicodeError:
        notify("An argument or the input is not UTF-8.")
        sys.exit(2)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        notify(f"The output cannot be written: {error.strerror}.")
        # Python writes the rest of its buffer at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
