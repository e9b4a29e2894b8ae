"""The hidden command `work`, which `serve --workers` runs for each worker process."""

from typing import Annotated

import typer

from tamatar_auth.workers import worker


def work(
    *,
    number: Annotated[int, typer.Option()],
    supervisor: Annotated[int, typer.Option()],
    descriptor: Annotated[int, typer.Option()],
) -> None:
    """Answer calls as one worker."""
    worker.work(number, supervisor, descriptor)
