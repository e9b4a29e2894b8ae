"""The entry point `tamatar-auth`, which names the extra to install if a package is missing."""

import sys


def main() -> None:
    """Run a command; exit with 2 if a package that it needs is not installed."""
    try:
        from tamatar_auth.cli import app  # noqa: PLC0415 - it needs Typer, which may be missing

        app.main()
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing in {"tamatar", "tamatar_auth"}:
            raise
        extra = "cli" if missing == "typer" else "server"
        sys.stderr.write(
            f"The package {missing} is missing. Install it with:"
            f" pip install 'tamatar-auth[{extra}]'\n"
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
