"""The entry point `tamatar-auth`, which names the extra to install if a package is missing."""

import os
import sys

SERVER_COMMANDS = frozenset(
    {"serve", "work", "migrate", "seed", "sweep", "doctor", "config", "caller"}
)
"""The commands that need the extra `server`. All others need `cli`."""


def main() -> None:
    """Run a command; exit with 2 if a package that it needs is not installed."""
    _open_missing_streams()
    try:
        from tamatar_auth.cli import app  # noqa: PLC0415 - it needs Typer, which may be missing

        app.main()
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing in {"tamatar", "tamatar_auth"}:
            raise
        sys.stderr.write(
            f"The package {missing} is missing. Install it with:"
            f" pip install 'tamatar-auth[{_extra(sys.argv[1:])}]'\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:  # before the command runs
        sys.exit(130)


def _open_missing_streams() -> None:
    """Open the standard streams that the caller closed. Python replaces a closed one by None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - until the end


def _extra(arguments: list[str]) -> str:
    """Return the extra that the command needs."""
    words = (word for word in arguments if not word.startswith("-"))
    return "server" if next(words, "") in SERVER_COMMANDS else "cli"


if __name__ == "__main__":
    main()
