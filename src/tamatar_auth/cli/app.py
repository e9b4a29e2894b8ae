"""The command line. Every command imports what it needs when it runs."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tamatar_auth.cli.exits import CommandError
from tamatar_auth.cli.lazy import LazyGroup
from tamatar_auth.cli.local.callers import callers
from tamatar_auth.config.addresses import ListenAddress

if TYPE_CHECKING:
    from tamatar_auth.config.settings import Settings

app = typer.Typer(
    cls=LazyGroup,
    help="Users and sessions for services that speak gRPC.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
migrate = typer.Typer(help="Change the tables of the database.", no_args_is_help=True)
config = typer.Typer(help="Look at the settings.", no_args_is_help=True)
app.add_typer(migrate, name="migrate")
app.add_typer(config, name="config")
app.add_typer(callers, name="caller")

Revision = Annotated[str, typer.Argument(help="A revision such as 0001, or head.")]


def _parse_address(text: str) -> ListenAddress:
    try:
        return ListenAddress.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _parse_addresses(text: str) -> tuple[ListenAddress, ...]:
    return tuple(_parse_address(part) for part in text.split(","))


def main() -> None:
    """Run a command; a failure that is foreseen is one clear line and exit code 1 or 2."""
    # gRPC's core writes lines of its own to stderr, where each line is one of our log's.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app(prog_name="tamatar-auth")
    except CommandError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        from tamatar_auth.config.errors import OperatorError  # noqa: PLC0415

        if not isinstance(error, OperatorError):
            raise
        _fail(error.message(), error.exit_code)


@app.command()
def serve(
    *,
    dev: Annotated[
        bool,
        typer.Option("--dev", help="Bring up all that is needed: database, tables, sample users."),
    ] = False,
    listen: Annotated[
        Any,  # a tuple would be an option of several values
        typer.Option(
            parser=_parse_addresses,
            metavar="ADDRESS,...",
            help="Where to answer calls, in place of TAMATAR_LISTEN.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many processes answer, in place of TAMATAR_WORKERS."),
    ] = None,
    exit_with_parent: Annotated[
        int | None, typer.Option("--exit-with-parent", metavar="PID", hidden=True)
    ] = None,
) -> None:
    """Answer calls until SIGTERM or Ctrl-C."""
    from tamatar_auth.server.parent_watch import stop_with_parent  # noqa: PLC0415

    overrides = {"listen": listen, "workers": workers}
    settings = _load_settings(
        **{name: value for name, value in overrides.items() if value is not None}
    )
    if exit_with_parent is not None:
        stop_with_parent(exit_with_parent)
    if dev and settings.environment == "production":
        _fail("--dev makes sample users with published passwords, so it is not for production.", 2)
    if not dev:
        _serve(_require_database(settings))
        return
    from tamatar_auth.cli.local.welcome import welcome  # noqa: PLC0415
    from tamatar_auth.jobs.prepare import prepare  # noqa: PLC0415

    with _with_database(settings) as database_settings:
        prepare(database_settings, _notify)
        _serve(database_settings, lambda addresses: _notify(welcome(addresses)))


@app.command(hidden=True)
def work(
    *,
    number: Annotated[int, typer.Option()],
    supervisor: Annotated[int, typer.Option()],
    descriptor: Annotated[int, typer.Option()],
) -> None:
    """Answer calls as one of several workers. `serve --workers` starts them."""
    from tamatar_auth.workers import worker  # noqa: PLC0415

    worker.work(number, supervisor, descriptor)


@migrate.command("up")
def migrate_up(revision: Revision = "head") -> None:
    """Bring the tables to a revision, the newest one by default."""
    with _migrations() as migrations:
        migrations.upgrade(revision)


@migrate.command("down")
def migrate_down(
    revision: Annotated[str, typer.Argument(help="A revision such as 0001, or base.")],
) -> None:
    """Take the tables back to a revision. Columns that it does not know are lost."""
    with _migrations() as migrations:
        migrations.downgrade(revision)


@migrate.command("status")
def migrate_status() -> None:
    """Tell the revision of the tables and what is still to do; exit code 1 if anything is."""
    with _migrations() as migrations:
        status = migrations.status()
    typer.echo(str(status))
    raise typer.Exit(1 if status.pending else 0)


@migrate.command("sql")
def migrate_sql(
    revisions: Annotated[str, typer.Argument(help="Such as head, 0002 or 0001:0002.")] = "head",
) -> None:
    """Print the SQL of the migrations instead of running it."""
    from tamatar_auth.migrator.migrations import Migrations  # noqa: PLC0415

    Migrations("postgresql://").sql(revisions)


@migrate.command("check")
def migrate_check() -> None:
    """Compare the migrated tables with those of the code; exit code 1 if they differ."""
    with _migrations() as migrations:
        differences = migrations.check()
    for line in differences:
        typer.echo(line)
    raise typer.Exit(1 if differences else 0)


@app.command()
def seed() -> None:
    """Create the administrator, and in development two users to try things with."""
    from tamatar_auth.jobs import run  # noqa: PLC0415

    with _with_database(_load_settings()) as settings:
        run.seed(settings, _notify)


@app.command()
def sweep(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; remove nothing.")] = False,
) -> None:
    """Remove sessions, one-time secrets and counted attempts that are past their retention."""
    from tamatar_auth.jobs import run  # noqa: PLC0415

    with _with_database(_load_settings()) as settings:
        run.sweep(settings, _notify, dry_run=dry_run)


@app.command()
def healthcheck(
    address: Annotated[
        ListenAddress | None,
        typer.Option(
            parser=_parse_address,
            metavar="ADDRESS",
            help="The server; TAMATAR_HEALTH_LISTEN, or else one of TAMATAR_LISTEN.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait.")] = 3.0,
) -> None:
    """Ask a server whether it can do its work; exit code 0 if so, else 1."""
    from tamatar_auth.cli.local import health_probe  # noqa: PLC0415

    settings = _load_settings()
    address = address or health_probe.probed_address(settings)
    status = health_probe.check_health(
        address, timeout, health_probe.tls_files_at(settings, address)
    )
    typer.echo(status)
    raise typer.Exit(0 if status == "SERVING" else 1)


@app.command("doctor")
def examine() -> None:
    """Examine settings, callers, certificate, database and ports; each is ok or says what to do."""
    from tamatar_auth.cli.local import doctor  # noqa: PLC0415

    findings = doctor.examine()
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.subject:<11} {finding.text}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@config.command("show")
def config_show(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False
) -> None:
    """Show every setting, where its value comes from and what it does. Secrets are masked."""
    from tamatar_auth.cli.local import config as config_output  # noqa: PLC0415

    settings = _load_settings()
    if as_json:
        typer.echo(config_output.as_json(settings))
    else:
        config_output.print_settings(settings)


@config.command("example")
def config_example() -> None:
    """Print a .env file that has every setting with its default."""
    from tamatar_auth.cli.local import config as config_output  # noqa: PLC0415

    typer.echo(config_output.example(), nl=False)


@app.command()
def protoset(
    file: Annotated[Path, typer.Argument(help="Where to write it, such as auth.binpb.")],
) -> None:
    """Write what the service answers, for tools that may not ask it (grpcurl -protoset)."""
    from tamatar_auth.cli.local.protoset import build_protoset  # noqa: PLC0415

    try:
        file.write_bytes(build_protoset())
    except OSError as error:
        _fail(f"{file} cannot be written: {error.strerror}.")


@app.command()
def version() -> None:
    """Print the version."""
    from tamatar_auth import __version__  # noqa: PLC0415

    typer.echo(__version__)


def _serve(settings: "Settings", on_ready: Any = None) -> None:
    if settings.workers == 1:
        from tamatar_auth.server import run  # noqa: PLC0415

        run.serve(settings, on_ready)
    else:
        from tamatar_auth.workers import supervisor  # noqa: PLC0415

        sys.exit(supervisor.serve(settings, on_ready))


def _load_settings(**overrides: Any) -> "Settings":
    from tamatar_auth.config.settings import Settings  # noqa: PLC0415

    return Settings.load(**overrides)


def _require_database(settings: "Settings") -> "Settings":
    if settings.database.url is None:
        _fail(
            "TAMATAR_DATABASE_URL is not set: name a PostgreSQL, such as"
            " postgresql://user:password@host/database, or use `tamatar-auth serve --dev`.",
            code=2,
        )
    return settings


@contextlib.contextmanager
def _with_database(settings: "Settings") -> "Iterator[Settings]":
    """Yield settings that name a database: the one that is set, or an embedded one."""
    if settings.database.url is not None or settings.environment == "production":
        yield _require_database(settings)
        return
    from tamatar_auth.embedded.postgres import EmbeddedPostgres  # noqa: PLC0415

    with EmbeddedPostgres(settings.embedded_directory, report=_notify) as postgres:
        yield settings.with_database(postgres.url())


@contextlib.contextmanager
def _migrations() -> Iterator[Any]:
    from tamatar_auth.migrator.migrations import Migrations  # noqa: PLC0415
    from tamatar_auth.storage.driver.connect import libpq_url  # noqa: PLC0415

    with _with_database(_load_settings()) as settings:
        yield Migrations(libpq_url(settings.database), report=_notify)


def _notify(line: str) -> None:
    typer.echo(line, err=True)


def _fail(text: str, code: int = 1) -> NoReturn:
    _notify(text)
    sys.exit(code)
