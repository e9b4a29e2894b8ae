"""The commands of `migrate`."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from tamatar_auth.cli.formats import TextFormat, TextOption
from tamatar_auth.cli.local.database import with_database
from tamatar_auth.cli.output import notify, print_json
from tamatar_auth.config.settings import Settings
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.storage.driver.connect import libpq_url


def up(
    revision: Annotated[str, typer.Argument(help="A revision, such as 0001 or head.")] = "head",
) -> None:
    """Upgrade the tables to a revision."""
    with _migrations() as migrations:
        migrations.upgrade(revision)


def down(
    revision: Annotated[str, typer.Argument(help="A revision, such as 0001 or base.")],
) -> None:
    """Downgrade the tables to a revision. Columns that it does not have are lost."""
    with _migrations() as migrations:
        migrations.downgrade(revision)


def status(*, output: TextOption = TextFormat.TEXT) -> None:
    """Show the revision of the tables. Exit with 1 if migrations are pending."""
    with _migrations() as migrations:
        found = migrations.status()
    if output is TextFormat.JSON:
        print_json(found._asdict())
    else:
        typer.echo(str(found))
    raise typer.Exit(1 if found.pending else 0)


def sql(
    revisions: Annotated[str, typer.Argument(help="Such as head, 0002 or 0001:0002.")] = "head",
) -> None:
    """Print the SQL of the migrations. Nothing is run."""
    Migrations("postgresql://").sql(revisions)


def check(*, output: TextOption = TextFormat.TEXT) -> None:
    """Compare the tables with the code. Exit with 1 if they differ."""
    with _migrations() as migrations:
        differences = migrations.check()
    if output is TextFormat.JSON:
        print_json({"differences": list(differences)})
    else:
        typer.echo("".join(f"{line}\n" for line in differences), nl=False)
    raise typer.Exit(1 if differences else 0)


@contextlib.contextmanager
def _migrations() -> Iterator[Migrations]:
    with with_database(Settings.load()) as settings:
        yield Migrations(libpq_url(settings.database), report=notify)
