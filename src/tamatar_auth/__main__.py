"""`tamatar-auth`, and what it says where only the client is installed."""

import sys


def main() -> None:
    """Run a command; exit with 2 and say what to install where something is missing for it."""
    try:
        from tamatar_auth.cli import app as cli  # noqa: PLC0415 - it may be what is missing

        cli.main()
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing in {"tamatar", "tamatar_auth"}:
            raise
        sys.stderr.write(
            f"{missing} is missing, which comes with the service:"
            " pip install 'tamatar-auth[server]'\n"
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
